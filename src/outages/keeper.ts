import type Type from 'typebox'
import type { Static } from 'typebox'
import type { Instant } from '../domain/time.js'

/**
 * Something that remembers, and goes on over restarts: each of its records has a key, and stands in the history file
 * under the keeper's kind.
 *
 * How a keeper joins: it is a class whose constructor takes a `Store` and calls `store.join({ … })` once. `join` calls
 * `resume` before it returns, with what earlier processes left, and gives the `Changes` by which the keeper reports from
 * then on which of its records have changed. Nothing is written by the keeper itself: the store asks for the records of
 * all changed keys of all keepers, and writes them in one line, so numbers that belong together are on disk together.
 *
 * Rules:
 * - A record is plain JSON. Times in it are `Timestamp`s (RFC 3339); numbers are counts or lengths, and are added up when
 *   two processes have written to the same record, one after the other.
 * - A member that a later version adds is optional in the schema: records of earlier versions do not have it. Members
 *   that the schema does not know are kept in the file.
 * - A keeper bounds what it remembers. It reports a key that it forgets as changed; the record is then removed.
 * - A keeper attaches to the breaker before the store does (`assembly/observers`), so that one write holds a change whole.
 */
export type Keeper<Record extends Type.TObject> = {
  /** The name of its records in the file, such as `outage`. It is never changed, and no other keeper has it. */
  readonly kind: string
  readonly schema: Record
  /** How much of the file its records may take. The oldest are left out when it is written as a whole. */
  readonly maxBytes: number
  /** Everything that is remembered, the oldest first. */
  readonly records: () => Iterable<readonly [key: string, record: Static<Record>]>
  /** The record of a key as it is now; undefined when it is forgotten. */
  readonly record: (key: string) => Static<Record> | undefined
  /**
   * Forgets everything, and remembers these records, the oldest first. Called once by `join`, and once more when the file
   * could be taken over from another process: then the records are those of both.
   *
   * @param latest no time of a record should be later; the clock of an earlier process may have been ahead.
   */
  readonly resume: (
    records: readonly (readonly [key: string, record: Static<Record>])[],
    latest: Instant,
  ) => void
  /** Called before each write, so that the keeper can bring its records up to date, and report them as changed. */
  readonly beforeWrite?: (now: Instant) => void
}

/** By which a keeper reports that the record of a key is new, has changed, or is forgotten. */
export type Changes = {
  /** It is written within half a second (later when much changes), together with what else has changed until then. */
  readonly changed: (key: string) => void
  /** It is written before any listener of the breaker that reports hears of what changed it. */
  readonly changedNow: (key: string) => void
}

/** Where keepers join. */
export type Store = {
  /** Whether what is kept outlasts this process: false without a history file, and while it cannot be written. */
  readonly isKeeping: boolean
  /** Whether another process writes the history file, so that this one may not. */
  readonly isInUse: boolean
  readonly join: <Record extends Type.TObject>(keeper: Keeper<Record>) => Changes
}

/** The store without a history file: nothing outlasts the process. */
export const IN_MEMORY: Store = {
  isKeeping: false,
  isInUse: false,
  join: keeper => {
    keeper.resume([], Number.POSITIVE_INFINITY)
    return { changed: () => undefined, changedNow: () => undefined }
  },
}
