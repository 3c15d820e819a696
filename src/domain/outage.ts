import type { Reading } from './reading.js'
import type { Instant } from './time.js'
import type { Cause } from './vocabulary.js'

/** How long outages like the current one lasted in total; `samples` is how many such outages there were. */
export type Forecast = { readonly p50Seconds: number; readonly p90Seconds: number; readonly samples: number }

/** A forecast needs this many past outages. */
const MIN_SAMPLES = 5

/**
 * How long an outage is likely to last in total when it has lasted `elapsedMs` so far: the median and the ninth
 * decile (nearest rank) of the past outages that lasted at least that long. Null when there are too few of them.
 */
export function forecast(pastOutagesMs: readonly number[], elapsedMs: number): Forecast | null {
  const alike = pastOutagesMs.filter(lengthMs => lengthMs >= elapsedMs).sort((a, b) => a - b)
  if (alike.length < MIN_SAMPLES) return null
  const quantile = (part: number) => Math.round((alike[Math.ceil(part * alike.length) - 1] ?? 0) / 1000)
  return { p50Seconds: quantile(0.5), p90Seconds: quantile(0.9), samples: alike.length }
}

/** One outage, from the opening of the circuit to its closing. */
export type Outage = {
  /** Also its identity: no two outages start at the same time. */
  readonly startedAt: Instant
  /** Null while it lasts. */
  readonly endedAt: Instant | null
  /** The latest cause: an outage may start with an unreachable upstream and continue with a missing fiber. */
  readonly cause: Cause
  readonly openedBy: Reading
  readonly closedBy: Reading | null
  /** Refused requests, and how many distinct operations they were. */
  readonly refused: number
  readonly operations: number
  /** How often the proxy was restarted while it lasted. */
  readonly restarts: number
}

/** A period in which the metadata could not be read, whether that opened the circuit or not. */
export type UnreachablePeriod = {
  readonly from: Instant
  /** Null while it lasts. */
  readonly to: Instant | null
  readonly problem: string
}

/** A new outage, opened by a reading. */
export function beganBy(reading: Reading, cause: Cause): Outage {
  return {
    startedAt: reading.at,
    endedAt: null,
    cause,
    openedBy: reading,
    closedBy: null,
    refused: 0,
    operations: 0,
    restarts: 0,
  }
}

/** Whether the period overlaps the outage. */
export function isDuring({ from, to }: UnreachablePeriod, { startedAt, endedAt }: Outage): boolean {
  return (endedAt === null || from < endedAt) && (to === null || to >= startedAt)
}

/**
 * The outages, oldest first, with no time after `latest` and no end before its beginning. A record that needs no
 * correction is the same object.
 *
 * Records have such times when they were made before the clock was set back. How far it was ahead is not known.
 */
export function correctedOutages(outages: readonly Outage[], latest: Instant): readonly Outage[] {
  const spans = correctedSpans(
    outages.map(({ startedAt, endedAt }) => ({ from: startedAt, to: endedAt })),
    latest,
  )
  return outages.map((outage, index) => {
    const { from, to } = spans[index] ?? { from: latest, to: latest }
    const { openedBy, closedBy } = outage
    const readings = [openedBy, ...(closedBy === null ? [] : [closedBy])]
    if (from === outage.startedAt && to === outage.endedAt && readings.every(({ at }) => at <= latest)) {
      return outage
    }
    return {
      ...outage,
      startedAt: from,
      endedAt: to,
      openedBy: { ...openedBy, at: Math.min(openedBy.at, from) },
      closedBy: closedBy && { ...closedBy, at: to ?? latest },
    }
  })
}

/** The same for unreachable periods. */
export function correctedPeriods(
  periods: readonly UnreachablePeriod[],
  latest: Instant,
): readonly UnreachablePeriod[] {
  const spans = correctedSpans(periods, latest)
  return periods.map((period, index) => {
    const { from, to } = spans[index] ?? period
    return from === period.from && to === period.to ? period : { ...period, from, to }
  })
}

type Span = { readonly from: Instant; readonly to: Instant | null }

function correctedSpans(spans: readonly Span[], latest: Instant): readonly Span[] {
  const result: Span[] = []
  // The newest first: what lies in the future is put before the beginning of the next record. So no two become equal.
  let nextFrom = latest + 1
  for (const { from, to } of spans.toReversed()) {
    const end = to === null || to <= latest ? to : Math.min(nextFrom, latest)
    const begin = from <= latest ? from : Math.min(nextFrom - 1, end ?? latest)
    result.push({ from: begin, to: end === null ? null : Math.max(end, begin) })
    nextFrom = Math.min(nextFrom, begin)
  }
  return result.reverse()
}
