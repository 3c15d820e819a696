import { once } from 'node:events'
import { createServer } from 'node:http'
import type { TestContext } from 'node:test'
import type { RunningProxy } from './harness.js'
import { portOf } from './raw.js'

const READY = '{"prr":2000.0,"sw_version":"11.17.10513","fiber_description":"site A"}'
const WAITING = '{"prr":0.0,"sw_version":"waiting for fiber","fiber_description":"waiting for fiber"}'

/** How long a slow response takes: `s` is within the timeout of the probe, `x` beyond it. */
export interface DrawnTimes {
  readonly slowMs: number
  readonly lateMs: number
}

/**
 * An upstream whose metadata follows a drawing, one character per request: `+` ready, `-` waiting, `s` ready and slow,
 * `x` ready and too late, `!` an error. After the end of the drawing it sends no more responses.
 */
export async function drawnUpstream(t: TestContext, drawing: string, times: DrawnTimes): Promise<string> {
  const asked = drawing[Symbol.iterator]()
  const timers = new Set<NodeJS.Timeout>()
  const server = createServer((request, response) => {
    request.resume()
    const answer = (body: string) => response.setHeader('content-type', 'application/json').end(body)
    const later = (ms: number) => timers.add(setTimeout(() => answer(READY), ms))
    if (request.url !== '/live_metadata') {
      answer('{"status":""}')
      return
    }
    const { value } = asked.next()
    if (value === '+') answer(READY)
    else if (value === '-') answer(WAITING)
    else if (value === '!') response.writeHead(500).end()
    else if (value === 's') later(times.slowMs)
    else if (value === 'x') later(times.lateMs)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const timer of timers) clearTimeout(timer)
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${portOf(server)}`
}

/**
 * The first `readings` readings that a proxy with `log.level: trace` has logged, once there is one more: each as `+`,
 * `-` or `x`, followed by the state that it led to, if that changed: `+[closed]++-[open]`.
 */
export function drawn(proxy: RunningProxy, readings: number): string | undefined {
  const signs: Readonly<Record<string, string>> = { ready: '+', waiting: '-', unreachable: 'x' }
  let history = ''
  let count = 0
  for (const line of proxy.logs()) {
    if (line.msg === 'reading taken') {
      if (count === readings) return history
      count += 1
      history += signs[String(line.kind)] ?? '?'
    } else if ('cause' in line) {
      history += `[${line.to}]`
    }
  }
  return undefined
}
