import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createHistogram } from 'node:perf_hooks'
import type { Server } from './children.js'
import { cpuMs } from './cpu-time.js'
import { contentLength, MessageReader } from './message-reader.js'

/** One request of a mix, and the status that its response must have. */
export type PacedRequest = { readonly bytes: Buffer; readonly status: number }

/** The resources that a server used under requests at a steady rate. */
export type Paced = {
  /** The rate reached, in requests per second: lower than requested if the server or the load generator is too slow. */
  readonly requestsPerSecond: number
  /** Share of one core; undefined if it cannot be read. */
  readonly cores: number | undefined
  readonly cpuMicroseconds: number | undefined
  readonly p50Ms: number
  readonly p99Ms: number
}

/** How often requests are sent, and how many connections send them. */
const TICK_MS = 5
const CONNECTIONS = 64

/** The share of the time that passes before anything is counted. */
const LEAD_IN_SHARE = 0.25

/** The maximum number of requests that are made up for when no connection was free. */
const MAX_BEHIND = 500

/** How long the last responses may take after the end. */
const OVERDUE_MS = 10_000

/**
 * Sends the requests of the mix one after another at a given rate, and never more than 64 at a time.
 *
 * @throws if a response has another status or no `Content-Length`, or is missing.
 */
export async function pace(
  server: Server,
  mix: readonly PacedRequest[],
  ratePerSecond: number,
  durationMs: number,
): Promise<Paced> {
  const { hostname, port } = new URL(server.url)
  const sockets: Socket[] = []
  let fail: (error: Error) => void = () => undefined
  const failed = new Promise<never>((_, reject) => {
    fail = reject
  })
  failed.catch(() => undefined)
  const latencyNs = createHistogram()
  let isCounting = false
  let answered = 0
  let underWay = 0
  const free: ((request: PacedRequest) => void)[] = []
  for (let index = 0; index < CONNECTIONS; index += 1) {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true })
    await once(socket, 'connect')
    sockets.push(socket)
    let expected = 0
    let sentAt = 0
    const send = ({ bytes, status }: PacedRequest) => {
      expected = status
      sentAt = performance.now()
      underWay += 1
      socket.write(bytes)
    }
    const responses = new MessageReader({
      head: head => {
        const status = Number(head.slice('HTTP/1.1 '.length, 'HTTP/1.1 200'.length))
        if (status !== expected) fail(new Error(`expected status ${expected}, got ${status}`))
        const length = contentLength(head)
        if (length === undefined) fail(new Error(`a response without Content-Length:\n${head}`))
        return length ?? 0
      },
      end: () => {
        underWay -= 1
        if (isCounting) {
          answered += 1
          latencyNs.record(Math.max(1, Math.round((performance.now() - sentAt) * 1e6)))
        }
        free.push(send)
      },
    })
    socket.on('data', chunk => responses.read(chunk))
    socket.on('error', fail)
    socket.on('close', () => fail(new Error('the server closed a connection')))
    free.push(send)
  }
  const startedAt = performance.now()
  let sent = 0
  let countedFrom = startedAt
  let cpuBefore: number | undefined
  const work = (async () => {
    for (let now = startedAt; now < startedAt + durationMs; now = performance.now()) {
      if (!isCounting && now >= startedAt + durationMs * LEAD_IN_SHARE) {
        isCounting = true
        countedFrom = now
        cpuBefore = cpuMs(server.pid)
      }
      const due = Math.floor(((now - startedAt) * ratePerSecond) / 1000)
      sent = Math.max(sent, due - MAX_BEHIND)
      for (; sent < due; sent += 1) {
        const send = free.shift()
        const request = mix[sent % mix.length]
        if (send === undefined || request === undefined) break
        send(request)
      }
      await new Promise(resolve => setTimeout(resolve, TICK_MS))
    }
    isCounting = false
    const elapsedMs = performance.now() - countedFrom
    const cpuAfter = cpuMs(server.pid)
    for (let waited = 0; underWay > 0 && waited < OVERDUE_MS; waited += TICK_MS) {
      await new Promise(resolve => setTimeout(resolve, TICK_MS))
    }
    if (underWay > 0) throw new Error(`${underWay} responses were missing ${OVERDUE_MS} ms after the end`)
    const used = cpuAfter === undefined || cpuBefore === undefined ? undefined : cpuAfter - cpuBefore
    return {
      requestsPerSecond: (answered / elapsedMs) * 1000,
      cores: used === undefined ? undefined : used / elapsedMs,
      cpuMicroseconds: used === undefined ? undefined : (used * 1000) / answered,
      p50Ms: latencyNs.percentile(50) / 1e6,
      p99Ms: latencyNs.percentile(99) / 1e6,
    }
  })()
  try {
    return await Promise.race([work, failed])
  } finally {
    for (const socket of sockets) {
      socket.removeAllListeners('close')
      socket.on('error', () => undefined)
      socket.destroy()
    }
  }
}
