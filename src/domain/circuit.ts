import type { Reading } from './reading.js'
import type { Recovery } from './recovery.js'
import type { Instant } from './time.js'
import type { Cause, FailedReadingKind } from './vocabulary.js'

/** How many readings in a row change the state; each at least 1. */
export type Thresholds = {
  /** `waiting` readings that open a closed circuit. */
  readonly waiting: number
  /** `unreachable` readings that open a closed circuit. */
  readonly unreachable: number
  /** `ready` readings that start the recovery of an open one. */
  readonly ready: number
}

/** Failed readings since the last ready one, by kind. */
type Failures = Readonly<Record<FailedReadingKind, number>>

/**
 * The circuit, as plain data: it can be logged, compared in a test, and sent to another replica.
 *
 * `since` is when it entered its state, `openedAt` when its outage began (an outage lasts until the
 * circuit closes, however often its recovery failed), `judgedAt` the time of the newest reading it knows.
 */
export type Circuit = { readonly since: Instant; readonly judgedAt: Instant } & (
  | { readonly state: 'closed'; readonly failures: Failures }
  | {
      readonly state: 'open'
      readonly openedAt: Instant
      readonly cause: Cause
      readonly failures: Failures
      readonly successes: number
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
 * @param openSince the start of the outage that was under way when the last process stopped. Only the reading that
 * opened that outage is known.
 */
export function startingCircuit(now: Instant, openSince?: Instant): Circuit {
  // The clock of the earlier process may have been ahead of ours.
  const openedAt = Math.min(openSince ?? now, now)
  return {
    state: 'open',
    since: openedAt,
    openedAt,
    judgedAt: openSince === undefined ? 0 : openedAt,
    cause: 'starting',
    failures: NO_FAILURES,
    successes: 0,
  }
}

/**
 * The circuit after one more reading. A reading older than the newest one known changes nothing.
 *
 * Nothing but readings moves a circuit: there is no step for the passing of time.
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

/** How many such readings open the circuit. One is enough when focus-server itself reports the missing fiber. */
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
      // No request was refused for an outage before this start, so no crowd of clients returns at once.
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
    const failures = oneMore(NO_FAILURES, kind)
    return { ...circuit, state: 'open', since: at, judgedAt: at, cause: kind, failures, successes: 0 }
  }
  if (circuit.state === 'closed') {
    const failures = oneMore(circuit.failures, kind)
    if (failures[kind] < opensAt) return { ...circuit, judgedAt: at, failures }
    return { state: 'open', since: at, judgedAt: at, openedAt: at, cause: kind, failures, successes: 0 }
  }
  // A closed circuit counts each kind since the last ready reading, so alternating kinds open it too. In an open
  // circuit one slow probe is not a new cause: there, readings of one kind must follow each other.
  const failures = oneMore({ ...NO_FAILURES, [kind]: circuit.failures[kind] }, kind)
  if (circuit.cause === 'starting') {
    // Without an earlier reading the outage begins with this one.
    const openedAt = circuit.judgedAt === 0 ? at : circuit.openedAt
    return { ...circuit, judgedAt: at, openedAt, cause: kind, failures, successes: 0 }
  }
  const cause = failures[kind] >= opensAt ? kind : circuit.cause
  return { ...circuit, judgedAt: at, cause, failures, successes: 0 }
}

function closed(at: Instant): Circuit {
  return { state: 'closed', since: at, judgedAt: at, failures: NO_FAILURES }
}

function oneMore(failures: Failures, kind: FailedReadingKind): Failures {
  return { ...failures, [kind]: failures[kind] + 1 }
}
