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
  /** Why the circuit is not closed, or, when it closes, why it was not. */
  readonly cause: Cause
  /** Since when the circuit is in this state for this cause: `since` of the circuit. */
  readonly since: Instant
  /** Time since the start of the outage; 0 when it starts. */
  readonly outageMs: number
  /** The start of the outage, or, when the circuit closes, of the one that ends. */
  readonly outageStartedAt: Instant
  readonly reading: Reading
}

/** An outage that continues with another cause; also the first reading after a start, if it is a failed one. */
export type CauseChange = {
  readonly at: Instant
  readonly from: Cause
  readonly to: Cause
  /** The time of the first reading that showed the new cause, possibly several readings ago: `since` of the circuit. */
  readonly since: Instant
  /** Time since the start of the outage. */
  readonly outageMs: number
  readonly outageStartedAt: Instant
  readonly reading: Reading
}

/** A change of the manual override: `set` (replacing an earlier one, if any), `removed`, or `ended` because it expired. */
export type OverrideEvent =
  | { readonly kind: 'set'; readonly override: Override; readonly replaced: PastOverride | null }
  | { readonly kind: 'removed' | 'ended'; readonly override: PastOverride }

/** A guarded request that was refused: the decision and the client. */
export type RefusedEvent = {
  readonly decision: Refusal
  readonly client: Client
  /** False in mode `observe`, where the request was forwarded anyway. */
  readonly enforced: boolean
}

/** A guarded request that was admitted while the circuit was half-open, not because of an override. */
export type AdmittedEvent = { readonly at: Instant; readonly client: Client }

/** The client of a request, as far as the log and the counts of distinct clients need it. */
export type Client = {
  readonly address: string
  /** `User-Agent`, cut to a maximum length; empty without one. */
  readonly userAgent: string
  /** Identifies repeated attempts of the same request: method, path and length. Also cut to a maximum length. */
  readonly request: string
  /** The test run that the request names. */
  readonly run: string | undefined
}

/** A decision that does not admit. */
export type Refusal = Extract<Decision, { admitted: false }>

/** The events of a breaker. Listeners must not throw and cannot call back. */
export type BreakerEvents = {
  transition: [Transition]
  cause: [CauseChange]
  override: [OverrideEvent]
  /**
   * `isNewest` is false for a reading that is older than one reported before: it changes nothing. `isOwn` is false for a
   * reading from another replica.
   */
  reading: [reading: Reading, isNewest: boolean, isOwn: boolean]
  refused: [RefusedEvent]
  /** Emitted only while the circuit is half-open; requests that a closed circuit admits are not reported. */
  admitted: [AdmittedEvent]
  /** A guarded request has ended, and its slot is free. */
  freed: []
  /** A guarded request failed in a way that may come from the fiber, so a probe is needed now. */
  probeRequested: []
  /** The metadata shows a present fiber, but focus-server's response to a configure request reports a missing one. */
  disagreement: [Disagreement]
}

/** Since when configure has reported a missing fiber while the metadata shows a present one. */
export type Disagreement = { readonly since: Instant; readonly missing: readonly string[] }
