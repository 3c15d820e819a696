import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import { buildApp } from '../../src/app.js'
import { load } from '../../src/config/load.js'
import { createLogger } from '../../src/observability/logger.js'

const READY = '{"prr":2000.0,"sw_version":"11.17.10513","fiber_description":"site A"}'
const WAITING = '{"prr":0.0,"sw_version":"waiting for fiber","fiber_description":"waiting for fiber"}'

/** A request as received over the wire, and the connection for the response. */
export type Received = { readonly head: string; readonly body: string; readonly socket: Socket }

/** A raw-socket upstream: `fiber` answers metadata probes, `answer` everything else. */
export async function rawUpstream(
  t: TestContext,
  answer: (received: Received) => void,
  fiber: { there: boolean } = { there: true },
): Promise<{ readonly port: number; readonly received: Received[]; readonly server: Server }> {
  const received: Received[] = []
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => undefined)
    let text = ''
    socket.on('data', chunk => {
      text += chunk.toString('latin1')
      for (let next = takeRequest(text); next !== undefined; next = takeRequest(text)) {
        text = next.rest
        if (/^GET \S*\/live_metadata /.test(next.head)) {
          socket.write(response('200 OK', fiber.there ? READY : WAITING, 'Content-Type: application/json'))
          continue
        }
        const request = { head: next.head, body: next.body, socket }
        received.push(request)
        answer(request)
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: portOf(server), received, server }
}

/** One whole request at the front of `text`; a chunked body keeps its chunks. */
function takeRequest(text: string) {
  const end = text.indexOf('\r\n\r\n')
  if (end === -1) return undefined
  const head = text.slice(0, end)
  const start = end + 4
  const length = /^content-length: *(\d+)/im.exec(head)?.[1]
  if (/^transfer-encoding: *chunked/im.test(head)) {
    const last = text.indexOf('0\r\n\r\n', start)
    if (last === -1) return undefined
    return { head, body: text.slice(start, last + 5), rest: text.slice(last + 5) }
  }
  const stop = start + Number(length ?? 0)
  return text.length < stop ? undefined : { head, body: text.slice(start, stop), rest: text.slice(stop) }
}

/** A whole response with a length; `fields` are its headers as they go on the wire. */
export function response(status: string, body: string, ...fields: string[]): string {
  return [
    `HTTP/1.1 ${status}`,
    `Content-Length: ${Buffer.byteLength(body, 'latin1')}`,
    ...fields,
    '',
    body,
  ].join('\r\n')
}

/** The proxy in this process, in front of `upstream`; returns its port. Options by their dotted names. */
export async function proxyTo(
  t: TestContext,
  upstream: string,
  options: Readonly<Record<string, string>> = {},
): Promise<number> {
  const app = appFor(upstream, options)
  t.after(() => app.close())
  await app.listen({ host: '127.0.0.1', port: 0 })
  return portOf(app.server)
}

/** The proxy, not yet listening. */
export function appFor(upstream: string, options: Readonly<Record<string, string>> = {}): FastifyInstance {
  const all = {
    'upstream.url': upstream,
    'probe.periodMs': '60000',
    'server.drainTimeoutMs': '100',
    ...options,
  }
  const flags = new Map(Object.entries(all).map(([name, value]) => [name, { flag: name, value }]))
  const loaded = load({ environment: {}, flags })
  if (!loaded.ok) throw new Error(JSON.stringify(loaded.faults))
  return buildApp(loaded.config, createLogger({ level: 'silent', format: 'json' }), 'test').app
}

export function portOf(server: { address(): AddressInfo | string | null }): number {
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('the server does not listen')
  return address.port
}

/** A raw-socket client: what was sent and what was received, as Latin-1. */
export class RawClient {
  readonly socket: Socket
  #text = ''
  #closed = false
  #waiting: (() => void)[] = []

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', chunk => {
      this.#text += chunk.toString('latin1')
      this.#wake()
    })
    socket.on('error', () => undefined)
    socket.once('close', () => {
      this.#closed = true
      this.#wake()
    })
  }

  get text(): string {
    return this.#text
  }

  send(text: string): this {
    this.socket.write(Buffer.from(text, 'latin1'))
    return this
  }

  /** What has been received, once it matches; fails with it if the connection closes before that. */
  async until(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.#text)) {
      if (this.#closed) throw new Error(`closed before ${pattern}: ${JSON.stringify(this.#text)}`)
      await new Promise<void>(resolve => this.#waiting.push(resolve))
    }
    return this.#text
  }

  /** Everything that was received, once the connection is closed. */
  async closed(): Promise<string> {
    while (!this.#closed) await new Promise<void>(resolve => this.#waiting.push(resolve))
    return this.#text
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}

export async function rawClient(t: TestContext, port: number): Promise<RawClient> {
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  const client = new RawClient(socket)
  await once(socket, 'connect')
  return client
}

/** Sends one request on its own connection, and returns everything received until the server closes it. */
export async function exchange(t: TestContext, port: number, request: string): Promise<string> {
  const client = await rawClient(t, port)
  return client.send(request).closed()
}

/** The header lines of a message, or one header by its name in lower case. */
export function field(head: string, name: string): string | undefined {
  const line = head.split('\r\n').find(candidate => candidate.toLowerCase().startsWith(`${name}:`))
  return line?.slice(name.length + 1).trim()
}
