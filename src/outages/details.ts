import type { Static } from 'typebox'
import { Value } from 'typebox/value'
import type { Breaker } from '../breaker/breaker.js'
import type { Outage } from '../domain/outage.js'
import {
  correctedDetail,
  NO_DETAIL,
  type OutageChange,
  type OutageDetail,
  withChange,
  withLetIn,
  withRefusals,
} from '../domain/outage-detail.js'
import type { Instant } from '../domain/time.js'
import { DetailRecord, detailAsJson, detailFromJson } from './detail-record.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import type { OutageLog } from './log.js'
import { mergedRecord } from './merged-record.js'
import type { RefusalBatches } from './refusal-batches.js'

/** The number of outages whose details are remembered, and the space that these may take in the history file. */
const MAX_DETAILS = 1000
const MAX_DETAIL_BYTES = 4_194_304

/** `Client.request` ends with the length of the body, which is of no use to people. */
const LENGTH = / \d*$/

/** The options of outage details. */
export type OutageDetailsOptions = {
  readonly outageLog: OutageLog
  readonly batches: RefusalBatches
  /** When the previous process was last known to be running. */
  readonly stoppedAt: Instant | undefined
  readonly store?: Store
}

/**
 * Remembers what happened during the newest outages: changes, refusals, and the requests that were admitted again.
 *
 * It listens to the breaker after the outage log and after the batches, because it relies on their changes and counts.
 */
export class OutageDetails {
  readonly #outageLog: OutageLog
  readonly #batches: RefusalBatches
  readonly #changes: Changes
  /** By the key of the outage, oldest first. */
  #details = new Map<string, OutageDetail>()
  /** The key of the outage in progress. */
  #current: string | undefined

  constructor({ outageLog, batches, stoppedAt, store = IN_MEMORY }: OutageDetailsOptions) {
    this.#outageLog = outageLog
    this.#batches = batches
    this.#changes = store.join({
      kind: 'detail',
      schema: DetailRecord,
      maxBytes: MAX_DETAIL_BYTES,
      records: () => [...this.#details].map(([key, detail]) => [key, detailAsJson(detail)] as const),
      record: key => {
        const detail = this.#details.get(key)
        return detail && detailAsJson(detail)
      },
      resume: (records, latest) => {
        this.#details = new Map(
          this.#join(records)
            .slice(-MAX_DETAILS)
            .map(([key, record]) => [key, correctedDetail(detailFromJson(record), latest)]),
        )
        // The outage log has already resumed.
        this.#current = this.#currentKey()
      },
      beforeWrite: () => batches.flush(),
    })
    if (stoppedAt !== undefined) this.#stopped(stoppedAt)
    batches.deliverTo(
      (batch, isOfOutage) => {
        if (isOfOutage) this.#change(detail => withRefusals(detail, batch))
      },
      () => {
        // These counts are written together with those of the outage log.
        if (this.#current !== undefined) this.#changes.changed(this.#current)
      },
    )
  }

  /** Starts listening to the breaker. The breaker calls its listeners in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ at, to, cause, reading }) => {
      this.#changeState({ at, state: to, cause: to === 'closed' ? null : cause, reading })
    })
    breaker.on('cause', ({ at, since, from, to, reading }) => {
      // After a restart, the cause is older than this process.
      this.#changeState({ at: from === 'starting' ? at : since, state: 'open', cause: to, reading })
    })
    breaker.on('admitted', ({ at, client: { address, userAgent, run = null, request } }) => {
      const operation = request.replace(LENGTH, '')
      this.#change(detail => withLetIn(detail, { at, address, userAgent, run, operation }))
    })
  }

  /** The detail of an outage; undefined when it is not remembered. */
  of(outage: Outage): OutageDetail | undefined {
    this.#batches.flush()
    return this.#details.get(this.#outageLog.keyOf(outage))
  }

  /** Joins the same outages as the outage log: the counts of both processes are added up. */
  #join(
    records: readonly (readonly [string, Static<typeof DetailRecord>])[],
  ): readonly (readonly [string, Static<typeof DetailRecord>])[] {
    const all = new Map(records)
    for (const [key, theirKey] of this.#outageLog.joined) {
      const ours = all.get(key)
      if (ours === undefined) continue
      const both = mergedRecord(undefined, all.get(theirKey) ?? ours, ours)
      all.delete(key)
      all.set(theirKey, all.has(theirKey) && Value.Check(DetailRecord, both) ? both : ours)
      this.#changes.changed(theirKey)
    }
    return [...all]
  }

  /** Notes that the previous process stopped during the outage. */
  #stopped(at: Instant): void {
    const last = this.#details.get(this.#current ?? '')?.changes.at(-1)
    if (last === undefined || last.state === null) return
    this.#change(detail =>
      withChange(detail, { at: Math.max(at, last.at), state: null, cause: null, reading: null }),
    )
  }

  /** Adds a change to the outage in progress, or to the one that just started or ended: the outage log was notified first. */
  #changeState(change: OutageChange): void {
    const current = this.#currentKey()
    this.#current ??= current
    this.#change(detail => {
      const at = Math.max(change.at, detail.changes.at(-1)?.at ?? change.at)
      return withChange(detail, { ...change, at })
    })
    this.#current = current
  }

  #currentKey(): string | undefined {
    const current = this.#outageLog.current()
    return current && this.#outageLog.keyOf(current)
  }

  #change(next: (detail: OutageDetail) => OutageDetail): void {
    if (this.#current === undefined) return
    this.#details.set(this.#current, next(this.#details.get(this.#current) ?? NO_DETAIL))
    this.#changes.changed(this.#current)
    const [oldest] = this.#details.keys()
    if (this.#details.size <= MAX_DETAILS || oldest === undefined) return
    this.#details.delete(oldest)
    this.#changes.changed(oldest)
  }
}
