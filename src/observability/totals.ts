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

/** How many requests and probes there were, in earlier processes too with a history file. */
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
  readonly #changes: Changes
  /** The counts as they were last reported as changed. */
  #kept = ''

  constructor(store: Store = IN_MEMORY) {
    this.#changes = store.join({
      kind: 'totals',
      schema: TotalsRecord,
      maxBytes: 1024,
      records: () => [[KEY, this.counts()]],
      record: () => this.counts(),
      resume: records => this.#resume(records.at(-1)?.[1]),
      // Refusals are kept at once, with what else they change. The rest is kept with the next write.
      beforeWrite: () => {
        const counts = JSON.stringify(this.counts())
        if (counts !== this.#kept) this.#changes.changed(KEY)
        this.#kept = counts
      },
    })
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('refused', ({ enforced }) => {
      if (enforced) this.#refused += 1
      else this.#wouldRefuse += 1
      this.#changes.changed(KEY)
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

  #resume(record: Static<typeof TotalsRecord> | undefined): void {
    if (record === undefined) return
    this.#forwarded = record.forwarded
    this.#refused = record.refused
    this.#wouldRefuse = record.wouldRefuse
    this.#probes = record.probes
    this.#overloaded = record.overloaded
  }
}
