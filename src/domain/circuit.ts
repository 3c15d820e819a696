import type { Reading } from './reading.js'
import type { Recovery } from './recovery.js'
import { type Instant, rfc3339 } from './time.js'
import type { Cause, FailedReadingKind } from './vocabulary.js'

/** The number of readings in a row that change the state; each at least 1. */
export type Thresholds = {
  /** `waiting` readings that open a closed circuit. */
  readonly waiting: number
  /** `unreachable` readings that open a closed circuit. */
  readonly unreachable: number
  /** `ready` readings that start the recovery of an open circuit. */
  readonly ready: number
}

/** Failed readings since the last ready one, by kind. */
type Failures = Readonly<Record<FailedReadingKind, number>>

/** A cause of an outage, and the first reading that showed it. */
export type CauseSince = { readonly cause: Cause; readonly causeSince: Instant }

/** The outage that was in progress when the previous process stopped. */
export type OutageUnderWay = CauseSince & { readonly openedAt: Instant }

/**
 * The circuit, as plain data: it can be logged, compared in a test, and sent to another replica.
 *
 * `since` is when the circuit entered its state with its current cause. When the cause of an open circuit changes, that
 * is the first of the readings in a row that changed it. `openedAt` is when the outage began: an outage lasts until the
 * circuit closes, however often its cause changes or its recovery fails. `judgedAt` is the time of the newest counted
 * reading.
 */
export type Circuit = { readonly since: Instant; readonly judgedAt: Instant } & (
  | { readonly state: 'closed'; readonly failures: Failures }
  | {
      readonly state: 'open'
      readonly openedAt: Instant
      readonly cause: Cause
      readonly failures: Failures
      /** The first of the current run of failed readings of one kind. */
      readonly failingSince: Instant
      readonly successes: number
      /** The cause before a restart, until the first reading shows whether it still applies. */
      readonly resumed?: CauseSince
    }
  | {
      readonly state: 'half-open'
      readonly openedAt: Instant
      readonly cause: Cause
    }
)

const NO_FAILURES: Failures = { waiting: 0, unreachable: 0 }

/**
 * A circuit without a reading. It refuses, because a wrong refusal costs less than a wrong admission.
 *
 * @param underWay the outage that was in progress when the previous process stopped. It continues; its cause continues only
 * if the first reading shows the same cause.
 */
export function startingCircuit(now: Instant, underWay?: OutageUnderWay): Circuit {
  // The clock of the earlier process may have been ahead of ours.
  const openedAt = Math.min(underWay?.openedAt ?? now, now)
  const circuit = {
    state: 'open',
    since: now,
    openedAt,
    judgedAt: underWay === undefined ? 0 : openedAt,
    cause: 'starting',
    failures: NO_FAILURES,
    failingSince: now,
    successes: 0,
  } as const
  if (underWay === undefined) return circuit
  const { cause, causeSince } = underWay
  return { ...circuit, resumed: { cause, causeSince: Math.max(openedAt, Math.min(causeSince, now)) } }
}

/** The circuit as it is sent in JSON: its state, since when, its cause, and the start of the outage it is part of. */
export function circuitAsJson(circuit: Circuit) {
  const { state, since } = circuit
  const isClosed = circuit.state === 'closed'
  return {
    state,
    since: rfc3339(since),
    cause: isClosed ? null : circuit.cause,
    outageStartedAt: isClosed ? null : rfc3339(circuit.openedAt),
  }
}

/**
 * The circuit after one more reading. A reading older than the newest one known changes nothing.
 *
 * Only readings move a circuit: there is no step for the passing of time.
 */
export function step(
  circuit: Circuit,
  reading: Reading,
  thresholds: Thresholds,
  recovery: Recovery,
): Circuit {
  if (reading.at < circuit.judgedAt) return circuit
  return reading.kind === 'ready'
    ? afterReady(circuit, reading.at, thresholds, recovery)
    : afterFailure(circuit, reading.at, reading.kind, opensAt(reading, thresholds))
}

/** The number of such readings that open the circuit. One is enough when focus-server itself reports the missing fiber. */
function opensAt(
  { kind, source }: Reading & { readonly kind: FailedReadingKind },
  thresholds: Thresholds,
): number {
  return kind === 'waiting' && source === 'configure' ? 1 : thresholds[kind]
}

function afterReady(circuit: Circuit, at: Instant, thresholds: Thresholds, recovery: Recovery): Circuit {
  switch (circuit.state) {
    case 'closed':
      return { ...circuit, judgedAt: at, failures: NO_FAILURES }
    case 'half-open':
      return at - circuit.since >= recovery.rampMs ? closed(at) : { ...circuit, judgedAt: at }
    case 'open': {
      // No request was refused because of an outage before this start, so there is no initial burst of returning clients.
      if (circuit.cause === 'starting') return closed(at)
      const successes = circuit.successes + 1
      if (successes < thresholds.ready) return { ...circuit, judgedAt: at, failures: NO_FAILURES, successes }
      if (recovery.rampMs === 0) return closed(at)
      return { state: 'half-open', since: at, judgedAt: at, openedAt: circuit.openedAt, cause: circuit.cause }
    }
  }
}

function afterFailure(circuit: Circuit, at: Instant, kind: FailedReadingKind, opensAt: number): Circuit {
  if (circuit.state === 'half-open') {
    return opened(at, kind, circuit.openedAt)
  }
  if (circuit.state === 'closed') {
    const failures = oneMore(circuit.failures, kind)
    return failures[kind] < opensAt ? { ...circuit, judgedAt: at, failures } : opened(at, kind, at)
  }
  if (circuit.cause === 'starting') {
    // Without an earlier reading, this one starts the outage.
    const openedAt = circuit.judgedAt === 0 ? at : circuit.openedAt
    const isSame = circuit.resumed?.cause === kind
    return { ...opened(at, kind, openedAt), since: isSame ? circuit.resumed.causeSince : at }
  }
  // A closed circuit counts each kind since the last ready reading, so alternating kinds open it too. In an open circuit,
  // only consecutive readings of one kind change the cause, so that one slow probe is not a new cause.
  const failures = oneMore({ ...NO_FAILURES, [kind]: circuit.failures[kind] }, kind)
  const failingSince = failures[kind] === 1 ? at : circuit.failingSince
  const known = { ...circuit, judgedAt: at, failures, failingSince, successes: 0 }
  if (kind === circuit.cause || failures[kind] < opensAt) return known
  return { ...known, cause: kind, since: failingSince }
}

function opened(
  at: Instant,
  cause: FailedReadingKind,
  openedAt: Instant,
): Extract<Circuit, { state: 'open' }> {
  return {
    ...{ state: 'open', since: at, judgedAt: at, openedAt, cause, successes: 0 },
    failures: oneMore(NO_FAILURES, cause),
    failingSince: at,
  }
}

function closed(at: Instant): Circuit {
  return { state: 'closed', since: at, judgedAt: at, failures: NO_FAILURES }
}

function oneMore(failures: Failures, kind: FailedReadingKind): Failures {
  return { ...failures, [kind]: failures[kind] + 1 }
}
