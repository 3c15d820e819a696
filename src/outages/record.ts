import Type, { type Static } from 'typebox'
import type { Outage, UnreachablePeriod } from '../domain/outage.js'
import type { Override } from '../domain/override.js'
import { rfc3339 } from '../domain/time.js'
import {
  FAILED_READING_KINDS,
  OVERRIDE_STATES,
  READING_KINDS,
  READING_SOURCES,
} from '../domain/vocabulary.js'

/** A time in JSON, RFC 3339. */
export const Timestamp = Type.String({ format: 'date-time' })

/** A value or null. */
export const Nullable = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()])

/** A reading as JSON, without its metadata. */
export const ReadingRecord = Type.Object({
  kind: Type.Enum(READING_KINDS),
  at: Timestamp,
  source: Type.Enum(READING_SOURCES),
  missing: Type.Optional(Type.Array(Type.String())),
  problem: Type.Optional(Type.String()),
})

/** An outage as JSON, in the history file and in responses. */
export const OutageRecord = Type.Object({
  startedAt: Timestamp,
  endedAt: Nullable(Timestamp),
  cause: Type.Enum(FAILED_READING_KINDS),
  /** Since when the outage has had this cause. Older files lack it, and the optional counts. */
  causeSince: Type.Optional(Timestamp),
  openedBy: ReadingRecord,
  closedBy: Nullable(ReadingRecord),
  refused: Type.Integer({ minimum: 0 }),
  wouldRefuse: Type.Optional(Type.Integer({ minimum: 0 })),
  operations: Type.Integer({ minimum: 0 }),
  spared: Type.Optional(Type.Integer({ minimum: 0 })),
  restarts: Type.Integer({ minimum: 0 }),
  /** The replica that noticed its start, if there were several. */
  replica: Type.Optional(Type.String()),
})

/** An unreachable period as JSON, in the history file and in responses. */
export const UnreachablePeriodRecord = Type.Object({
  from: Timestamp,
  to: Nullable(Timestamp),
  problem: Type.String(),
})

/** A manual override as JSON, in the history file. */
export const OverrideRecord = Type.Object({
  state: Type.Enum(OVERRIDE_STATES),
  reason: Type.String(),
  since: Timestamp,
  until: Timestamp,
  by: Type.String(),
  silent: Type.Optional(Type.Boolean()),
})

/** The override of a JSON record. */
export function overrideFromJson(record: Static<typeof OverrideRecord>): Override {
  return { ...record, since: Date.parse(record.since), until: Date.parse(record.until) }
}

/** The JSON record of an outage. */
export function outageAsJson(outage: Outage): Static<typeof OutageRecord> {
  const { startedAt, endedAt, cause, causeSince, openedBy, closedBy, replica } = outage
  const { refused, wouldRefuse, operations, spared, restarts } = outage
  return {
    startedAt: rfc3339(startedAt),
    endedAt: endedAt === null ? null : rfc3339(endedAt),
    cause: cause === 'unreachable' ? cause : 'waiting',
    causeSince: rfc3339(causeSince),
    openedBy: readingAsJson(openedBy),
    closedBy: closedBy && readingAsJson(closedBy),
    ...{ refused, wouldRefuse, operations, spared, restarts },
    ...(replica !== undefined && { replica }),
  }
}

/** The JSON record of an unreachable period. */
export function unreachablePeriodAsJson(period: UnreachablePeriod): Static<typeof UnreachablePeriodRecord> {
  const { from, to, problem } = period
  return { from: rfc3339(from), to: to === null ? null : rfc3339(to), problem }
}

/** The JSON record of a reading. */
export function readingAsJson(reading: Outage['openedBy']): Static<typeof ReadingRecord> {
  return {
    kind: reading.kind,
    at: rfc3339(reading.at),
    source: reading.source,
    ...(reading.kind === 'waiting' && { missing: [...reading.missing] }),
    ...(reading.kind === 'unreachable' && { problem: reading.problem }),
  }
}

/** The outage of a JSON record. Its readings have no metadata, because the record has none. */
export function outageFromJson(record: Static<typeof OutageRecord>): Outage {
  const { causeSince, wouldRefuse = 0, spared, refused, cause } = record
  return {
    ...record,
    startedAt: Date.parse(record.startedAt),
    // For a record of an older file, assume that the outage had only one cause.
    causeSince: Date.parse(causeSince ?? record.startedAt),
    wouldRefuse,
    spared: spared ?? (cause === 'waiting' ? refused : 0),
    endedAt: record.endedAt === null ? null : Date.parse(record.endedAt),
    openedBy: readingFromJson(record.openedBy),
    closedBy: record.closedBy && readingFromJson(record.closedBy),
  }
}

/** The unreachable period of a JSON record. */
export function unreachablePeriodFromJson(record: Static<typeof UnreachablePeriodRecord>): UnreachablePeriod {
  const { from, to, problem } = record
  return { from: Date.parse(from), to: to === null ? null : Date.parse(to), problem }
}

/** The reading of a JSON record. It has no metadata, because the record has none. */
export function readingFromJson(record: Static<typeof ReadingRecord>): Outage['openedBy'] {
  const { kind, at, source, missing, problem } = record
  const known = { at: Date.parse(at), source }
  if (kind === 'ready') return { ...known, kind, metadata: {} }
  if (kind === 'waiting') return { ...known, kind, metadata: {}, missing: missing ?? [] }
  return { ...known, kind, problem: problem ?? '' }
}
