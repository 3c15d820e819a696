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
  routePath,
  withoutPrefix,
} from '../domain/guarded-route.js'
import type { ExchangeEvents } from '../observability/exchange-events.js'
import { type Connections, type WhenOver, whenOver } from '../server/connection.js'
import { clientView, type TrustsPeer } from './client-view.js'
import { Exchange, type UpstreamTarget } from './exchange.js'

/** Settings of the routing. */
export type RoutingOptions = {
  readonly basePath: string
  readonly upstreamUrl: URL
  readonly routes: readonly { readonly method: string; readonly path: string }[]
}

/** The path that every request for focus-server has in our own router. */
export const UPSTREAM_ROUTE = '/'

/** The first segment of the proxy's own routes. A path that resolves below it is never forwarded. */
const OWN_SEGMENT = '-'

/** Only a target that matches this can resolve below that segment. */
const MAY_BE_OWN = /[/\\]-|^-|%/

/** A segment that no gateway decodes, resolves or shortens. */
const PLAIN_SEGMENT = String.raw`(?!\.{1,2}(?:[/?]|$))[\w.~:@!$&'()*+,=-]+`

/**
 * A target of the proxy's own routes, spelled exactly as an ingress rule would match it: no encoding, no empty segment,
 * no dot segments, no parameters, no fragment. `/-` only redirects to `/-/`.
 */
const OWN_TARGET = new RegExp(String.raw`^/-(?:/(?:${PLAIN_SEGMENT}(?:/${PLAIN_SEGMENT})*)?)?(?:\?|$)`)

/** A scheme and authority whose end every parser sees at the same position. */
const PLAIN_ORIGIN = /^https?:\/\/(?:[\w.-]+|\[[\da-f:.]+\])(?::\d+)?$/i

/** Followed by the target that another gateway received, unchanged: no router may decode or resolve it. */
const DECISION_PREFIX = '/-/decision/'

/** The path of the decision route in our own router. */
export const DECISION_ROUTE = DECISION_PREFIX

/** A path for which our own router has no route. */
const NO_ROUTE = '/-/.'

/**
 * Decides whether a request is for one of our own routes or for focus-server, before any router sees its path.
 *
 * Fastify's router decodes and rejects paths, and reply-from's URL parser resolves them. Either would change what
 * focus-server receives, or answer in its place. In our router, all requests for focus-server therefore have the same
 * path, and the real target is kept in the exchange.
 */
export class Routing {
  readonly #options: RoutingOptions
  #routes: readonly GuardedRoute[] = []
  #methods: ReadonlySet<string> = new Set()
  /** Guarded routes in the spelling that most clients use. */
  #exact: ReadonlySet<string> = new Set()
  readonly #basePath: CanonicalPath
  readonly #upstreamPrefix: string
  readonly #upstreamPath: CanonicalPath

  constructor(options: RoutingOptions) {
    this.#options = options
    this.#basePath = canonicalPath(options.basePath)
    this.#upstreamPrefix = options.upstreamUrl.pathname.replace(/\/+$/, '')
    this.#upstreamPath = canonicalPath(this.#upstreamPrefix)
    this.guard(options.routes)
  }

