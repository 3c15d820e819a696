import {
  MAX_CHANGES,
  MAX_LET_IN,
  type Minutes,
  type OutageDetail,
  withMinute,
} from '../domain/outage-detail.js'
import { addClients, addRuns, sumOf } from '../domain/refusal-counts.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { detailFromJson } from '../outages/detail-record.js'
import { covering, type Seen } from './cover.js'
import { Memo } from './memo.js'
import { isLive, knownUntil, type RecordSet, type SharedRecord } from './record-set.js'

type OutageRecord = SharedRecord<'outage'>
type PeriodRecord = SharedRecord<'unreachable'>

/** Outages or unreachable periods by key, oldest first. */
type ByKey<Record> = ReadonlyMap<string, Record>

/** The merged outage history of several replicas: outages with their details, and unreachable periods. */
export type MergedHistory = {
  readonly outages: ByKey<OutageRecord>
  /** The detail of the outage with this key; undefined if it is not known. */
  readonly detail: (key: string) => OutageDetail | undefined
  readonly periods: ByKey<PeriodRecord>
}

/**
 * Merges the outage histories of sets whose processes may have run at the same time.
 *
 * Outages that overlap in time are one outage: a replica that was alone, or that joined during it, noticed its start later.
 * Start, end and causes are facts that every replica observes, so they are taken from the one that observed most of it.
 * Refusals are counts of each replica, and are added up.
 *
 * An outage whose end was not recorded is in progress only if a running process reports it.
 */
export function mergedHistory(sets: readonly RecordSet[], now: Instant): MergedHistory {
  const groups = groupsOf(
    sets.flatMap(set =>
      spansOf(set, now, set.records.outage, ({ startedAt, endedAt, openedBy }) => ({
        ...{ from: startedAt, to: endedAt, seenFrom: openedBy.at },
      })),
    ),
  )
  const periods = groupsOf(
    sets.flatMap(set =>
      spansOf(set, now, set.records.unreachable, period => ({ ...period, seenFrom: period.from })),
    ),
  )
  return {
    outages: new Map(groups.map(group => [group.key, OUTAGES.of(inputsOf(group), () => outageOf(group))])),
    detail: key => {
      const group = groups.find(each => each.key === key)
      return group && detailOf(group)
    },
    periods: new Map(periods.map(group => [group.key, periodOf(group)])),
  }
}

const OUTAGES = new Memo<OutageRecord>()
const DETAILS = new Memo<OutageDetail>()
const TIMES = new Memo<Times>()

function inputsOf({ spans, first, last, isUnderWay }: Group<OutageRecord>): [object, ...unknown[]] {
  const known = spans.flatMap(({ record, set }) => [record, set.replica])
  return [first.record, isUnderWay, last.record, last.to, ...known]
}

/** The times of a record. */
type Times = { readonly from: Instant; readonly seenFrom: Instant; readonly end: Instant | null }

/** An outage or an unreachable period as recorded in one set. */
type Span<Record> = {
  readonly set: RecordSet
  readonly key: string
  readonly record: Record
  readonly from: Instant
  /** Since when the set has observed it: a replica that joins during an outage knows its start only from the others. */
  readonly seenFrom: Instant
  /** Its end; while it lasts, the last update of the set. */
  readonly to: Instant
  readonly isEnded: boolean
  /** Whether a running process reports that it lasts. */
  readonly isUnderWay: boolean
}

/** What several sets have recorded about one outage or one unreachable period. */
type Group<Record> = {
  readonly key: string
  /** In the order of their starts. */
  readonly spans: readonly Span<Record>[]
  readonly first: Span<Record>
  /** Among the spans that include its end, the one that observed most of it. */
  readonly last: Span<Record>
  readonly isUnderWay: boolean
}

function spansOf<Record extends object>(
  set: RecordSet,
  now: Instant,
  records: ByKey<Record>,
  timesOf: (record: Record) => {
    readonly from: string
    readonly to: string | null
    readonly seenFrom: string
  },
): readonly Span<Record>[] {
  const isRunning = isLive(set, now)
  const until = knownUntil(set)
  const all = [...records]
    .map(([key, record]) => {
      const times = TIMES.of([record], () => {
        const { from, to, seenFrom } = timesOf(record)
        const end = to === null ? null : Date.parse(to)
        return { from: Date.parse(from), seenFrom: Date.parse(seenFrom), end }
      })
      return { key, record, ...times }
    })
    .sort((one, other) => one.from - other.from)
  return all.map(({ end, ...known }, index) => {
    const { from } = known
    // A span whose end was not recorded ended no later than the start of the next one in its set.
    const next = all[index + 1]?.from ?? Number.POSITIVE_INFINITY
    const to = Math.max(from, Math.min(end ?? until, next))
    const isEnded = end !== null || next < Number.POSITIVE_INFINITY
    return { set, ...known, to, isEnded, isUnderWay: !isEnded && isRunning }
  })
}

