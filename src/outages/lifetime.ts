import Type from 'typebox'
import { type Instant, rfc3339 } from '../domain/time.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import { Timestamp } from './record.js'

const KEY = 'alive'

/** When counting began, and when a process was last running, in the history file: a single record. */
export const LifetimeRecord = Type.Object({
  /** When counting began. */
  since: Timestamp,
  /** When a process was last running. */
  at: Timestamp,
})

/** When counting began, and whether counts survive a restart: they do with `history.file`, while it can be written. */
export type CountedSpan = { readonly since: string; readonly kept: boolean }

/** Remembers when counting began, and when the last process ended. Its record is part of every write of the history file. */
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
        // While the other process is still running, it has no end yet.
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

  /** When counting began: at the start of this process, or of the first one that wrote this history file. */
  get since(): Instant {
    return this.#since
  }

  /** The same for responses, and whether counts survive a restart. */
  get span(): CountedSpan {
    return { since: rfc3339(this.#since), kept: this.#store.isKeeping }
  }

  /** The last known time at which the previous process was running; undefined if there was none. */
  get earlierEnd(): Instant | undefined {
    return this.#earlierEnd
  }
}
