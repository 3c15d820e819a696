import type { Breaker } from '../breaker/breaker.js'
import type { Instant } from '../domain/time.js'
import type { Cause, CircuitState } from '../domain/vocabulary.js'

const MINUTE_MS = 60_000

/** How many minutes are remembered: six hours. */
const MINUTES = 360

/** The most states that are remembered, for a circuit that changes very often. */
const MAX_STATES = 1000

/** A state that the circuit entered at `from`. `cause` is null when it is closed. */
export type PastState = {
  readonly from: Instant
  readonly state: CircuitState
  readonly cause: Cause | null
}

/** How many guarded requests were refused in the minute that starts at `minute`. */
export type RefusedMinute = { readonly minute: Instant; readonly count: number }

/** The recent hours. Both lists are oldest first. */
export type RecentPast = {
  /** The start of the process, or six hours before `to`. */
  readonly from: Instant
  readonly to: Instant
  /** The state at `from`, and each later one. */
  readonly states: readonly PastState[]
  /** Only minutes with refusals. */
  readonly refused: readonly RefusedMinute[]
}

/** Remembers the states of the circuit and the refusals per minute of the last six hours. */
export class RecentHours {
  readonly #breaker: Breaker
  readonly #clock: () => Instant
  readonly #startedAt: Instant
  #states: PastState[]
  /** The count of each minute since the epoch. */
  readonly #refused = new Map<number, number>()

  constructor(breaker: Breaker, clock: () => Instant) {
    this.#breaker = breaker
    this.#clock = clock
    this.#startedAt = clock()
    this.#states = [this.#stateFrom(this.#startedAt)]
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    const add = ({ at }: { readonly at: Instant }) => {
      this.#states.push(this.#stateFrom(at))
      this.#forget(this.#clock() - MINUTES * MINUTE_MS)
    }
    breaker.on('transition', add)
    breaker.on('cause', add)
    breaker.on('refused', ({ enforced }) => {
      if (enforced) this.#countRefused()
    })
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
      refused: [...this.#refused].map(([minute, count]) => ({ minute: minute * MINUTE_MS, count })),
    }
  }

  #stateFrom(from: Instant): PastState {
    const { circuit } = this.#breaker.snapshot()
    return { from, state: circuit.state, cause: circuit.state === 'closed' ? null : circuit.cause }
  }

  #countRefused(): void {
    const now = this.#clock()
    const minute = Math.floor(now / MINUTE_MS)
    const count = this.#refused.get(minute)
    if (count === undefined) this.#forget(now - MINUTES * MINUTE_MS)
    this.#refused.set(minute, (count ?? 0) + 1)
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
