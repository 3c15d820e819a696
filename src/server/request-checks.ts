import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { ABSOLUTE_FORM } from '../domain/guarded-route.js'
import { authorityOf } from './authority.js'
import type { CorsPolicy } from './cors.js'
import { errorResponse, type OwnResponse, respond, tooLarge } from './error-response.js'
import { FORWARDED_METHODS } from './methods.js'
import { PSEUDONYM } from './pseudonym.js'

/** How many proxies of our name may be chained. A request that has passed more is in a forwarding loop. */
const MAX_HOPS = 8

/** Settings of the checks; 0 for no limit. */
export type RequestCheckOptions = { readonly maxBodyBytes: number; readonly cors: CorsPolicy }

/**
 * The phase that answers requests that HTTP does not allow any server to process, for own routes and focus-server
 * alike.
 */
export function requestChecks(app: FastifyInstance, { maxBodyBytes, cors }: RequestCheckOptions): void {
  app.addHook('onRequest', (request, reply, done) => {
    const { raw, id } = request
    const fault = faultOf(raw, request.originalUrl, id)
    if (fault !== undefined) return send(reply, fault, cors)
    if (maxBodyBytes > 0 && Number(raw.headers['content-length'] ?? 0) > maxBodyBytes) {
      return send(reply, tooLarge(id, maxBodyBytes), cors)
    }
    // `OPTIONS *` is about this server, and so is `OPTIONS` that may not be forwarded any further (RFC 9110, 7.6.2).
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

/** The error response for a request that must not be served. */
function faultOf(
  { method, rawHeaders, headers }: IncomingMessage,
  target: string,
  id: string,
): OwnResponse | undefined {
  if (hasTwoHosts(rawHeaders)) {
    // If two servers pick different Host headers, requests can be smuggled (RFC 9112, 3.2).
    return errorResponse(id, 400, 'Bad Request', 'The request has more than one Host header.')
  }
  // Another server may interpret a malformed host differently. Host is empty if the target has no authority (RFC 9110,
  // 7.2).
  if (headers.host !== undefined && headers.host !== '' && authorityOf(headers.host) === undefined) {
    return errorResponse(id, 400, 'Bad Request', 'The Host header is not a valid host with an optional port.')
  }
  if (!isTarget(target, method)) {
    return errorResponse(id, 400, 'Bad Request', 'The request target is not a valid HTTP request target.')
  }
  if (Number(headers['content-length'] ?? 0) > Number.MAX_SAFE_INTEGER) {
    return errorResponse(id, 400, 'Bad Request', 'The Content-Length is too large.')
  }
  const encoding = headers['transfer-encoding']
  if (encoding !== undefined && encoding.trim().toLowerCase() !== 'chunked') {
    // Node removes only chunked and would leave the other coding in place (RFC 9112, 6.1).
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

/** Whether a target has one of the forms of RFC 9112, 3.2: `*` only for OPTIONS, and an absolute form needs a host. */
function isTarget(target: string, method: string | undefined): boolean {
  if (target.startsWith('/')) return true
  if (target.startsWith('*')) return target === '*' && method === 'OPTIONS'
  const prelude = ABSOLUTE_FORM.exec(target)?.[0]
  if (prelude === undefined) return false
  // Credentials are dropped.
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
