import {
  addClients,
  addRuns,
  type ClientRefusals,
  EMPTY_TALLY,
  minus,
  NO_REFUSALS,
  plus,
  type RefusalBatch,
  type RefusalCounts,
  type RunRefusals,
  sumOf,
  type Tally,
} from './refusal-counts.js'
import type { Instant } from './time.js'
import { FAILED_READING_KINDS, type FailedReadingKind, PHASES, type Phase } from './vocabulary.js'

/** A whole span: it may have begun before the bucket in which it ended. */
export type LongSpan = { readonly from: Instant; readonly ms: number }

/** A whole outage, with its cause. */
export type LongOutage = LongSpan & { readonly cause: FailedReadingKind }

/** What happened in one hour or one day of UTC. Buckets can be added up to larger ones; nothing is counted twice. */
export type Bucket = {
  /** The start of the hour or the day. */
  readonly from: Instant
  /** When observation began: what happened earlier in the bucket is not known. */
  readonly since: Instant
  /** Observed time by phase, in whole milliseconds. */
  readonly ms: Readonly<Partial<Record<Phase, number>>>
  readonly refusals: RefusalCounts
  /** Refusals in an outage with the cause `waiting`: focus-server was up and did not have to reject these requests. */
  readonly spared: number
  /** Outages that began in it, by their first cause. */
  readonly outages: Readonly<Record<FailedReadingKind, number>>
  /** The longest outage that ended in it. */
  readonly longestOutage: LongOutage | null
  /** The longest span of each cause that ended in it. */
  readonly longest: Readonly<Record<FailedReadingKind, LongSpan | null>>
  /** How often focus-server became unreachable in it, whether or not that opened the circuit. */
  readonly absences: number
  /** How long it was unreachable, in whole milliseconds of observed time. */
  readonly absenceMs: number
  /** The longest absence that ended in it. */
  readonly longestAbsence: LongSpan | null
  readonly clients: Tally<ClientRefusals>
  readonly runs: Tally<RunRefusals>
  /** Refusals of requests that named no test run. */
  readonly withoutRun: RefusalCounts
  /** The number of guarded requests that focus-server responded to, by the class of their duration: see `durationClass`. */
  readonly durations: Readonly<Record<string, number>>
}

/** The lengths of the two kinds of buckets. */
export const HOUR_MS = 3_600_000
export const DAY_MS = 24 * HOUR_MS

/** The ratio between the middle of one class of durations and the middle of the class below it. */
const CLASS_RATIO = 1.2

/** The start of the hour. */
export function hourOf(at: Instant): Instant {
  return Math.floor(at / HOUR_MS) * HOUR_MS
}

/** The start of the day, UTC. */
export function dayOf(at: Instant): Instant {
  return Math.floor(at / DAY_MS) * DAY_MS
}

/** An empty bucket. */
export function emptyBucket(from: Instant, since: Instant = from): Bucket {
  return {
    from,
    since,
    ms: {},
    refusals: NO_REFUSALS,
    spared: 0,
    outages: { waiting: 0, unreachable: 0 },
    longestOutage: null,
    longest: { waiting: null, unreachable: null },
    absences: 0,
    absenceMs: 0,
    longestAbsence: null,
    clients: EMPTY_TALLY,
    runs: EMPTY_TALLY,
    withoutRun: NO_REFUSALS,
    durations: {},
  }
}

/** The parts of a span, one for each hour that it touches. */
export function hoursOf(
  from: Instant,
  to: Instant,
): readonly { readonly from: Instant; readonly to: Instant }[] {
  const parts: { readonly from: Instant; readonly to: Instant }[] = []
  for (let start = from; start < to; ) {
    const end = Math.min(to, hourOf(start) + HOUR_MS)
    parts.push({ from: start, to: end })
    start = end
  }
  return parts
}

/** The observed time of a bucket, in milliseconds. */
export function observedMs({ ms }: Pick<Bucket, 'ms'>): number {
  return PHASES.reduce((sum, phase) => sum + (ms[phase] ?? 0), 0)
}

/**
 * The hour with a span of one phase added. At most one hour is counted in all, because an hour repeats after the clock is
 * set back.
 */
export function withPhase(hour: Bucket, phase: Phase, from: Instant, to: Instant): Bucket {
  const spanMs = Math.min(wholeMs(from, to), HOUR_MS - observedMs(hour))
  const since = Math.min(hour.since, from)
  return spanMs <= 0
    ? { ...hour, since }
    : { ...hour, since, ms: { ...hour.ms, [phase]: (hour.ms[phase] ?? 0) + spanMs } }
}

