import type { Breaker } from '../breaker/breaker.js'
import type { ExchangeEvents } from './exchange-events.js'

/** How many requests and probes there were since the start. */
export type Counts = {
  readonly forwarded: number
  readonly refused: number
  /** Refusals that mode `observe` did not send. */
  readonly wouldRefuse: number
  readonly probes: number
  /** Requests that were rejected because the upstream queue was full or the wait in it too long. */
  readonly overloaded: number
}

/** Counts requests and probes for `/-/status`. Refusals come from the breaker; the rest is reported to it. */
export class Totals {
  #forwarded = 0
  #refused = 0
  #wouldRefuse = 0
  #probes = 0
  #overloaded = 0

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('refused', ({ enforced }) => {
      if (enforced) this.#refused += 1
      else this.#wouldRefuse += 1
    })
  }

  /** The counts at this moment. */
  counts(): Counts {
    return {
      forwarded: this.#forwarded,
      refused: this.#refused,
      wouldRefuse: this.#wouldRefuse,
      probes: this.#probes,
      overloaded: this.#overloaded,
    }
  }

  /** Begins to listen to the requests of focus-server. */
  attachToExchanges(exchanges: ExchangeEvents): void {
    exchanges.on('forwarded', () => this.forwarded())
    exchanges.on('overloaded', () => this.overloaded())
  }

  /** Counts a request that was sent to the upstream. */
  forwarded(): void {
    this.#forwarded += 1
  }

  /** Counts a request that the upstream queue did not take, or did not release in time. */
  overloaded(): void {
    this.#overloaded += 1
  }

  /** Counts a probe. */
  probed(): void {
    this.#probes += 1
  }
}
