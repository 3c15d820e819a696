import {
  type Bucket,
  byKind,
  DAY_MS,
  dayOf,
  emptyBucket,
  HOUR_MS,
  hourOf,
  hoursOf,
  longer,
  observedMs,
  together,
  withAbsence,
  withPhase,
} from '../domain/bucket.js'
import type { Instant } from '../domain/time.js'
import { type FailedReadingKind, PHASES, type Phase } from '../domain/vocabulary.js'
import { bucketFromJson } from '../outages/bucket-record.js'
import { covering } from './cover.js'
import { Memo } from './memo.js'
import type { MergedHistory } from './merged-history.js'
import { isLive, knownUntil, type RecordSet, type SharedRecord } from './record-set.js'

/** The merged hours and days of several replicas. */
export type MergedBuckets = {
  readonly hours: readonly Bucket[]
  readonly days: readonly Bucket[]
  /** When the current phase began, according to the replica that observed most of it; undefined if no replica is in it. */
  readonly phaseSince: (phase: Phase) => Instant | undefined
}

/** A longer span is malformed; counting it hour by hour would take long. */
const MAX_LASTING_MS = 400 * DAY_MS

/** A history with this many records may lack older ones. */
const MAX_OUTAGES = 2000
const MAX_PERIODS = 900

/**
 * Merges the hours and days of sets whose processes may have run at the same time.
 *
 * Time in phases and absences are facts that every replica observes, so each stretch of time is taken from one of them.
 * Outages and absences are counted in the merged history, because a replica that joins during one
 * counts it as well. Refusals and durations are counts of each replica, and are added up.
 *
 * Spans in progress are included in the hours, so records of kind `lasting` need no merging.
 */
export function mergedBuckets(
  sets: readonly RecordSet[],
  history: MergedHistory,
  now: Instant,
): MergedBuckets {
  const counted = sets.map(set => bucketsOf(set))
  const dayEnds = new Map<Instant, Instant>()
  for (const { days } of counted) {
    for (const [from, { through }] of days) dayEnds.set(from, Math.max(through, dayEnds.get(from) ?? through))
  }
  const begun = begunIn(history)
  const hours = new Map<Instant, Observed[]>()
  const days = new Map<Instant, Observed[]>()
  for (const { hours: own, days: ownDays, until } of counted) {
    const parts = new Map([...ownDays].map(([from, { bucket }]) => [from, [bucket]]))
    for (const [from, hour] of own) {
      const day = dayOf(from)
      // Another replica has already added this hour to its day.
      if (from < (dayEnds.get(day) ?? day)) push(parts, day, hour)
      else push(hours, from, observed(hour, Math.min(from + HOUR_MS, until)))
    }
    for (const [from, buckets] of parts) {
      push(days, from, observed(together(from, buckets), Math.min(dayEnds.get(from) ?? from, until)))
    }
  }
  return {
    hours: [...hours].sort(byTime).map(([from, all]) => asOne(from, from + HOUR_MS, all, begun)),
    days: [...days].sort(byTime).map(([from, all]) => asOne(from, dayEnds.get(from) ?? from, all, begun)),
    phaseSince: phase =>
      phaseSince(
        phase,
        sets.filter(set => isLive(set, now)),
      ),
  }
}

const PARSED = new Memo<Bucket>()
const TOGETHER = new Memo<Bucket>()

function bucketOf(from: Instant, lengthMs: number, record: SharedRecord<'hour'>): Bucket {
  return PARSED.of([record, from], () => bucketFromJson(from, lengthMs, record))
}

/** A bucket of one set, and the time in which it was observed. */
type Observed = { readonly bucket: Bucket; readonly from: Instant; readonly to: Instant }

function observed(bucket: Bucket, until: Instant): Observed {
  return { bucket, from: bucket.since, to: Math.max(bucket.since, until) }
}

/** The hours and days of a set, with spans in progress counted up to the last update of the set. */
function bucketsOf(set: RecordSet) {
  const until = knownUntil(set)
  const hours = new Map<Instant, Bucket>()
  for (const [key, record] of set.records.hour) {
    const from = Date.parse(key)
    if (hourOf(from) === from) hours.set(from, bucketOf(from, HOUR_MS, record))
  }
  const days = new Map<Instant, { readonly bucket: Bucket; readonly through: Instant }>()
  for (const [key, record] of set.records.day) {
    const from = Date.parse(key)
    if (dayOf(from) !== from) continue
    const through = Math.min(from + DAY_MS, Date.parse(record.through ?? key))
    days.set(from, { bucket: bucketOf(from, DAY_MS, record), through })
  }
  const change = (at: Instant, next: (hour: Bucket) => Bucket) => {
    const from = hourOf(at)
    hours.set(from, next(hours.get(from) ?? emptyBucket(from, at)))
  }
  for (const { phase, span, absence, until: written } of set.records.lasting.values()) {
    const end = Math.min(until, Date.parse(written))
    const countedTo = Date.parse(span.countedTo)
    if (end - countedTo <= MAX_LASTING_MS) {
      for (const { from, to } of hoursOf(countedTo, end))
        change(from, hour => withPhase(hour, phase, from, to))
    }
    const absentTo = absence === null ? end : Date.parse(absence.countedTo)
    if (end - absentTo > MAX_LASTING_MS) continue
    for (const { from, to } of hoursOf(absentTo, end)) change(from, hour => withAbsence(hour, from, to))
  }
  return { hours, days, until }
}

