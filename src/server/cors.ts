import type { FastifyInstance } from 'fastify'
import { LRUCache } from 'lru-cache'

/** What focus-server's response to a request of a page said about the page's origin. */
export type CorsAnswer = {
  readonly statusCode: number
  /** `Access-Control-Allow-Origin`; undefined without it. */
  readonly allowOrigin: string | undefined
  /** Whether `Access-Control-Allow-Credentials` was `true`. */
  readonly credentials: boolean
}

/** How many origins are known at a time, and the longest that is: more would be invented by a client. */
const MAX_ORIGINS = 1000
const MAX_ORIGIN_LENGTH = 300

/** What a script needs of our responses beyond what it may read in any case. */
const EXPOSED = 'Retry-After, Proxy-Status, Link'

/** Of the proxy's own routes those that a page waits at: it has to see their success, too. */
const READABLE: ReadonlySet<string> = new Set(['/-/fiber', '/-/wait'])

type Allowed = { readonly allowOrigin: string; readonly credentials: boolean }

/**
 * Which origins may read our own responses: those that focus-server allows, as its latest response to each showed.
 *
 * Without these headers a browser hides a refusal from the script of another origin, with its status and
 * `Retry-After`. Nothing is concluded from one origin about another: not even a `*` is.
 */
export class CorsPolicy {
  readonly #allowed = new LRUCache<string, Allowed>({ max: MAX_ORIGINS })

  /** Takes over what focus-server's response to this origin says. */
  learn(origin: string, { statusCode, allowOrigin, credentials }: CorsAnswer): void {
    if (allowOrigin === origin && origin !== '*' && origin.length <= MAX_ORIGIN_LENGTH) {
      this.#allowed.set(origin, { allowOrigin, credentials })
    } else if (allowOrigin === '*' && origin.length <= MAX_ORIGIN_LENGTH) {
      // A server that allows credentials names the origin where there are some, and else may write `*`.
      if (!credentials || !this.#allowed.has(origin))
        this.#allowed.set(origin, { allowOrigin, credentials: false })
    } else if (statusCode < 300 || statusCode === 400 || statusCode === 403) {
      // A policy denies by a success without these headers, or by one of these errors. Other responses often lack them
      // whatever the policy is: a 304, and the errors of a gateway.
      this.#allowed.delete(origin)
    }
  }

  /** Headers for a response of our own to a request with this `Origin`: names and values in turn. */
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

/** Adds the headers to what our own routes answer with an error, and to those at which a page waits. */
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
