/** The bounds of `Retry-After`, whole seconds: 1 ≤ minSeconds ≤ maxSeconds. */
export type RetryAfter = { readonly minSeconds: number; readonly maxSeconds: number }

/**
 * The seconds to tell a refused client: the soonest that it could be admitted, within the bounds.
 *
 * Never 0, which urllib3 takes for absent, and never more than the maximum, because urllib3 sleeps the
 * value in full and three times over.
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
