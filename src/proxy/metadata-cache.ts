import type { FastifyInstance, FastifyReply } from 'fastify'
import { respond } from '../server/error-response.js'
import type { Look, MetadataAnswer, MetadataReader } from '../upstream/metadata-reader.js'
import type { Exchange } from './exchange.js'
import { failureResponse } from './failure-response.js'
import { clientView, type Forwarding, responseHeaders } from './headers.js'

/** What answering clients' metadata requests needs. */
export type MetadataCacheOptions = Forwarding & {
  readonly reader: MetadataReader
  /** The target under which the metadata is found at the upstream. */
  readonly metadataTarget: string
  /** Read again at each request; 0 forwards them all. */
  readonly maxAgeMs: () => number
  readonly clock: () => number
}

/** Headers by which a request asks for more than what every client gets. */
const PERSONAL_HEADERS = [
  'authorization',
  'range',
  'if-match',
  'if-none-match',
  'if-modified-since',
  'if-unmodified-since',
  'if-range',
] as const

/**
 * The phase that answers `GET` and `HEAD` of the metadata from the last reading while it is young enough, and else by one
 * request to the upstream for all that ask meanwhile; that one is a reading too. `Age` and `Cache-Status`
 * (RFC 9111, RFC 9211) say which.
 *
 * An upstream that fails is not hidden: every client that asked meanwhile gets the failure.
 */
export function metadataCache(app: FastifyInstance, options: MetadataCacheOptions): void {
  const { reader, metadataTarget, maxAgeMs, clock } = options
  app.addHook('onRequest', (request, reply, done) => {
    const { exchange } = request
    if (exchange?.target !== metadataTarget) return done()
    const maxAge = maxAgeMs()
    if (maxAge === 0 || !isForEverybody(exchange)) return done()
    const last = reader.last()
    const ageMs = last === undefined ? Number.POSITIVE_INFINITY : clock() - last.answeredAt
    if (isGood(last) && ageMs <= maxAge) {
      answer(exchange, reply, last.answer, Math.floor(ageMs / 1000), 'hit', options)
      return
    }
    const why = last === undefined ? 'miss' : 'stale'
    const askedAt = clock()
    reader
      .read('client')
      .then(look => {
        if (exchange.hasEnded) return
        if (look.answer !== undefined && isShareable(look.answer)) {
          const collapsed = look.at < askedAt ? '; collapsed' : ''
          const cacheStatus = `fwd=${why}; fwd-status=${look.answer.statusCode}${collapsed}`
          answer(exchange, reply, look.answer, 0, cacheStatus, options)
        } else if (look.failure !== undefined) {
          const own = failureResponse(exchange.id, look.failure)
          exchange.statusCode = own.statusCode
          reply.hijack()
          respond(reply.raw, own, exchange.marks)
        }
        // Too large, too slow for a probe, or for one client only: it is forwarded like any other request.
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

function isForEverybody({ received: { method, headers } }: Exchange): boolean {
  if (method !== 'GET' && method !== 'HEAD') return false
  if (/no-cache|no-store|max-age\s*=\s*"?0\b/i.test(headers['cache-control'] ?? '')) return false
  if (/no-cache/i.test(headers.pragma?.toString() ?? '')) return false
  return PERSONAL_HEADERS.every(name => headers[name] === undefined)
}

/** Only what could be judged is repeated: an error is asked for again each time. */
function isGood(look: Look | undefined): look is Look & { readonly answer: MetadataAnswer } {
  return look?.answer !== undefined && look.reading.kind !== 'unreachable' && isShareable(look.answer)
}

function answer(
  exchange: Exchange,
  reply: FastifyReply,
  { statusCode, fields, body }: MetadataAnswer,
  ageSeconds: number,
  cacheStatus: string,
  { upstreamUrl, trusts }: MetadataCacheOptions,
): void {
  // A cache behind us has kept it for a while, too, and has said so (RFC 9111, 5.1; RFC 9211, 2).
  const earlierAge = Number(fields.age ?? 0) || 0
  const earlierStatus = fields['cache-status'] === undefined ? '' : `${fields['cache-status']}, `
  const received = Object.entries(fields).flatMap(([name, value]) =>
    REPLACED.has(name) ? [] : [value ?? []].flat().flatMap(single => [name, single]),
  )
  const view = () => clientView(exchange.received, exchange, trusts)
  const headers = responseHeaders(received, upstreamUrl, view)
  headers.push('age', String(earlierAge + ageSeconds))
  headers.push('cache-status', `${earlierStatus}focus-breaker; ${cacheStatus}`)
  exchange.statusCode = statusCode
  reply.hijack()
  respond(reply.raw, { statusCode, headers, body }, exchange.marks)
}

/** Headers of the stored response that the answer has in its own words. */
const REPLACED: ReadonlySet<string> = new Set(['age', 'cache-status', 'content-length'])
