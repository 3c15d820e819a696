import type { IncomingMessage } from 'node:http'
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

/** A request that belongs to focus-server: what to send there, and whether it needs the circuit's leave. */
export type UpstreamTarget = {
  /** The request target to send, byte for byte what the client sent but for the base paths. */
  readonly target: string
  /** What stood before focus-server's own path in the client's URL: the base path, or ''. */
  readonly clientPrefix: string
  /** The authority that the client addressed: of an absolute-form target, else of `Host`. */
  readonly host: string
  readonly guarded: boolean
  /** False for a historic job, once that is known: the circuit lets it through. */
  readonly needsFiber: boolean
  /** The whole body, where it has been read already. */
  readonly body?: Buffer
}

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
 * Tells whose request it is, ours or focus-server's, before any router sees its path.
 *
 * Fastify's router decodes and rejects paths, and reply-from's URL parser resolves them; either would change
 * what focus-server gets, or answer in its place. So a request for focus-server has one path for both of
 * them, and its real target is kept here.
 */
export class Routing {
  readonly #targets = new WeakMap<IncomingMessage, UpstreamTarget>()
  readonly #options: RoutingOptions
  #routes: readonly GuardedRoute[] = []
  #methods: ReadonlySet<string> = new Set()
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
    this.#methods = new Set(routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method])))
  }

  /** Fastify's `rewriteUrl`: the path under which our own router knows the request. */
  rewrite(request: IncomingMessage): string {
    const sent = request.url ?? '/'
    const own = this.#ownPath(sent)
    if (own !== undefined) return own
    this.#targets.set(request, this.#toUpstream(request.method ?? '', request.headers.host ?? '', sent))
    return UPSTREAM_ROUTE
  }

  /** The target of a request that belongs to focus-server; undefined for one of our own. */
  targetOf(request: IncomingMessage): UpstreamTarget | undefined {
    return this.#targets.get(request)
  }

  /** Says otherwise about a request that was routed. */
  retarget(request: IncomingMessage, target: UpstreamTarget): void {
    this.#targets.set(request, target)
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
    return { target, clientPrefix: hasPrefix ? basePath : '', host, guarded, needsFiber: true }
  }

  /** Both what the client sent and what focus-server's side gets may come out as a guarded path. */
  #isGuarded(method: string, sent: string, target: string): boolean {
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
