/** A method and path that only passes when the circuit admits it; a segment `:name` is any one segment. */
export type GuardedRoute = { readonly method: string; readonly path: CanonicalPath }

/** The segments of a path as the upstream's router will see them; none for `/`. */
export type CanonicalPath = readonly string[]

/**
 * The path of a request target as the most obliging upstream would understand it.
 *
 * A superset of what uvicorn and a normalising ingress make of it, so that no spelling of a guarded path
 * goes round the guard: scheme and authority are dropped, percent-encoding is decoded once (as uvicorn and
 * nginx do: `/%2563onfigure` is not `/configure`), both slashes separate, `.` and `..` are resolved, empty
 * segments are dropped (Starlette redirects `/configure/` to `/configure`), and the path ends at a line feed
 * (Python's `$` matches before it, and the `.*` of an ingress's rewrite stops there). Letter case and
 * `;parameters` are kept, because no part of the way to focus-server takes them away.
 */
export function canonicalPath(target: string): CanonicalPath {
  return resolved(beforeLineFeed(decodeOnce(pathOf(target))), BOTH_SLASHES)
}

/**
 * Every path that a part of the way to the upstream may make of a request target.
 *
 * They disagree on what goes first: for nginx a backslash is a letter of its segment, which `..` takes away as
 * a whole, and a line feed ends a path only after the dots were resolved.
 */
export function canonicalPaths(target: string): readonly CanonicalPath[] {
  const path = decodeOnce(pathOf(target))
  if (!/[\\\n]/.test(path)) return [resolved(path, BOTH_SLASHES)]
  return [BOTH_SLASHES, FORWARD_SLASH].flatMap(slash => {
    const whole = resolved(path, slash).join('/')
    return [resolved(beforeLineFeed(path), slash), resolved(beforeLineFeed(whole), FORWARD_SLASH)]
  })
}

const BOTH_SLASHES = /[/\\]/
const FORWARD_SLASH = /\//

function beforeLineFeed(text: string): string {
  return text.replace(/\n.*/s, '')
}

function resolved(path: string, slash: RegExp): string[] {
  const segments: string[] = []
  for (const segment of path.split(slash)) {
    if (segment === '..') segments.pop()
    else if (segment !== '' && segment !== '.') segments.push(segment)
  }
  return segments
}

/**
 * The same path as a router sees it that resolves nothing: of a `:name` any text is one segment for it, also
 * `..`, and a backslash is a letter like others.
 */
export function literalPath(target: string): CanonicalPath {
  return decodeOnce(pathOf(target))
    .split('/')
    .filter(segment => segment !== '')
}

/** The path part of a request target in any form, as it was sent: no scheme, authority, query or fragment. */
export function pathOf(target: string): string {
  const start = ABSOLUTE_FORM.exec(target)?.[0].length ?? 0
  const end = target.slice(start).search(/[?#]/)
  return end === -1 ? target.slice(start) : target.slice(start, start + end)
}

/** The scheme and authority of an absolute-form request target (RFC 9112, 3.2.2). */
export const ABSOLUTE_FORM = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i

/** Decodes to bytes, one character for each, as Node gives the bytes of a request target that are beyond ASCII. */
function decodeOnce(path: string): string {
  if (!path.includes('%')) return path
  return path.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}

/** The segments of a route's path as it is written in the configuration: letters beyond ASCII count as UTF-8. */
export function routePath(path: string): CanonicalPath {
  return canonicalPath(path.replace(/\P{ASCII}+/gu, encodeURIComponent))
}

/** What a route's path must not hold, because a guard of it would match nothing or something else. */
const UNGUARDABLE: readonly (readonly [found: RegExp, expected: string])[] = [
  [/[?#]/, 'a path without a query and a fragment, which a guard does not see'],
  [/\p{Cc}|%(?:[01][\da-f]|7f)/iu, 'a path without control characters'],
  [/\s/, 'a path without white space; write %20 for a space'],
  [/%(?![\da-f]{2})/i, 'two hexadecimal digits after each %; write %25 for a percent sign'],
  [/\\|%5c/i, 'a path without backslashes, which servers read in different ways'],
  [/[*{}<>]/, 'a path in which :name stands for any one segment; nothing else is a pattern'],
  [/(?:\/|%2f)%3a/i, 'no segment that begins with an encoded colon: it cannot be told apart from :name'],
  [/\p{Surrogate}/u, 'a path of whole characters'],
  [
    /(?:\/|%2f)(?:\.|%2e){1,2}(?:\/|%2f|$)/i,
    'a path without the segments . and .., which clients and servers resolve',
  ],
  [/^(?:\/|%2f)*(?:-|%2d)(?:\/|%2f|$)/i, "a path of focus-server; what is below /-/ is focus-breaker's own"],
]

/** What a path would have to be so that a route with it can be guarded; undefined when it can be. */
export function guardablePath(path: string): string | undefined {
  return UNGUARDABLE.find(([found]) => found.test(path))?.[1]
}

/**
 * `path` without the leading segments of `prefix`, or as it is when it does not begin with them.
 *
 * Letter case does not count here: the ingress that publishes focus-server matches its prefix without case.
 */
export function withoutPrefix(path: CanonicalPath, prefix: CanonicalPath): CanonicalPath {
  return prefix.length > 0 && prefix.every((segment, index) => isSameWithoutCase(segment, path[index]))
    ? path.slice(prefix.length)
    : path
}

function isSameWithoutCase(a: string, b: string | undefined): boolean {
  return a.toLowerCase() === b?.toLowerCase()
}

/**
 * Whether the request would reach a guarded route of the upstream.
 *
 * The path is compared as the upstream will see it, not as the client spelled it: an intermediary on the
 * way may resolve `/./configure` to `/configure`, and a match on the raw path would let it around the guard.
 */
export function isGuarded(method: string, path: CanonicalPath, routes: readonly GuardedRoute[]): boolean {
  return routes.some(route => isMethodOf(route, method) && matches(path, route.path))
}

/** A HEAD is what a GET would be. */
function isMethodOf(route: GuardedRoute, method: string): boolean {
  return route.method === method || (route.method === 'GET' && method === 'HEAD')
}

function matches(path: CanonicalPath, pattern: CanonicalPath): boolean {
  return (
    path.length === pattern.length &&
    pattern.every((segment, index) => segment.startsWith(':') || segment === path[index])
  )
}
