import type { Breaker } from '../breaker/breaker.js'
import type { Instant } from '../domain/time.js'
import { inTimeline, type TimelineEntry, withCause } from '../domain/timeline.js'

const MINUTE_MS = 60_000

/** How many minutes are remembered: six hours. */
const MINUTES = 360

/** The most entries that are remembered, for a circuit that changes very often. */
const MAX_STATES = 1000

/**
 * How many guarded requests were refused in the minute that starts at `minute`, and how many mode `observe` forwarded
 * though they would have been.
 */
export type RefusedMinute = {
  readonly minute: Instant
  readonly refused: number
  readonly wouldRefuse: number
}

/** The recent hours. Both lists are oldest first. */
export type RecentPast = {
  /** The start of the process, or six hours before `to`. */
  readonly from: Instant
  readonly to: Instant
  /** What was in force at `from`, and each later change. */
  readonly states: readonly TimelineEntry[]
  /** Only minutes in which a request was refused or would have been. */
  readonly refused: readonly RefusedMinute[]
}

/** Remembers the states of the circuit, the overrides and the refusals per minute of the last six hours. */
export class RecentHours {
  readonly #breaker: Breaker
  readonly #clock: () => Instant
  readonly #startedAt: Instant
  #states: readonly TimelineEntry[]
  /** The counts of each minute since the epoch. */
  readonly #refused = new Map<number, Omit<RefusedMinute, 'minute'>>()

  constructor(breaker: Breaker, clock: () => Instant) {
    this.#breaker = breaker
    this.#clock = clock
    this.#startedAt = clock()
    this.#states = [this.#stateFrom(this.#startedAt)]
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ at }) => this.#add(at))
    breaker.on('cause', ({ since, to }) => {
      this.#states = withCause(this.#states, since, to)
    })
    breaker.on('override', ({ kind, override }) =>
      this.#add(kind === 'set' ? override.since : override.endedAt),
    )
    breaker.on('refused', ({ enforced }) => this.#countRefused(enforced))
  }

  /** What is remembered now. */
  past(): RecentPast {
    const to = this.#clock()
    const from = Math.max(this.#startedAt, to - MINUTES * MINUTE_MS)
    this.#forget(from)
    return {
      from,
      to,
      states: this.#states.map(state => ({ ...state, from: Math.max(from, state.from) })),
      refused: [...this.#refused].map(([minute, counts]) => ({ minute: minute * MINUTE_MS, ...counts })),
    }
  }

  #add(from: Instant): void {
    // A probe was sent, or an override ended, before a change that is known already: that is not undone.
    const entry = this.#stateFrom(Math.max(from, this.#states.at(-1)?.from ?? from))
    this.#states = [...this.#states.filter(({ from }) => from < entry.from), entry]
    this.#forget(this.#clock() - MINUTES * MINUTE_MS)
  }

  #stateFrom(from: Instant): TimelineEntry {
    const { circuit, override } = this.#breaker.snapshot()
    return {
      from,
      state: circuit.state,
      cause: circuit.state === 'closed' ? null : circuit.cause,
      override: inTimeline(override),
    }
  }

  #countRefused(enforced: boolean): void {
    const now = this.#clock()
    const minute = Math.floor(now / MINUTE_MS)
    const counts = this.#refused.get(minute)
    if (counts === undefined) this.#forget(now - MINUTES * MINUTE_MS)
    const { refused, wouldRefuse } = counts ?? { refused: 0, wouldRefuse: 0 }
    this.#refused.set(
      minute,
      enforced ? { refused: refused + 1, wouldRefuse } : { refused, wouldRefuse: wouldRefuse + 1 },
    )
  }

  #forget(before: Instant): void {
    for (const minute of this.#refused.keys()) {
      if ((minute + 1) * MINUTE_MS <= before) this.#refused.delete(minute)
    }
    // The last state from before that moment was in force at it, so it stays.
    const first = this.#states.findLastIndex(({ from }) => from <= before)
    this.#states = this.#states.slice(Math.max(0, first, this.#states.length - MAX_STATES))
  }
}
