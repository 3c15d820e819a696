import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import {
  type Bucket,
  DAY_MS,
  dayOf,
  durationClass,
  emptyBucket,
  HOUR_MS,
  hourOf,
  hoursOf,
  type LongOutage,
  type LongSpan,
  longer,
  together,
  withAbsence,
  withPhase,
  withRefusalsIn,
} from '../domain/bucket.js'
import type { Outage } from '../domain/outage.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { FAILED_READING_KINDS, type FailedReadingKind, PHASES, type Phase } from '../domain/vocabulary.js'
import { BucketRecord, bucketAsJson, bucketFromJson } from './bucket-record.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import type { OutageLog } from './log.js'
import { Nullable, Timestamp } from './record.js'
import type { RefusalBatches } from './refusal-batches.js'

/** The number of hours that are remembered individually: 31 days. Older hours are added to their days. */
const MAX_HOURS = 31 * 24

/** The number of days that are remembered. */
const MAX_DAYS = 400

/** The space that hours and days may take in the history file; with very many clients, each takes about 4 KiB. */
const MAX_HOUR_BYTES = 3_145_728
const MAX_DAY_BYTES = 1_572_864

/**
 * A change may begin before it is known: a reading is dated by when its probe was sent, and a cause by the first of
 * several readings. So an hour is settled some time after it ends.
 */
const SETTLED_AFTER_MS = 600_000

/** A day, and the end of the last hour that was added to it: earlier hours are already included. */
type Day = { readonly bucket: Bucket; readonly through: Instant }

/** A span that began at `from` and is still in progress; the hours contain the part up to `countedTo`. */
type Lasting = { readonly from: Instant; readonly countedTo: Instant }

const LastingSpan = Type.Object({ from: Timestamp, countedTo: Timestamp })

/** The spans in progress in a process. They are counted when the process has ended. The key is the start of the process. */
export const LastingRecord = Type.Object({
  phase: Type.Enum(PHASES),
  span: LastingSpan,
  absence: Nullable(LastingSpan),
  until: Timestamp,
})

/** The options of buckets. */
export type BucketsOptions = {
  readonly outageLog: OutageLog
  readonly batches: RefusalBatches
  readonly clock: () => Instant
  /** The current phase. */
  readonly phase: () => Phase
  readonly store?: Store
}

/**
 * Remembers what happened, by the hour for 31 days and by the day for 400: time in each phase, refusals, outages, and
 * absences of focus-server. A span in progress is counted when it ends, or at the end of each hour.
 *
 * It listens to the breaker after the outage log and after the batches.
 */
export class Buckets {
  readonly #options: BucketsOptions
  /** The key of this process's spans in progress. */
  readonly #process: string
  readonly #hourChanges: Changes
  readonly #dayChanges: Changes
  readonly #lastingChanges: Changes
  readonly #hours = new Map<Instant, Bucket>()
  readonly #days = new Map<Instant, Day>()
  #phase: Phase
  #phaseSpan: Lasting
  #absence: Lasting | undefined
  #outage: { readonly from: Instant; readonly cause: FailedReadingKind } | undefined
  /** The spans that were in progress when earlier processes ended. */
  #left: readonly (readonly [key: string, record: Static<typeof LastingRecord>])[] = []
  #stoppedAt: Instant | undefined
  #hasJoined = false