function groupsOf<Record>(spans: readonly Span<Record>[]): readonly Group<Record>[] {
  const groups: Span<Record>[][] = []
  let end = Number.NEGATIVE_INFINITY
  const inOrder = (one: Span<Record>, other: Span<Record>) =>
    one.from - other.from || one.seenFrom - other.seenFrom
  for (const span of spans.toSorted(inOrder)) {
    const current = groups.at(-1)
    if (current !== undefined && (span.from < end || span.from === current.at(-1)?.from)) current.push(span)
    else {
      groups.push([span])
      end = Number.NEGATIVE_INFINITY
    }
    end = Math.max(end, span.to)
  }
  return groups.flatMap(each => {
    const [first] = each
    if (first === undefined) return []
    const ended = Math.max(...each.map(({ isEnded, to }) => (isEnded ? to : Number.NEGATIVE_INFINITY)))
    // If another replica recorded the end after the last update of a set, the outage has ended for that set too.
    const underWay = each.filter(({ isUnderWay, to }) => isUnderWay && to > ended)
    const seen = underWay.length > 0 ? underWay : each
    const latest = Math.max(...seen.map(({ to }) => to))
    const last = seen.find(({ to }) => to === latest) ?? first
    return [{ key: first.key, spans: each, first, last, isUnderWay: underWay.length > 0 }]
  })
}

function outageOf({ spans, first, last, isUnderWay }: Group<OutageRecord>): OutageRecord {
  const sum = (of: (record: OutageRecord) => number | undefined) =>
    spans.reduce((total, { record }) => total + (of(record) ?? 0), 0)
  const beginners = new Set(
    spans.filter(({ seenFrom }) => seenFrom === first.seenFrom).map(({ set }) => set.replica),
  )
  const replica = first.record.replica ?? (beginners.size === 1 ? [...beginners][0] : undefined)
  return {
    startedAt: first.record.startedAt,
    endedAt: isUnderWay ? null : rfc3339(last.to),
    cause: last.record.cause,
    causeSince: causeSince(last, spans),
    openedBy: first.record.openedBy,
    closedBy: isUnderWay ? null : last.record.closedBy,
    refused: sum(({ refused }) => refused),
    wouldRefuse: sum(({ wouldRefuse }) => wouldRefuse),
    operations: sum(({ operations }) => operations),
    // Older records lack `spared`: see `outageFromJson`.
    spared: sum(({ spared, cause: of, refused }) => spared ?? (of === 'waiting' ? refused : 0)),
    restarts: sum(({ restarts }) => restarts),
    ...(replica !== undefined && { replica }),
  }
}

/** Since when the outage has had its cause. A replica that joined during the outage may not know it, but others may. */
function causeSince(of: Span<OutageRecord>, spans: readonly Span<OutageRecord>[]): string {
  const { startedAt, cause, openedBy, causeSince: since = startedAt } = of.record
  if (since > openedBy.at) return since
  const earlier = spans.filter(({ seenFrom }) => seenFrom < of.seenFrom)
  const latest = Math.max(...earlier.map(({ to }) => to))
  const known = earlier.find(({ to }) => to === latest)
  if (known === undefined || known.to < of.seenFrom || known.record.cause !== cause) return since
  const before = causeSince(known, spans)
  return before < since ? before : since
}

function periodOf({ first, last, isUnderWay }: Group<PeriodRecord>): PeriodRecord {
  return { ...first.record, to: isUnderWay ? null : rfc3339(last.to) }
}

/** The merged detail of an outage; undefined if no set has one. */
function detailOf({ spans }: Group<OutageRecord>): OutageDetail | undefined {
  const records = spans.flatMap(({ set, key, seenFrom, to }) => {
    const record = set.records.detail.get(key)
    return record === undefined ? [] : [{ from: seenFrom, to: Math.max(seenFrom, to), record }]
  })
  const [first] = records
  if (first === undefined) return undefined
  const inputs = records.flatMap(({ from, to, record }) => [from, to, record])
  return DETAILS.of([first.record, ...inputs], () =>
    addedDetails(records.map(({ record, ...seen }) => ({ ...seen, of: detailFromJson(record) }))),
  )
}

function addedDetails(known: readonly Seen<OutageDetail>[]): OutageDetail {
  const details = known.map(({ of }) => of)
  // Every replica observes the changes, so for each piece of the outage they are taken from one replica.
  const pieces = covering(known)
  const changes = pieces.flatMap(({ of, from, to }, index) =>
    of.changes.filter(({ at }) => (index === 0 || at > from) && (index === pieces.length - 1 || at <= to)),
  )
  return {
    changes: changes.slice(0, MAX_CHANGES),
    omittedChanges:
      pieces.reduce((sum, { of }) => sum + of.omittedChanges, 0) + Math.max(0, changes.length - MAX_CHANGES),
    minutes: addMinutes(details.map(({ minutes }) => minutes)),
    clients: addClients(details.map(({ clients }) => clients)),
    runs: addRuns(details.map(({ runs }) => runs)),
    withoutRun: sumOf(details.map(({ withoutRun }) => withoutRun)),
    letIn: details
      .flatMap(({ letIn }) => letIn)
      .sort((one, other) => one.at - other.at)
      .slice(0, MAX_LET_IN),
    letInTotal: details.reduce((sum, { letInTotal }) => sum + letInTotal, 0),
  }
}

/** Adds up minutes. If their stretches differ in length, all become as long as the longest. */
function addMinutes(all: readonly Minutes[]): Minutes {
  const spanMinutes = Math.max(1, ...all.map(minutes => minutes.spanMinutes))
  const counts = all.flatMap(minutes => minutes.counts).sort((one, other) => one.minute - other.minute)
  return counts.reduce<Minutes>((sum, each) => withMinute(sum, each.minute, each), {
    spanMinutes,
    counts: [],
  })
}
