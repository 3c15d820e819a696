import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Metrics } from '../observability/metrics.js'
import { addressesOf, inUrl } from '../server/listen.js'
import { LIVE, type Readiness, readyResponse } from './health-route.js'

/** How long a client of the listener may take to send a request, and how long its connection may be idle. */
const CLIENT_TIMEOUT_MS = 5000

/** Dependencies of the listener. */
export type HealthOptions = { readonly readiness: Readiness; readonly metrics: Metrics }

/**
 * A plain HTTP listener for `/-/live`, `/-/ready` and `/-/metrics` only, next to the main server. It has no TLS, client
 * certificates, or limits that clients can exhaust. It closes last, so that it still responds while the server drains.
 */
export class HealthListener {
  readonly #options: HealthOptions
  #servers: readonly Server[] = []

  constructor(options: HealthOptions) {
    this.#options = options
  }

  /** Listens on every address of the host and returns the first one as a URL. Throws if that fails. */
  async listen(host: string, port: number): Promise<string> {
    const addresses = await addressesOf(host)
    let chosen = port
    for (const address of addresses) {
      const server = createServer((request, response) => void this.#respond(request, response))
      server.headersTimeout = CLIENT_TIMEOUT_MS
      server.requestTimeout = CLIENT_TIMEOUT_MS
      server.keepAliveTimeout = CLIENT_TIMEOUT_MS
      this.#servers = [...this.#servers, server]
      // Rejects on the first failure.
      server.listen(chosen, address)
      await once(server, 'listening')
      const bound = server.address()
      if (typeof bound === 'object' && bound !== null) chosen = bound.port
    }
    return `http://${inUrl(addresses[0] ?? host)}:${chosen}`
  }

  /** Closes the listener and all its connections. */
  async close(): Promise<void> {
    const closed = this.#servers
      .filter(server => server.listening)
      .map(server => new Promise(resolve => server.close(resolve)))
    for (const server of this.#servers) server.closeAllConnections()
    await Promise.all(closed)
  }

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '').replace(/\?.*$/, '')
    const { readiness, metrics } = this.#options
    const json = (status: number, body: unknown) =>
      send(response, status, 'application/json; charset=utf-8', JSON.stringify(body))
    if (path !== '/-/live' && path !== '/-/ready' && path !== '/-/metrics') {
      json(404, { error: 'Not Found', message: 'This port serves only /-/live, /-/ready and /-/metrics.' })
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('allow', 'GET, HEAD')
      json(405, { error: 'Method Not Allowed', message: 'Only GET and HEAD are supported.' })
    } else if (path === '/-/live') {
      json(200, LIVE)
    } else if (path === '/-/ready') {
      const { status, body } = readyResponse(readiness())
      json(status, body)
    } else {
      send(response, 200, metrics.contentType, await metrics.exposition())
    }
  }
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  })
  response.end(body)
}
