import Type, { type Static } from 'typebox'
import type { OutageChange, OutageDetail } from '../domain/outage-detail.js'
import { type RefusalCounts, topOf } from '../domain/refusal-counts.js'
import { rfc3339 } from '../domain/time.js'
import { CAUSES, CIRCUIT_STATES } from '../domain/vocabulary.js'
import { Nullable, ReadingRecord, readingAsJson, readingFromJson, Timestamp } from './record.js'

const Count = Type.Integer({ minimum: 0 })

/** Refusals as JSON, in the history file and in responses. */
export const CountsRecord = Type.Object({ refused: Count, wouldRefuse: Count })

/** The refusals of a client as JSON, in the history file and in responses. */
export const ClientRecord = Type.Object({
  address: Type.String(),
  userAgent: Type.String(),
  refused: Count,
  wouldRefuse: Count,
  first: Timestamp,
  last: Timestamp,
})

/** The refusals of a test run as JSON, in the history file and in responses. */
export const RunRecord = Type.Object({ run: Type.String(), refused: Count, wouldRefuse: Count })

/** A change during an outage as JSON, in the history file and in responses. */
export const ChangeRecord = Type.Object({
  at: Timestamp,
  state: Nullable(Type.Enum(CIRCUIT_STATES)),
  cause: Nullable(Type.Enum(CAUSES)),
  reading: Nullable(ReadingRecord),
})

/** A request that was let in, as JSON, in the history file and in responses. */
export const LetInRecord = Type.Object({
  at: Timestamp,
  address: Type.String(),
  userAgent: Type.String(),
  run: Nullable(Type.String()),
  operation: Type.String(),
})

/** What happened inside an outage, in the history file. */
export const DetailRecord = Type.Object({
  changes: Type.Array(ChangeRecord),
  omittedChanges: Count,
  /** `spanMinutes` as text: it is no count. `counts` is by the minute since the epoch. */
  minutes: Type.Object({
    spanMinutes: Type.String({ pattern: '^[1-9][0-9]{0,8}$' }),
    counts: Type.Record(Type.String({ pattern: '^[0-9]{1,9}$' }), CountsRecord),
  }),
  clients: Type.Array(ClientRecord),
  otherClients: CountsRecord,
  runs: Type.Array(RunRecord),
  otherRuns: CountsRecord,
  withoutRun: CountsRecord,
  letIn: Type.Array(LetInRecord),
  letInTotal: Count,
})

/** The record of a detail: only the clients and test runs that are listed, and the sums of the others. */
export function detailAsJson(detail: OutageDetail): Static<typeof DetailRecord> {
  const { omittedChanges, minutes, withoutRun, letInTotal } = detail
  const [clients, runs] = [topOf(detail.clients), topOf(detail.runs)]
  return {
    changes: detail.changes.map(changeAsJson),
    omittedChanges,
    minutes: {
      spanMinutes: String(minutes.spanMinutes),
      counts: Object.fromEntries(minutes.counts.map(each => [String(each.minute), countsOf(each)])),
    },
    clients: clients.items.map(clientAsJson),
    otherClients: clients.others,
    runs: [...runs.items],
    otherRuns: runs.others,
    withoutRun,
    letIn: detail.letIn.map(letInAsJson),
    letInTotal,
  }
}

/** The detail of a record. */
export function detailFromJson(record: Static<typeof DetailRecord>): OutageDetail {
  const { omittedChanges, minutes, withoutRun, letInTotal } = record
  return {
    changes: record.changes.map(change => ({
      ...change,
      at: Date.parse(change.at),
      reading: change.reading && readingFromJson(change.reading),
    })),
    omittedChanges,
    minutes: {
      spanMinutes: Number(minutes.spanMinutes),
      // JavaScript lists such names in the order of their numbers.
      counts: Object.entries(minutes.counts).map(([minute, counts]) => ({
        ...counts,
        minute: Number(minute),
      })),
    },
    clients: { items: record.clients.map(clientFromJson), others: record.otherClients },
    runs: { items: record.runs, others: record.otherRuns },
    withoutRun,
    letIn: record.letIn.map(each => ({ ...each, at: Date.parse(each.at) })),
    letInTotal,
  }
}

/** A change as JSON. */
export function changeAsJson({ at, state, cause, reading }: OutageChange): Static<typeof ChangeRecord> {
  return { at: rfc3339(at), state, cause, reading: reading && readingAsJson(reading) }
}

/** A request that was let in, as JSON. */
export function letInAsJson(letIn: OutageDetail['letIn'][number]): Static<typeof LetInRecord> {
  return { ...letIn, at: rfc3339(letIn.at) }
}

/** The refusals of a client as JSON. */
export function clientAsJson(client: OutageDetail['clients']['items'][number]): Static<typeof ClientRecord> {
  return { ...client, first: rfc3339(client.first), last: rfc3339(client.last) }
}

/** The refusals of a client of JSON. */
export function clientFromJson(
  record: Static<typeof ClientRecord>,
): OutageDetail['clients']['items'][number] {
  return { ...record, first: Date.parse(record.first), last: Date.parse(record.last) }
}

function countsOf({ refused, wouldRefuse }: RefusalCounts): RefusalCounts {
  return { refused, wouldRefuse }
}