  /** Replaces the guarded routes. */
  guard(routes: RoutingOptions['routes']): void {
    // A path may be configured with the base path, as clients send it, or with the upstream's own path. Requests are
    // compared without either.
    this.#routes = routes.flatMap(({ method, path: written }) => {
      const path = routePath(written)
      const paths = [path, withoutPrefix(path, this.#basePath), withoutPrefix(path, this.#upstreamPath)]
      return [...new Set(paths)].map(each => ({ method, path: each }))
    })
    this.#exact = new Set(
      routes.flatMap(({ method, path }) =>
        path.includes(':') ? [] : [`${method} ${this.#options.basePath}${path}`],
      ),
    )
    this.#methods = new Set(routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method])))
  }

  /** Fastify's `rewriteUrl`: the path of the request in our own router. */
  rewrite(request: IncomingMessage): string {
    return this.#ownPath(request.url ?? '/') ?? UPSTREAM_ROUTE
  }

  /** The upstream target of a request; undefined for one of our own routes. */
  targetOf(method: string, sent: string, host: string): UpstreamTarget | undefined {
    return this.#ownPath(sent) === undefined ? this.#toUpstream(method, host, sent) : undefined
  }

  /** The upstream target of a request that `rewrite` has already assigned to focus-server. */
  upstreamTarget(method: string, sent: string, host: string): UpstreamTarget {
    return this.#toUpstream(method, host, sent)
  }

  /** Whether a request that another gateway received is for a guarded route. */
  guards(method: string, sent: string): boolean {
    return this.#toUpstream(method, '', sent).guarded
  }

  /** The prefix of focus-server's own path in a target that another gateway received: the base path, or ''. */
  clientPrefixOf(sent: string): string {
    return this.#address(sent).clientPrefix
  }

  /** A target of one of our own routes as it was sent, without the origin and the base path. */
  withoutBase(sent: string): string {
    const { basePath } = this.#options
    const path = sent.slice(originOf(sent).length)
    return path.startsWith(`${basePath}/-`) ? path.slice(basePath.length) : path
  }

  /**
   * The target of one of our own routes; undefined for a request for focus-server.
   *
   * Only the literal path is served. Any other spelling could bypass an ingress rule that denies `/-/`, so it has no
   * route. It is not forwarded either: a server behind the proxy might treat it as a route of its own. Below
   * `/-/decision/` only the prefix is compared, because everything after it is the target in question.
   */
  #ownPath(sent: string): string | undefined {
    // Nearly every request returns here.
    if (!MAY_BE_OWN.test(sent)) return undefined
    const origin = originOf(sent)
    const own = this.withoutBase(sent)
    if (origin === '' || PLAIN_ORIGIN.test(origin)) {
      if (own.startsWith(DECISION_PREFIX)) return DECISION_ROUTE
      if (OWN_TARGET.test(own)) return own.replace(/^\/-(?=\?|$)/, '/-/')
    }
    const paths = this.#paths(sent, this.#address(sent).target)
    return paths.some(([first]) => first === OWN_SEGMENT) ? NO_ROUTE : undefined
  }

  #toUpstream(method: string, hostHeader: string, sent: string): UpstreamTarget {
    const { target, clientPrefix, origin } = this.#address(sent)
    const guarded = this.#methods.has(method) && this.#isGuarded(method, sent, target)
    const host = origin === '' ? hostHeader : origin.slice(origin.indexOf('//') + 2).replace(/^.*@/, '')
    return { target, clientPrefix, host, guarded }
  }

  /** The target to send to focus-server, and the parts that were removed from it. */
  #address(sent: string) {
    const { basePath } = this.#options
    const origin = originOf(sent)
    const originForm = sent.slice(origin.length)
    const path = pathOf(originForm)
    const hasPrefix = basePath !== '' && (path === basePath || path.startsWith(`${basePath}/`))
    const rest = hasPrefix ? originForm.slice(basePath.length) : originForm
    const target = this.#upstreamPrefix + (rest.startsWith('/') ? rest : `/${rest}`)
    return { target, clientPrefix: hasPrefix ? basePath : '', origin }
  }

  /** Every path to which the client's target or the forwarded target may resolve. */
  #paths(sent: string, target: string): readonly CanonicalPath[] {
    return [
      ...canonicalPaths(sent).map(path => withoutPrefix(path, this.#basePath)),
      ...canonicalPaths(target).map(path => withoutPrefix(path, this.#upstreamPath)),
    ]
  }

  #isGuarded(method: string, sent: string, target: string): boolean {
    // Nearly every guarded request is spelled like its route.
    if (this.#exact.has(`${method} ${sent}`)) return true
    const literal = [
      withoutPrefix(literalPath(sent), this.#basePath),
      withoutPrefix(literalPath(target), this.#upstreamPath),
    ]
    return [...this.#paths(sent, target), ...literal].some(path => isGuarded(method, path, this.#routes))
  }
}

/** The scheme and authority of a target in absolute form; '' for any other target. */
function originOf(sent: string): string {
  return sent.startsWith('/') ? '' : (ABSOLUTE_FORM.exec(sent)?.[0] ?? '')
}

/** Dependencies of the classify phase. */
export type ClassifyOptions = {
  readonly routing: Routing
  readonly connections: Connections
  readonly events: ExchangeEvents
  readonly trusts: TrustsPeer
}

/**
 * Security headers for responses that are not pages:
 * https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html.
 */
const SAFE_HEADERS = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
}

/** The phase that creates the exchange of each request for focus-server. */
export function classify(
  app: FastifyInstance,
  { routing, connections, events, trusts }: ClassifyOptions,
): void {
  app.decorateRequest('exchange', null)
  app.addHook('onRequest', (request: FastifyRequest, reply: FastifyReply, done) => {
    const { raw } = request
    if (raw.url !== UPSTREAM_ROUTE) {
      // Our own responses are data. A browser must not sniff, frame or execute them.
      reply.headers(SAFE_HEADERS)
      return done()
    }
    const response: ServerResponse = reply.raw
    const target = routing.upstreamTarget(raw.method ?? '', request.originalUrl, raw.headers.host ?? '')
    request.exchange = new Exchange({
      id: request.id,
      received: raw,
      view: clientView(raw, target, trusts),
      target,
      handshake: connections.handshakeOf(raw),
      events,
      whenOver: (over: WhenOver) => whenOver(response, over),
    })
    done()
  })
}
