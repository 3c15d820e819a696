import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { type Changes, IN_MEMORY, type Store } from '../outages/keeper.js'
import { Timestamp } from '../outages/record.js'
import type { ExchangeEvents } from './exchange-events.js'
import { LeastSeenFirst } from './least-seen-first.js'

/** The requests of one test run, and the times of the first and last of them. */
export type Run = {
  readonly forwarded: number
  readonly refused: number
  /** The forwarded requests that mode `enforce` would have refused. */
  readonly wouldRefuse: number
  readonly first: Instant
  readonly last: Instant
}

/** How many test runs are remembered. Clients can invent names, so runs that were seen once are dropped first. */
const MAX_RUNS = 1000

/** The maximum size of the runs in the history file, in bytes. */
const MAX_BYTES = 524_288

/** The record of a test run in the history file. Its key is the name of the run. */
export const TestRunRecord = Type.Object({
  forwarded: Type.Integer({ minimum: 0 }),
  refused: Type.Integer({ minimum: 0 }),
  wouldRefuse: Type.Optional(Type.Integer({ minimum: 0 })),
  first: Timestamp,
  last: Timestamp,
})

/** Counts the requests of each test run, by the name in their `X-Test-Run` header. */
export class Runs {
  readonly #clock: () => Instant
  readonly #runs = new LeastSeenFirst<Run>(MAX_RUNS)

  /** Runs with forwarded requests since the last write. */
  readonly #forwardedSince = new Set<string>()
  readonly #changes: Changes

  constructor(clock: () => Instant, store: Store = IN_MEMORY) {
    this.#clock = clock
    this.#changes = store.join({
      kind: 'run',
      schema: TestRunRecord,
      maxBytes: MAX_BYTES,
      records: () => [...this.#runs.entries()].map(([name, run]) => [name, asRecord(run)] as const),
      record: name => {
        const run = this.#runs.get(name)
        return run && asRecord(run)
      },
      resume: (records, latest) => {
        this.#runs.clear()
        for (const [name, record] of records) {
          const run = fromRecord(record, latest)
          this.#runs.see(name, run, run.forwarded + run.refused)
        }
      },
      // Refusals are marked as changed at once, with everything else that they change. Other counts wait for the next
      // write.
      beforeWrite: () => {
        for (const name of this.#forwardedSince) this.#changes.changed(name)
        this.#forwardedSince.clear()
      },
    })
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('refused', ({ client, enforced }) => {
      if (client.run !== undefined) this.#count(client.run, enforced ? 'refused' : 'wouldRefuse')
    })
  }

  /** The test run of this name; undefined if it is unknown or was dropped. */
  get(name: string): Run | undefined {
    return this.#runs.get(name)
  }

  /** Starts listening to the requests that are forwarded to focus-server. */
  attachToExchanges(exchanges: ExchangeEvents): void {
    exchanges.on('forwarded', run => {
      if (run !== undefined) this.forwarded(run)
    })
  }

  /** Counts a forwarded request of a test run. */
  forwarded(name: string): void {
    this.#count(name, 'forwarded')
  }

  #count(name: string, what: 'forwarded' | 'refused' | 'wouldRefuse'): void {
    const at = this.#clock()
    const run = this.#runs.get(name) ?? { forwarded: 0, refused: 0, wouldRefuse: 0, first: at, last: at }
    const [forgotten] = this.#runs.see(name, { ...run, [what]: run[what] + 1, last: at }) ?? []
    if (what === 'forwarded') this.#forwardedSince.add(name)
    else this.#changes.changed(name)
    if (forgotten !== undefined) this.#changes.changed(forgotten)
  }
}

function asRecord({ first, last, ...counts }: Run): Static<typeof TestRunRecord> {
  return { ...counts, first: rfc3339(first), last: rfc3339(last) }
}

function fromRecord(record: Static<typeof TestRunRecord>, latest: Instant): Run {
  const { forwarded, refused, wouldRefuse = 0, first, last } = record
  const time = (text: string) => Math.min(Date.parse(text), latest)
  return { forwarded, refused, wouldRefuse, first: time(first), last: time(last) }
}
