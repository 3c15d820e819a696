import Type, { type Static } from 'typebox'
import type { OutageChange, OutageDetail } from '../domain/outage-detail.js'
import { addClients, addRuns, type RefusalCounts, topOf } from '../domain/refusal-counts.js'
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

/**
 * Clients by address and user agent, and test runs by name, in the history file. They are maps so that the counts of two
 * processes can be added up.
 */
export const TallyRecords = {
  clients: Type.Record(
    Type.String(),
    Type.Object({ refused: Count, wouldRefuse: Count, first: Timestamp, last: Timestamp }),
  ),
  otherClients: CountsRecord,
  runs: Type.Record(Type.String(), CountsRecord),
  otherRuns: CountsRecord,
  withoutRun: CountsRecord,
}

const Tallies = Type.Object(TallyRecords)

/** Refusals by client and by test run, in an outage or a bucket. */
type TalliesOf = Pick<OutageDetail, 'clients' | 'runs' | 'withoutRun'>

/** A change during an outage as JSON, in the history file and in responses. */
export const ChangeRecord = Type.Object({
  at: Timestamp,
  state: Nullable(Type.Enum(CIRCUIT_STATES)),
  cause: Nullable(Type.Enum(CAUSES)),
  reading: Nullable(ReadingRecord),
})

/** A request that was admitted during the recovery, as JSON, in the history file and in responses. */
export const LetInRecord = Type.Object({
  at: Timestamp,
  address: Type.String(),
  userAgent: Type.String(),
  run: Nullable(Type.String()),
  operation: Type.String(),
})

/** What happened during an outage, in the history file. */
export const DetailRecord = Type.Object({
  changes: Type.Array(ChangeRecord),
  omittedChanges: Count,
  /** `spanMinutes` is text because numbers are added up as counts. `counts` is keyed by the minute since the epoch. */
  minutes: Type.Object({
    spanMinutes: Type.String({ pattern: '^[1-9][0-9]{0,8}$' }),
    counts: Type.Record(Type.String({ pattern: '^[0-9]{1,9}$' }), CountsRecord),
  }),
  ...TallyRecords,
  letIn: Type.Array(LetInRecord),
  letInTotal: Count,
})

/** The record of a detail. It lists only the top clients and test runs, and the sums of the others. */
export function detailAsJson(detail: OutageDetail): Static<typeof DetailRecord> {
  const { omittedChanges, minutes, letInTotal } = detail
  return {
    changes: detail.changes.map(changeAsJson),
    omittedChanges,
    minutes: {
      spanMinutes: String(minutes.spanMinutes),
      counts: Object.fromEntries(minutes.counts.map(each => [String(each.minute), countsOf(each)])),
    },
    ...talliesAsJson(detail),
    letIn: detail.letIn.map(letInAsJson),
    letInTotal,
  }
}

/** The detail of a record. */
export function detailFromJson(record: Static<typeof DetailRecord>): OutageDetail {
  const { omittedChanges, minutes, letInTotal } = record
  return {
    changes: record.changes.map(change => ({
      ...change,
      at: Date.parse(change.at),
      reading: change.reading && readingFromJson(change.reading),
    })),
    omittedChanges,
    minutes: {
      spanMinutes: Number(minutes.spanMinutes),
      // JavaScript lists integer keys in numeric order.
      counts: Object.entries(minutes.counts).map(([minute, counts]) => ({
        ...counts,
        minute: Number(minute),
      })),
    },
    ...talliesFromJson(record),
    letIn: record.letIn.map(each => ({ ...each, at: Date.parse(each.at) })),
    letInTotal,
  }
}

/** A change as JSON. */
export function changeAsJson({ at, state, cause, reading }: OutageChange): Static<typeof ChangeRecord> {
  return { at: rfc3339(at), state, cause, reading: reading && readingAsJson(reading) }
}

/** A request that was admitted during the recovery, as JSON. */
export function letInAsJson(letIn: OutageDetail['letIn'][number]): Static<typeof LetInRecord> {
  return { ...letIn, at: rfc3339(letIn.at) }
}

/** The refusals of a client as JSON. */
export function clientAsJson(client: OutageDetail['clients']['items'][number]): Static<typeof ClientRecord> {
  return { ...client, first: rfc3339(client.first), last: rfc3339(client.last) }
}

/** The records of clients and test runs: only the top ones, and the sums of the others. */
export function talliesAsJson(tallies: TalliesOf): Static<typeof Tallies> {
  const [clients, runs] = [topOf(tallies.clients), topOf(tallies.runs)]
  return {
    clients: Object.fromEntries(
      clients.items.map(({ address, userAgent, first, last, ...counts }) => [
        `${address} ${userAgent}`,
        { ...countsOf(counts), first: rfc3339(first), last: rfc3339(last) },
      ]),
    ),
    otherClients: clients.others,
    runs: Object.fromEntries(runs.items.map(({ run, ...counts }) => [run, countsOf(counts)])),
    otherRuns: runs.others,
    withoutRun: tallies.withoutRun,
  }
}

/** The clients and test runs in these records. */
export function talliesFromJson(record: Static<typeof Tallies>): TalliesOf {
  const clients = Object.entries(record.clients).map(([key, { first, last, ...counts }]) => {
    const space = key.indexOf(' ')
    const [address, userAgent] = [key.slice(0, space), key.slice(space + 1)]
    return { address, userAgent, ...countsOf(counts), first: Date.parse(first), last: Date.parse(last) }
  })
  const runs = Object.entries(record.runs).map(([run, counts]) => ({ run, ...countsOf(counts) }))
  return {
    clients: addClients([{ items: clients, others: record.otherClients }]),
    // `addRuns` restores the order: JavaScript does not keep the order of integer keys.
    runs: addRuns([{ items: runs, others: record.otherRuns }]),
    withoutRun: record.withoutRun,
  }
}

function countsOf({ refused, wouldRefuse }: RefusalCounts): RefusalCounts {
  return { refused, wouldRefuse }
}
