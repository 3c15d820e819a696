/** A method and path that pass only when the circuit admits them; a segment `:name` matches any one segment. */
export type GuardedRoute = { readonly method: string; readonly path: CanonicalPath }

/** The segments of a path as the upstream's router sees them; empty for `/`. */
export type CanonicalPath = readonly string[]

/**
 * The path of a request target as the most lenient upstream would interpret it.
 *
 * It covers everything that uvicorn and a normalising ingress do to a path, so that no spelling of a guarded path
 * bypasses the guard: scheme and authority are dropped, percent-encoding is decoded once (as uvicorn and
 * nginx do: `/%2563onfigure` is not `/configure`), both slashes separate, `.` and `..` are resolved, empty
 * segments are dropped (Starlette redirects `/configure/` to `/configure`), and the path ends at a line feed
 * (Python's `$` matches before it, and the `.*` of an ingress's rewrite stops there). Letter case and
 * `;parameters` are kept, because nothing between the client and focus-server removes them.
 */
export function canonicalPath(target: string): CanonicalPath {
  return resolved(beforeLineFeed(decodeOnce(pathOf(target))), BOTH_SLASHES)
}

/**
 * Every path that a server between the client and the application may derive from a request target.
 *
 * Servers disagree on the order: for nginx, a backslash is an ordinary character of its segment, which `..` removes as
 * a whole, and a line feed ends a path only after the dots are resolved.
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
 * The path as a router sees it that resolves nothing: `:name` matches any text between slashes, including `..`, and a
 * backslash is an ordinary character.
 */
export function literalPath(target: string): CanonicalPath {
  return decodeOnce(pathOf(target))
    .split('/')
    .filter(segment => segment !== '')
}

/** The path part of a request target in any form, as sent: no scheme, authority, query or fragment. */
export function pathOf(target: string): string {
  const start = ABSOLUTE_FORM.exec(target)?.[0].length ?? 0
  const end = target.slice(start).search(/[?#]/)
  return end === -1 ? target.slice(start) : target.slice(start, start + end)
}

/** The scheme and authority of an absolute-form request target (RFC 9112, 3.2.2). */
export const ABSOLUTE_FORM = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i

/** Decodes to bytes, one character for each byte, as Node does for the non-ASCII bytes of a request target. */
function decodeOnce(path: string): string {
  if (!path.includes('%')) return path
  return path.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}

/** The segments of a route's path as written in the configuration; non-ASCII characters are encoded as UTF-8. */
export function routePath(path: string): CanonicalPath {
  return canonicalPath(path.replace(/\P{ASCII}+/gu, encodeURIComponent))
}

/** What a route's path must not contain, because a guard for it would match nothing or something else. */
const UNGUARDABLE: readonly (readonly [found: RegExp, expected: string])[] = [
  [/[?#]/, 'a path without a query or a fragment; the guard compares only the path'],
  [/\p{Cc}|%(?:[01][\da-f]|7f)/iu, 'a path without control characters'],
  [/\s/, 'a path without whitespace; write %20 for a space'],
  [/%(?![\da-f]{2})/i, 'two hexadecimal digits after each %; write %25 for a percent sign'],
  [/\\|%5c/i, 'a path without backslashes; servers interpret them differently'],
  [/[*{}<>]/, 'a path without wildcards; :name matches any one segment, and there are no other patterns'],
  [/(?:\/|%2f)%3a/i, 'no segment that starts with an encoded colon; it cannot be distinguished from :name'],
  [/\p{Surrogate}/u, 'a path of complete characters, without lone surrogates'],
  [
    /(?:\/|%2f)(?:\.|%2e){1,2}(?:\/|%2f|$)/i,
    'a path without the segments . and .., which clients and servers resolve',
  ],
  [/^(?:\/|%2f)*(?:-|%2d)(?:\/|%2f|$)/i, "a path of focus-server; paths below /-/ are focus-breaker's own"],
]

/** What was expected instead of this path; undefined when a route with this path can be guarded. */
export function guardablePath(path: string): string | undefined {
  return UNGUARDABLE.find(([found]) => found.test(path))?.[1]
}

/**
 * `path` without the leading segments of `prefix`, or unchanged when it does not start with them.
 *
 * The comparison ignores case, because the ingress that publishes focus-server matches its prefix without case.
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
 * The path is compared as the upstream sees it, not as the client wrote it: an intermediary may resolve
 * `/./configure` to `/configure`, and such a request would bypass a guard that compared the raw path.
 */
export function isGuarded(method: string, path: CanonicalPath, routes: readonly GuardedRoute[]): boolean {
  return routes.some(route => isMethodOf(route, method) && matches(path, route.path))
}

/** HEAD counts as GET. */
function isMethodOf(route: GuardedRoute, method: string): boolean {
  return route.method === method || (route.method === 'GET' && method === 'HEAD')
}

function matches(path: CanonicalPath, pattern: CanonicalPath): boolean {
  return (
    path.length === pattern.length &&
    pattern.every((segment, index) => segment.startsWith(':') || segment === path[index])
  )
}
