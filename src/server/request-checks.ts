import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { traceOf } from '../observability/traces.js'
import type { Routing } from '../proxy/classify.js'
import { FORWARDED_METHODS } from '../proxy/forward.js'
import { PSEUDONYM } from '../proxy/headers.js'
import { rawError, sendError, sendTooLarge } from './error-response.js'

/** As many proxies of our name may stand in a row; a request that has passed more runs in a circle. */
const MAX_HOPS = 8

/** https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html, for what is no page. */
const SAFE_FIELDS = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
}

/** What the rules of the protocol need; 0 for no limit. */
export type ProtocolOptions = {
  readonly routing: Routing
  readonly maxBodyBytes: number
  readonly maxRequestsPerConnection: number
}

/** What HTTP asks of a server before anything is routed, and the answers to what has no route. */
export function protocol(
  app: FastifyInstance,
  { routing, maxBodyBytes, maxRequestsPerConnection }: ProtocolOptions,
): void {
  const requests = new WeakMap<Socket, number>()
  app.addHook('onRequest', (request, reply, done) => {
    const fault = faultOf(request.raw)
    if (fault !== undefined) return sendError(reply, ...fault)
    if (maxBodyBytes > 0 && Number(request.headers['content-length'] ?? 0) > maxBodyBytes) {
      return sendTooLarge(reply, maxBodyBytes)
    }
    // Node's own limit answers what comes after the last with an empty 503, and leaves the connection open.
    if (maxRequestsPerConnection > 0) {
      const count = (requests.get(request.raw.socket) ?? 0) + 1
      requests.set(request.raw.socket, count)
      if (count >= maxRequestsPerConnection) reply.header('connection', 'close')
      // What was sent behind the last is left unanswered: the connection closes with the last answer.
      if (count > maxRequestsPerConnection) return reply.hijack()
    }
    // Our own answers are data, for no browser to guess at, frame, or run.
    if (routing.targetOf(request.raw) === undefined) reply.headers(SAFE_FIELDS)
    // "The server as a whole" is this one, and so is the last of as many as may forward (RFC 9110, 7.6.2).
    const isForUs = request.method === 'OPTIONS' && request.headers['max-forwards'] === '0'
    if (request.originalUrl === '*' || isForUs) {
      return reply.code(204).header('allow', FORWARDED_METHODS.join(', ')).send()
    }
    done()
  })
  const own: { readonly pattern: RegExp; readonly method: string }[] = []
  app.addHook('onRoute', ({ url, method }) => {
    if (!url.startsWith('/-/')) return
    const pattern = new RegExp(`^${url.replaceAll('.', '\\.').replace(/:\w+/g, '[^/]+')}$`)
    for (const each of [method].flat()) own.push({ pattern, method: each })
  })
  // Whoever asks before sending a body is told to go on when the body is wanted, and not before.
  app.server.on('checkContinue', (request, response) => app.routing(request, response))
  app.server.on('request', noteAnswer)
  app.server.on('checkContinue', noteAnswer)
  app.server.on('connect', (_request, socket: Duplex) => {
    socket.on('error', () => socket.destroy())
    endInTurn(socket, rawError(405, 'Method Not Allowed', 'focus-breaker does not forward CONNECT.'))
  })
  app.setNotFoundHandler((request, reply) => {
    if (routing.targetOf(request.raw) !== undefined) {
      reply.header('allow', FORWARDED_METHODS.join(', '))
      return sendError(reply, 405, 'Method Not Allowed', `focus-breaker does not forward ${request.method}.`)
    }
    const path = request.url.replace(/\?.*$/, '')
    const methods = own.flatMap(({ pattern, method }) => (pattern.test(path) ? [method] : [])).join(', ')
    if (methods === '') {
      return sendError(reply, 404, 'Not Found', 'focus-breaker has no such route; /-/status is one.')
    }
    reply.header('allow', methods)
    sendError(reply, 405, 'Method Not Allowed', `This route takes ${methods}.`)
  })
  app.setErrorHandler((error, request, reply) => {
    // A client that left in the middle of its answer is no fault of anybody.
    if (reply.raw.destroyed) return
    request.log.error(
      { err: error, requestId: request.id, ...traceOf(request) },
      'a request failed by a fault of focus-breaker',
    )
    sendError(reply, 500, 'Internal Server Error', 'focus-breaker failed; its log has more.')
  })
}

