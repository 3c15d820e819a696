import type { Instant } from './time.js'

/** How a half-open circuit admits guarded requests again; concurrencies count requests in flight. */
export type Recovery = {
  readonly initialConcurrency: number
  readonly maxConcurrency: number
  /** Duration of the ramp from the initial to the maximum concurrency; 0 closes the circuit without a ramp. */
  readonly rampMs: number
}

/** The number of guarded requests that may be in flight at `now`: it grows evenly from the initial to the maximum. */
export function concurrencyAt(now: Instant, rampStartedAt: Instant, recovery: Recovery): number {
  const { initialConcurrency, maxConcurrency, rampMs } = recovery
  if (rampMs === 0 || now - rampStartedAt >= rampMs) return maxConcurrency
  const part = Math.max(0, now - rampStartedAt) / rampMs
  return initialConcurrency + Math.floor((maxConcurrency - initialConcurrency) * part)
}
