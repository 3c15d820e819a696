import type { IncomingHttpHeaders } from 'node:http'
import type { Look } from '../upstream/metadata-reader.js'

/** How far a response of focus-server may answer other requests than the one it was made for. */
export type Sharing = {
  /** How old it was when it came, in milliseconds, by its `Age`. */
  readonly agedMs: number
  /** How long after it came it may be used, in milliseconds, as far as the response says so itself. */
  readonly usableForMs: number
  /** The request headers that it depends on, with the values that it was asked for with. */
  readonly dependsOn: readonly (readonly [name: string, value: string])[]
}

/** Statuses of which a cache may assume a lifetime (RFC 9110, 15.1), as far as a whole response has them. */
const HEURISTIC: ReadonlySet<number> = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])

/** Headers of our own request that open nothing which a client that asks without them would not get. */
const OF_OUR_REQUEST: ReadonlySet<string> = new Set([
  ...['accept', 'accept-encoding', 'authorization', 'cache-control', 'user-agent'],
])

/** Headers of a request that every forwarded one gets in our words, which our own request does not have. */
const OF_GATEWAYS: ReadonlySet<string> = new Set([
  ...['forwarded', 'host', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'],
])

/**
 * How far a shared cache may use a response for others (RFC 9111, 3 and 4); undefined where it may not.
 *
 * Stricter than the standard where that is simpler: a `private` or `no-cache` that names headers counts as one that
 * does not, a response with `Set-Cookie` is never shared, and none is used when it is stale. Nor is one for which our own
 * request had a key that clients do not have.
 *
 * @param authorization what a client's request is forwarded with where it brings none itself.
 */
export function sharingOf(
  { at, answeredAt, answer }: Look,
  authorization: string | undefined,
): Sharing | undefined {
  if (answer === undefined) return undefined
  const { statusCode, fields, sent } = answer
  if (sent.authorization !== authorization) return undefined
  if (Object.keys(sent).some(name => !OF_OUR_REQUEST.has(name))) return undefined
  const control = directivesOf(textOf(fields['cache-control']))
  const forbids = ['no-store', 'no-cache', 'private'].some(name => control.has(name))
  if (forbids || fields['set-cookie'] !== undefined) return undefined
  if (!control.size && /no-cache/i.test(textOf(fields.pragma) ?? '')) return undefined
  const names = (textOf(fields.vary) ?? '')
    .toLowerCase()
    .split(',')
    .map(name => name.trim())
  const varied = names.filter(name => name !== '')
  if (varied.some(name => name === '*' || OF_GATEWAYS.has(name))) return undefined
  const lifetimeSeconds = lifetimeOf(control, fields, answeredAt)
  if (lifetimeSeconds === undefined && !HEURISTIC.has(statusCode) && !control.has('public')) return undefined
  const agedMs = ageOf(fields) * 1000
  return {
    agedMs,
    usableForMs:
      lifetimeSeconds === undefined
        ? Number.POSITIVE_INFINITY
        : lifetimeSeconds * 1000 - Math.max(apparentAgeMs(fields, answeredAt), agedMs + answeredAt - at),
    dependsOn: varied.map(name => [name, sent[name] ?? '']),
  }
}

/** Whether the response, which came so long ago, may answer this request; `maxAgeMs` is the most that the site allows. */
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

/** The `Age` of a response in seconds; one that cannot be read counts as very old. */
export function ageOf(fields: IncomingHttpHeaders): number {
  const age = textOf(fields.age)
  if (age === undefined) return 0
  return /^\s*\d{1,10}\s*$/.test(age) ? Number(age) : MAX_SECONDS
}

/** The largest number of seconds that RFC 9111, 1.2.2, asks for. */
const MAX_SECONDS = 2 ** 31

/** How long the response says that it is fresh, in seconds; what cannot be read means not at all. */
function lifetimeOf(
  control: ReadonlyMap<string, string>,
  fields: IncomingHttpHeaders,
  answeredAt: number,
): number | undefined {
  const seconds = control.get('s-maxage') ?? control.get('max-age')
  if (seconds !== undefined) return /^\d+$/.test(seconds) ? Math.min(Number(seconds), MAX_SECONDS) : 0
  const expires = textOf(fields.expires)
  if (expires === undefined) return undefined
  // A date that is none means that it has expired already (RFC 9111, 5.3).
  return Math.max(0, ((httpDate(expires) ?? 0) - (httpDate(textOf(fields.date)) ?? answeredAt)) / 1000)
}

/** By how much the response is older than now by its own clock, in whole seconds, as `Date` is. */
function apparentAgeMs(fields: IncomingHttpHeaders, answeredAt: number): number {
  const date = httpDate(textOf(fields.date))
  return date === undefined ? 0 : Math.max(0, Math.floor((answeredAt - date) / 1000) * 1000)
}

/** A date as HTTP writes it; undefined for anything else. */
function httpDate(text: string | undefined): number | undefined {
  const date = /^[a-z]{3,9},.* GMT$/i.test(text ?? '') ? Date.parse(text ?? '') : Number.NaN
  return Number.isNaN(date) ? undefined : date
}

/** The directives of a `Cache-Control` by name in lower case; the value of one that is repeated cannot be known. */
function directivesOf(control: string | undefined): ReadonlyMap<string, string> {
  const directives = new Map<string, string>()
  for (const [, name = '', quoted, token = ''] of (control ?? '').matchAll(DIRECTIVE)) {
    const key = name.toLowerCase()
    directives.set(key, directives.has(key) ? 'repeated' : (quoted ?? token))
  }
  return directives
}

const DIRECTIVE = /([^\s,=]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*)))?/g

/** A header's values as one text; undefined without it. */
function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.join(', ')
}
