import type { Decision } from '../domain/decision.js'
import { givesWay } from '../domain/fair-share.js'
import type { Instant } from '../domain/time.js'
import type { Breaker } from './breaker.js'

/** The options of a waiting room. */
export type WaitingRoomOptions = {
  readonly breaker: Breaker
  readonly clock: () => Instant
  /** The number of requests that may wait at a time. */
  readonly capacity: () => number
  /**
   * `by-place`: requests that are forwarded after the wait are released in order of arrival, and only while fewer than
   * `concurrency` guarded requests are in flight.
   *
   * `at-random`: clients that only wait to be notified are released in random order, spread over some time.
   */
  readonly policy:
    | { readonly kind: 'by-place'; readonly concurrency: () => number }
    | { readonly kind: 'at-random'; readonly random: () => number }
}

/** Called once, with the decision at that moment. An admitted request must be in flight when this returns. */
export type Released = (decision: Decision) => void

type Waiter = {
  readonly client: string
  readonly until: Instant
  /** False for a request that waits only for a slot. */
  readonly needsFiber: boolean
  readonly released: Released
  /** Its index among the waiters, for the policy `at-random`. */
  index: number
}

/** The client of waiters for which clients are not distinguished. */
const ANY_CLIENT = ''

/** How often the circuit and the waiting times are checked while any request waits. */
const TICK_MS = 50

/** The number of expired waits that one tick ends: each response takes a fraction of a millisecond. */
const MAX_OVER_PER_TICK = 200

/** With `at-random`, waiters are released over a time that grows with their number, up to a maximum. */
const SPREAD_PER_WAITER_MS = 20
const MAX_SPREAD_MS = 5000

/**
 * Requests that wait until the circuit admits them. They are released a few at a time, even when the circuit closes
 * with many waiting: the waiting clients must not reach focus-server all at once.
 *
 * No client can take all places. When the room is full, a newcomer takes the place of the newest waiter of the client that
 * has the most, if that client has at least two more than the newcomer's. The waiter that gives up its place is released
 * with the decision at that moment.
 */
export class WaitingRoom {
  readonly #options: WaitingRoomOptions
  readonly #waiters = new Set<Waiter>()
  /** The same waiters in an array, for `at-random`. */
  readonly #indexed: Waiter[] = []
  readonly #byClient = new Map<string, Set<Waiter>>()
  #timer: NodeJS.Timeout | undefined
  #isClosed = false
  /** The number of waiters that `at-random` releases per tick. */
  #perTick = 1

  constructor(options: WaitingRoomOptions) {
    this.#options = options
  }

  /** Starts listening to the breaker. The breaker calls its listeners in the order in which they were attached. */
  attach(breaker: Breaker): void {
    for (const event of ['transition', 'override', 'freed'] as const) breaker.on(event, () => this.#release())
  }

  /** The number of waiting requests. */
  get size(): number {
    return this.#waiters.size
  }

  /**
   * Waits for admission.
   *
   * @param needsFiber false for a historic job, which the circuit does not refuse.
   * @param waitMs the maximum wait.
   * @param client the address by which places are counted.
   * @returns a function that leaves the room without being released, or undefined when the room is full.
   */
  enter(
    needsFiber: boolean,
    waitMs: number,
    released: Released,
    client = ANY_CLIENT,
  ): (() => void) | undefined {
    if (this.#isClosed) return undefined
    const { clock, capacity } = this.#options
    if (this.#waiters.size >= capacity() && !this.#makeRoom(client)) return undefined
    const index = this.#indexed.length
    const waiter: Waiter = { client, until: clock() + waitMs, needsFiber, released, index }
    this.#waiters.add(waiter)
    this.#indexed.push(waiter)
    const same = this.#byClient.get(client)
    if (same === undefined) this.#byClient.set(client, new Set([waiter]))
    else same.add(waiter)
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref()
    return () => this.#remove(waiter)
  }

  /** Releases all waiters and accepts no more. */
  close(): void {
    this.#isClosed = true
    for (const waiter of [...this.#waiters]) this.#dismiss(waiter)
  }

  #tick(): void {
    const { policy } = this.#options
    // Release first: a request that can be admitted is forwarded even if its waiting time ends now.
    if (policy.kind === 'by-place') this.#release()
    this.#dismissOver()
    // Last, because the pace depends on the number of requests that still wait.
    if (policy.kind === 'at-random') this.#releaseAtRandom(policy.random)
  }

  #dismissOver(): void {
    const now = this.#options.clock()
    let over = 0
    for (const waiter of this.#waiters) {
      if (now < waiter.until) continue
      this.#dismiss(waiter)
      over += 1
      if (over === MAX_OVER_PER_TICK) return
    }
  }

  #release(): void {
    const { policy } = this.#options
    if (policy.kind === 'by-place') this.#releaseByPlace(policy.concurrency())
  }

  #releaseByPlace(concurrency: number): void {
    const { breaker } = this.#options
    for (const waiter of this.#waiters) {
      // After a reload to `observe`, nothing is refused or paced.
      if (breaker.enforces && breaker.snapshot().inFlight >= concurrency) break
      if (!breaker.enforces || breaker.decide(waiter.needsFiber).admitted) this.#dismiss(waiter)
    }
  }

  #releaseAtRandom(random: () => number): void {
    const { breaker } = this.#options
    const decision = breaker.decide()
    // The pace depends on the number of waiting clients at the recovery, not on earlier ones whose wait has expired.
    if (!decision.admitted && decision.code !== 'recovering') this.#perTick = 1
    if (!decision.admitted || this.size === 0) return
    const ticks = Math.ceil(Math.min(this.size * SPREAD_PER_WAITER_MS, MAX_SPREAD_MS) / TICK_MS)
    this.#perTick = Math.max(this.#perTick, Math.ceil(this.size / ticks))
    for (let count = 0; count < this.#perTick && breaker.decide().admitted; count += 1) {
      const waiter = this.#indexed[Math.floor(random() * this.size)]
      if (waiter !== undefined) this.#dismiss(waiter)
    }
  }

  /**
   * Releases a waiter with the current decision, even if its time has expired: a new request would get the same one.
   */
  #dismiss(waiter: Waiter): void {
    if (this.#remove(waiter)) waiter.released(this.#options.breaker.decide(waiter.needsFiber))
  }

  #makeRoom(client: string): boolean {
    const other = givesWay(this.#byClient, client)
    const newest = other === undefined ? undefined : [...(this.#byClient.get(other) ?? [])].at(-1)
    if (newest === undefined) return false
    this.#dismiss(newest)
    return true
  }

  #remove(waiter: Waiter): boolean {
    if (!this.#waiters.delete(waiter)) return false
    const same = this.#byClient.get(waiter.client)
    same?.delete(waiter)
    if (same?.size === 0) this.#byClient.delete(waiter.client)
    // The last waiter moves to the free index.
    const last = this.#indexed.pop()
    if (last !== undefined && last !== waiter) {
      last.index = waiter.index
      this.#indexed[waiter.index] = last
    }
    if (this.#waiters.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
      this.#perTick = 1
    }
    return true
  }
}
