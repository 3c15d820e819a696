import { request as httpRequest, type IncomingMessage, ServerResponse } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { Socket } from 'node:net'
import { type Duplex, pipeline } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { UpstreamTls } from '../upstream/dispatcher.js'
import { failureOf } from '../upstream/failure.js'
import { requestFields, type TrustsPeer } from './fields.js'
import type { Routing } from './routing.js'

/** What passing upgrades on needs. */
export type UpgradeOptions = {
  readonly routing: Routing
  readonly upstreamUrl: URL
  readonly tls: UpstreamTls
  readonly trusts: TrustsPeer
  readonly headersTimeoutMs: number
}

/**
 * WebSocket: the client's handshake goes to the upstream as it is, and after the upstream's 101 the two
 * connections are joined. What else asks for an upgrade (h2c) is served as if it had not, as RFC 9110, 7.8,
 * allows; a guarded route is never upgraded.
 */
export function upgrade(app: FastifyInstance, options: UpgradeOptions): void {
  app.server.on('upgrade', (received, socket, head) => {
    options.routing.rewrite(received)
    const target = options.routing.targetOf(received)
    const isWebSocket = received.method === 'GET' && received.headers.upgrade?.toLowerCase() === 'websocket'
    if (!isWebSocket || target === undefined || target.guarded) {
      serveWithoutUpgrade(app, received, socket, head)
      return
    }
    const { upstreamUrl, tls, headersTimeoutMs } = options
    const fields = requestFields(received, target, upstreamUrl.host, options.trusts)
    const outgoing = (upstreamUrl.protocol === 'https:' ? httpsRequest : httpRequest)({
      ...tls,
      hostname: upstreamUrl.hostname.replace(/^\[|\]$/g, ''),
      port: upstreamUrl.port,
      path: target.target,
      method: 'GET',
      headers: [...fields, 'Connection', 'Upgrade', 'Upgrade', 'websocket'],
      agent: false,
      timeout: headersTimeoutMs,
    })
    outgoing.once('upgrade', (answer, upstream, upstreamHead) => {
      outgoing.setTimeout(0)
      socket.write(headOf(answer))
      if (upstreamHead.length > 0) socket.write(upstreamHead)
      if (head.length > 0) upstream.write(head)
      join(socket, upstream)
    })
    outgoing.once('response', answer => {
      const reply = replyOn(socket, received)
      reply.writeHead(answer.statusCode ?? 502, answer.statusMessage, withoutConnection(answer.rawHeaders))
      answer.pipe(reply)
    })
    outgoing.once('timeout', () =>
      outgoing.destroy(Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })),
    )
    outgoing.once('error', error => {
      if (socket.destroyed) return
      const { kind, words } = failureOf(error)
      const body = JSON.stringify({
        error: 'Bad Gateway',
        message: `focus-server could not be reached: ${words}.`,
      })
      const reply = replyOn(socket, received)
      reply.writeHead(502, {
        'content-type': 'application/json',
        'proxy-status': `focus-breaker; error=${kind}`,
      })
      reply.end(body)
    })
    socket.once('error', () => outgoing.destroy())
    socket.once('close', () => outgoing.destroy())
    outgoing.end()
  })
}

/** Joins two connections until either ends; an error of one ends the other. */
function join(client: Duplex, upstream: Duplex): void {
  pipeline(client, upstream, () => undefined)
  pipeline(upstream, client, () => undefined)
}

/** The head of the upstream's 101, as it came but for what a gateway adds. */
function headOf(answer: IncomingMessage): string {
  const lines = [`HTTP/1.1 101 ${answer.statusMessage ?? 'Switching Protocols'}`]
  const { rawHeaders } = answer
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    lines.push(`${rawHeaders[index]}: ${rawHeaders[index + 1]}`)
  }
  return `${lines.join('\r\n')}\r\n\r\n`
}

/** An ordinary answer on a connection that Node has given away for the upgrade; it ends with the answer. */
function replyOn(socket: Duplex, received: IncomingMessage): ServerResponse {
  const reply = new ServerResponse(received)
  reply.shouldKeepAlive = false
  if (socket instanceof Socket) reply.assignSocket(socket)
  reply.once('finish', () => socket.end())
  return reply
}

function withoutConnection(rawHeaders: readonly string[]): string[] {
  const fields: string[] = []
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    if (!/^(connection|keep-alive|transfer-encoding|upgrade)$/i.test(name)) {
      fields.push(name, rawHeaders[index + 1] ?? '')
    }
  }
  return fields
}

/**
 * Gives the connection back to Node's HTTP server, with the request as it came but for its wish to upgrade:
 * Node hands over the connection of every request with `Upgrade` as soon as anybody listens for one.
 */
function serveWithoutUpgrade(
  app: FastifyInstance,
  received: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): void {
  const { rawHeaders } = received
  const lines = [`${received.method} ${received.url} HTTP/${received.httpVersion}`]
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    const value = rawHeaders[index + 1] ?? ''
    if (/^connection$/i.test(name)) lines.push(`${name}: ${withoutUpgrade(value)}`)
    else if (!/^(upgrade|http2-settings)$/i.test(name)) lines.push(`${name}: ${value}`)
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]))
  app.server.emit('encrypted' in socket ? 'secureConnection' : 'connection', socket)
}

function withoutUpgrade(connection: string): string {
  const options = connection.split(',').filter(option => !/^\s*(upgrade|http2-settings)\s*$/i.test(option))
  return options.length === 0 ? 'keep-alive' : options.join(',')
}
