import type { Reading } from './reading.js'
import { type Instant, inWords } from './time.js'
import type { Cause, Confidence, RefusalCode } from './vocabulary.js'

/** How long an outage lasted, and its latest cause. Forecasts are based on these. */
export type PastOutage = { readonly cause: Cause; readonly lengthMs: number }

/** How long past outages with the cause of the current one lasted in total; `samples` is their number. */
export type Forecast = {
  readonly cause: Cause
  readonly p50Seconds: number
  readonly p90Seconds: number
  readonly samples: number
  readonly confidence: Confidence
}

/** The number of past outages that a forecast needs, and from which it is fair or good. */
const MIN_SAMPLES = 5
const FAIR_SAMPLES = 10
const GOOD_SAMPLES = 30

/**
 * How long an outage is likely to last in total when it has lasted `elapsedMs` so far: the median and the ninth
 * decile (nearest rank) of the past outages with the same cause that lasted at least that long. Null if there are too
 * few of them.
 */
export function forecast(past: readonly PastOutage[], cause: Cause, elapsedMs: number): Forecast | null {
  const alike = past
    .filter(outage => outage.cause === cause && outage.lengthMs >= elapsedMs)
    .map(({ lengthMs }) => lengthMs)
    .sort((a, b) => a - b)
  const samples = alike.length
  if (samples < MIN_SAMPLES) return null
  const quantile = (part: number) => Math.round((alike[Math.ceil(part * samples) - 1] ?? 0) / 1000)
  const confidence = samples < FAIR_SAMPLES ? 'low' : samples < GOOD_SAMPLES ? 'fair' : 'good'
  return { cause, p50Seconds: quantile(0.5), p90Seconds: quantile(0.9), samples, confidence }
}

/** The outage is mentioned as well if it began this long before the current state or cause. */
const WITHIN_MS = 5000

/**
 * A suffix for a message that shows how long the current state or cause has lasted: `, within an outage of 53 s`. Empty
 * when both are about equally old.
 */
export function withinOutage(lastedMs: number, outageMs: number): string {
  return outageMs - lastedMs > WITHIN_MS ? `, within an outage of ${inWords(outageMs)}` : ''
}

/** One outage, from the opening of the circuit to its closing. */
export type Outage = {
  /** Also identifies the outage: no two outages start at the same time. */
  readonly startedAt: Instant
  /** Null while it lasts. */
  readonly endedAt: Instant | null
  /** The latest cause: an outage may start with an unreachable upstream and continue with a missing fiber. */
  readonly cause: Cause
  /** Since when the circuit has been open for that cause. A failed recovery starts it again. */
  readonly causeSince: Instant
  readonly openedBy: Reading
  readonly closedBy: Reading | null
  /** Requests that were refused, and requests that would have been but were forwarded in mode `observe`. */
  readonly refused: number
  readonly wouldRefuse: number
  /** The number of distinct operations among both. */
  readonly operations: number
  /** Requests refused with the cause `waiting`: focus-server was up and did not receive them. */
  readonly spared: number
  /** How often the proxy was restarted while it lasted. */
  readonly restarts: number
  /** The replica that noticed its start, if there were several. */
  readonly replica?: string
}

/**
 * Whether a refusal during the outage spared focus-server a request: it was up, and its fiber was missing. After a start, the
 * cause of the outage is unknown until the first reading, and requests are refused as `metadata_unavailable`.
 */
export function isSpared({ cause }: Pick<Outage, 'cause'>, code: RefusalCode): boolean {
  return cause === 'waiting' && code !== 'metadata_unavailable'
}

/** A period in which the metadata could not be read, whether or not that opened the circuit. */
export type UnreachablePeriod = {
  readonly from: Instant
  /** Null while it lasts. */
  readonly to: Instant | null
  readonly problem: string
}

/** A new outage, opened by a reading. @param startedAt earlier than the reading if another replica noticed the start. */
export function beganBy(reading: Reading, cause: Cause, startedAt = reading.at): Outage {
  return {
    startedAt,
    endedAt: null,
    cause,
    causeSince: reading.at,
    openedBy: reading,
    closedBy: null,
    refused: 0,
    wouldRefuse: 0,
    operations: 0,
    spared: 0,
    restarts: 0,
  }
}

/** Whether the period overlaps the outage. */
export function isDuring({ from, to }: UnreachablePeriod, { startedAt, endedAt }: Outage): boolean {
  return (endedAt === null || from < endedAt) && (to === null || to >= startedAt)
}

/**
 * The outages, oldest first, without times after `latest` and without ends before their starts. A record that needs no
 * correction stays the same object.
 *
 * Records have such times if they were made before the clock was set back. How far it was ahead is not known.
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
    const times = [outage.causeSince, ...readings.map(({ at }) => at)]
    if (from === outage.startedAt && to === outage.endedAt && times.every(at => at <= latest)) {
      return outage
    }
    return {
      ...outage,
      startedAt: from,
      endedAt: to,
      causeSince: Math.max(from, Math.min(outage.causeSince, to ?? latest)),
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
  // Newest first: a record in the future is moved before the start of the next record, so that no two become equal.
  let nextFrom = latest + 1
  for (const { from, to } of spans.toReversed()) {
    const end = to === null || to <= latest ? to : Math.min(nextFrom, latest)
    const begin = from <= latest ? from : Math.min(nextFrom - 1, end ?? latest)
    result.push({ from: begin, to: end === null ? null : Math.max(end, begin) })
    nextFrom = Math.min(nextFrom, begin)
  }
  return result.reverse()
}
