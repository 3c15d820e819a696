import type { Instant } from './time.js'

/** The bounds of `Retry-After`, whole seconds: 1 ≤ minSeconds ≤ maxSeconds. */
export type RetryAfter = { readonly minSeconds: number; readonly maxSeconds: number }

/**
 * The `Retry-After` seconds for a refused client: the earliest time at which it could be admitted, within the bounds.
 *
 * Never 0, which urllib3 treats as absent, and never more than the maximum, because urllib3 sleeps for the full
 * value up to three times.
 */
export function retryAfterSeconds(retryInMs: number, bounds: RetryAfter): number {
  return Math.min(Math.max(Math.ceil(retryInMs / 1000), bounds.minSeconds, 1), bounds.maxSeconds)
}

/**
 * The same, spread over two neighbouring values so that clients refused together do not return together.
 *
 * `random` is in [0, 1). At the maximum it spreads downwards.
 */
export function jitteredRetryAfterSeconds(retryInMs: number, bounds: RetryAfter, random: number): number {
  const soonest = retryAfterSeconds(retryInMs, bounds)
  const low = soonest < bounds.maxSeconds ? soonest : Math.max(bounds.minSeconds, 1, soonest - 1)
  const high = Math.min(low + 1, bounds.maxSeconds)
  return low + Math.floor(random * (high - low + 1))
}

/**
 * The wait that a `Retry-After` asks for, in milliseconds: seconds or an HTTP date (RFC 9110, 10.2.3). Undefined when it is
 * neither.
 *
 * @param date the `Date` header of the same response, which shows the server's clock; without it, `now` is used.
 */
export function parseRetryAfter(value: string, now: Instant, date?: string): number | undefined {
  const text = value.trim()
  if (/^\d+$/.test(text)) return Number(text) * 1000
  const at = parseHttpDate(text)
  const sentAt = date === undefined ? undefined : parseHttpDate(date)
  return at === undefined ? undefined : Math.max(0, at - (sentAt ?? now))
}

/** Parses the three date formats of RFC 9110, 5.6.7. The oldest has no time zone, and is in UTC as well. */
function parseHttpDate(text: string): Instant | undefined {
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined
  const at = Date.parse(text.endsWith('GMT') ? text : `${text} GMT`)
  return Number.isFinite(at) ? at : undefined
}
