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

/** What the routing goes by. */
export type RoutingOptions = {
  readonly basePath: string
  readonly upstreamUrl: URL
  readonly routes: readonly { readonly method: string; readonly path: string }[]
}

/** The path that every request for focus-server has inside of our own router. */
export const UPSTREAM_ROUTE = '/'

/** The first segment of the proxy's own routes; what comes out below it is never forwarded. */
const OWN_SEGMENT = '-'

/** Only a target like this may come out below that segment. */
const MAY_BE_OWN = /[/\\]-|^-|%/

/** A segment that no gateway decodes, resolves, or takes something off. */
const PLAIN_SEGMENT = String.raw`(?!\.{1,2}(?:[/?]|$))[\w.~:@!$&'()*+,=-]+`

/**
 * A target of the proxy's own, letter by letter as a rule of an ingress knows it: no encoding, no empty segment, no
 * dots to resolve, no parameters, no fragment. `/-` only redirects to `/-/`.
 */
const OWN_TARGET = new RegExp(String.raw`^/-(?:/(?:${PLAIN_SEGMENT}(?:/${PLAIN_SEGMENT})*)?)?(?:\?|$)`)

/** A scheme and authority of which all agree where they end. */
const PLAIN_ORIGIN = /^https?:\/\/(?:[\w.-]+|\[[\da-f:.]+\])(?::\d+)?$/i

/** Behind it stands the target that another gateway was sent, letter by letter: no router may decode or resolve it. */
const DECISION_PREFIX = '/-/decision/'

/** Where our own router has the decision about such a target. */
export const DECISION_ROUTE = DECISION_PREFIX

/** Where our own router has no route. */
const NO_ROUTE = '/-/.'

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
    this.#basePath = canonicalPath(options.basePath)
    this.#upstreamPrefix = options.upstreamUrl.pathname.replace(/\/+$/, '')
    this.#upstreamPath = canonicalPath(this.#upstreamPrefix)
    this.guard(options.routes)
  }

  /** Guards these routes from now on, and no others. */
  guard(routes: RoutingOptions['routes']): void {
    // A path may be written as clients send it, or as it stands below the upstream's own path. Requests are compared
    // without either.
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

  /** What stands before focus-server's own path in a target that another gateway was sent: the base path, or ''. */
  clientPrefixOf(sent: string): string {
    return this.#address(sent).clientPrefix
  }

  /** A target of one of our own routes as it was sent, but for the origin and the base path. */
  withoutBase(sent: string): string {
    const { basePath } = this.#options
    const path = sent.slice(originOf(sent).length)
    return path.startsWith(`${basePath}/-`) ? path.slice(basePath.length) : path
  }

  /**
   * The target of one of our own routes; undefined for a request of focus-server.
   *
   * Only the literal path is served. Any other spelling could pass an ingress that denies `/-/`, so it has no route. It
   * is not forwarded either: something behind us may take it for a route of its own. Below `/-/decision/` only what
   * stands before the target that is asked about is compared: whatever follows leads to that one route.
   */
  #ownPath(sent: string): string | undefined {
    // Nearly every request ends here.
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

  #toUpstream(method: string, hostField: string, sent: string): UpstreamTarget {
    const { target, clientPrefix, origin } = this.#address(sent)
    const guarded = this.#methods.has(method) && this.#isGuarded(method, sent, target)
    const host = origin === '' ? hostField : origin.slice(origin.indexOf('//') + 2).replace(/^.*@/, '')
    return { target, clientPrefix, host, guarded }
  }

  /** The target to send to focus-server's side, and what was taken off for it. */
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

  /** Every path that may come out of what the client sent and of what focus-server's side gets. */
  #paths(sent: string, target: string): readonly CanonicalPath[] {
    return [
      ...canonicalPaths(sent).map(path => withoutPrefix(path, this.#basePath)),
      ...canonicalPaths(target).map(path => withoutPrefix(path, this.#upstreamPath)),
    ]
  }

  #isGuarded(method: string, sent: string, target: string): boolean {
    // Nearly every guarded request is spelled as its route.
    if (this.#exact.has(`${method} ${sent}`)) return true
    const literal = [
      withoutPrefix(literalPath(sent), this.#basePath),
      withoutPrefix(literalPath(target), this.#upstreamPath),
    ]
    return [...this.#paths(sent, target), ...literal].some(path => isGuarded(method, path, this.#routes))
  }
}

/** The scheme and authority of a target in absolute form; '' of any other. */
function originOf(sent: string): string {
  return sent.startsWith('/') ? '' : (ABSOLUTE_FORM.exec(sent)?.[0] ?? '')
}

/** What classifying needs. */
export type ClassifyOptions = {
  readonly routing: Routing
  readonly connections: Connections
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
export function classify(
  app: FastifyInstance,
  { routing, connections, events, trusts }: ClassifyOptions,
): void {
  app.decorateRequest('exchange', null)
  app.addHook('onRequest', (request: FastifyRequest, reply: FastifyReply, done) => {
    const { raw } = request
    if (raw.url !== UPSTREAM_ROUTE) {
      // Our own responses are data, for no browser to guess at, frame, or run.
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
