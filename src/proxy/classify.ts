import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import {
  ABSOLUTE_FORM,
  type CanonicalPath,
  canonicalPath,
  canonicalPaths,
  type GuardedRoute,
  isGuarded,
  literalPath,
  pathOf,
  withoutPrefix,
} from '../domain/guarded-route.js'
import type { ExchangeEvents } from '../observability/exchange-events.js'
import { type WhenOver, whenOver } from '../server/connection.js'
import { addressOf } from './client.js'
import { Exchange, type UpstreamTarget } from './exchange.js'
import type { TrustsPeer } from './headers.js'

/** What the routing goes by. */
export type RoutingOptions = {
  readonly basePath: string
  readonly upstreamUrl: URL
  readonly routes: readonly { readonly method: string; readonly path: string }[]
}

/** The path that every request for focus-server has inside of our own router. */
export const UPSTREAM_ROUTE = '/'

/** The first segment of the proxy's own routes; what lies below it is never forwarded. */
const OWN_SEGMENT = '-'

/**
 * Says whose request it is, ours or focus-server's, before any router sees its path.
 *
 * Fastify's router decodes and rejects paths, and reply-from's URL parser resolves them; either would change what
 * focus-server gets, or answer in its place. So inside of our router every request for focus-server has one path, and
 * its real target is in its exchange.
 */
export class Routing {
  readonly #options: RoutingOptions
  #routes: readonly GuardedRoute[] = []
  #methods: ReadonlySet<string> = new Set()
  /** Guarded routes as most clients send them. */
  #exact: ReadonlySet<string> = new Set()
  readonly #basePath: CanonicalPath
  readonly #upstreamPrefix: string
  readonly #upstreamPath: CanonicalPath

  constructor(options: RoutingOptions) {
    this.#options = options
    this.guard(options.routes)
    this.#basePath = canonicalPath(options.basePath)
    this.#upstreamPrefix = options.upstreamUrl.pathname.replace(/\/+$/, '')
    this.#upstreamPath = canonicalPath(this.#upstreamPrefix)
  }

  /** Guards these routes from now on, and no others. */
  guard(routes: RoutingOptions['routes']): void {
    this.#routes = routes.map(({ method, path }) => ({ method, path: canonicalPath(path) }))
    this.#exact = new Set(
      routes.flatMap(({ method, path }) =>
        path.includes(':') ? [] : [`${method} ${this.#options.basePath}${path}`],
      ),
    )
    this.#methods = new Set(routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method])))
  }

  /** Fastify's `rewriteUrl`: the path under which our own router knows the request. */
  rewrite(request: IncomingMessage): string {
    return this.#ownPath(request.url ?? '/') ?? UPSTREAM_ROUTE
  }

  /** Where the request goes, as the client sent it; undefined for one of our own routes. */
  targetOf(method: string, sent: string, host: string): UpstreamTarget | undefined {
    return this.#ownPath(sent) === undefined ? this.#toUpstream(method, host, sent) : undefined
  }

  /** The same for a request that `rewrite` has given to focus-server. */
  upstreamTarget(method: string, sent: string, host: string): UpstreamTarget {
    return this.#toUpstream(method, host, sent)
  }

  /** Whether a request that another gateway was sent is one for a guarded route. */
  guards(method: string, sent: string): boolean {
    return this.#toUpstream(method, '', sent).guarded
  }

  #ownPath(sent: string): string | undefined {
    // Only a path that holds a hyphen, plain or encoded, can be ours: nearly every request ends here.
    if (!sent.includes('-') && !sent.includes('%')) return undefined
    const path = canonicalPath(sent)
    const below = path[0] === OWN_SEGMENT ? path : withoutPrefix(path, this.#basePath)
    if (below[0] !== OWN_SEGMENT) return undefined
    const query = sent.indexOf('?')
    const slash = below.length === 1 ? '/' : ''
    return `/${below.map(encodeURIComponent).join('/')}${slash}${query === -1 ? '' : sent.slice(query)}`
  }

  #toUpstream(method: string, hostField: string, sent: string): UpstreamTarget {
    const { basePath } = this.#options
    const prelude = sent.startsWith('/') ? '' : (ABSOLUTE_FORM.exec(sent)?.[0] ?? '')
    const originForm = sent.slice(prelude.length)
    const path = pathOf(originForm)
    const hasPrefix = basePath !== '' && (path === basePath || path.startsWith(`${basePath}/`))
    const rest = hasPrefix ? originForm.slice(basePath.length) : originForm
    const target = this.#upstreamPrefix + (rest.startsWith('/') ? rest : `/${rest}`)
    const guarded = this.#methods.has(method) && this.#isGuarded(method, sent, target)
    const host = prelude === '' ? hostField : prelude.slice(prelude.indexOf('//') + 2).replace(/^.*@/, '')
    return { target, clientPrefix: hasPrefix ? basePath : '', host, guarded }
  }

  /** Both what the client sent and what focus-server's side gets may come out as a guarded path. */
  #isGuarded(method: string, sent: string, target: string): boolean {
    // Nearly every guarded request is spelled as its route.
    if (this.#exact.has(`${method} ${sent}`)) return true
    const readings = [
      [sent, this.#basePath],
      [target, this.#upstreamPath],
    ] as const
    return readings.some(([path, prefix]) =>
      [...canonicalPaths(path), literalPath(path)].some(read =>
        isGuarded(method, withoutPrefix(read, prefix), this.#routes),
      ),
    )
  }
}

/** What classifying needs. */
export type ClassifyOptions = {
  readonly routing: Routing
  readonly events: ExchangeEvents
  readonly trusts: TrustsPeer
}

/** https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html, for what is no page. */
const SAFE_HEADERS = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
}

/** The phase that makes the exchange of each request of focus-server. */
export function classify(app: FastifyInstance, { routing, events, trusts }: ClassifyOptions): void {
  app.decorateRequest('exchange', null)
  app.addHook('onRequest', (request: FastifyRequest, reply: FastifyReply, done) => {
    const { raw } = request
    if (raw.url !== UPSTREAM_ROUTE) {
      // Our own responses are data, for no browser to guess at, frame, or run.
      reply.headers(SAFE_HEADERS)
      return done()
    }
    const response: ServerResponse = reply.raw
    request.exchange = new Exchange({
      id: request.id,
      received: raw,
      address: addressOf(raw, trusts),
      target: routing.upstreamTarget(raw.method ?? '', request.originalUrl, raw.headers.host ?? ''),
      events,
      whenOver: (over: WhenOver) => whenOver(response, over),
    })
    done()
  })
}
