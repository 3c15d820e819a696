import { request as httpRequest, type IncomingMessage, ServerResponse } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { Socket } from 'node:net'
import { type Duplex, pipeline } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { Exchanged } from '../observability/metrics.js'
import { BUSY, failureAnswer } from '../server/error-response.js'
import { answersDueOn } from '../server/request-checks.js'
import type { UpstreamTls } from '../upstream/agent.js'
import { failureOf, type UpstreamFailure } from '../upstream/failure.js'
import type { Lane } from '../upstream/queue.js'
import type { Routing, UpstreamTarget } from './classify.js'
import { clientView, fieldsFrom, requestFields, responseFields, type TrustsPeer } from './headers.js'

/** What passing upgrades on needs. */
export type UpgradeOptions = {
  readonly routing: Routing
  readonly upstreamUrl: URL
  readonly tls: UpstreamTls
  readonly trusts: TrustsPeer
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  /** The way to the upstream, bounded. A WebSocket keeps its place on it for as long as it is joined. */
  readonly lane: Lane
  /** Told of each handshake that is begun, and of each that the upstream failed. */
  readonly onForwarded: (received: IncomingMessage) => void
  readonly onFailure: (failure: UpstreamFailure, error: Error) => void
  /** Told of each handshake that was answered. */
  readonly onExchanged: (exchange: Exchanged) => void
  /** Told of each handshake for which there was no room. */
  readonly onBusy: () => void
}

/**
 * WebSocket: the client's handshake goes to the upstream as it is, and after the upstream's 101 the two
 * connections are joined. What else asks for an upgrade (h2c) is served as if it had not, as RFC 9110, 7.8,
 * allows; a guarded route is never upgraded.
 */
export function upgrade(app: FastifyInstance, options: UpgradeOptions): void {
  app.server.on('upgrade', (received, socket, head) => {
    // Node has taken its own listeners away, and an error that nobody hears ends the process.
    socket.on('error', onError)
    const earlier = answersDueOn(socket).at(-1)
    if (earlier !== undefined) {
      // An upgrade behind an unanswered request: the answers would cross. The first is let out.
      earlier.once('close', () => socket.destroy())
      return
    }
    options.routing.rewrite(received)
    const target = options.routing.targetOf(received)
    if (target === undefined || target.guarded || !isWebSocketHandshake(received)) {
      serveWithoutUpgrade(app, received, socket, head)
    } else {
      // Whichever it is by then: the wait for a turn, or the exchange.
      let end: (() => void) | undefined
      const giveUp = options.lane.enter(
        () => {
          end = open(received, socket, head, target, options)
        },
        () => {
          options.onBusy()
          answerOn(socket, received, BUSY.statusCode, BUSY.fields, BUSY.body)
        },
      )
      end ??= giveUp
      socket.once('close', () => end?.())
    }
  })
}

/** On every connection that Node has given away. */
function onError(this: Duplex): void {
  this.destroy()
}

/** A handshake has no body, and one host (RFC 6455, 4.1); anything else is a plain request. */
function isWebSocketHandshake({ method, headers, httpVersion, rawHeaders }: IncomingMessage): boolean {
  const hosts = rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host')
  const hasBody = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
  const isWish = method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket'
  return isWish && !hasBody && httpVersion === '1.1' && hosts.length === 1
}

