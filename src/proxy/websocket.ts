import type { IncomingMessage, RequestListener, Server } from 'node:http'
import { type Duplex, pipeline } from 'node:stream'
import type { Connections, Handshake } from '../server/connection.js'
import { hasBody } from '../server/read-body.js'
import type { Routing } from './classify.js'
import type { Exchange } from './exchange.js'
import { latin1, type RawHeaders } from './headers.js'

/**
 * How long one direction of a joined WebSocket may stay open after the other has ended. A WebSocket closes with its own
 * frames before its connection ends (RFC 6455, 7.1), so only data in flight remains. A peer that never closes would
 * occupy its slot forever.
 */
const HALF_CLOSED_MS = 5000

/** Dependencies of WebSocket forwarding. */
export type WebSocketOptions = {
  readonly routing: Routing
  readonly connections: Connections
  /** The phases of a request. */
  readonly serve: RequestListener
}

/**
 * Handles WebSocket handshakes. A handshake for focus-server passes through the phases like any other request, so that
 * the same checks and limits apply. Any other request for an upgrade (h2c) is served as if it had not asked, as RFC
 * 9110, 7.8, allows. A guarded route is never upgraded.
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

/** A handshake has no body and exactly one Host header (RFC 6455, 4.1). Anything else is a plain request. */
function isWebSocketHandshake(received: IncomingMessage): boolean {
  const { method, headers, httpVersion, rawHeaders } = received
  const hosts = rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host')
  const asksForUpgrade = method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket'
  return asksForUpgrade && !hasBody(received) && httpVersion === '1.1' && hosts.length === 1
}

/** Joins a client and focus-server after the 101. The exchange ends when the client's connection closes. */
export function join(exchange: Exchange, handshake: Handshake, headers: RawHeaders, upstream: Duplex): void {
  const { socket, response } = handshake
  const early = handshake.take()
  // The upstream connection ends with the exchange.
  exchange.hold(() => upstream.destroy())
  exchange.statusCode = 101
  // For code that reads the status from the response later.
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

/** The head of the upstream's 101, as received. */
function headOf(headers: RawHeaders): string {
  const lines = ['HTTP/1.1 101 Switching Protocols']
  for (let index = 0; index + 1 < headers.length; index += 2) {
    lines.push(`${latin1(headers[index])}: ${latin1(headers[index + 1])}`)
  }
  return `${lines.join('\r\n')}\r\n\r\n`
}
