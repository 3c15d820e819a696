import type { Circuit, Thresholds } from './circuit.js'
import { inForce, type Override } from './override.js'
import type { Reading } from './reading.js'
import { concurrencyAt, type Recovery } from './recovery.js'
import type { Instant } from './time.js'
import type { RefusalCode } from './vocabulary.js'

/** Everything that is known at one moment, as plain data. */
export type Snapshot = {
  readonly circuit: Circuit
  readonly override: Override | null
  readonly reading: Reading | null
  /** The number of readings of this kind in a row, including the last one. */
  readonly streak: number
  readonly lastReadyAt: Instant | null
  /** Guarded requests that were forwarded and have not ended. */
  readonly inFlight: number
  /** The number of them that this replica may have, of those that the rules allow for all; absent without replicas. */
  readonly share?: number
}

/** The settings of a decision. */
export type Rules = {
  readonly thresholds: Thresholds
  readonly recovery: Recovery
  readonly probePeriodMs: number
  /** The concurrency limit for guarded requests; 0 means no limit. */
  readonly maxConcurrency: number
}

/** Whether a guarded request may pass; if not, why, and the earliest time at which it could. */
export type Decision =
  | { readonly admitted: true }
  | { readonly admitted: false; readonly code: RefusalCode; readonly retryInMs: number }

/** A configure request takes about this long, so a slot is likely to be free after it. */
const SLOT_FREE_IN_MS = 1000

const ADMITTED: Decision = { admitted: true }
const OVERLOADED: Decision = { admitted: false, code: 'overloaded', retryInMs: SLOT_FREE_IN_MS }

/** Decides for one guarded request at `now`. */
export function decide(snapshot: Snapshot, rules: Rules, now: Instant): Decision {
  const { circuit } = snapshot
  const override = inForce(snapshot.override, now)
  if (override?.state === 'closed') return ADMITTED
  if (override?.state === 'open') {
    return { admitted: false, code: 'forced_open', retryInMs: override.until - now }
  }
  switch (circuit.state) {
    case 'closed':
      return isFull(snapshot, rules) ? OVERLOADED : ADMITTED
    case 'half-open':
      if (rules.maxConcurrency > 0 && snapshot.inFlight >= rules.maxConcurrency) return OVERLOADED
      if (hasSlot(snapshot, concurrencyAt(now, circuit.since, rules.recovery))) return ADMITTED
      return { admitted: false, code: 'recovering', retryInMs: SLOT_FREE_IN_MS }
    case 'open':
      return { admitted: false, code: codeOf(circuit), retryInMs: untilRecovery(circuit, rules, now) }
  }
}

/**
 * Decides for a request that does not need the fiber: the state of the circuit does not matter, but an override and
 * the concurrency limit do.
 */
export function decideWithoutFiber(snapshot: Snapshot, rules: Rules, now: Instant): Decision {
  const override = inForce(snapshot.override, now)
  if (override?.state === 'open') {
    return { admitted: false, code: 'forced_open', retryInMs: override.until - now }
  }
  return isFull(snapshot, rules) && override === null ? OVERLOADED : ADMITTED
}

/**
 * The number of guarded requests that may be in flight; null if there is no limit. Replicas divide this number among
 * themselves, whether or not an override is in force.
 */
export function slotLimit(
  circuit: Circuit,
  { maxConcurrency, recovery }: Rules,
  now: Instant,
): number | null {
  const ramp = circuit.state === 'half-open' ? concurrencyAt(now, circuit.since, recovery) : null
  if (maxConcurrency === 0) return ramp
  return ramp === null ? maxConcurrency : Math.min(ramp, maxConcurrency)
}

function isFull(snapshot: Snapshot, { maxConcurrency }: Rules): boolean {
  return maxConcurrency > 0 && !hasSlot(snapshot, maxConcurrency)
}

function hasSlot({ inFlight, share = Number.POSITIVE_INFINITY }: Snapshot, limit: number): boolean {
  return inFlight < Math.min(limit, share)
}

/** After the first ready reading and before the recovery, the fiber is back, but that is not confirmed yet. */
function codeOf({ cause, successes }: Extract<Circuit, { state: 'open' }>): RefusalCode {
  if (successes > 0) return 'recovering'
  return cause === 'waiting' ? 'waiting_for_fiber' : 'metadata_unavailable'
}

/** The earliest time at which an open circuit can admit: it still needs some ready readings, one per period. */
function untilRecovery(circuit: Extract<Circuit, { state: 'open' }>, rules: Rules, now: Instant): number {
  // The first probe is already running.
  if (circuit.cause === 'starting') return 0
  const nextReadingInMs = Math.max(0, circuit.judgedAt + rules.probePeriodMs - now)
  // A reload may have lowered the threshold below the count so far; the next reading then starts the recovery.
  const needed = Math.max(1, rules.thresholds.ready - circuit.successes)
  return nextReadingInMs + (needed - 1) * rules.probePeriodMs
}
