import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { ABSOLUTE_FORM } from '../domain/guarded-route.js'
import { authorityOf } from './authority.js'
import type { CorsPolicy } from './cors.js'
import { errorResponse, type OwnResponse, respond, tooLarge } from './error-response.js'
import { FORWARDED_METHODS } from './methods.js'
import { PSEUDONYM } from './pseudonym.js'

/** As many proxies of our name may stand in a row; a request that has passed more runs in a circle. */
const MAX_HOPS = 8

/** What the checks need; 0 for no limit. */
export type RequestCheckOptions = { readonly maxBodyBytes: number; readonly cors: CorsPolicy }

/** The phase that answers what HTTP does not let anybody serve, whosever request it is. */
export function requestChecks(app: FastifyInstance, { maxBodyBytes, cors }: RequestCheckOptions): void {
  app.addHook('onRequest', (request, reply, done) => {
    const { raw, id } = request
    const fault = faultOf(raw, request.originalUrl, id)
    if (fault !== undefined) return send(reply, fault, cors)
    if (maxBodyBytes > 0 && Number(raw.headers['content-length'] ?? 0) > maxBodyBytes) {
      return send(reply, tooLarge(id, maxBodyBytes), cors)
    }
    // "The server as a whole" is this one, and so is the last of as many as may forward (RFC 9110, 7.6.2).
    const isForUs = raw.method === 'OPTIONS' && raw.headers['max-forwards'] === '0'
    if (isForUs || request.originalUrl === '*') {
      return reply.code(204).header('allow', FORWARDED_METHODS.join(', ')).send()
    }
    done()
  })
}

function send(reply: FastifyReply, own: OwnResponse, cors: CorsPolicy): void {
  reply.hijack()
  respond(reply.raw, own, cors.headersFor(reply.request.headers.origin))
}

/** Why a request must not be served. */
function faultOf(
  { method, rawHeaders, headers }: IncomingMessage,
  target: string,
  id: string,
): OwnResponse | undefined {
  if (hasTwoHosts(rawHeaders)) {
    // Two parties that each believe another one are how a request is smuggled (RFC 9112, 3.2).
    return errorResponse(id, 400, 'Bad Request', 'The request has more than one Host header.')
  }
  // Another server may understand a malformed host differently. It is empty where the target has no name (RFC 9110, 7.2).
  if (headers.host !== undefined && headers.host !== '' && authorityOf(headers.host) === undefined) {
    return errorResponse(id, 400, 'Bad Request', 'The Host header is not a host with an optional port.')
  }
  if (!isTarget(target, method)) {
    return errorResponse(id, 400, 'Bad Request', 'The request target is not one of HTTP.')
  }
  if (Number(headers['content-length'] ?? 0) > Number.MAX_SAFE_INTEGER) {
    return errorResponse(id, 400, 'Bad Request', 'The Content-Length is too large a number.')
  }
  const encoding = headers['transfer-encoding']
  if (encoding !== undefined && encoding.trim().toLowerCase() !== 'chunked') {
    // Node takes chunked off and leaves the other coding on (RFC 9112, 6.1).
    return errorResponse(id, 501, 'Not Implemented', 'Only Transfer-Encoding: chunked is supported.')
  }
  if (headers.via !== undefined && headers.via.split(PSEUDONYM).length > MAX_HOPS) {
    return errorResponse(
      id,
      508,
      'Loop Detected',
      'Forwarding loop detected: upstream.url leads back to this proxy.',
    )
  }
  return undefined
}

/** Whether a target is in one of the forms of RFC 9112, 3.2: `*` is for OPTIONS, and an absolute one names a host. */
function isTarget(target: string, method: string | undefined): boolean {
  if (target.startsWith('/')) return true
  if (target.startsWith('*')) return target === '*' && method === 'OPTIONS'
  const prelude = ABSOLUTE_FORM.exec(target)?.[0]
  if (prelude === undefined) return false
  // Credentials are left behind.
  return authorityOf(prelude.slice(prelude.indexOf('//') + 2).replace(/^.*@/, '')) !== undefined
}

function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts += 1
  }
  return hosts > 1
}
