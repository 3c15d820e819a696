import type { Breaker } from '../breaker/breaker.js'
import type { RefusedEvent } from '../breaker/events.js'
import { isSpared } from '../domain/outage.js'
import type { ClientRefusals, RefusalBatch, RunRefusals } from '../domain/refusal-counts.js'
import type { Instant } from '../domain/time.js'
import type { OutageLog } from './log.js'

/** Takes a batch. `isOfOutage` is false for refusals by an override and for refusals outside an outage. */
export type TakeBatch = (batch: RefusalBatch, isOfOutage: boolean) => void

/** The number of clients or test runs in a batch at which it is passed on. */
const MAX_DISTINCT = 500

const MINUTE_MS = 60_000

type Counts<Item> = { -readonly [Name in keyof Item]: Item[Name] }

/** The batch that is being filled. Its lists are maps, because a storm of refusals goes through them. */
type Filling = {
  readonly at: Instant
  readonly clients: Map<string, Map<string, Counts<ClientRefusals>>>
  readonly runs: Map<string, Counts<RunRefusals>>
  clientCount: number
  refused: number
  wouldRefuse: number
  spared: number
}

/**
 * Adds up refusals, so that keepers process many at a time. A batch lies within one minute, and `flush` passes it on
 * before anything changes or is read.
 */
export class RefusalBatches {
  readonly #clock: () => Instant
  readonly #outageLog: Pick<OutageLog, 'current'>
  readonly #takers: TakeBatch[] = []
  readonly #onBegun: (() => void)[] = []
  #ofOutage: Filling | undefined
  #ofNone: Filling | undefined

  constructor(clock: () => Instant, outageLog: Pick<OutageLog, 'current'>) {
    this.#clock = clock
    this.#outageLog = outageLog
  }

  /**
   * Starts listening to the breaker, before the parts that take the batches, so that a batch is passed on before a change.
   */
  attach(breaker: Breaker): void {
    breaker.on('refused', event => this.#add(event))
    for (const name of ['transition', 'cause', 'override'] as const) breaker.on(name, () => this.flush())
  }

  /** Passes each batch to `take` as well. `onBegun` is called when a new batch starts. */
  deliverTo(take: TakeBatch, onBegun?: () => void): void {
    this.#takers.push(take)
    if (onBegun !== undefined) this.#onBegun.push(onBegun)
  }

  /** Passes on what has been added so far. */
  flush(): void {
    const [ofOutage, ofNone] = [this.#ofOutage, this.#ofNone]
    this.#ofOutage = undefined
    this.#ofNone = undefined
    for (const take of this.#takers) {
      if (ofOutage !== undefined) take(batchOf(ofOutage), true)
      if (ofNone !== undefined) take(batchOf(ofNone), false)
    }
  }

  #add({ client, decision, enforced }: RefusedEvent): void {
    const now = this.#clock()
    const minute = Math.floor(now / MINUTE_MS)
    const begun = this.#ofOutage ?? this.#ofNone
    if (begun !== undefined && Math.floor(begun.at / MINUTE_MS) !== minute) this.flush()
    // A refusal by an override does not belong to the outage.
    const outage = decision.code === 'forced_open' ? undefined : this.#outageLog.current()
    const filling = this.#fillingFor(outage !== undefined, now)
    const what = enforced ? 'refused' : 'wouldRefuse'
    filling[what] += 1
    if (enforced && outage !== undefined && isSpared(outage, decision.code)) filling.spared += 1
    const known = countsOf(filling, client.address, client.userAgent, now)
    known[what] += 1
    known.last = now
    if (client.run !== undefined) {
      const run = filling.runs.get(client.run) ?? { run: client.run, refused: 0, wouldRefuse: 0 }
      filling.runs.set(client.run, run)
      run[what] += 1
    }
    if (filling.clientCount >= MAX_DISTINCT || filling.runs.size >= MAX_DISTINCT) this.flush()
  }

  #fillingFor(isOfOutage: boolean, now: Instant): Filling {
    const known = isOfOutage ? this.#ofOutage : this.#ofNone
    if (known !== undefined) return known
    const counts = { clientCount: 0, refused: 0, wouldRefuse: 0, spared: 0 }
    const filling = { at: now, clients: new Map(), runs: new Map(), ...counts }
    if (isOfOutage) this.#ofOutage = filling
    else this.#ofNone = filling
    for (const begun of this.#onBegun) begun()
    return filling
  }
}

function countsOf(
  filling: Filling,
  address: string,
  userAgent: string,
  now: Instant,
): Counts<ClientRefusals> {
  let agents = filling.clients.get(address)
  if (agents === undefined) {
    agents = new Map()
    filling.clients.set(address, agents)
  }
  const known = agents.get(userAgent)
  if (known !== undefined) return known
  // A copy, because a substring would keep the whole request head in memory.
  const agent = Buffer.from(userAgent).toString()
  const counts = { address, userAgent: agent, refused: 0, wouldRefuse: 0, first: now, last: now }
  agents.set(agent, counts)
  filling.clientCount += 1
  return counts
}

function batchOf({ at, clients, runs, refused, wouldRefuse, spared }: Filling): RefusalBatch {
  return {
    ...{ at, refused, wouldRefuse, spared },
    clients: [...clients.values()].flatMap(agents => [...agents.values()]),
    runs: [...runs.values()],
  }
}
