import { randomUUID } from 'node:crypto'
import { request as httpRequest, type IncomingMessage, type Server } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { type Duplex, pipeline } from 'node:stream'
import type { ExchangeEvents } from '../observability/exchange-events.js'
import { type Connections, DetachedClient, type WhenOver } from '../server/connection.js'
import { type OwnResponse, respond } from '../server/error-response.js'
import { hasBody } from '../server/read-body.js'
import type { UpstreamTls } from '../upstream/agent.js'
import { failureOf, statusError } from '../upstream/failure.js'
import type { UpstreamQueue } from '../upstream/queue.js'
import type { Routing } from './classify.js'
import { addressOf } from './client.js'
import { Exchange } from './exchange.js'
import { failureResponse, overloadedResponse } from './failure-response.js'
import { clientView, type Forwarding, requestHeaders, responseHeaders, writeHead } from './headers.js'

/** What passing upgrades on needs; times in milliseconds. */
export type WebSocketOptions = Forwarding & {
  readonly routing: Routing
  readonly connections: Connections
  readonly events: ExchangeEvents
  /** Asked for each handshake, because certificates are renewed. */
  readonly tls: () => UpstreamTls
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  /** A WebSocket keeps its place at the upstream for as long as it is joined. */
  readonly queue: UpstreamQueue
}

/**
 * WebSocket: the client's handshake goes to the upstream as it is, and after the upstream's 101 the two
 * connections are joined. What else asks for an upgrade (h2c) is served as if it had not, as RFC 9110, 7.8,
 * allows; a guarded route is never upgraded.
 */
export function webSockets(server: Server, options: WebSocketOptions): void {
  const { routing, connections, events, trusts, queue } = options
  server.on('upgrade', (received, socket, head) => {
    if (!connections.detach(socket)) return
    const { method = '', url = '/', headers } = received
    const target = routing.targetOf(method, url, headers.host ?? '')
    if (target === undefined || target.guarded || !isWebSocketHandshake(received)) {
      return connections.serveWithoutUpgrade(server, received, socket, head)
    }
    let over: WhenOver = () => undefined
    const client = new DetachedClient(socket, head, hasResponse => over(hasResponse))
    const exchange = new Exchange({
      id: randomUUID(),
      received,
      address: addressOf(received, trusts),
      target,
      events,
      whenOver: listener => {
        over = listener
      },
    })
    const start = () => {
      exchange.hold(() => queue.leave(exchange.address))
      new Handshake(exchange, client, options).start()
    }
    const rejected = () => {
      events.emit('overloaded')
      exchange.fail()
      respondOn(client, exchange, overloadedResponse(exchange.id))
    }
    exchange.hold(queue.enter(start, rejected, exchange.address))
  })
}

/** A handshake has no body, and one host (RFC 6455, 4.1); anything else is a plain request. */
function isWebSocketHandshake(received: IncomingMessage): boolean {
  const { method, headers, httpVersion, rawHeaders } = received
  const hosts = rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host')
  const isWish = method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket'
  return isWish && !hasBody(received) && httpVersion === '1.1' && hosts.length === 1
}

/** One handshake at the upstream, and the joined connections that come of it. */
class Handshake {
  readonly #exchange: Exchange
  readonly #client: DetachedClient
  readonly #options: WebSocketOptions
  #timer: NodeJS.Timeout | undefined
  #isAnswered = false

  constructor(exchange: Exchange, client: DetachedClient, options: WebSocketOptions) {
    this.#exchange = exchange
    this.#client = client
    this.#options = options
  }

