import type { FastifyInstance } from 'fastify'
import { LRUCache } from 'lru-cache'

/** The CORS part of a response of focus-server. */
export type CorsAnswer = {
  readonly statusCode: number
  /** `Access-Control-Allow-Origin`; undefined without it. */
  readonly allowOrigin: string | undefined
  /** Whether `Access-Control-Allow-Credentials` was `true`. */
  readonly credentials: boolean
}

/**
 * How many origins are remembered, and how long each may be. A client could invent any number of origins of any length.
 */
const MAX_ORIGINS = 1000
const MAX_ORIGIN_LENGTH = 300

/** Headers of our responses that a script needs and may not read by default. */
const EXPOSED = 'Retry-After, Proxy-Status, Link'

/** Our routes that a page waits on: a script must be able to read their successful responses as well. */
const READABLE: ReadonlySet<string> = new Set(['/-/fiber', '/-/wait'])

type Allowed = { readonly allowOrigin: string; readonly credentials: boolean }

/**
 * Origins that may read our own responses: those that focus-server allows, according to its latest response to each.
 *
 * Without these headers a browser hides a refusal, its status and its `Retry-After` from scripts of other origins. A
 * response for one origin is never applied to another, not even a `*`.
 */
export class CorsPolicy {
  readonly #allowed = new LRUCache<string, Allowed>({ max: MAX_ORIGINS })

  /** Records what focus-server's response allows for this origin. */
  learn(origin: string, { statusCode, allowOrigin, credentials }: CorsAnswer): void {
    if (allowOrigin === origin && origin !== '*' && origin.length <= MAX_ORIGIN_LENGTH) {
      this.#allowed.set(origin, { allowOrigin, credentials })
    } else if (allowOrigin === '*' && origin.length <= MAX_ORIGIN_LENGTH) {
      // A server that allows credentials may still send `*` in response to a request without any.
      if (!credentials || !this.#allowed.has(origin))
        this.#allowed.set(origin, { allowOrigin, credentials: false })
    } else if (statusCode < 300 || statusCode === 400 || statusCode === 403) {
      // A policy denies access by a successful response without these headers, or by one of these errors. Other
      // responses (a 304, gateway errors) often lack the headers whatever the policy is.
      this.#allowed.delete(origin)
    }
  }

  /** CORS headers for our own response to a request with this `Origin`: alternating names and values. */
  headersFor(origin: string | undefined): readonly string[] {
    if (origin === undefined) return NONE
    const allowed = this.#allowed.get(origin)
    if (allowed === undefined) return UNKNOWN
    const { allowOrigin, credentials } = allowed
    return [
      ...UNKNOWN,
      ...['access-control-allow-origin', allowOrigin, 'access-control-expose-headers', EXPOSED],
      ...(credentials ? ['access-control-allow-credentials', 'true'] : []),
    ]
  }
}

const NONE: readonly string[] = []
const UNKNOWN: readonly string[] = ['vary', 'origin']

/**
 * Adds the CORS headers to error responses of our own routes, and to every response of the routes that a page waits on.
 */
export function corsOfOwnRoutes(app: FastifyInstance, cors: CorsPolicy): void {
  app.addHook('onSend', (request, reply, _payload, done) => {
    const { origin } = request.headers
    if (origin !== undefined && (reply.statusCode >= 400 || READABLE.has(request.routeOptions.url ?? ''))) {
      const headers = cors.headersFor(origin)
      for (let index = 0; index + 1 < headers.length; index += 2) {
        const name = headers[index] ?? ''
        const earlier = reply.getHeader(name)
        reply.header(name, earlier === undefined ? headers[index + 1] : `${earlier}, ${headers[index + 1]}`)
      }
    }
    done()
  })
}
