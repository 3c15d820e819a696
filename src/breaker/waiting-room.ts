import type { Decision } from '../domain/decision.js'
import { givesWay } from '../domain/fair-share.js'
import type { Instant } from '../domain/time.js'
import type { Breaker } from './breaker.js'

/** What a waiting room goes by. */
export type WaitingRoomOptions = {
  readonly breaker: Breaker
  readonly clock: () => Instant
  /** How many may wait at a time. */
  readonly capacity: () => number
  /**
   * `by-place`: requests that go on from here, in the order in which they came, and only while fewer than `concurrency`
   * guarded requests are in flight.
   *
   * `at-random`: clients that only want to know, in no order, spread over some time.
   */
  readonly policy:
    | { readonly kind: 'by-place'; readonly concurrency: () => number }
    | { readonly kind: 'at-random'; readonly random: () => number }
}

/** Called once, with the decision of that moment. An admitted request has to be in flight before this returns. */
export type Released = (decision: Decision) => void

type Waiter = {
  readonly client: string
  readonly until: Instant
  /** False for a request that waits for a place only. */
  readonly needsFiber: boolean
  readonly released: Released
  /** Its index among the waiters, for the policy that takes any of them. */
  index: number
}

/** A waiter whose client is not told apart from others. */
const ANY_CLIENT = ''

/** How often the circuit and the ends of the waits are checked while anything waits. */
const TICK_MS = 50

/** How many waits that are over are answered with one tick: each response costs a part of a millisecond. */
const MAX_OVER_PER_TICK = 200

/** Waiters of `at-random` are released over a span that grows with their number, up to this. */
const SPREAD_PER_WAITER_MS = 20
const MAX_SPREAD_MS = 5000

/**
 * Requests that wait until the circuit admits them. They are released a few at a time, also when the circuit closes with
 * many waiting: the crowd must not fall on focus-server at once.
 *
 * No client can take the whole room. When it is full, a newcomer takes the place of the newest waiter of the client that
 * has the most, as soon as that is two more than the newcomer's client has; the one that gives way is released with the
 * decision of that moment.
 */
export class WaitingRoom {
  readonly #options: WaitingRoomOptions
  readonly #waiters = new Set<Waiter>()
  /** The same in no order, for `at-random`. */
  readonly #indexed: Waiter[] = []
  readonly #byClient = new Map<string, Set<Waiter>>()
  #timer: NodeJS.Timeout | undefined
  #isClosed = false
  /** How many `at-random` releases with one tick, as long as anything waits. */
  #perTick = 1

  constructor(options: WaitingRoomOptions) {
    this.#options = options
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
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
   * @param client the address that places are counted by.
   * @returns a function that leaves the room without being released, or undefined when there is no place.
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

  /** Releases everything that waits, and lets nothing in any more. */
  close(): void {
    this.#isClosed = true
    for (const waiter of [...this.#waiters]) this.#dismiss(waiter)
  }

  #tick(): void {
    const { policy } = this.#options
    // Who is admitted goes on, also at the end of its time.
    if (policy.kind === 'by-place') this.#release()
    this.#dismissOver()
    // The pace is set by those who still wait.
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
      // A reload to `observe` refuses and paces nothing.
      if (breaker.enforces && breaker.snapshot().inFlight >= concurrency) break
      if (!breaker.enforces || breaker.decide(waiter.needsFiber).admitted) this.#dismiss(waiter)
    }
  }

  #releaseAtRandom(random: () => number): void {
    const { breaker } = this.#options
    const decision = breaker.decide()
    // The pace is that of the crowd at the time of the recovery, not of a larger one whose time was over before.
    if (!decision.admitted && decision.code !== 'recovering') this.#perTick = 1
    if (!decision.admitted || this.size === 0) return
    const ticks = Math.ceil(Math.min(this.size * SPREAD_PER_WAITER_MS, MAX_SPREAD_MS) / TICK_MS)
    this.#perTick = Math.max(this.#perTick, Math.ceil(this.size / ticks))
    for (let count = 0; count < this.#perTick && breaker.decide().admitted; count += 1) {
      const waiter = this.#indexed[Math.floor(random() * this.size)]
      if (waiter !== undefined) this.#dismiss(waiter)
    }
  }

  /** Releases a waiter, at the end of its time too with what is decided then: a newcomer would pass as well. */
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
    // The last one takes the index that becomes free.
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
