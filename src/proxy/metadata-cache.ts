import type { FastifyInstance, FastifyReply } from 'fastify'
import { respond } from '../server/error-response.js'
import { hasBody } from '../server/read-body.js'
import { credentialsOf } from '../upstream/credentials.js'
import type { MetadataReader, MetadataResponse, MetadataResult } from '../upstream/metadata-reader.js'
import type { Exchange } from './exchange.js'
import { failureResponse } from './failure-response.js'
import { type Forwarding, responseHeaders } from './headers.js'
import { ageOf, mayAnswer, type Sharing, sharingOf } from './shared-response.js'

/** Dependencies of the metadata cache. */
export type MetadataCacheOptions = Forwarding & {
  readonly reader: MetadataReader
  /** The target of the metadata at the upstream. */
  readonly metadataTarget: string
  /** Called for each request; 0 forwards all of them. */
  readonly maxAgeMs: () => number
  readonly clock: () => number
}

/** Request headers that bypass the cache: the response may be for this client or this moment only. */
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
 * The phase that answers `GET` and `HEAD` requests for the metadata. It responds from the last reading while that is
 * fresh enough. Otherwise it sends one request to the upstream for all clients that ask in the meantime; its result is
 * a reading too. `Age` and `Cache-Status` (RFC 9111, RFC 9211) show which.
 *
 * Only responses that a shared cache may reuse are shared (`shared-response`). Failures are not hidden: every client
 * that asked in the meantime gets the failure.
 */
export function metadataCache(app: FastifyInstance, options: MetadataCacheOptions): void {
  const { reader, metadataTarget, maxAgeMs, clock } = options
  const known = new LastSharing(credentialsOf(options.upstreamUrl).authorization)
  app.addHook('onRequest', (request, reply, done) => {
    const { exchange } = request
    if (exchange?.target !== metadataTarget) return done()
    const maxAge = maxAgeMs()
    if (maxAge === 0 || !isShareable(exchange)) return done()
    const { headers } = exchange.received
    const askedAt = clock()
    const mayUse = (result: MetadataResult, sinceMs: number) => {
      const sharing = known.of(result)
      return sharing !== undefined && mayAnswer(sharing, headers, sinceMs, maxAge)
    }
    const last = reader.last()
    if (last?.response !== undefined) {
      // If the last response could not be shared even when it was new, assume the same for the next one.
      if (!mayUse(last, 0)) return done()
      const ageMs = askedAt - last.receivedAt
      if (last.reading.kind !== 'unreachable' && mayUse(last, ageMs)) {
        return answer(exchange, reply, last.response, Math.floor(ageMs / 1000), 'hit', options)
      }
    }
    const why = last === undefined ? 'miss' : 'stale'
    reader
      .read('client')
      .then(result => {
        if (exchange.hasEnded) return
        if (result.response !== undefined && mayUse(result, 0)) {
          const collapsed = result.at < askedAt ? '; collapsed' : ''
          const cacheStatus = `fwd=${why}; fwd-status=${result.response.statusCode}${collapsed}`
          answer(exchange, reply, result.response, 0, cacheStatus, options)
        } else if (result.failure !== undefined) {
          const own = failureResponse(exchange.id, result.failure)
          exchange.statusCode = own.statusCode
          reply.hijack()
          respond(reply.raw, own, exchange.marks)
        }
        // Too large, too slow for a probe, or not shareable: forward the request like any other.
        else done()
      })
      .catch(done)
  })
}

/** Caches what the last result allows, so that it is computed once and not per request. */
class LastSharing {
  readonly #authorization: string | undefined
  #result: MetadataResult | undefined
  #sharing: Sharing | undefined

  constructor(authorization: string | undefined) {
    this.#authorization = authorization
  }

  of(result: MetadataResult): Sharing | undefined {
    if (result !== this.#result) {
      this.#result = result
      this.#sharing = sharingOf(result, this.#authorization)
    }
    return this.#sharing
  }
}

/** Whether a shared response may answer the request. */
function isShareable({ received }: Exchange): boolean {
  const { method, headers } = received
  if ((method !== 'GET' && method !== 'HEAD') || hasBody(received)) return false
  return PERSONAL_HEADERS.every(name => headers[name] === undefined)
}

function answer(
  exchange: Exchange,
  reply: FastifyReply,
  { statusCode, headers, body }: MetadataResponse,
  ageSeconds: number,
  cacheStatus: string,
  { upstreamUrl }: MetadataCacheOptions,
): void {
  // A cache between us and focus-server may have added its own age and status (RFC 9111, 5.1; RFC 9211, 2).
  const earlierAge = ageOf(headers)
  const earlierStatus = headers['cache-status'] === undefined ? '' : `${headers['cache-status']}, `
  const received = Object.entries(headers).flatMap(([name, value]) =>
    REPLACED.has(name) ? [] : [value ?? []].flat().flatMap(single => [name, single]),
  )
  const sent = responseHeaders(received, upstreamUrl, exchange.view)
  sent.push('age', String(earlierAge + ageSeconds))
  sent.push('cache-status', `${earlierStatus}focus-breaker; ${cacheStatus}`)
  exchange.statusCode = statusCode
  reply.hijack()
  respond(reply.raw, { statusCode, headers: sent, body }, exchange.marks)
}

/** Headers of the stored response that are replaced. */
const REPLACED: ReadonlySet<string> = new Set(['age', 'cache-status', 'content-length'])
