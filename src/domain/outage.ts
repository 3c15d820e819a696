/** How long outages like the present one lasted in all, and how many there were to tell from. */
export type Forecast = { readonly p50Seconds: number; readonly p90Seconds: number; readonly samples: number }

/** Fewer past outages than these say nothing. */
const MIN_SAMPLES = 5

/**
 * How long an outage is likely to last that has lasted `elapsedMs` so far: the median and the ninth decile
 * (nearest rank) of the whole lengths of those past outages that lasted at least as long. Null when they
 * are too few.
 */
export function forecast(pastOutagesMs: readonly number[], elapsedMs: number): Forecast | null {
  const alike = pastOutagesMs.filter(lengthMs => lengthMs >= elapsedMs).sort((a, b) => a - b)
  if (alike.length < MIN_SAMPLES) return null
  const quantile = (part: number) => Math.round((alike[Math.ceil(part * alike.length) - 1] ?? 0) / 1000)
  return { p50Seconds: quantile(0.5), p90Seconds: quantile(0.9), samples: alike.length }
}
