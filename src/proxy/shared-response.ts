import type { IncomingHttpHeaders } from 'node:http'
import type { MetadataResult } from '../upstream/metadata-reader.js'

/** Conditions under which a response of focus-server may be reused for other requests. */
export type Sharing = {
  /** Its age on arrival in milliseconds, according to its `Age` header. */
  readonly agedMs: number
  /** How long after its arrival it may be used, in milliseconds, according to its own headers. */
  readonly usableForMs: number
  /** The request headers that it depends on, with the values of the original request. */
  readonly dependsOn: readonly (readonly [name: string, value: string])[]
}

/** Status codes of complete responses for which a cache may assume a lifetime (RFC 9110, 15.1). */
const HEURISTIC: ReadonlySet<number> = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])

/** Headers of our own request that give no access that a client without them would lack. */
const OF_OUR_REQUEST: ReadonlySet<string> = new Set([
  ...['accept', 'accept-encoding', 'authorization', 'cache-control', 'user-agent'],
])

/** Headers that we add to every forwarded request and that our own request does not have. */
const OF_GATEWAYS: ReadonlySet<string> = new Set([
  ...['forwarded', 'host', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'],
])

/**
 * Determines how a shared cache may reuse a response (RFC 9111, 3 and 4); undefined if it may not.
 *
 * Stricter than the standard where that is simpler: a `private` or `no-cache` that names headers is treated like one
 * without names, a response with `Set-Cookie` is never shared, and a stale response is never used. A response to a
 * request with headers that clients do not send is not shared either.
 *
 * @param authorization the value that is added to forwarded requests without an `Authorization` header.
 */
export function sharingOf(
  { at, receivedAt, response }: MetadataResult,
  authorization: string | undefined,
): Sharing | undefined {
  if (response === undefined) return undefined
  const { statusCode, headers, sent } = response
  if (sent.authorization !== authorization) return undefined
  if (Object.keys(sent).some(name => !OF_OUR_REQUEST.has(name))) return undefined
  const control = directivesOf(textOf(headers['cache-control']))
  const forbids = ['no-store', 'no-cache', 'private'].some(name => control.has(name))
  if (forbids || headers['set-cookie'] !== undefined) return undefined
  if (!control.size && /no-cache/i.test(textOf(headers.pragma) ?? '')) return undefined
  const names = (textOf(headers.vary) ?? '')
    .toLowerCase()
    .split(',')
    .map(name => name.trim())
  const varied = names.filter(name => name !== '')
  if (varied.some(name => name === '*' || OF_GATEWAYS.has(name))) return undefined
  const lifetimeSeconds = lifetimeOf(control, headers, receivedAt)
  if (lifetimeSeconds === undefined && !HEURISTIC.has(statusCode) && !control.has('public')) return undefined
  const agedMs = ageOf(headers) * 1000
  return {
    agedMs,
    usableForMs:
      lifetimeSeconds === undefined
        ? Number.POSITIVE_INFINITY
        : lifetimeSeconds * 1000 - Math.max(apparentAgeMs(headers, receivedAt), agedMs + receivedAt - at),
    dependsOn: varied.map(name => [name, sent[name] ?? '']),
  }
}

/** Whether a response that arrived `sinceMs` ago may answer this request. `maxAgeMs` is the configured limit. */
export function mayAnswer(
  { agedMs, usableForMs, dependsOn }: Sharing,
  headers: IncomingHttpHeaders,
  sinceMs: number,
  maxAgeMs: number,
): boolean {
  return (
    sinceMs < usableForMs &&
    agedMs + sinceMs <= maxAgeMs &&
    dependsOn.every(([name, value]) => (textOf(headers[name]) ?? '') === value)
  )
}

/** The `Age` of a response in seconds. A malformed value counts as very old. */
export function ageOf(headers: IncomingHttpHeaders): number {
  const age = textOf(headers.age)
  if (age === undefined) return 0
  return /^\s*\d{1,10}\s*$/.test(age) ? Number(age) : MAX_SECONDS
}

/** The largest number of seconds that a cache must support (RFC 9111, 1.2.2). */
const MAX_SECONDS = 2 ** 31

/** The freshness lifetime that the response states, in seconds. A malformed value counts as 0. */
function lifetimeOf(
  control: ReadonlyMap<string, string>,
  headers: IncomingHttpHeaders,
  receivedAt: number,
): number | undefined {
  const seconds = control.get('s-maxage') ?? control.get('max-age')
  if (seconds !== undefined) return /^\d+$/.test(seconds) ? Math.min(Number(seconds), MAX_SECONDS) : 0
  const expires = textOf(headers.expires)
  if (expires === undefined) return undefined
  // An invalid date means that the response has already expired (RFC 9111, 5.3).
  return Math.max(0, ((httpDate(expires) ?? 0) - (httpDate(textOf(headers.date)) ?? receivedAt)) / 1000)
}

/** The age of the response according to its `Date` header, in milliseconds rounded down to whole seconds. */
function apparentAgeMs(headers: IncomingHttpHeaders, receivedAt: number): number {
  const date = httpDate(textOf(headers.date))
  return date === undefined ? 0 : Math.max(0, Math.floor((receivedAt - date) / 1000) * 1000)
}

/** Parses an HTTP date; undefined for anything else. */
function httpDate(text: string | undefined): number | undefined {
  const date = /^[a-z]{3,9},.* GMT$/i.test(text ?? '') ? Date.parse(text ?? '') : Number.NaN
  return Number.isNaN(date) ? undefined : date
}

/**
 * The directives of a `Cache-Control` by lower-case name. A repeated directive gets the value `repeated`, which is
 * invalid.
 */
function directivesOf(control: string | undefined): ReadonlyMap<string, string> {
  const directives = new Map<string, string>()
  for (const [, name = '', quoted, token = ''] of (control ?? '').matchAll(DIRECTIVE)) {
    const key = name.toLowerCase()
    directives.set(key, directives.has(key) ? 'repeated' : (quoted ?? token))
  }
  return directives
}

const DIRECTIVE = /([^\s,=]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*)))?/g

/** The values of a header, joined with commas; undefined without it. */
function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.join(', ')
}
