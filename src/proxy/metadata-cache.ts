import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { sendFailure } from '../server/error-response.js'
import type { Look, MetadataAnswer, MetadataReader } from '../upstream/metadata-reader.js'
import type { Routing, UpstreamTarget } from './classify.js'
import { clientView, responseFields, type TrustsPeer } from './headers.js'

/** What answering clients' metadata requests needs. */
export type MetadataCacheOptions = {
  readonly routing: Routing
  readonly reader: MetadataReader
  /** The target under which the metadata is found at the upstream. */
  readonly target: string
  /** Read anew at each request; 0 forwards them all. */
  readonly maxAgeMs: () => number
  readonly upstreamUrl: URL
  readonly trusts: TrustsPeer
  readonly clock: () => number
}

/** Fields by which a request asks for more than what everybody gets. */
const PERSONAL_FIELDS = [
  'authorization',
  'range',
  'if-match',
  'if-none-match',
  'if-modified-since',
  'if-unmodified-since',
  'if-range',
] as const

/**
 * Answers `GET` and `HEAD` of the metadata from the last reading while it is young enough, and else by one
 * request to the upstream for all who ask meanwhile; that one is a reading too. `Age` and `Cache-Status`
 * (RFC 9111, RFC 9211) say which.
 *
 * An upstream that fails is not hidden: everybody who asked meanwhile is told so.
 */
export function metadataCache(app: FastifyInstance, options: MetadataCacheOptions): void {
  const { routing, reader, target: metadataTarget, maxAgeMs, clock } = options
  app.addHook('onRequest', (request, reply, done) => {
    const target = routing.targetOf(request.raw)
    const maxAge = maxAgeMs()
    if (target?.target !== metadataTarget || maxAge === 0 || !isForEverybody(request)) return done()
    const last = reader.last()
    const ageMs = last === undefined ? Number.POSITIVE_INFINITY : clock() - last.answeredAt
    if (isGood(last) && ageMs <= maxAge) {
      answer(request, reply, target, last.answer, Math.floor(ageMs / 1000), 'hit', options)
      return
    }
    const why = last === undefined ? 'miss' : 'stale'
    const askedAt = clock()
    reader
      .read('client')
      .then(look => {
        if (look.answer !== undefined && isShareable(look.answer)) {
          const collapsed = look.at < askedAt ? '; collapsed' : ''
          const cacheStatus = `fwd=${why}; fwd-status=${look.answer.statusCode}${collapsed}`
          answer(request, reply, target, look.answer, 0, cacheStatus, options)
        } else if (look.failure !== undefined) sendFailure(reply, look.failure)
        // Too large, too slow for a probe, or for one client alone: it is forwarded like any other request.
        else done()
      })
      .catch(done)
  })
}

/** What an upstream gives to one client must not reach another. */
function isShareable({ fields }: MetadataAnswer): boolean {
  const control = fields['cache-control']?.toString() ?? ''
  return fields['set-cookie'] === undefined && !/no-store|private/i.test(control)
}

function isForEverybody({ method, headers }: FastifyRequest): boolean {
  if (method !== 'GET' && method !== 'HEAD') return false
  if (/no-cache|no-store|max-age\s*=\s*"?0\b/i.test(headers['cache-control'] ?? '')) return false
  if (/no-cache/i.test(headers.pragma?.toString() ?? '')) return false
  return PERSONAL_FIELDS.every(name => headers[name] === undefined)
}

/** Only what could be judged is repeated: an error is asked for anew each time. */
function isGood(look: Look | undefined): look is Look & { readonly answer: MetadataAnswer } {
  return look?.answer !== undefined && look.reading.kind !== 'unreachable' && isShareable(look.answer)
}

function answer(
  { raw }: FastifyRequest,
  reply: FastifyReply,
  target: UpstreamTarget,
  { statusCode, fields, body }: MetadataAnswer,
  ageSeconds: number,
  cacheStatus: string,
  { upstreamUrl, trusts }: MetadataCacheOptions,
): void {
  // A cache behind us has kept it for a while, too, and has said so (RFC 9111, 5.1; RFC 9211, 2).
  const earlierAge = Number(fields.age ?? 0) || 0
  const earlierStatus = fields['cache-status'] === undefined ? '' : `${fields['cache-status']}, `
  reply
    .code(statusCode)
    .headers(responseFields(fields, upstreamUrl, clientView(raw, target, trusts)))
    .header('age', earlierAge + ageSeconds)
    .header('cache-status', `${earlierStatus}focus-breaker; ${cacheStatus}`)
    .send(body)
}
