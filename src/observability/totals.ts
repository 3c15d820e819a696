import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { type Changes, IN_MEMORY, type Store } from '../outages/keeper.js'
import type { ExchangeEvents } from './exchange-events.js'

const KEY = 'totals'

const Count = Type.Integer({ minimum: 0 })
/** The totals in the history file: one record. */
export const TotalsRecord = Type.Object({
  forwarded: Count,
  refused: Count,
  wouldRefuse: Count,
  probes: Count,
  overloaded: Count,
})

/** The number of requests and probes; with a history file, those of earlier processes are included. */
export type Counts = {
  readonly forwarded: number
  readonly refused: number
  /** Requests that only mode `observe` forwarded. */
  readonly wouldRefuse: number
  readonly probes: number
  /** Requests that were rejected because the upstream queue was full or the wait in it was too long. */
  readonly overloaded: number
}

/** Counts requests and probes for `/-/status`. Refusals come from the breaker; callers report the rest. */
export class Totals {
  #forwarded = 0
  #refused = 0
  #wouldRefuse = 0
  #probes = 0
  #overloaded = 0
  readonly #changes: Changes
  /** The counts at the last write, as JSON. */
  #kept = ''

  constructor(store: Store = IN_MEMORY) {
    this.#changes = store.join({
      kind: 'totals',
      schema: TotalsRecord,
      maxBytes: 1024,
      records: () => [[KEY, this.counts()]],
      record: () => this.counts(),
      resume: records => this.#resume(records.at(-1)?.[1]),
      // Refusals are marked as changed at once, with everything else that they change. Other counts wait for the next
      // write.
      beforeWrite: () => {
        const counts = JSON.stringify(this.counts())
        if (counts !== this.#kept) this.#changes.changed(KEY)
        this.#kept = counts
      },
    })
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('refused', ({ enforced }) => {
      if (enforced) this.#refused += 1
      else this.#wouldRefuse += 1
      this.#changes.changed(KEY)
    })
  }

  /** The current counts. */
  counts(): Counts {
    return {
      forwarded: this.#forwarded,
      refused: this.#refused,
      wouldRefuse: this.#wouldRefuse,
      probes: this.#probes,
      overloaded: this.#overloaded,
    }
  }

  /** Starts listening to the requests that are forwarded to focus-server. */
  attachToExchanges(exchanges: ExchangeEvents): void {
    exchanges.on('forwarded', () => this.forwarded())
    exchanges.on('overloaded', () => this.overloaded())
  }

  /** Counts a request that was sent to the upstream. */
  forwarded(): void {
    this.#forwarded += 1
  }

  /** Counts a request that was rejected because the upstream queue was full or the wait in it was too long. */
  overloaded(): void {
    this.#overloaded += 1
  }

  /** Counts a probe. */
  probed(): void {
    this.#probes += 1
  }

  #resume(record: Static<typeof TotalsRecord> | undefined): void {
    if (record === undefined) return
    this.#forwarded = record.forwarded
    this.#refused = record.refused
    this.#wouldRefuse = record.wouldRefuse
    this.#probes = record.probes
    this.#overloaded = record.overloaded
  }
}
