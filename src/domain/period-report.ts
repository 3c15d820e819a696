import {
  type Bucket,
  byKind,
  DAY_MS,
  dayOf,
  HOUR_MS,
  hourOf,
  type LongOutage,
  type LongSpan,
  longer,
  medianMs,
  observedMs,
  summed,
  together,
} from './bucket.js'
import {
  type ClientRefusals,
  minus,
  plus,
  type RefusalCounts,
  type RunRefusals,
  sumOf,
  topOf,
} from './refusal-counts.js'
import type { Instant } from './time.js'
import type { FailedReadingKind, Phase } from './vocabulary.js'

/**
 * One row of a report: an hour or a day. An outage or absence counts in the row in which it began; one that was in progress
 * at the start of the report counts in the first row. The longest outage is chosen from those that ended in the row and, in
 * the last row, the one in progress.
 */
export type ReportRow = {
  readonly from: Instant
  readonly to: Instant
  readonly observedSeconds: number
  /** Time since the history began in which focus-breaker was not running. */
  readonly notRunningSeconds: number
  /** The fraction of the observed time in which the fiber was present; null when nothing was observed. */
  readonly availability: number | null
  readonly secondsBy: Readonly<Record<Phase, number>>
  readonly refused: number
  readonly wouldRefuse: number
  readonly spared: number
  readonly outages: number
  readonly longestOutageSeconds: number
  readonly absences: number
  readonly absenceSeconds: number
}

/** The report of a number of days. */
export type PeriodReport = {
  readonly from: Instant
  readonly to: Instant
  readonly days: number
  readonly observedSeconds: number
  readonly notRunningSeconds: number
  readonly availability: {
    readonly ready: number | null
    readonly secondsBy: Readonly<Record<Phase, number>>
  }
  readonly outages: {
    /** Outages that began in the period, and one that was in progress at its start. */
    readonly count: number
    /** The count goes by the first cause of an outage; the seconds are the time in which this was the cause. */
    readonly byCause: Readonly<
      Record<
        FailedReadingKind,
        { readonly count: number; readonly seconds: number; readonly longestSeconds: number }
      >
    >
    readonly longest:
      | (Pick<LongOutage, 'from' | 'cause'> & { readonly seconds: number; readonly isUnderWay: boolean })
      | null
  }
  readonly absences: { readonly count: number; readonly seconds: number; readonly longestSeconds: number }
  readonly attempts: {
    readonly refused: number
    readonly wouldRefuse: number
    readonly spared: number
    readonly clients: readonly ClientRefusals[]
    readonly otherClients: RefusalCounts
    readonly runs: readonly RunRefusals[]
    readonly otherRuns: RefusalCounts
    readonly withoutRun: RefusalCounts
  }
  /** Null when no guarded request was measured in the period. */
  readonly saved: {
    readonly seconds: number
    readonly perAttemptSeconds: number
    readonly measured: number
  } | null
  readonly rows: readonly ReportRow[]
}

/** The facts that a report is made from. */
export type ReportFacts = {
  readonly now: Instant
  /** Hours and days up to now, in any order. They do not overlap. */
  readonly buckets: readonly Bucket[]
  /** What is in progress: the outage, its current cause, and the absence of focus-server. */
  readonly outage: LongOutage | null
  readonly cause: LongOutage | null
  readonly absence: LongSpan | null
  /** The first cause of the outage that was in progress at an instant, if any, and whether focus-server was absent then. */
  readonly underWayAt: (at: Instant) => {
    readonly outage: FailedReadingKind | null
    readonly absence: boolean
  }
}

/** The longest period of a report. */
export const MAX_DAYS = 400

/** Up to this many days, each row is an hour. */
const DAYS_BY_HOUR = 2

/**
 * The report of the last `days`, in hours or days of UTC; the last one is still running. Longest spans that began before the
 * period count from its start, except for the longest outage, which is shown as a whole.
 */
