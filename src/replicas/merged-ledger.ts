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

/** Outages or unreachable periods by key, the oldest first. */
type ByKey<Record> = ReadonlyMap<string, Record>

/** The ledger of several replicas as one: outages, what happened inside them, and unreachable periods. */
export type MergedLedger = {
  readonly outages: ByKey<OutageRecord>
  /** What happened inside the outage of this key; undefined when it is not known. */
  readonly detail: (key: string) => OutageDetail | undefined
  readonly periods: ByKey<PeriodRecord>
}

/**
 * The ledgers of sets whose processes may have run at the same time.
 *
 * What overlaps in time is one outage: a replica that was alone, or that joined during it, saw it begin later. Its
 * beginning, its end and its causes are facts that each replica sees, so they come from the one that saw most of it.
 * Refusals are counts of each replica, and are added up.
 *
 * An outage whose end was not recorded is under way only if a running process says so.
 */
export function mergedLedger(sets: readonly RecordSet[], now: Instant): MergedLedger {
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

/** An outage, or an unreachable period, as one set knows it. */
type Span<Record> = {
  readonly set: RecordSet
  readonly key: string
  readonly record: Record
  readonly from: Instant
  /** Since when the set has seen it: a replica that joins during an outage knows its beginning from the others. */
  readonly seenFrom: Instant
  /** Its end; while it lasts, until when the set knows that it does. */
  readonly to: Instant
  readonly isEnded: boolean
  /** Whether a process that runs says that it lasts. */
  readonly isUnderWay: boolean
}

/** What several sets know of one outage, or of one unreachable period. */
type Group<Record> = {
  readonly key: string
  /** In the order of their beginnings. */
  readonly spans: readonly Span<Record>[]
  readonly first: Span<Record>
  /** The one that saw most of those that saw its end. */
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
    // One whose end was not written ended at the latest when the next one of its set began.
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
    // One that was last heard of before another replica saw the end has seen it since.
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
    // An older record does not have it: see `outageFromJson`.
    spared: sum(({ spared, cause: of, refused }) => spared ?? (of === 'waiting' ? refused : 0)),
    restarts: sum(({ restarts }) => restarts),
    ...(replica !== undefined && { replica }),
  }
}

/** Since when the cause holds. A replica that joined during the outage knows it only since then; others know more. */
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

/** What the sets know of the inside of an outage; undefined when none of them does. */
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
  // Changes are seen by all. Each piece of the outage has those of one replica.
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

/** Stretches of different lengths become as long as the longest of them. */
function addMinutes(all: readonly Minutes[]): Minutes {
  const spanMinutes = Math.max(1, ...all.map(minutes => minutes.spanMinutes))
  const counts = all.flatMap(minutes => minutes.counts).sort((one, other) => one.minute - other.minute)
  return counts.reduce<Minutes>((sum, each) => withMinute(sum, each.minute, each), {
    spanMinutes,
    counts: [],
  })
}
