import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { portOf } from './raw.js'

const WAITING = '{"prr":0.0,"sw_version":"waiting for fiber","fiber_description":"waiting for fiber"}'

/** An upstream that parses HTTP/1.1 strictly, counts, and accepts nothing that two parsers could read differently. */
export interface StrictUpstream {
  readonly url: string
  /** Every request since the start, except the probes. */
  readonly count: number
  /** Everything invalid, with the bytes around it. */
  readonly violations: readonly string[]
  /** How often each identifier `/<id>` in a target arrived. */
  readonly byId: ReadonlyMap<string, number>
  /** Requests of `POST /configure`, in any spelling. */
  readonly guarded: readonly string[]
  /** Requests that were cut off before they were complete. */
  readonly cut: number
}

/** The identifier of one of our requests, from its target. */
function idOf(target: string): string | undefined {
  return /\/((?:id|mutated)-[a-z0-9-]+)/.exec(target)?.[1]
}

/** Starts it on a free port of loopback until the test ends; its fiber is always missing. */
export async function startStrictUpstream(t: TestContext): Promise<StrictUpstream> {
  const violations: string[] = []
  const guarded: string[] = []
  const byId = new Map<string, number>()
  const sockets = new Set<Socket>()
  let count = 0
  let cut = 0
  const server = createServer({ noDelay: true }, socket => {
    sockets.add(socket)
    let buffered = Buffer.alloc(0)
    let isTunnel = false
    socket.on('error', () => undefined)
    socket.once('close', () => {
      sockets.delete(socket)
      if (!isTunnel && buffered.length > 0) cut += 1
    })
    socket.on('data', chunk => {
      if (isTunnel) {
        socket.write(chunk)
        return
      }
      buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk])
      for (;;) {
        const taken = take(buffered)
        if (taken === undefined) return
        if ('violation' in taken) {
          violations.push(`${taken.violation}: ${JSON.stringify(buffered.toString('latin1').slice(0, 2000))}`)
          buffered = Buffer.alloc(0)
          socket.destroy()
          return
        }
        buffered = buffered.subarray(taken.length)
        const { method, target, isUpgrade } = taken
        if (method === 'GET' && target === '/live_metadata') {
          socket.write(answer(200, WAITING, 'Content-Type: application/json'))
          continue
        }
        count += 1
        const id = idOf(target)
        if (id !== undefined) byId.set(id, (byId.get(id) ?? 0) + 1)
        if (method === 'POST' && isConfigure(target)) guarded.push(taken.head)
        if (isUpgrade && !target.includes('no-upgrade')) {
          isTunnel = true
          socket.write(
            'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
          )
          if (buffered.length > 0) socket.write(buffered)
          return
        }
        if (target.startsWith('/hints/')) socket.write('HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n')
        const echo = `X-Echo: ${id ?? 'none'}`
        socket.write(method === 'HEAD' ? head(200, 2, echo) : answer(200, 'ok', echo))
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${portOf(server)}`,
    violations,
    guarded,
    byId,
    get count() {
      return count
    },
    get cut() {
      return cut
    },
  }
}

type Taken =
  | {
      readonly length: number
      readonly head: string
      readonly method: string
      readonly target: string
      readonly isUpgrade: boolean
    }
  | { readonly violation: string }

const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) HTTP\/1\.1$/
const FIELD = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/

/** The first request in the received data; undefined until it is complete. */
function take(buffered: Buffer): Taken | undefined {
  const end = buffered.indexOf('\r\n\r\n')
  if (end === -1) return buffered.length > 200_000 ? { violation: 'endless headers' } : undefined
  const head = buffered.toString('latin1', 0, end)
  const [requestLine = '', ...lines] = head.split('\r\n')
  if (/[\r\n\0]/.test(head.replaceAll('\r\n', ''))) return { violation: 'a bare CR, LF or NUL in the head' }
  const [, method = '', target = ''] = REQUEST_LINE.exec(requestLine) ?? []
  if (method === '') return { violation: 'no request line of HTTP/1.1' }
  if (!target.startsWith('/')) return { violation: 'a target that is not a path' }
  const fields = lines.map(line => FIELD.exec(line))
  if (fields.includes(null)) return { violation: 'a line that is not a header' }
  const values = (name: string) =>
    fields.flatMap(field => (field?.[1]?.toLowerCase() === name ? [field[2] ?? ''] : []))
  if (values('host').length !== 1) return { violation: `${values('host').length} Host headers` }
  const lengths = values('content-length')
  const codings = values('transfer-encoding')
  if (lengths.length + codings.length > 1) return { violation: 'more than one length' }
  if (lengths.some(length => !/^\d{1,15}$/.test(length))) return { violation: 'an invalid length' }
  if (codings.some(coding => coding !== 'chunked')) return { violation: 'a coding other than chunked' }
  for (const gone of ['keep-alive', 'proxy-connection', 'te', 'trailer', 'expect', 'http2-settings']) {
    if (values(gone).length > 0) return { violation: `a hop-by-hop header: ${gone}` }
  }
  const isUpgrade = values('upgrade').join() === 'websocket'
  const start = end + 4
  const whole = { head, method, target, isUpgrade }
  if (codings.length === 0) {
    const length = start + Number(lengths[0] ?? 0)
    return buffered.length < length ? undefined : { ...whole, length }
  }
  for (let at = start; ; ) {
    const lineEnd = buffered.indexOf('\r\n', at)
    if (lineEnd === -1) return buffered.length - at > 20 ? { violation: 'no chunk size' } : undefined
    const size = buffered.toString('latin1', at, lineEnd)
    if (!/^[0-9a-f]{1,8}$/i.test(size)) return { violation: `no size of a chunk: ${size}` }
    const length = Number.parseInt(size, 16)
    const next = lineEnd + 2 + length
    if (buffered.length < next + 2) return undefined
    if (buffered.toString('latin1', next, next + 2) !== '\r\n') return { violation: 'no chunk end' }
    if (length === 0) return { ...whole, length: next + 2 }
    at = next + 2
  }
}

/** The path as uvicorn and a normalising ingress would read it, implemented independently of the guard. */
function isConfigure(target: string): boolean {
  const path = target
    .replace(/[?#].*$/s, '')
    .replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
  const segments: string[] = []
  for (const segment of path.split('/')) {
    if (segment === '..') segments.pop()
    else if (segment !== '' && segment !== '.') segments.push(segment)
  }
  return /^configure(\n|$)/.test(segments.join('/'))
}

function head(status: number, length: number, field: string): string {
  return `HTTP/1.1 ${status} OK\r\nContent-Length: ${length}\r\n${field}\r\n\r\n`
}

function answer(status: number, body: string, field: string): string {
  return head(status, body.length, field) + body
}
