import Type from 'typebox'
import { type Instant, rfc3339 } from '../domain/time.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import { Timestamp } from './record.js'

const KEY = 'alive'

/** Since when is counted, and until when a process ran, in the history file: one record. */
export const LifetimeRecord = Type.Object({
  /** When counting began. */
  since: Timestamp,
  /** When a process was last seen to run. */
  at: Timestamp,
})

/** Since when is counted, and whether that goes on after a restart: with `history.file`, while it can be written. */
export type CountedSpan = { readonly since: string; readonly kept: boolean }

/** Remembers since when is counted, and until when the last process ran. It is part of every write of the history file. */
export class Lifetime {
  readonly #store: Store
  readonly #changes: Changes
  readonly #startedAt: Instant
  #since: Instant
  #at: Instant
  #earlierEnd: Instant | undefined
  #isResumed = false

  constructor(startedAt: Instant, store: Store = IN_MEMORY) {
    this.#store = store
    this.#startedAt = startedAt
    this.#since = startedAt
    this.#at = startedAt
    const record = () => ({ since: rfc3339(this.#since), at: rfc3339(this.#at) })
    this.#changes = store.join({
      kind: KEY,
      schema: LifetimeRecord,
      maxBytes: 1024,
      records: () => [[KEY, record()]],
      record,
      resume: records => {
        const [, earlier] = records.at(-1) ?? []
        if (earlier === undefined) return
        this.#since = Math.min(Date.parse(earlier.since), this.#startedAt)
        // While another process runs, this one is not the next.
        const isFirstTime = !this.#isResumed
        this.#isResumed = true
        if (!isFirstTime || store.isInUse) return
        this.#earlierEnd = Math.max(this.#since, Math.min(Date.parse(earlier.at), this.#startedAt))
      },
      beforeWrite: now => {
        this.#at = now
        this.#changes.changed(KEY)
      },
    })
  }

  /** Since when everything is counted: the start of this process, or of the first one that kept this history. */
  get since(): Instant {
    return this.#since
  }

  /** The same for responses; and whether it is kept, so that it goes on after a restart. */
  get span(): CountedSpan {
    return { since: rfc3339(this.#since), kept: this.#store.isKeeping }
  }

  /** Until when the last process ran, as far as is known; undefined without one. */
  get earlierEnd(): Instant | undefined {
    return this.#earlierEnd
  }
}