  start(): void {
    const exchange = this.#exchange
    const { upstreamUrl, tls, connectTimeoutMs, headersTimeoutMs } = this.#options
    exchange.forwarded()
    const send = upstreamUrl.protocol === 'https:' ? httpsRequest : httpRequest
    const outgoing = send({
      ...tls(),
      hostname: upstreamUrl.hostname.replace(/^\[|\]$/g, ''),
      port: upstreamUrl.port,
      path: exchange.target,
      method: 'GET',
      headers: [
        ...requestHeaders(exchange.received, exchange, this.#options),
        ...['Connection', 'Upgrade', 'Upgrade', 'websocket'],
      ],
      agent: false,
    })
    const giveUp = (code: string) =>
      outgoing.destroy(Object.assign(new Error('the handshake timed out'), { code }))
    this.#timer = setTimeout(giveUp, connectTimeoutMs, 'UND_ERR_CONNECT_TIMEOUT')
    exchange.hold(() => {
      clearTimeout(this.#timer)
      outgoing.destroy()
    })
    outgoing.once('finish', () => {
      clearTimeout(this.#timer)
      this.#timer = setTimeout(giveUp, headersTimeoutMs, 'UND_ERR_HEADERS_TIMEOUT')
    })
    outgoing.once('upgrade', (answer, upstream, upstreamHead) => this.#join(answer, upstream, upstreamHead))
    outgoing.once('response', answer => this.#passOn(answer))
    outgoing.once('error', error => this.#fail(error))
    outgoing.end()
  }

  #join(answer: IncomingMessage, upstream: Duplex, upstreamHead: Buffer): void {
    clearTimeout(this.#timer)
    const exchange = this.#exchange
    const { socket } = this.#client
    exchange.statusCode = 101
    exchange.report()
    const early = this.#client.take()
    // The exchange ends with the client's connection, and this with it.
    exchange.hold(() => upstream.destroy())
    socket.write(headOf(answer), 'latin1')
    if (upstreamHead.length > 0) socket.write(upstreamHead)
    if (early.length > 0) upstream.write(early)
    let directions = 2
    const ended = () => {
      directions -= 1
      if (directions === 0) socket.destroy()
    }
    pipeline(socket, upstream, ended)
    pipeline(upstream, socket, ended)
  }

  /** Any other response than 101: the upstream does not want the upgrade. */
  #passOn(answer: IncomingMessage): void {
    clearTimeout(this.#timer)
    const exchange = this.#exchange
    const { upstreamUrl, trusts } = this.#options
    const { statusCode = 0, statusMessage = '', rawHeaders } = answer
    if (statusCode < 200 || statusCode > 599) {
      this.#fail(statusError(statusCode))
      return
    }
    this.#isAnswered = true
    const view = () => clientView(exchange.received, exchange, trusts)
    const response = this.#client.response(exchange.received)
    exchange.statusCode = statusCode
    writeHead(response, statusCode, statusMessage, responseHeaders(rawHeaders, upstreamUrl, view))
    pipeline(answer, response, error => {
      exchange.fail()
      // A response that breaks off must not look complete.
      if (error) this.#client.socket.destroy()
    })
  }

  #fail(error: Error): void {
    const exchange = this.#exchange
    if (exchange.isClientGone) return
    // A response that has begun can only break off.
    if (this.#isAnswered) {
      this.#client.socket.destroy()
      return
    }
    const failure = failureOf(error)
    this.#options.events.emit('failed', failure.kind, error)
    exchange.fail()
    respondOn(this.#client, exchange, failureResponse(exchange.id, failure))
  }
}

/** The head of the upstream's 101, as it came. */
function headOf(answer: IncomingMessage): string {
  const lines = [`HTTP/1.1 101 ${answer.statusMessage ?? 'Switching Protocols'}`]
  const { rawHeaders } = answer
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    lines.push(`${rawHeaders[index]}: ${rawHeaders[index + 1]}`)
  }
  return `${lines.join('\r\n')}\r\n\r\n`
}

/** A response of our own in place of the upgrade. */
function respondOn(client: DetachedClient, exchange: Exchange, own: OwnResponse): void {
  exchange.statusCode = own.statusCode
  respond(client.response(exchange.received), own)
}
