import { randomUUID } from 'node:crypto'
import Type from 'typebox'
import type { Instant } from '../domain/time.js'
import type { Changes, Keeper, Store } from '../outages/keeper.js'
import { type RecordSet, RecordTable, SHARED_KINDS, type SharedKind } from './record-set.js'

const KEY = 'set'

/** The id of the records in a history file, which identifies a set of records. */
const SetRecord = Type.Object({ id: Type.String({ pattern: '^[0-9a-f-]{36}$' }) })

/** A keeper without the type of its records. */
type Joined = {
  readonly records: () => Iterable<readonly [key: string, record: unknown]>
  readonly record: (key: string) => unknown
  readonly beforeWrite: ((now: Instant) => void) | undefined
}

/** A record that has changed; undefined if it was forgotten. */
export type ChangedRecord = readonly [kind: SharedKind, key: string, record: unknown]

/**
 * A store between the keepers and their actual store, which tracks changes for the other replicas.
 *
 * The set of records has an id that stays with the records: with a history file it is stored there, without one it is new
 * at each start. When the file is taken over from another process, its records and its id become ours.
 */
export class SharedStore implements Store {
  readonly #base: Store
  readonly #replica: string
  readonly #table = new RecordTable()
  readonly #joined = new Map<SharedKind, Joined>()
  /** Kinds whose records all have to be read. */
  readonly #toRead = new Set<SharedKind>()
  readonly #changed = new Map<SharedKind, Set<string>>()
  /** Keys that keepers reported during `changes`, and that have not been passed on to the base yet. */
  readonly #toHandOn = new Map<Changes, Set<string>>()
  readonly #versions = new Map<SharedKind, number>()
  #isBringingUpToDate = false
  #id: string = randomUUID()

  constructor(base: Store, replica: string) {
    this.#base = base
    this.#replica = replica
    let isNew = true
    const noteId = (of: Changes | undefined) => {
      // While another process writes the file, the id in it belongs to that process.
      if (isNew && !base.isInUse) of?.changedNow(KEY)
    }
    let changes: Changes | undefined
    changes = base.join({
      kind: KEY,
      schema: SetRecord,
      maxBytes: 1024,
      records: () => [[KEY, { id: this.#id }]],
      record: () => ({ id: this.#id }),
      resume: records => {
        const id = records.at(-1)?.[1].id
        isNew = id === undefined
        this.#id = id ?? this.#id
        noteId(changes)
      },
    })
    noteId(changes)
  }

  get isKeeping(): boolean {
    return this.#base.isKeeping
  }

  get isInUse(): boolean {
    return this.#base.isInUse
  }

  join<Record extends Type.TObject>(keeper: Keeper<Record>): Changes {
    const kind = SHARED_KINDS.find(each => each === keeper.kind)
    if (kind === undefined) return this.#base.join(keeper)
    const { records, record, beforeWrite } = keeper
    this.#joined.set(kind, { records, record, beforeWrite })
    const changes = this.#base.join({
      ...keeper,
      resume: (earlier, latest) => {
        keeper.resume(earlier, latest)
        this.#toRead.add(kind)
      },
      beforeWrite: now => {
        beforeWrite?.(now)
        this.#handOn()
      },
    })
    const changed = new Set<string>()
    this.#changed.set(kind, changed)
    const toHandOn = new Set<string>()
    this.#toHandOn.set(changes, toHandOn)
    return {
      changed: key => {
        changed.add(key)
        if (this.#isBringingUpToDate) toHandOn.add(key)
        else changes.changed(key)
      },
      changedNow: key => {
        changed.add(key)
        changes.changedNow(key)
      },
    }
  }

  /** The records of this process, as of the last `changes`. */
  get own(): RecordSet {
    return { id: this.#id, replica: this.#replica, records: this.#table.records }
  }

  /** Counts the changes of records of these kinds. */
  version(kinds: readonly SharedKind[]): number {
    return kinds.reduce((sum, kind) => sum + (this.#versions.get(kind) ?? 0), 0)
  }

  /** Updates `own`, and returns the records that have changed since the last call. */
  changes(now: Instant): readonly ChangedRecord[] {
    // This does not make the base write: it writes on its own schedule, and asks the keepers again before that.
    this.#isBringingUpToDate = true
    for (const { beforeWrite } of this.#joined.values()) beforeWrite?.(now)
    this.#isBringingUpToDate = false
    for (const kind of this.#toRead) {
      const changed = this.#changed.get(kind)
      for (const key of this.#table.records[kind].keys()) changed?.add(key)
      for (const [key] of this.#joined.get(kind)?.records() ?? []) changed?.add(key)
    }
    this.#toRead.clear()
    const changes: ChangedRecord[] = []
    for (const [kind, keys] of this.#changed) {
      for (const key of keys) {
        const record = this.#joined.get(kind)?.record(key)
        this.#table.set(kind, key, record)
        changes.push([kind, key, record])
      }
      if (keys.size > 0) this.#versions.set(kind, (this.#versions.get(kind) ?? 0) + 1)
      keys.clear()
    }
    return changes
  }

  #handOn(): void {
    for (const [changes, keys] of this.#toHandOn) {
      for (const key of keys) changes.changed(key)
      keys.clear()
    }
  }
}