/** The hour with a span added in which focus-server was unreachable; at most one hour in all. */
export function withAbsence(hour: Bucket, from: Instant, to: Instant): Bucket {
  return { ...hour, absenceMs: Math.min(HOUR_MS, hour.absenceMs + wholeMs(from, to)) }
}

/** The hour with more refusals added. */
export function withRefusalsIn(hour: Bucket, batch: RefusalBatch): Bucket {
  const { clients, runs } = batch
  return {
    ...hour,
    refusals: plus(hour.refusals, batch),
    spared: hour.spared + batch.spared,
    clients: addClients([hour.clients, { items: clients, others: minus(batch, sumOf(clients)) }]),
    runs: addRuns([hour.runs, { items: runs, others: NO_REFUSALS }]),
    withoutRun: plus(hour.withoutRun, minus(batch, sumOf(runs))),
  }
}

/** The longer of two spans, or the first if they are equal. */
export function longer<Span extends LongSpan>(one: Span | null, other: Span | null): Span | null {
  if (one === null || other === null) return one ?? other
  return other.ms > one.ms ? other : one
}

/** All buckets as one that begins at `from`. Their order matters only for which of several equal items are listed. */
export function together(from: Instant, buckets: readonly Bucket[]): Bucket {
  return {
    ...summed(from, buckets),
    clients: addClients(buckets.map(({ clients }) => clients)),
    runs: addRuns(buckets.map(({ runs }) => runs)),
    withoutRun: sumOf(buckets.map(({ withoutRun }) => withoutRun)),
  }
}

/** The same without clients and test runs, which are the most expensive to add up. */
export function summed(from: Instant, buckets: readonly Bucket[]): Bucket {
  const [first] = buckets
  const sum = emptyBucket(from, first === undefined ? from : Math.min(...buckets.map(({ since }) => since)))
  return {
    ...sum,
    ms: Object.fromEntries(
      PHASES.flatMap(phase => {
        const ms = add(buckets, bucket => bucket.ms[phase] ?? 0)
        return ms === 0 ? [] : [[phase, ms]]
      }),
    ),
    refusals: sumOf(buckets.map(({ refusals }) => refusals)),
    spared: add(buckets, ({ spared }) => spared),
    outages: byKind(kind => add(buckets, ({ outages }) => outages[kind])),
    longestOutage: buckets.map(({ longestOutage }) => longestOutage).reduce(longer, null),
    longest: byKind(kind => buckets.map(({ longest }) => longest[kind]).reduce(longer, null)),
    absences: add(buckets, ({ absences }) => absences),
    absenceMs: add(buckets, ({ absenceMs }) => absenceMs),
    longestAbsence: buckets.map(({ longestAbsence }) => longestAbsence).reduce(longer, null),
    durations: addDurations(buckets.map(({ durations }) => durations)),
  }
}

/** The class of a duration: the one whose middle is nearest, at most a sixth away. */
export function durationClass(durationMs: number): number {
  return Math.round(Math.log(Math.max(1, durationMs)) / Math.log(CLASS_RATIO))
}

/** The approximate median of counted durations; null when there are none. */
export function medianMs(durations: Bucket['durations']): number | null {
  const classes = Object.entries(durations)
    .map(([name, count]) => ({ index: Number(name), count }))
    .sort((a, b) => a.index - b.index)
  const total = classes.reduce((sum, { count }) => sum + count, 0)
  let seen = 0
  for (const { index, count } of classes) {
    seen += count
    if (seen * 2 >= total) return CLASS_RATIO ** index
  }
  return null
}

/** One value for each kind of failed reading. */
export function byKind<Value>(of: (kind: FailedReadingKind) => Value): Record<FailedReadingKind, Value> {
  const [waiting, unreachable] = FAILED_READING_KINDS
  return { waiting: of(waiting), unreachable: of(unreachable) }
}

function addDurations(all: readonly Bucket['durations'][]): Bucket['durations'] {
  const sum = new Map<string, number>()
  for (const durations of all) {
    for (const [name, count] of Object.entries(durations)) sum.set(name, (sum.get(name) ?? 0) + count)
  }
  return Object.fromEntries(sum)
}

function add(buckets: readonly Bucket[], of: (bucket: Bucket) => number): number {
  return buckets.reduce((sum, bucket) => sum + of(bucket), 0)
}

/** Both ends are rounded down before subtracting, so that the parts of a span add up to the whole. */
function wholeMs(from: Instant, to: Instant): number {
  return Math.max(0, Math.floor(to) - Math.floor(from))
}
