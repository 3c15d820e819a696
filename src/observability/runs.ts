import type { Breaker } from '../breaker/breaker.js'
import type { Instant } from '../domain/time.js'
import type { ExchangeEvents } from './exchange-events.js'
import { LeastSeenFirst } from './least-seen-first.js'

/** The requests of one test run, and the times of the first and the last. */
export type Run = {
  readonly forwarded: number
  readonly refused: number
  readonly first: Instant
  readonly last: Instant
}

/** How many test runs are remembered. Anyone can invent one, so those that were seen once are dropped first. */
const MAX_RUNS = 1000

/** Counts the requests of each test run, by the name that they send in `X-Test-Run`. */
export class Runs {
  readonly #clock: () => Instant
  readonly #runs = new LeastSeenFirst<Run>(MAX_RUNS)

  constructor(clock: () => Instant) {
    this.#clock = clock
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('refused', ({ client, enforced }) => {
      if (enforced && client.run !== undefined) this.#count(client.run, 'refused')
    })
  }

  /** The test run of this name; undefined when it is unknown or dropped. */
  get(name: string): Run | undefined {
    return this.#runs.get(name)
  }

  /** Begins to listen to the requests of focus-server. */
  attachToExchanges(exchanges: ExchangeEvents): void {
    exchanges.on('forwarded', run => {
      if (run !== undefined) this.forwarded(run)
    })
  }

  /** Counts a forwarded request of a test run. */
  forwarded(name: string): void {
    this.#count(name, 'forwarded')
  }

  #count(name: string, what: 'forwarded' | 'refused'): void {
    const at = this.#clock()
    const run = this.#runs.get(name) ?? { forwarded: 0, refused: 0, first: at, last: at }
    this.#runs.see(name, { ...run, [what]: run[what] + 1, last: at })
  }
}