export function periodReport(days: number, facts: ReportFacts): PeriodReport {
  const { now, outage, cause, absence } = facts
  const isByHour = days <= DAYS_BY_HOUR
  const rowMs = isByHour ? HOUR_MS : DAY_MS
  const from = isByHour ? hourOf(now) - (days * 24 - 1) * HOUR_MS : dayOf(now) - (days - 1) * DAY_MS
  const to = Math.floor(now)
  const within = facts.buckets.filter(bucket => bucket.from >= from && bucket.from <= now)
  const since = Math.min(now, ...facts.buckets.map(bucket => bucket.since))
  const byRow = new Map<Instant, Bucket[]>()
  for (const bucket of within) {
    const start = Math.floor(bucket.from / rowMs) * rowMs
    byRow.set(start, [...(byRow.get(start) ?? []), bucket])
  }
  const before = facts.underWayAt(from)
  const rows: ReportRow[] = []
  for (let start = from; start <= now; start += rowMs) {
    const row = summed(start, byRow.get(start) ?? [])
    const isLast = start + rowMs > now
    // What was in progress at the start belongs to the first row, so that the rows add up to the report.
    const isFirst = start === from
    const counted = {
      ...row,
      outages: byKind(kind => row.outages[kind] + (isFirst && before.outage === kind ? 1 : 0)),
      absences: row.absences + (isFirst && before.absence ? 1 : 0),
      longestOutage: isLast ? longer(row.longestOutage, outage) : row.longestOutage,
    }
    rows.push(rowOf(counted, start, Math.min(to, start + rowMs), Math.floor(since)))
  }
  const all = together(from, within)
  const notRunning = rows.reduce((sum, row) => sum + Math.round(row.notRunningSeconds * 1000), 0)
  const secondsBy = { ...secondsByPhase(all), 'not-running': seconds(notRunning) }
  const absenceSeconds = seconds(all.absenceMs)
  const clients = topOf(all.clients)
  const runs = topOf(all.runs)
  const longestOutage = longer(all.longestOutage, outage)
  return {
    ...{ from, to, days },
    observedSeconds: seconds(observedMs(all)),
    notRunningSeconds: seconds(notRunning),
    availability: { ready: partOf(all), secondsBy },
    outages: {
      count: all.outages.waiting + all.outages.unreachable + (before.outage === null ? 0 : 1),
      byCause: byKind(kind => ({
        count: all.outages[kind] + (before.outage === kind ? 1 : 0),
        seconds: secondsBy[kind],
        longestSeconds: Math.min(
          secondsBy[kind],
          secondsFrom(from, longer(all.longest[kind], cause?.cause === kind ? cause : null)),
        ),
      })),
      longest: longestOutage && {
        from: longestOutage.from,
        cause: longestOutage.cause,
        seconds: seconds(longestOutage.ms),
        isUnderWay: longestOutage === outage,
      },
    },
    absences: {
      count: all.absences + (before.absence ? 1 : 0),
      seconds: absenceSeconds,
      longestSeconds: Math.min(absenceSeconds, secondsFrom(from, longer(all.longestAbsence, absence))),
    },
    attempts: {
      ...all.refusals,
      spared: all.spared,
      clients: clients.items,
      otherClients: minus(all.refusals, sumOf(clients.items)),
      runs: runs.items,
      otherRuns: runs.others,
      withoutRun: minus(all.refusals, plus(sumOf(runs.items), runs.others)),
    },
    saved: savedBy(all),
    rows,
  }
}

function rowOf(bucket: Bucket, from: Instant, to: Instant, since: Instant): ReportRow {
  const observed = observedMs(bucket)
  const notRunningSeconds = seconds(Math.max(0, to - Math.max(from, since) - observed))
  return {
    ...{ from, to },
    observedSeconds: seconds(observed),
    notRunningSeconds,
    availability: partOf(bucket),
    secondsBy: { ...secondsByPhase(bucket), 'not-running': notRunningSeconds },
    ...bucket.refusals,
    spared: bucket.spared,
    outages: bucket.outages.waiting + bucket.outages.unreachable,
    longestOutageSeconds: seconds(bucket.longestOutage?.ms ?? 0),
    absences: bucket.absences,
    absenceSeconds: seconds(bucket.absenceMs),
  }
}

/** Rounded down, so that the result is 1 only if the fiber was present all the time. */
function partOf(bucket: Bucket): number | null {
  const observed = observedMs(bucket)
  return observed === 0 ? null : Math.floor(((bucket.ms.ready ?? 0) / observed) * 1e6) / 1e6
}

function secondsByPhase({ ms }: Bucket): Record<Phase, number> {
  const of = (phase: Phase) => seconds(ms[phase] ?? 0)
  return {
    ready: of('ready'),
    waiting: of('waiting'),
    unreachable: of('unreachable'),
    recovering: of('recovering'),
    starting: of('starting'),
    stopped: of('stopped'),
    maintenance: of('maintenance'),
    'let-through': of('let-through'),
    'not-running': of('not-running'),
  }
}

/** The time that clients did not spend waiting for focus-server to respond to spared requests. */
function savedBy({ durations, spared }: Bucket): PeriodReport['saved'] {
  const median = medianMs(durations)
  if (median === null) return null
  // The median is accurate to a sixth, so two digits are enough.
  const perAttemptSeconds = Number((median / 1000).toPrecision(2))
  return {
    seconds: Math.round(spared * perAttemptSeconds),
    perAttemptSeconds,
    measured: Object.values(durations).reduce((sum, count) => sum + count, 0),
  }
}

/** The part of a span after `from`. */
function secondsFrom(from: Instant, span: LongSpan | null): number {
  return span === null ? 0 : seconds(Math.min(span.ms, Math.max(0, span.from + span.ms - from)))
}

function seconds(ms: number): number {
  return Math.round(ms) / 1000
}