/** Begins the exchange; the function that it returns ends it. */
function open(
  received: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  target: UpstreamTarget,
  options: UpgradeOptions,
): () => void {
  const { upstreamUrl, tls, trusts, connectTimeoutMs, headersTimeoutMs, lane } = options
  options.onForwarded(received)
  const startedAt = performance.now()
  const exchanged = (statusCode: number) =>
    options.onExchanged({ guarded: false, statusCode, durationMs: performance.now() - startedAt })
  const outgoing = (upstreamUrl.protocol === 'https:' ? httpsRequest : httpRequest)({
    ...tls,
    hostname: upstreamUrl.hostname.replace(/^\[|\]$/g, ''),
    port: upstreamUrl.port,
    path: target.target,
    method: 'GET',
    headers: [
      ...requestFields(received, target, upstreamUrl, trusts),
      'Connection',
      'Upgrade',
      'Upgrade',
      'websocket',
    ],
    agent: false,
  })
  const giveUp = (code: string) =>
    outgoing.destroy(Object.assign(new Error('the handshake timed out'), { code }))
  let isJoined = false
  let isAnswered = false
  let timer = setTimeout(giveUp, connectTimeoutMs, 'UND_ERR_CONNECT_TIMEOUT')
  outgoing.once('finish', () => {
    clearTimeout(timer)
    timer = setTimeout(giveUp, headersTimeoutMs, 'UND_ERR_HEADERS_TIMEOUT')
  })
  // Joined, the exchange goes on without this request.
  outgoing.once('close', () => {
    clearTimeout(timer)
    if (!isJoined) lane.leave()
  })
  outgoing.once('upgrade', (answer, upstream, upstreamHead) => {
    clearTimeout(timer)
    isJoined = true
    exchanged(101)
    socket.write(headOf(answer), 'latin1')
    if (upstreamHead.length > 0) socket.write(upstreamHead)
    if (head.length > 0) upstream.write(head)
    let directions = 2
    const ended = () => {
      directions -= 1
      if (directions === 0) lane.leave()
    }
    pipeline(socket, upstream, ended)
    pipeline(upstream, socket, ended)
  })
  outgoing.once('response', answer => {
    clearTimeout(timer)
    isAnswered = true
    const fields = responseFields(
      fieldsFrom(answer.rawHeaders),
      upstreamUrl,
      clientView(received, target, trusts),
    )
    const reply = replyOn(socket, received)
    for (const [name, value] of Object.entries(fields)) if (value !== undefined) reply.setHeader(name, value)
    reply.writeHead(answer.statusCode ?? 502)
    exchanged(reply.statusCode)
    pipeline(answer, reply, error => {
      // An answer that breaks off must not look complete.
      if (error) socket.destroy()
    })
  })
  outgoing.once('error', error => {
    if (socket.destroyed) return
    if (isAnswered) {
      // An answer that has begun can only break off.
      socket.destroy()
      return
    }
    const failure = failureOf(error)
    options.onFailure(failure, error)
    const { statusCode, fields, body } = failureAnswer(failure)
    exchanged(statusCode)
    answerOn(socket, received, statusCode, fields, body)
  })
  outgoing.end()
  return () => outgoing.destroy()
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

/** An answer of our own in place of the upgrade. */
function answerOn(
  socket: Duplex,
  received: IncomingMessage,
  statusCode: number,
  fields: Readonly<Record<string, string>>,
  body: object,
): void {
  const reply = replyOn(socket, received)
  reply.writeHead(statusCode, { ...fields, 'content-type': 'application/json' })
  reply.end(JSON.stringify(body))
}

/** An ordinary answer on a connection that Node has given away for the upgrade; it ends with the answer. */
function replyOn(socket: Duplex, received: IncomingMessage): ServerResponse {
  const reply = new ServerResponse(received)
  reply.shouldKeepAlive = false
  if (socket instanceof Socket) reply.assignSocket(socket)
  reply.once('finish', () => socket.end())
  return reply
}

/** How often a connection is given back; Node adds listeners to it each time. */
const MAX_WISHES = 8

const wishes = new WeakMap<Duplex, number>()

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
  const count = (wishes.get(socket) ?? 0) + 1
  wishes.set(socket, count)
  const { rawHeaders } = received
  const lines = [`${received.method} ${received.url} HTTP/${received.httpVersion}`]
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    const value = rawHeaders[index + 1] ?? ''
    if (/^connection$/i.test(name))
      lines.push(`${name}: ${count > MAX_WISHES ? 'close' : withoutUpgrade(value)}`)
    else if (!/^(upgrade|http2-settings)$/i.test(name)) lines.push(`${name}: ${value}`)
  }
  socket.off('error', onError)
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]))
  app.server.emit('encrypted' in socket ? 'secureConnection' : 'connection', socket)
}

function withoutUpgrade(connection: string): string {
  const options = connection.split(',').filter(option => !/^\s*(upgrade|http2-settings)\s*$/i.test(option))
  return options.length === 0 ? 'keep-alive' : options.join(',')
}