/** When a phase began, by the most recently updated set. If its process started during the phase, earlier sets are used too. */
function phaseSince(phase: Phase, sets: readonly RecordSet[]): Instant | undefined {
  const known = sets
    .flatMap(set =>
      [...set.records.lasting]
        .filter(([, lasting]) => lasting.phase === phase)
        .map(([key, { span }]) => {
          return { start: Date.parse(key), from: Date.parse(span.from), to: knownUntil(set) }
        }),
    )
    .sort((one, other) => other.to - one.to || one.from - other.from)
  let since: Instant | undefined
  for (const { start, from, to } of known) {
    if (since !== undefined && (from >= since || to < since)) continue
    since = from
    if (from > start) break
  }
  return since
}

/** Merges what several sets have recorded about one hour or day. */
function asOne(from: Instant, to: Instant, all: readonly Observed[], begun: Begun): Bucket {
  // Prefer the bucket with the most observed time: a process may have been restarted meanwhile.
  const byObserved = all.toSorted((one, other) => observedMs(other.bucket) - observedMs(one.bucket))
  const pieces = covering(byObserved.map(each => ({ from: each.from, to: each.to, of: each })))
  const parts = pieces.map(piece => {
    const whole = piece.of.to - piece.of.from
    return { bucket: piece.of.bucket, part: whole === 0 ? 1 : (piece.to - piece.from) / whole }
  })
  const sum = (of: (bucket: Bucket) => number) =>
    Math.round(parts.reduce((total, { bucket, part }) => total + of(bucket) * part, 0))
  const buckets = all.map(({ bucket }) => bucket)
  const { outages, absences, longestOutage, longestAbsence } = begun.within(from, to, buckets)
  const [first] = buckets
  const sums = () => together(from, buckets)
  return {
    ...(first === undefined ? sums() : TOGETHER.of([first, from, ...buckets], sums)),
    ms: Object.fromEntries(
      PHASES.flatMap(phase => {
        const ms = sum(bucket => bucket.ms[phase] ?? 0)
        return ms === 0 ? [] : [[phase, ms]]
      }),
    ),
    absenceMs: sum(({ absenceMs }) => absenceMs),
    ...{ outages, absences },
    longestOutage: buckets.map(bucket => bucket.longestOutage).reduce(longer, longestOutage),
    longestAbsence: buckets.map(bucket => bucket.longestAbsence).reduce(longer, longestAbsence),
  }
}

/** Starts and ends, from the merged history. */
type Begun = ReturnType<typeof begunIn>

function begunIn({ outages, periods }: MergedHistory) {
  const spans = [...outages.values()].map(({ startedAt, endedAt, openedBy }) => {
    const cause: FailedReadingKind = openedBy.kind === 'unreachable' ? 'unreachable' : 'waiting'
    return { ...spanOf(startedAt, endedAt), cause }
  })
  const absences = [...periods.values()].map(period => spanOf(period.from, period.to))
  const [begunAt, endedAt] = [byHour(spans, ({ from }) => from), byHour(spans, ({ to }) => to)]
  const [goneAt, backAt] = [byHour(absences, ({ from }) => from), byHour(absences, ({ to }) => to)]
  const outagesFrom = spans.length < MAX_OUTAGES ? Number.NEGATIVE_INFINITY : (spans[0]?.from ?? 0)
  const absencesFrom = absences.length < MAX_PERIODS ? Number.NEGATIVE_INFINITY : (absences[0]?.from ?? 0)
  return {
    within(from: Instant, to: Instant, buckets: readonly Bucket[]) {
      const hours = hoursOf(from, to).map(hour => hour.from)
      const inHours = <Item>(items: ReadonlyMap<Instant, readonly Item[]>) =>
        hours.flatMap(hour => items.get(hour) ?? [])
      const began = inHours(begunAt)
      const most = (of: (bucket: Bucket) => number) => Math.max(...buckets.map(of))
      return {
        outages: byKind(kind =>
          from > outagesFrom
            ? began.filter(span => span.cause === kind).length
            : most(bucket => bucket.outages[kind]),
        ),
        absences: from > absencesFrom ? inHours(goneAt).length : most(bucket => bucket.absences),
        longestOutage: inHours(endedAt)
          .map(({ from, ms, cause }) => ({ from, ms, cause }))
          .reduce<Bucket['longestOutage']>(longer, null),
        longestAbsence: inHours(backAt)
          .map(({ from, ms }) => ({ from, ms }))
          .reduce<Bucket['longestAbsence']>(longer, null),
      }
    },
  }
}

function spanOf(from: string, to: string | null) {
  const [start, end] = [Date.parse(from), to === null ? null : Date.parse(to)]
  return { from: start, to: end, ms: end === null ? 0 : Math.max(0, end - start) }
}

/** The items by the hour of a time; items without that time are omitted. */
function byHour<Item>(items: readonly Item[], timeOf: (item: Item) => Instant | null) {
  const hours = new Map<Instant, Item[]>()
  for (const item of items) {
    const at = timeOf(item)
    if (at !== null) push(hours, hourOf(at), item)
  }
  return hours
}

function push<Item>(lists: Map<Instant, Item[]>, at: Instant, item: Item): void {
  const list = lists.get(at)
  if (list === undefined) lists.set(at, [item])
  else list.push(item)
}

function byTime([one]: readonly [Instant, unknown], [other]: readonly [Instant, unknown]): number {
  return one - other
}
