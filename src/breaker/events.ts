import type { Decision } from '../domain/decision.js'
import type { Override, PastOverride } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Cause, CircuitState } from '../domain/vocabulary.js'

/** A change of the circuit's state, and what caused it. */
export type Transition = {
  readonly at: Instant
  readonly from: CircuitState
  readonly to: CircuitState
  /** Why the circuit is not closed; when it closes, why it was not. */
  readonly cause: Cause
  /** Since when the circuit is in this state for this cause: `since` of the circuit. */
  readonly since: Instant
  /** From the beginning of the outage to now; 0 when it begins. */
  readonly outageMs: number
  /** When the outage began; when the circuit closes, when the one that ends did. */
  readonly outageStartedAt: Instant
  readonly reading: Reading
}

/** An outage that goes on for another cause; the first reading of a bad start is one too. */
export type CauseChange = {
  readonly at: Instant
  readonly from: Cause
  readonly to: Cause
  /** The first reading that showed the new cause, which may be some readings ago: `since` of the circuit. */
  readonly since: Instant
  /** From the beginning of the outage to now. */
  readonly outageMs: number
  readonly outageStartedAt: Instant
  readonly reading: Reading
}

/** What became of a manual override: `set` (over an earlier one, if any), `removed`, or `ended` by itself. */
export type OverrideEvent =
  | { readonly kind: 'set'; readonly override: Override; readonly replaced: PastOverride | null }
  | { readonly kind: 'removed' | 'ended'; readonly override: PastOverride }

/** A guarded request that was refused: the decision, and who asked. */
export type RefusedEvent = {
  readonly decision: Refusal
  readonly client: Client
  /** False in mode `observe`, where the request was forwarded all the same. */
  readonly enforced: boolean
}

/** A guarded request that was admitted while the circuit was half-open, by no override. */
export type AdmittedEvent = { readonly at: Instant; readonly client: Client }

/** Who sends a request, as far as the log and the counts of distinct clients need it. */
export type Client = {
  readonly address: string
  /** `User-Agent`, cut to a bounded length; '' without one. */
  readonly userAgent: string
  /** What makes an attempt the same request as an earlier one: method, path, length. Bounded too. */
  readonly request: string
  /** The test run that it says to belong to. */
  readonly run: string | undefined
}

/** A decision that does not admit. */
export type Refusal = Extract<Decision, { admitted: false }>

/** What a breaker tells its listeners. They must not throw and cannot call back. */
export type BreakerEvents = {
  transition: [Transition]
  cause: [CauseChange]
  override: [OverrideEvent]
  /**
   * `isNewest` is false for a reading that is older than one reported before: it changes nothing. `isOwn` is false for the
   * reading of another replica.
   */
  reading: [reading: Reading, isNewest: boolean, isOwn: boolean]
  refused: [RefusedEvent]
  /** Only while the circuit is half-open: who a closed circuit admits is not reported. */
  admitted: [AdmittedEvent]
  /** A guarded request has ended, and its place is free. */
  freed: []
  /** A guarded request failed in a way that may come from the fiber: a look at it is wanted now. */
  doubt: []
  /** The metadata says ready, and focus-server's answer to a configure says that the fiber is missing. */
  disagreement: [Disagreement]
}

/** Since when configure says that the fiber is missing while the metadata says that it is there. */
export type Disagreement = { readonly since: Instant; readonly missing: readonly string[] }
