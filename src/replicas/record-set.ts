import type Type from 'typebox'
import type { Static } from 'typebox'
import { Compile } from 'typebox/compile'
import type { Instant } from '../domain/time.js'
import { RefusedClientRecord } from '../observability/client-log.js'
import { MinuteRecord, StateRecord } from '../observability/recent-hours.js'
import { TestRunRecord } from '../observability/runs.js'
import { TotalsRecord } from '../observability/totals.js'
import { BucketRecord } from '../outages/bucket-record.js'
import { LastingRecord } from '../outages/buckets.js'
import { DetailRecord } from '../outages/detail-record.js'
import { LifetimeRecord } from '../outages/lifetime.js'
import { PastOverrideRecord } from '../outages/override-log.js'
import { OutageRecord, UnreachablePeriodRecord } from '../outages/record.js'
import { inspect } from '../outages/unknown-members.js'

/** The kinds of records that replicas share, named as by the keepers. The override in force is shared through the log. */
export const SHARED_RECORDS = {
  outage: OutageRecord,
  unreachable: UnreachablePeriodRecord,
  detail: DetailRecord,
  hour: BucketRecord,
  day: BucketRecord,
  lasting: LastingRecord,
  override: PastOverrideRecord,
  client: RefusedClientRecord,
  run: TestRunRecord,
  totals: TotalsRecord,
  state: StateRecord,
  minute: MinuteRecord,
  alive: LifetimeRecord,
} as const

/** A kind of record that replicas share. */
export type SharedKind = keyof typeof SHARED_RECORDS

/** A record of a kind. */
export type SharedRecord<Kind extends SharedKind> = Static<(typeof SHARED_RECORDS)[Kind]>

/** Records by kind and key, oldest first. */
export type Records = { readonly [Kind in SharedKind]: ReadonlyMap<string, SharedRecord<Kind>> }

/**
 * The records of one process or, with a history file, of all processes that wrote this file one after the other. The
 * id stays with the records, so nothing is counted twice after a restart.
 */
export type RecordSet = {
  readonly id: string
  /** The name of its replica. */
  readonly replica: string
  readonly records: Records
}

/** The names of all kinds. */
export const SHARED_KINDS: readonly SharedKind[] = [
  ...(['outage', 'unreachable', 'detail', 'hour', 'day', 'lasting', 'override'] as const),
  ...(['client', 'run', 'totals', 'state', 'minute', 'alive'] as const),
]

/** A set that has not been updated for longer than this belongs to a process that has ended or cannot reach the others. */
const SILENT_MS = 30_000

/** When the process of a set last updated it. -Infinity if that is not known yet. */
export function knownUntil({ records }: RecordSet): Instant {
  const [alive] = records.alive.values()
  return alive === undefined ? Number.NEGATIVE_INFINITY : Date.parse(alive.at)
}

/** Whether the process of the set is running, as far as is known. */
export function isLive(set: RecordSet, now: Instant): boolean {
  return now - knownUntil(set) <= SILENT_MS
}

/** A table of records: those of this process, or those read from another one. */
export class RecordTable {
  readonly #byKind = emptyTable()

  /** A live view of the records. */
  get records(): Records {
    return this.#byKind
  }

  /** Sets a record, or removes it if it is undefined. False if the kind is not shared or the record is malformed. */
  set(kind: string, key: string, record: unknown): boolean {
    const known = SHARED_KINDS.find(each => each === kind)
    if (known === undefined) return false
    if (record === undefined) {
      this.#byKind[known].delete(key)
      return true
    }
    return CHECKED_SETTERS[known](this.#byKind, key, record)
  }
}

type Table = { readonly [Kind in SharedKind]: Map<string, SharedRecord<Kind>> }

function emptyTable(): Table {
  return {
    outage: new Map(),
    unreachable: new Map(),
    detail: new Map(),
    hour: new Map(),
    day: new Map(),
    lasting: new Map(),
    override: new Map(),
    client: new Map(),
    run: new Map(),
    totals: new Map(),
    state: new Map(),
    minute: new Map(),
    alive: new Map(),
  }
}

type Setter = (table: Table, key: string, record: unknown) => boolean

/** Sets a record of one kind if it is well-formed and its times can be parsed. */
const CHECKED_SETTERS: Readonly<Record<SharedKind, Setter>> = {
  outage: setter(table => table.outage, SHARED_RECORDS.outage),
  unreachable: setter(table => table.unreachable, SHARED_RECORDS.unreachable),
  detail: setter(table => table.detail, SHARED_RECORDS.detail),
  hour: setter(table => table.hour, SHARED_RECORDS.hour),
  day: setter(table => table.day, SHARED_RECORDS.day),
  lasting: setter(table => table.lasting, SHARED_RECORDS.lasting),
  override: setter(table => table.override, SHARED_RECORDS.override),
  client: setter(table => table.client, SHARED_RECORDS.client),
  run: setter(table => table.run, SHARED_RECORDS.run),
  totals: setter(table => table.totals, SHARED_RECORDS.totals),
  state: setter(table => table.state, SHARED_RECORDS.state),
  minute: setter(table => table.minute, SHARED_RECORDS.minute),
  alive: setter(table => table.alive, SHARED_RECORDS.alive),
}

function setter<Schema extends Type.TObject>(
  of: (table: Table) => Map<string, Static<Schema>>,
  schema: Schema,
): Setter {
  const validator = Compile(schema)
  const isRecord = (value: unknown): value is Static<Schema> => validator.Check(value)
  return (table, key, record) => {
    if (!isRecord(record) || !inspect(schema, record).hasTimes) return false
    of(table).set(key, record)
    return true
  }
}