const due = new WeakMap<Duplex, Set<ServerResponse>>()

/** The answers that are due on a connection, in their order. */
export function answersDueOn(socket: Duplex): readonly ServerResponse[] {
  return [...(due.get(socket) ?? [])]
}

function noteAnswer({ socket }: IncomingMessage, response: ServerResponse): void {
  const answers = due.get(socket) ?? new Set()
  due.set(socket, answers.add(response))
  response.once('close', () => answers.delete(response))
}

const leaving = new WeakMap<Duplex, Set<() => void>>()

/**
 * Calls `leave` when the client of an answer has it, or has left: Node tells that of an answer alone which has
 * the connection already, and not of one behind it.
 */
export function whenGone({ raw: response, request }: FastifyReply, leave: () => void): void {
  response.once('close', leave)
  if (response.socket !== null) return
  const { socket } = request.raw
  const all = leaving.get(socket) ?? new Set()
  if (!leaving.has(socket)) {
    leaving.set(socket, all)
    socket.once('close', () => {
      for (const each of all) each()
    })
  }
  all.add(leave)
  response.once('close', () => all.delete(leave))
}

const ending = new WeakSet<Duplex>()

/**
 * Writes the last answer of a connection behind those that are due on it: before or in the middle of one of them the
 * client would take it for theirs.
 */
function endInTurn(socket: Duplex, text: string): void {
  // Node reports every further piece of what it could not read.
  if (ending.has(socket)) return
  ending.add(socket)
  const end = () => {
    const answers = answersDueOn(socket)
    const last = answers.findLast(({ req }) => req.complete)
    if (last !== undefined) last.once('close', end)
    // The answer of the very request that turned out to be none.
    else if (answers.some(({ headersSent }) => headersSent)) socket.destroy()
    else socket.end(text)
  }
  end()
}

/** Fastify's `clientErrorHandler`: what Node could not take for a request. */
export function answerClientError(error: Error & { readonly code?: string }, socket: Duplex): void {
  // Where TLS failed there is nothing to write on.
  const isTls = /^(ERR_TLS|ERR_SSL|EPROTO)/.test(error.code ?? '')
  if (error.code === 'ECONNRESET' || isTls || socket.destroyed || !socket.writable) {
    socket.destroy()
    return
  }
  endInTurn(
    socket,
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? rawError(408, 'Request Timeout', 'The head of the request took too long.')
      : error.code === 'HPE_HEADER_OVERFLOW'
        ? rawError(431, 'Request Header Fields Too Large', 'The head of the request is too large.')
        : rawError(400, 'Bad Request', 'This is not a request of HTTP/1.1.'),
  )
}

/** Why a request must not be served, with its status. */
function faultOf({ rawHeaders, headers }: IncomingMessage): [number, string, string] | undefined {
  if (hasTwoHosts(rawHeaders)) {
    // Two parties that each believe another one are how a request is smuggled (RFC 9112, 3.2).
    return [400, 'Bad Request', 'The request has more than one Host field.']
  }
  const encoding = headers['transfer-encoding']
  if (encoding !== undefined && encoding.trim().toLowerCase() !== 'chunked') {
    // Node takes chunked off and leaves the other coding on (RFC 9112, 6.1).
    return [501, 'Not Implemented', 'Of Transfer-Encoding focus-breaker knows chunked alone.']
  }
  if (headers.via !== undefined && headers.via.split(PSEUDONYM).length > MAX_HOPS) {
    return [508, 'Loop Detected', 'The request has been here before: upstream.url leads back to this proxy.']
  }
  return undefined
}

function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts += 1
  }
  return hosts > 1
}
