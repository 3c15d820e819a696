import type { FastifyInstance, FastifyReply } from 'fastify'
import { respond } from '../server/error-response.js'
import { hasBody } from '../server/read-body.js'
import { credentialsOf } from '../upstream/credentials.js'
import type { Look, MetadataAnswer, MetadataReader } from '../upstream/metadata-reader.js'
import type { Exchange } from './exchange.js'
import { failureResponse } from './failure-response.js'
import { type Forwarding, responseHeaders } from './headers.js'
import { ageOf, mayAnswer, type Sharing, sharingOf } from './shared-response.js'

/** What answering clients' metadata requests needs. */
export type MetadataCacheOptions = Forwarding & {
  readonly reader: MetadataReader
  /** The target under which the metadata is found at the upstream. */
  readonly metadataTarget: string
  /** Read again at each request; 0 forwards them all. */
  readonly maxAgeMs: () => number
  readonly clock: () => number
}

/** Headers with which a request goes to focus-server itself: its response may be for this client or this moment only. */
const PERSONAL_HEADERS = [
  'authorization',
  'cache-control',
  'cookie',
  'if-match',
  'if-modified-since',
  'if-none-match',
  'if-range',
  'if-unmodified-since',
  'origin',
  'pragma',
  'range',
] as const

/**
 * The phase that answers `GET` and `HEAD` of the metadata from the last reading while it is young enough, and else by one
 * request to the upstream for all that ask meanwhile; that one is a reading too. `Age` and `Cache-Status`
 * (RFC 9111, RFC 9211) say which.
 *
 * Only what a shared cache may use for others is shared (`shared-response`). An upstream that fails is not hidden: every
 * client that asked meanwhile gets the failure.
 */
export function metadataCache(app: FastifyInstance, options: MetadataCacheOptions): void {
  const { reader, metadataTarget, maxAgeMs, clock } = options
  const known = new LastSharing(credentialsOf(options.upstreamUrl).authorization)
  app.addHook('onRequest', (request, reply, done) => {
    const { exchange } = request
    if (exchange?.target !== metadataTarget) return done()
    const maxAge = maxAgeMs()
    if (maxAge === 0 || !isForEverybody(exchange)) return done()
    const { headers } = exchange.received
    const askedAt = clock()
    const mayUse = (look: Look, sinceMs: number) => {
      const sharing = known.of(look)
      return sharing !== undefined && mayAnswer(sharing, headers, sinceMs, maxAge)
    }
    const last = reader.last()
    if (last?.answer !== undefined) {
      // Not even at the moment at which it came: then the next one cannot be shared either, as far as is known.
      if (!mayUse(last, 0)) return done()
      const ageMs = askedAt - last.answeredAt
      if (last.reading.kind !== 'unreachable' && mayUse(last, ageMs)) {
        return answer(exchange, reply, last.answer, Math.floor(ageMs / 1000), 'hit', options)
      }
    }
    const why = last === undefined ? 'miss' : 'stale'
    reader
      .read('client')
      .then(look => {
        if (exchange.hasEnded) return
        if (look.answer !== undefined && mayUse(look, 0)) {
          const collapsed = look.at < askedAt ? '; collapsed' : ''
          const cacheStatus = `fwd=${why}; fwd-status=${look.answer.statusCode}${collapsed}`
          answer(exchange, reply, look.answer, 0, cacheStatus, options)
        } else if (look.failure !== undefined) {
          const own = failureResponse(exchange.id, look.failure)
          exchange.statusCode = own.statusCode
          reply.hijack()
          respond(reply.raw, own, exchange.marks)
        }
        // Too large, too slow for a probe, or not to be shared: it is forwarded like any other request.
        else done()
      })
      .catch(done)
  })
}

/** What the last look allows, which is found out once and not for each request. */
class LastSharing {
  readonly #authorization: string | undefined
  #look: Look | undefined
  #sharing: Sharing | undefined

  constructor(authorization: string | undefined) {
    this.#authorization = authorization
  }

  of(look: Look): Sharing | undefined {
    if (look !== this.#look) {
      this.#look = look
      this.#sharing = sharingOf(look, this.#authorization)
    }
    return this.#sharing
  }
}

/** Whether what everybody gets answers the request. */
function isForEverybody({ received }: Exchange): boolean {
  const { method, headers } = received
  if ((method !== 'GET' && method !== 'HEAD') || hasBody(received)) return false
  return PERSONAL_HEADERS.every(name => headers[name] === undefined)
}

function answer(
  exchange: Exchange,
  reply: FastifyReply,
  { statusCode, fields, body }: MetadataAnswer,
  ageSeconds: number,
  cacheStatus: string,
  { upstreamUrl }: MetadataCacheOptions,
): void {
  // A cache behind us has kept it for a while, too, and has said so (RFC 9111, 5.1; RFC 9211, 2).
  const earlierAge = ageOf(fields)
  const earlierStatus = fields['cache-status'] === undefined ? '' : `${fields['cache-status']}, `
  const received = Object.entries(fields).flatMap(([name, value]) =>
    REPLACED.has(name) ? [] : [value ?? []].flat().flatMap(single => [name, single]),
  )
  const headers = responseHeaders(received, upstreamUrl, exchange.view)
  headers.push('age', String(earlierAge + ageSeconds))
  headers.push('cache-status', `${earlierStatus}focus-breaker; ${cacheStatus}`)
  exchange.statusCode = statusCode
  reply.hijack()
  respond(reply.raw, { statusCode, headers, body }, exchange.marks)
}

/** Headers of the stored response that the answer has in its own words. */
const REPLACED: ReadonlySet<string> = new Set(['age', 'cache-status', 'content-length'])
