import type { Decision } from '../domain/decision.js'
import type { Instant } from '../domain/time.js'
import type { Breaker } from './breaker.js'

/** What a waiting room goes by. */
export type WaitingRoomOptions = {
  readonly breaker: Breaker
  readonly clock: () => Instant
  /** How many may wait at a time. */
  readonly capacity: () => number
  /** How many guarded requests may be in flight for the next one to be released. */
  readonly concurrency: () => number
}

type Waiter = {
  readonly until: Instant
  /** False for a request that waits for a place alone. */
  readonly needsFiber: boolean
  readonly released: (decision: Decision) => void
}

/** How often the ramp and the ends of patience are looked at while anybody waits. */
const TICK_MS = 50

/**
 * Requests that wait until the circuit admits them, in the order in which they came.
 *
 * They are let go one by one as places become free, also when the circuit closes with many waiting: the
 * crowd must not fall on focus-server at once.
 */
export class WaitingRoom {
  readonly #options: WaitingRoomOptions
  readonly #waiters = new Set<Waiter>()
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(options: WaitingRoomOptions) {
    this.#options = options
    const { breaker } = options
    for (const event of ['transition', 'override', 'freed'] as const) breaker.on(event, () => this.#release())
  }

  /** How many wait. */
  get size(): number {
    return this.#waiters.size
  }

  /**
   * Waits for admission.
   *
   * @param needsFiber false for a historic job, which the circuit lets through.
   * @param waitMs the longest wait.
   * @param released is called once, with the decision of that moment: whoever is admitted has to begin the
   *   request before it returns.
   * @returns a function that leaves the room without being called, or undefined when the room is full.
   */
  enter(
    needsFiber: boolean,
    waitMs: number,
    released: (decision: Decision) => void,
  ): (() => void) | undefined {
    const { clock, capacity } = this.#options
    if (this.#isClosed || this.#waiters.size >= capacity()) return undefined
    const waiter: Waiter = { until: clock() + waitMs, needsFiber, released }
    this.#waiters.add(waiter)
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref()
    return () => this.#remove(waiter)
  }

  /** Sends everybody away, and lets nobody in any more. */
  close(): void {
    this.#isClosed = true
    for (const waiter of [...this.#waiters]) this.#dismiss(waiter)
  }

  #release(): void {
    const { breaker, concurrency } = this.#options
    for (const waiter of this.#waiters) {
      // A reload to `observe` refuses nobody, and paces nobody.
      if (breaker.enforces && breaker.snapshot().inFlight >= concurrency()) break
      if (!breaker.enforces || breaker.decide(waiter.needsFiber).admitted) this.#dismiss(waiter)
    }
  }

  #tick(): void {
    this.#release()
    const now = this.#options.clock()
    for (const waiter of this.#waiters) if (now >= waiter.until) this.#dismiss(waiter)
  }

  /** Lets go whoever is admitted now, also at the end of its patience: newcomers would pass as well. */
  #dismiss(waiter: Waiter): void {
    if (this.#remove(waiter)) waiter.released(this.#options.breaker.decide(waiter.needsFiber))
  }

  #remove(waiter: Waiter): boolean {
    const wasThere = this.#waiters.delete(waiter)
    if (this.#waiters.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
    }
    return wasThere
  }
}
