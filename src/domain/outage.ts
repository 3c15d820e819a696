import type { Reading } from './reading.js'
import type { Instant } from './time.js'
import type { Cause } from './vocabulary.js'

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

/** One outage, from the opening of the circuit to its closing. */
export type Outage = {
  /** Also its name: no two begin at the same moment. */
  readonly startedAt: Instant
  /** Null while it lasts. */
  readonly endedAt: Instant | null
  /** The latest: an outage may begin with an unreachable upstream and go on for a missing fiber. */
  readonly cause: Cause
  readonly openedBy: Reading
  readonly closedBy: Reading | null
  /** Attempts that were refused for it, and how many distinct operations these were. */
  readonly refused: number
  readonly operations: number
  /** How often this program was started anew while it lasted. */
  readonly restarts: number
}

/** A time during which the metadata could not be read, whether that opened the circuit or not. */
export type Spell = { readonly from: Instant; readonly to: Instant | null; readonly problem: string }

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

/** Whether the spell falls into the outage, in part at least. */
export function isDuring({ from, to }: Spell, { startedAt, endedAt }: Outage): boolean {
  return (endedAt === null || from < endedAt) && (to === null || to >= startedAt)
}