  constructor(options: BucketsOptions) {
    const { outageLog, batches, clock, phase, store = IN_MEMORY } = options
    this.#options = options
    const now = clock()
    this.#process = rfc3339(now)
    this.#phase = phase()
    this.#phaseSpan = { from: now, countedTo: now }
    this.#hourChanges = store.join({
      kind: 'hour',
      schema: BucketRecord,
      maxBytes: MAX_HOUR_BYTES,
      records: () => [...this.#hours].map(([from, hour]) => [rfc3339(from), bucketAsJson(hour)] as const),
      record: key => {
        const hour = this.#hours.get(Date.parse(key))
        return hour && bucketAsJson(hour)
      },
      resume: records => {
        this.#hours.clear()
        for (const [key, record] of sorted(records, hourOf)) {
          this.#hours.set(Date.parse(key), bucketFromJson(Date.parse(key), HOUR_MS, record))
        }
      },
      beforeWrite: at => {
        batches.flush()
        this.#settle(at)
      },
    })
    this.#dayChanges = store.join({
      kind: 'day',
      schema: BucketRecord,
      maxBytes: MAX_DAY_BYTES,
      records: () => [...this.#days].map(([from, day]) => [rfc3339(from), dayAsJson(day)] as const),
      record: key => {
        const day = this.#days.get(Date.parse(key))
        return day && dayAsJson(day)
      },
      resume: records => {
        this.#days.clear()
        for (const [key, record] of sorted(records, dayOf)) {
          const from = Date.parse(key)
          const through = Date.parse(record.through ?? key)
          this.#days.set(from, { bucket: bucketFromJson(from, DAY_MS, record), through })
        }
      },
    })
    this.#lastingChanges = store.join({
      kind: 'lasting',
      schema: LastingRecord,
      maxBytes: 65_536,
      records: () => [...this.#left, [this.#process, this.#lastingAsJson()] as const],
      record: key => (key === this.#process ? this.#lastingAsJson() : undefined),
      resume: (records, latest) => {
        this.#left = records.filter(([key]) => key !== this.#process)
        // During construction, nothing can be reported as changed yet.
        if (!this.#hasJoined) return
        this.#countLeft(latest)
        for (const key of outageLog.joined.keys()) this.#countedTwice(Date.parse(key))
        const current = outageLog.current()
        this.#outage = current && outageOf(current)
      },
      beforeWrite: () => this.#lastingChanges.changed(this.#process),
    })
    this.#hasJoined = true
    // While another process writes the file, its spans are still in progress.
    if (!store.isInUse) this.#countLeft(now)
    const current = outageLog.current()
    if (current !== undefined) this.#outage = outageOf(current)
    const period = outageLog.unreachablePeriods()[0]
    if (period?.to === null) this.#absence = { from: period.from, countedTo: now }
    batches.deliverTo(
      batch => this.#change(batch.at, hour => withRefusalsIn(hour, batch)),
      () => this.#lastingChanges.changed(this.#process),
    )
  }

  /** When the previous process was last known to be running; undefined if there is no record of one. */
  get stoppedAt(): Instant | undefined {
    return this.#stoppedAt
  }

  /** Starts listening to the breaker. The breaker calls its listeners in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('reading', ({ at, kind }, isNewest) => {
      if (!isNewest) return
      this.#readingAt(at, kind === 'unreachable')
      // With each reading, the outage log may reconcile what two processes recorded.
      this.#outageAt(at)
    })
    breaker.on('transition', ({ at }) => {
      this.#phaseAt(at)
      this.#outageAt(at)
    })
    breaker.on('cause', ({ at, since }) => {
      this.#phaseAt(since)
      this.#outageAt(at)
    })
    breaker.on('override', ({ kind, override }) => {
      this.#phaseAt(kind === 'set' ? override.since : override.endedAt)
    })
  }

  /** Counts how long focus-server took to respond to a guarded request. */
  answered(durationMs: number): void {
    const name = String(durationClass(durationMs))
    this.#change(this.#options.clock(), hour => ({
      ...hour,
      durations: { ...hour.durations, [name]: (hour.durations[name] ?? 0) + 1 },
    }))
  }

  /** Hours and days, with spans in progress counted until now. They do not overlap. */
  buckets(): readonly Bucket[] {
    const now = this.#options.clock()
    this.#options.batches.flush()
    this.#settle(now)
    const hours = new Map(this.#hours)
    countPhase(hours, this.#phase, this.#phaseSpan, now)
    if (this.#absence !== undefined) countAbsence(hours, this.#absence, now)
    return [...[...this.#days.values()].map(({ bucket }) => bucket), ...hours.values()]
  }

  /** What is in progress: the outage, its cause if that is the current phase, and the absence of focus-server. */
  lasting(): {
    readonly outage: LongOutage | null
    readonly cause: LongOutage | null
    readonly absence: LongSpan | null
  } {
    const now = this.#options.clock()
    const cause = failedKind(this.#phase)
    const outage = this.#outage
    return {
      outage: outage === undefined ? null : { ...spanOf(outage.from, now), cause: outage.cause },
      cause: cause === undefined ? null : { ...spanOf(this.#phaseSpan.from, now), cause },
      absence: this.#absence === undefined ? null : spanOf(this.#absence.from, now),
    }
  }

  /** Ends the current phase at this time if another one has begun. */
  #phaseAt(at: Instant): void {
    const phase = this.#options.phase()
    if (phase === this.#phase) return
    const end = Math.max(at, this.#phaseSpan.countedTo)
    this.#endPhase(this.#phase, this.#phaseSpan, end)
    this.#phase = phase
    this.#phaseSpan = { from: end, countedTo: end }
    this.#settle(this.#options.clock())
  }

  #endPhase(phase: Phase, span: Lasting, end: Instant): void {
    for (const from of countPhase(this.#hours, phase, span, end)) this.#hourChanges.changed(rfc3339(from))
    const kind = failedKind(phase)
    if (kind === undefined || end <= span.from) return
    this.#change(end, hour => ({
      ...hour,
      longest: { ...hour.longest, [kind]: longer(hour.longest[kind], spanOf(span.from, end)) },
    }))
  }

  #outageAt(at: Instant): void {
    const current = this.#options.outageLog.current()
    const ended = this.#outage
    if (ended?.from === current?.startedAt) return
    if (ended !== undefined) {
      this.#change(at, hour => ({
        ...hour,
        longestOutage: longer(hour.longestOutage, { ...spanOf(ended.from, at), cause: ended.cause }),
      }))
    }
    this.#outage = current && outageOf(current)
    if (this.#outage === undefined) return
    const { cause } = this.#outage
    this.#change(at, hour => ({ ...hour, outages: { ...hour.outages, [cause]: hour.outages[cause] + 1 } }))
  }

  /** Takes back the count of an outage that the process that wrote the file has counted too. */
  #countedTwice(startedAt: Instant): void {
    const hour = this.#hours.get(hourOf(startedAt))
    const cause = FAILED_READING_KINDS.find(kind => (hour?.outages[kind] ?? 0) > 0)
    if (hour === undefined || cause === undefined) return
    this.#change(startedAt, each => ({
      ...each,
      outages: { ...each.outages, [cause]: each.outages[cause] - 1 },
    }))
  }

  #readingAt(at: Instant, isUnreachable: boolean): void {
    if (isUnreachable === (this.#absence !== undefined)) return
    if (this.#absence === undefined) {
      this.#absence = { from: at, countedTo: at }
      this.#change(at, hour => ({ ...hour, absences: hour.absences + 1 }))
      return
    }
    const { from, countedTo } = this.#absence
    const end = Math.max(at, countedTo)
    for (const hour of countAbsence(this.#hours, this.#absence, end)) this.#hourChanges.changed(rfc3339(hour))
    this.#absence = undefined
    this.#change(end, hour => ({ ...hour, longestAbsence: longer(hour.longestAbsence, spanOf(from, end)) }))
  }

  /** Counts spans in progress for the hours that have ended, and adds the oldest hours to their days. */
  #settle(now: Instant): void {
    const end = hourOf(now - SETTLED_AFTER_MS)
    if (this.#phaseSpan.countedTo < end) {
      for (const hour of countPhase(this.#hours, this.#phase, this.#phaseSpan, end)) {
        this.#hourChanges.changed(rfc3339(hour))
      }
      this.#phaseSpan = { ...this.#phaseSpan, countedTo: end }
    }
    if (this.#absence !== undefined && this.#absence.countedTo < end) {
      for (const hour of countAbsence(this.#hours, this.#absence, end)) {
        this.#hourChanges.changed(rfc3339(hour))
      }
      this.#absence = { ...this.#absence, countedTo: end }
    }
    // Left to the process that writes the file; otherwise both would add the same hour to its day.
    if (this.#options.store?.isInUse === true) return
    for (const [from, hour] of oldestBeyond(MAX_HOURS, this.#hours)) this.#addToItsDay(from, hour)
    for (const [from] of oldestBeyond(MAX_DAYS, this.#days)) {
      this.#days.delete(from)
      this.#dayChanges.changed(rfc3339(from))
    }
  }

  #addToItsDay(from: Instant, hour: Bucket): void {
    this.#hours.delete(from)
    this.#hourChanges.changed(rfc3339(from))
    const start = dayOf(from)
    const day = this.#days.get(start)
    this.#days.set(start, {
      bucket: together(start, day === undefined ? [hour] : [day.bucket, hour]),
      through: Math.max(day?.through ?? start, from + HOUR_MS),
    })
    this.#dayChanges.changed(rfc3339(start))
  }

  /** Counts the spans of processes that have ended, up to when each process was last known to be running. */
  #countLeft(latest: Instant): void {
    for (const [key, { phase, span, absence, until }] of this.#left) {
      const end = Math.min(Date.parse(until), latest)
      this.#stoppedAt = Math.max(this.#stoppedAt ?? end, end)
      // A span longer than 400 days is malformed; counting it hour by hour would take long.
      const isPlausible = (each: Static<typeof LastingSpan>) =>
        end - Date.parse(each.countedTo) <= MAX_DAYS * DAY_MS
      if (isPlausible(span)) this.#endPhase(phase, lastingFromJson(span), end)
      if (absence !== null && isPlausible(absence)) {
        for (const hour of countAbsence(this.#hours, lastingFromJson(absence), end)) {
          this.#hourChanges.changed(rfc3339(hour))
        }
      }
      this.#lastingChanges.changed(key)
    }
    this.#left = []
    // An interrupted write may have left an hour that is already included in its day.
    for (const from of this.#hours.keys()) {
      if (from >= (this.#days.get(dayOf(from))?.through ?? from)) continue
      this.#hours.delete(from)
      this.#hourChanges.changed(rfc3339(from))
    }
  }

  #lastingAsJson(): Static<typeof LastingRecord> {
    return {
      phase: this.#phase,
      span: lastingAsJson(this.#phaseSpan),
      absence: this.#absence === undefined ? null : lastingAsJson(this.#absence),
      until: rfc3339(this.#options.clock()),
    }
  }

  #change(at: Instant, next: (hour: Bucket) => Bucket): void {
    change(this.#hours, at, next)
    this.#hourChanges.changed(rfc3339(hourOf(at)))
  }
}

type Hours = Map<Instant, Bucket>

/** Adds a span in progress to the hours up to `to`. Returns the hours that it has changed. */
function countPhase(hours: Hours, phase: Phase, { countedTo }: Lasting, to: Instant): readonly Instant[] {
  return hoursOf(countedTo, to).map(part =>
    change(hours, part.from, hour => withPhase(hour, phase, part.from, part.to)),
  )
}

function countAbsence(hours: Hours, { countedTo }: Lasting, to: Instant): readonly Instant[] {
  return hoursOf(countedTo, to).map(part =>
    change(hours, part.from, hour => withAbsence(hour, part.from, part.to)),
  )
}

function change(hours: Hours, at: Instant, next: (hour: Bucket) => Bucket): Instant {
  const from = hourOf(at)
  hours.set(from, next(hours.get(from) ?? emptyBucket(from, at)))
  return from
}

/** The entries of a map by time that exceed `max`, oldest first. */
function oldestBeyond<Value>(max: number, all: ReadonlyMap<Instant, Value>): readonly [Instant, Value][] {
  if (all.size <= max) return []
  return [...all].sort(([a], [b]) => a - b).slice(0, all.size - max)
}

function spanOf(from: Instant, to: Instant): LongSpan {
  return { from, ms: Math.max(0, Math.floor(to) - Math.floor(from)) }
}

function failedKind(phase: Phase): FailedReadingKind | undefined {
  return FAILED_READING_KINDS.find(kind => kind === phase)
}

/** The start and the first cause of an outage. */
function outageOf({ startedAt, openedBy }: Outage) {
  const cause: FailedReadingKind = openedBy.kind === 'unreachable' ? 'unreachable' : 'waiting'
  return { from: startedAt, cause }
}

function dayAsJson({ bucket, through }: Day): Static<typeof BucketRecord> {
  return { ...bucketAsJson(bucket), through: rfc3339(through) }
}

function lastingAsJson({ from, countedTo }: Lasting): Static<typeof LastingSpan> {
  return { from: rfc3339(from), countedTo: rfc3339(countedTo) }
}

function lastingFromJson({ from, countedTo }: Static<typeof LastingSpan>): Lasting {
  return { from: Date.parse(from), countedTo: Date.parse(countedTo) }
}

/** The records whose key is the start of an hour or a day, oldest first, even if the clock was set back in between. */
function sorted<Record>(
  records: readonly (readonly [key: string, record: Record])[],
  beginningOf: (at: Instant) => Instant,
) {
  return records
    .filter(([key]) => beginningOf(Date.parse(key)) === Date.parse(key))
    .sort(([a], [b]) => Date.parse(a) - Date.parse(b))
}
