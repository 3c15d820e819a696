import type { Reading } from './reading.js'
import type { Instant } from './time.js'
import type { Cause } from './vocabulary.js'

/** How long outages like the current one lasted in total; `samples` is how many such outages there were. */
export type Forecast = { readonly p50Seconds: number; readonly p90Seconds: number; readonly samples: number }

/** A forecast needs this many past outages. */
const MIN_SAMPLES = 5

/**
 * How long an outage is likely to last in total when it has lasted `elapsedMs` so far: the median and the ninth
 * decile (nearest rank) of the past outages that lasted at least that long. Null when there are too few of them.
 */
export function forecast(pastOutagesMs: readonly number[], elapsedMs: number): Forecast | null {
  const alike = pastOutagesMs.filter(lengthMs => lengthMs >= elapsedMs).sort((a, b) => a - b)
  if (alike.length < MIN_SAMPLES) return null
  const quantile = (part: number) => Math.round((alike[Math.ceil(part * alike.length) - 1] ?? 0) / 1000)
  return { p50Seconds: quantile(0.5), p90Seconds: quantile(0.9), samples: alike.length }
}

/** One outage, from the opening of the circuit to its closing. */
export type Outage = {
  /** Also its identity: no two outages start at the same time. */
  readonly startedAt: Instant
  /** Null while it lasts. */
  readonly endedAt: Instant | null
  /** The latest cause: an outage may start with an unreachable upstream and continue with a missing fiber. */
  readonly cause: Cause
  readonly openedBy: Reading
  readonly closedBy: Reading | null
  /** Refused requests, and how many distinct operations they were. */
  readonly refused: number
  readonly operations: number
  /** How often the proxy was restarted while it lasted. */
  readonly restarts: number
}

/** A period in which the metadata could not be read, whether that opened the circuit or not. */
export type UnreachablePeriod = {
  readonly from: Instant
  /** Null while it lasts. */
  readonly to: Instant | null
  readonly problem: string
}

/** A new outage, opened by a reading. */
export function beganBy(reading: Reading, cause: Cause): Outage {
  return {
    startedAt: reading.at,
    endedAt: null,
    cause,
    openedBy: reading,
    closedBy: null,
    refused: 0,
    operations: 0,
    restarts: 0,
  }
}

/** Whether the period overlaps the outage. */
export function isDuring({ from, to }: UnreachablePeriod, { startedAt, endedAt }: Outage): boolean {
  return (endedAt === null || from < endedAt) && (to === null || to >= startedAt)
}
