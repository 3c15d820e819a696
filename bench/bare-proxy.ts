import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Agent, type Dispatcher } from 'undici'
import { SERVER_OPTIONS, serve } from './own-server.js'

/**
 * A peer of forwarding: the minimum that a correct proxy has to do, with `node:http` and undici's `dispatch`.
 *
 * Request and response bodies are streamed with backpressure, hop-by-hop headers are removed, the upstream request is
 * aborted when its client disconnects, and a failure becomes a 502. It has no framework, log, metrics or limits. The
 * argument is the URL of the upstream.
 */
const origin = process.argv[2] ?? ''
const agent = new Agent({ keepAliveTimeout: 60_000 })

serve(
  createServer(SERVER_OPTIONS, (request, response) => {
    const { method = 'GET', url: path = '/' } = request
    const headers = endToEnd(request.rawHeaders)
    const body = hasBody(request) ? request : null
    agent.dispatch({ origin, method, path, headers, body }, new Forwarding(response))
  }),
)

/** Hop-by-hop headers (RFC 9110, 7.6.1), and headers that each connection sets itself. */
const NOT_FORWARDED = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'],
  ...['host', 'expect'],
])

function endToEnd(raw: readonly string[]): string[] {
  const kept: string[] = []
  let named: string | undefined
  for (let index = 0; index + 1 < raw.length; index += 2) {
    const name = raw[index] ?? ''
    const value = raw[index + 1] ?? ''
    const lowerCase = name.toLowerCase()
    if (!NOT_FORWARDED.has(lowerCase)) kept.push(name, value)
    else if (lowerCase === 'connection' && value !== 'keep-alive' && value !== 'close') named = value
  }
  return named === undefined ? kept : withoutNamed(kept, named)
}

function asText(raw: Dispatcher.DispatchController['rawHeaders']): readonly string[] {
  return Array.isArray(raw)
    ? raw.map(each => (typeof each === 'string' ? each : each.toString('latin1')))
    : []
}

/** Removes the headers that a `Connection` header names. */
function withoutNamed(headers: readonly string[], connection: string): string[] {
  const names = new Set(connection.split(',').map(name => name.trim().toLowerCase()))
  return headers.filter((_, index) => !names.has((headers[index - (index % 2)] ?? '').toLowerCase()))
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** Writes an upstream's response to a client. */
class Forwarding implements Dispatcher.DispatchHandler {
  readonly #response: ServerResponse

  constructor(response: ServerResponse) {
    this.#response = response
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#response.on('drain', () => controller.resume())
    this.#response.once('close', () => {
      if (!this.#response.writableFinished) controller.abort(new Error('the client left'))
    })
  }

  onResponseStart(controller: Dispatcher.DispatchController, statusCode: number): void {
    if (statusCode < 200) return
    this.#response.writeHead(statusCode, endToEnd(asText(controller.rawHeaders)))
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#response.write(chunk)) controller.pause()
  }

  onResponseEnd(): void {
    this.#response.end()
  }

  onResponseError(): void {
    if (this.#response.headersSent) this.#response.destroy()
    else this.#response.writeHead(502).end()
  }
}
