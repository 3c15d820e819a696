import type Type from 'typebox'
import type { Static } from 'typebox'
import type { Instant } from '../domain/time.js'

/**
 * A part of the program whose records survive restarts. Each record has a key, and is stored in the history file under the
 * keeper's kind.
 *
 * A keeper is a class whose constructor takes a `Store` and calls `store.join({ … })` once. `join` calls
 * `resume` before it returns, with what earlier processes left, and returns the `Changes` through which the keeper reports
 * which of its records have changed. The keeper writes nothing itself: the store asks for the records of
 * all changed keys of all keepers, and writes them in one line, so numbers that belong together are on disk together.
 *
 * Rules:
 * - A record is plain JSON. Times in it are `Timestamp`s (RFC 3339); numbers are counts or lengths, and are added up when
 *   two processes have written the same record, one after the other.
 * - A member that a later version adds is optional in the schema, because records of earlier versions do not have it. Members
 *   that the schema does not define are kept in the file.
 * - A keeper limits the number of its records. It reports a key that it forgets as changed; the record is then removed.
 * - A keeper attaches to the breaker before the store does (`assembly/observers`), so that one write contains the whole change.
 */
export type Keeper<Record extends Type.TObject> = {
  /** The name of its records in the file, such as `outage`. It is unique and must never change. */
  readonly kind: string
  readonly schema: Record
  /** The space that its records may take in the file. When the file is rewritten, the oldest are omitted. */
  readonly maxBytes: number
  /** Everything that is remembered, oldest first. */
  readonly records: () => Iterable<readonly [key: string, record: Static<Record>]>
  /** The current record of a key; undefined when it is forgotten. */
  readonly record: (key: string) => Static<Record> | undefined
  /**
   * Replaces everything that is remembered with these records, oldest first. Called once by `join`, and again when the file
   * is taken over from another process: the records are then those of both.
   *
   * @param latest the latest possible time of a record; the clock of an earlier process may have been ahead.
   */
  readonly resume: (
    records: readonly (readonly [key: string, record: Static<Record>])[],
    latest: Instant,
  ) => void
  /** Called before each write, so that the keeper can update its records and report them as changed. */
  readonly beforeWrite?: (now: Instant) => void
}

/** How a keeper reports that the record of a key is new, has changed, or is forgotten. */
export type Changes = {
  /** Writes the record within half a second (later if many records change), together with other changes until then. */
  readonly changed: (key: string) => void
  /** Writes the record before any reporting listener of the breaker is notified of the change. */
  readonly changedNow: (key: string) => void
}

/** The store that keepers join. */
export type Store = {
  /** Whether records outlast this process: false without a history file, and while it cannot be written. */
  readonly isKeeping: boolean
  /** Whether another process writes the history file, so that this one must not. */
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
