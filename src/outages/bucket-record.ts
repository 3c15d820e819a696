import Type, { type Static } from 'typebox'
import { type Bucket, byKind, type LongOutage, type LongSpan, observedMs } from '../domain/bucket.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { FAILED_READING_KINDS, PHASES, type Phase } from '../domain/vocabulary.js'
import { TallyRecords, talliesAsJson, talliesFromJson } from './detail-record.js'
import { Nullable, Timestamp } from './record.js'

const Count = Type.Integer({ minimum: 0 })

const SpanRecord = Type.Object({ from: Timestamp, to: Timestamp })

const OutageSpanRecord = Type.Object({ ...SpanRecord.properties, cause: Type.Enum(FAILED_READING_KINDS) })

/** An hour or a day in the history file. Its key is its start. */
export const BucketRecord = Type.Object({
  since: Timestamp,
  /** Milliseconds by phase. */
  ms: Type.Record(Type.String(), Count),
  refused: Count,
  wouldRefuse: Count,
  spared: Count,
  outages: Type.Object({ waiting: Count, unreachable: Count }),
  longestOutage: Nullable(OutageSpanRecord),
  longest: Type.Object({ waiting: Nullable(SpanRecord), unreachable: Nullable(SpanRecord) }),
  absences: Count,
  absenceMs: Count,
  longestAbsence: Nullable(SpanRecord),
  ...TallyRecords,
  /** Numbers of guarded requests by the class of their duration. */
  durations: Type.Record(Type.String({ pattern: '^[0-9]{1,3}$' }), Count),
  /** Only of a day: the end of the last hour that was added to it. */
  through: Type.Optional(Timestamp),
})

/** The record of an hour or a day. It lists only the top clients and test runs, and the sums of the others. */
export function bucketAsJson(bucket: Bucket): Static<typeof BucketRecord> {
  const { since, ms, refusals, spared, outages, longestOutage, longest, absences, absenceMs } = bucket
  return {
    since: rfc3339(since),
    ms: { ...ms },
    ...refusals,
    spared,
    outages,
    longestOutage: longestOutage && { ...spanAsJson(longestOutage), cause: longestOutage.cause },
    longest: byKind(kind => longest[kind] && spanAsJson(longest[kind])),
    ...{ absences, absenceMs },
    longestAbsence: bucket.longestAbsence && spanAsJson(bucket.longestAbsence),
    ...talliesAsJson(bucket),
    durations: bucket.durations,
  }
}

/**
 * The hour or the day of a record.
 *
 * @param lengthMs the length of the bucket. If two processes that ran at the same time recorded more, it is scaled down.
 */
export function bucketFromJson(from: Instant, lengthMs: number, record: Static<typeof BucketRecord>): Bucket {
  const { refused, wouldRefuse, spared, outages, longestOutage, longest, absences, absenceMs } = record
  return {
    from,
    since: Date.parse(record.since),
    ms: fitted(record.ms, lengthMs),
    refusals: { refused, wouldRefuse },
    spared,
    outages,
    longestOutage: longestOutage && outageFromJson(longestOutage),
    longest: byKind(kind => longest[kind] && spanFromJson(longest[kind])),
    ...{ absences, absenceMs },
    longestAbsence: record.longestAbsence && spanFromJson(record.longestAbsence),
    ...talliesFromJson(record),
    durations: record.durations,
  }
}

function fitted(recorded: Static<typeof BucketRecord>['ms'], lengthMs: number): Bucket['ms'] {
  const ms = Object.fromEntries(
    PHASES.flatMap((phase): readonly (readonly [Phase, number])[] => {
      const known = recorded[phase]
      return known === undefined ? [] : [[phase, known]]
    }),
  )
  const part = lengthMs / Math.max(lengthMs, observedMs({ ms }))
  if (part === 1) return ms
  return Object.fromEntries(Object.entries(ms).map(([phase, known]) => [phase, Math.floor(known * part)]))
}

function spanAsJson({ from, ms }: LongSpan): Static<typeof SpanRecord> {
  return { from: rfc3339(from), to: rfc3339(from + ms) }
}

function spanFromJson({ from, to }: Static<typeof SpanRecord>): LongSpan {
  const start = Date.parse(from)
  return { from: start, ms: Math.max(0, Date.parse(to) - start) }
}

function outageFromJson({ cause, ...span }: Static<typeof OutageSpanRecord>): LongOutage {
  return { ...spanFromJson(span), cause }
}
