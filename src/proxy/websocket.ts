import type { IncomingMessage, RequestListener, Server } from 'node:http'
import { type Duplex, pipeline } from 'node:stream'
import type { Connections, Handshake } from '../server/connection.js'
import { hasBody } from '../server/read-body.js'
import type { Routing } from './classify.js'
import type { Exchange } from './exchange.js'
import { latin1, type RawHeaders } from './headers.js'

/**
 * How long the other direction of a joined WebSocket may go on after one has ended. A WebSocket says goodbye in its own
 * frames before its connection ends (RFC 6455, 7.1), so what is left is in flight; a peer that never ends would hold its
 * place for ever.
 */
const HALF_CLOSED_MS = 5000

/** What passing upgrades on needs. */
export type WebSocketOptions = {
  readonly routing: Routing
  readonly connections: Connections
  /** The phases of a request. */
  readonly serve: RequestListener
}

/**
 * WebSocket: a handshake for focus-server goes through the phases like any other request, so that the same checks and
 * limits hold. What else asks for an upgrade (h2c) is served as if it had not, as RFC 9110, 7.8, allows; a guarded
 * route is never upgraded.
 */
export function webSockets(server: Server, { routing, connections, serve }: WebSocketOptions): void {
  server.on('upgrade', (received, socket, head) => {
    if (!connections.detach(socket)) return
    const { method = '', url = '/', headers } = received
    const target = routing.targetOf(method, url, headers.host ?? '')
    if (target === undefined || target.guarded || !isWebSocketHandshake(received)) {
      connections.serveWithoutUpgrade(server, received, socket, head)
    } else connections.serveHandshake(received, socket, head, serve)
  })
}

/** A handshake has no body, and one host (RFC 6455, 4.1); anything else is a plain request. */
function isWebSocketHandshake(received: IncomingMessage): boolean {
  const { method, headers, httpVersion, rawHeaders } = received
  const hosts = rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host')
  const isWish = method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket'
  return isWish && !hasBody(received) && httpVersion === '1.1' && hosts.length === 1
}

/** Joins a client to focus-server after its 101. The exchange ends when the client's connection closes. */
export function join(exchange: Exchange, handshake: Handshake, headers: RawHeaders, upstream: Duplex): void {
  const { socket, response } = handshake
  const early = handshake.take()
  // The exchange ends with the client's connection, and this with it.
  exchange.hold(() => upstream.destroy())
  exchange.statusCode = 101
  // For those who ask the response later.
  response.statusCode = 101
  exchange.report()
  socket.write(headOf(headers), 'latin1')
  if (early.length > 0) upstream.write(early)
  let halfClosed: NodeJS.Timeout | undefined
  exchange.hold(() => clearTimeout(halfClosed))
  const ended = () => {
    if (halfClosed === undefined) halfClosed = setTimeout(() => socket.destroy(), HALF_CLOSED_MS).unref()
    else socket.destroy()
  }
  pipeline(socket, upstream, ended)
  pipeline(upstream, socket, ended)
}

/** The head of the upstream's 101, as it came. */
function headOf(headers: RawHeaders): string {
  const lines = ['HTTP/1.1 101 Switching Protocols']
  for (let index = 0; index + 1 < headers.length; index += 2) {
    lines.push(`${latin1(headers[index])}: ${latin1(headers[index + 1])}`)
  }
  return `${lines.join('\r\n')}\r\n\r\n`
}
