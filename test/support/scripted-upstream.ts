import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { TestContext } from 'node:test'
import { portOf } from './raw.js'

const READY = '{"prr":2000.0,"sw_version":"11.17.10513","fiber_description":"site A"}'
const WAITING = '{"prr":0.0,"sw_version":"waiting for fiber","fiber_description":"waiting for fiber"}'

/** More than all buffers between the upstream and a client that does not read can hold. */
export const LARGE_BYTES = 16 * 2 ** 20

const LARGE = Buffer.alloc(LARGE_BYTES, 'x')

/**
 * How the upstream responds:
 * - `small` at once, when the request body is complete;
 * - `large` the same, with `LARGE_BYTES`;
 * - `held` only after it is released;
 * - `begun` the headers and the first bytes at once, the rest when it is released.
 */
export type Script = 'small' | 'large' | 'held' | 'begun'

/** The target of a request for this kind of response, with this identifier. */
export function scripted(path: string, id: string, script: Script): string {
  return `${path}?id=${id}&answer=${script}`
}

/** The first bytes of a `begun` response. */
export const begunText = (id: string) => `begun ${id} `

/** The last bytes of every complete response. */
export const wholeText = (id: string) => `{"id":"${id}","answer":"whole"}`

/** A focus-server whose requests choose their kind of response, and that counts unfinished responses. */
export class ScriptedUpstream {
  readonly url: string
  /** What a probe finds. */
  readonly fiber = { there: true }
  readonly #server: Server
  readonly #unanswered = new Map<ServerResponse, string>()
  readonly #received = new Set<string>()
  readonly #begun = new Set<string>()
  readonly #held = new Map<string, () => void>()
  #isReleased: (id: string) => boolean = () => false

  private constructor(server: Server) {
    this.#server = server
    this.url = `http://127.0.0.1:${portOf(server)}`
    server.on('request', (request, response) => this.#take(request, response))
  }

  /** Starts it on a free port of loopback until the test ends. */
  static async start(t: TestContext): Promise<ScriptedUpstream> {
    const server = createServer({ noDelay: true, keepAliveTimeout: 60_000, requestTimeout: 0 })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => {
      server.close()
      server.closeAllConnections()
    })
    return new ScriptedUpstream(server)
  }

  /** The number of requests without a complete response, not counting probes. */
  get unanswered(): readonly string[] {
    return [...this.#unanswered.values()]
  }

  /** Whether the headers of this request have arrived. */
  received(id: string): boolean {
    return this.#received.has(id)
  }

  /** Whether the response to this request has started. */
  begun(id: string): boolean {
    return this.#begun.has(id)
  }

  /** Completes every held response whose identifier matches, now and from now on. */
  release(matches: (id: string) => boolean): void {
    const before = this.#isReleased
    this.#isReleased = id => before(id) || matches(id)
    for (const [id, finish] of [...this.#held]) if (matches(id)) finish()
  }

  /** Closes the connections without an unfinished request. */
  closeIdleConnections(): void {
    this.#server.closeIdleConnections()
  }

  #take(request: IncomingMessage, response: ServerResponse): void {
    // A client that aborts ends the response as well, which needs no action here.
    request.on('error', () => undefined)
    const { pathname, searchParams } = new URL(request.url ?? '/', this.url)
    if (pathname === '/live_metadata') {
      const body = this.fiber.there ? READY : WAITING
      response.writeHead(200, { 'content-type': 'application/json' }).end(body)
      return
    }
    const id = searchParams.get('id') ?? `${request.method} ${pathname}`
    this.#received.add(id)
    this.#unanswered.set(response, id)
    response.once('close', () => this.#unanswered.delete(response))
    request.once('end', () => this.#answer(id, searchParams.get('answer') ?? 'small', response))
    request.resume()
  }

  #answer(id: string, script: string, response: ServerResponse): void {
    const whole = wholeText(id)
    if (script === 'small') this.#finish(id, response, whole)
    else if (script === 'held') this.#hold(id, response, () => this.#finish(id, response, whole))
    else if (script === 'begun') {
      const first = begunText(id)
      this.#writeHead(id, response, first.length + whole.length)
      response.write(first)
      this.#hold(id, response, () => response.end(whole))
    } else {
      this.#writeHead(id, response, LARGE_BYTES + whole.length)
      response.write(LARGE)
      response.end(whole)
    }
  }

  #hold(id: string, response: ServerResponse, finish: () => void): void {
    if (this.#isReleased(id)) {
      finish()
      return
    }
    this.#held.set(id, () => {
      this.#held.delete(id)
      finish()
    })
    response.once('close', () => this.#held.delete(id))
  }

  #finish(id: string, response: ServerResponse, body: string): void {
    this.#writeHead(id, response, body.length)
    response.end(body)
  }

  #writeHead(id: string, response: ServerResponse, length: number): void {
    this.#begun.add(id)
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': length })
  }
}
