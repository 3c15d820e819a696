import type { Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import {
  beganBy,
  correctedOutages,
  correctedPeriods,
  isSpared,
  type Outage,
  type UnreachablePeriod,
} from '../domain/outage.js'
import type { Reading } from '../domain/reading.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import type { Cause, RefusalCode } from '../domain/vocabulary.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import {
  OutageRecord,
  outageAsJson,
  outageFromJson,
  UnreachablePeriodRecord,
  unreachablePeriodAsJson,
  unreachablePeriodFromJson,
} from './record.js'

/** The numbers that are remembered, in memory and on disk, and the space that they may take in the history file. */
const MAX_OUTAGES = 10_000
const MAX_OUTAGE_BYTES = 6_291_456
const MAX_UNREACHABLE_PERIODS = 1000
const MAX_PERIOD_BYTES = 524_288

/**
 * The outage history: when outages began and ended, how many requests were refused, and when the upstream was unreachable.
 *
 * It is one of the first listeners of the breaker: a transition is written before it is reported.
 */
export class OutageLog {
  readonly #outageChanges: Changes
  readonly #periodChanges: Changes
  #outages: Outage[] = []
  #periods: UnreachablePeriod[] = []
  /** The keys in the file of records whose start was corrected. */
  readonly #keys = new Map<Instant, string>()
  readonly #periodKeys = new Map<Instant, string>()
  readonly #corrected = new Set<Outage | UnreachablePeriod>()
  readonly #store: Store
  readonly #beginner: () => string | undefined
  /** The keys of the outages that began here while another process wrote the file. */
  readonly #startedWithoutFile = new Set<string>()
  /** The ones of these that the other process has recorded as well: its key by ours. */
  #joined: ReadonlyMap<string, string> = new Map()
  /** Whether an outage is in progress according to this process's readings; undefined before the first one. */
  #isSeen: boolean | undefined

  /** @param beginner names the replica that notices the start of an outage, while it starts; undefined if there is only one. */
  constructor(store: Store = IN_MEMORY, beginner: () => string | undefined = () => undefined) {
    this.#beginner = beginner
    this.#store = store
    this.#outageChanges = store.join({
      kind: 'outage',
      schema: OutageRecord,
      maxBytes: MAX_OUTAGE_BYTES,
      records: () => this.#outages.map(outage => [this.keyOf(outage), outageAsJson(outage)] as const),
      record: key => {
        const outage = this.#outages.findLast(each => this.keyOf(each) === key)
        return outage && outageAsJson(outage)
      },
      resume: (records, latest) => this.#resumeOutages(this.#join(records).slice(-MAX_OUTAGES), latest),
    })
    this.#periodChanges = store.join({
      kind: 'unreachable',
      schema: UnreachablePeriodRecord,
      maxBytes: MAX_PERIOD_BYTES,
      records: () =>
        this.#periods.map(period => [this.#periodKeyOf(period), unreachablePeriodAsJson(period)] as const),
      record: key => {
        const period = this.#periods.findLast(each => this.#periodKeyOf(each) === key)
        return period && unreachablePeriodAsJson(period)
      },
      resume: (records, latest) => this.#resumePeriods(records.slice(-MAX_UNREACHABLE_PERIODS), latest),
    })
  }

  /** The records of earlier processes whose times were corrected. Their durations are not known. */
  get corrected(): ReadonlySet<Outage | UnreachablePeriod> {
    return this.#corrected
  }

  /** The outages that both processes have recorded, after the file was taken over: the other process's key by ours. */
  get joined(): ReadonlyMap<string, string> {
    return this.#joined
  }

  /** Starts listening to the breaker. The breaker calls its listeners in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('reading', (reading, isNewest) => {
      if (!isNewest) return
      this.#updatePeriod(reading)
      this.#reconcile(reading)
    })
    breaker.on('transition', ({ from, to, cause, since, reading, at, outageStartedAt }) => {
      this.#isSeen = to !== 'closed'
      const current = this.current()
      if (to === 'closed') this.#end(reading, at)
      else if (from !== 'closed') {
        if (to === 'open' && current === undefined) this.#begin(beganBy(reading, cause, outageStartedAt))
        else if (to === 'open') this.#changeCause(cause, since)
      } else if (current === undefined) this.#begin(beganBy(reading, cause, outageStartedAt))
      // The process that wrote the file before this one had noticed its start.
      else this.#change({ ...current, cause, causeSince: since, restarts: current.restarts + 1 })
    })
    breaker.on('cause', ({ from, to, since, reading, outageStartedAt }) => {
      this.#isSeen = true
      const current = this.current()
      const changed = { cause: to, causeSince: since }
      if (current === undefined) this.#begin(beganBy(reading, to, outageStartedAt))
      // The outage was in progress when this process started.
      else if (from === 'starting') this.#change({ ...current, ...changed, restarts: current.restarts + 1 })
      else this.#change({ ...current, ...changed })
    })
    breaker.on('refused', ({ decision, enforced }) => {
      // A refusal by an override does not belong to the outage.
      if (decision.code !== 'forced_open') this.#countRefused(decision.code, enforced)
    })
  }

  /** The outages, newest first. */
  outages(): readonly Outage[] {
    return [...this.#outages].reverse()
  }

  /** When the metadata could not be read, newest first. */
  unreachablePeriods(): readonly UnreachablePeriod[] {
    return [...this.#periods].reverse()
  }

  /** The outage in progress, if any. */
  current(): Outage | undefined {
    const last = this.#outages.at(-1)
    return last?.endedAt === null ? last : undefined
  }

  /** Counts a new operation in the current outage: a refused request that does not repeat an earlier one. */
  countOperation(): void {
    const current = this.current()
    if (current !== undefined) this.#count({ ...current, operations: current.operations + 1 })
  }

  #begin(begun: Outage): void {
    const replica = this.#beginner()
    const outage = replica === undefined ? begun : { ...begun, replica }
    this.#outages.push(outage)
    if (this.#store.isInUse) this.#startedWithoutFile.add(this.keyOf(outage))
    if (this.#outages.length > MAX_OUTAGES) this.#outages.shift()
    this.#outageChanges.changedNow(this.keyOf(outage))
  }

  /**
   * Another process that wrote the file until now may have noticed a start or an end that this one has not. The next reading
   * of this process decides.
   */
  #reconcile(reading: Reading): void {
    const isRecorded = this.current() !== undefined
    if (this.#isSeen === false && isRecorded && reading.kind === 'ready') this.#end(reading, reading.at)
    if (this.#isSeen === true && !isRecorded && reading.kind !== 'ready') {
      this.#begin(beganBy(reading, reading.kind))
    }
  }

  #end(reading: Reading, at: Instant): void {
    const current = this.current()
    if (current !== undefined) this.#change({ ...current, endedAt: at, closedBy: reading })
  }

  /** Notes the cause of a failed recovery, which may be the same as before. */
  #changeCause(cause: Cause, causeSince: Instant): void {
    const current = this.current()
    if (current !== undefined) this.#change({ ...current, cause, causeSince })
  }

  #change(outage: Outage): void {
    this.#outages[this.#outages.length - 1] = outage
    this.#outageChanges.changedNow(this.keyOf(outage))
  }

  #countRefused(code: RefusalCode, enforced: boolean): void {
    const current = this.current()
    if (current === undefined) return
    const { refused, wouldRefuse, spared } = current
    if (!enforced) this.#count({ ...current, wouldRefuse: wouldRefuse + 1 })
    else this.#count({ ...current, refused: refused + 1, spared: spared + (isSpared(current, code) ? 1 : 0) })
  }

  #count(outage: Outage): void {
    this.#outages[this.#outages.length - 1] = outage
    this.#outageChanges.changed(this.keyOf(outage))
  }

  #updatePeriod(reading: Reading): void {
    const last = this.#periods.at(-1)
    const current = last?.to === null ? last : undefined
    if (reading.kind === 'unreachable' && current === undefined) {
      const period: UnreachablePeriod = { from: reading.at, to: null, problem: reading.problem }
      this.#periods.push(period)
      if (this.#periods.length > MAX_UNREACHABLE_PERIODS) this.#periods.shift()
      this.#periodChanges.changedNow(this.#periodKeyOf(period))
    } else if (reading.kind !== 'unreachable' && current !== undefined) {
      const period = { ...current, to: reading.at }
      this.#periods[this.#periods.length - 1] = period
      this.#periodChanges.changedNow(this.#periodKeyOf(period))
    }
  }

  /**
   * While two processes run, both notice the start of an outage, each from its own reading. It is one outage, under the key
   * of the process that wrote the file and reported it.
   */
  #join(
    records: readonly (readonly [string, Static<typeof OutageRecord>])[],
  ): readonly (readonly [string, Static<typeof OutageRecord>])[] {
    this.#joined = new Map()
    if (this.#startedWithoutFile.size === 0) return records
    const all = new Map(records)
    const joined = new Map<string, string>()
    for (const key of this.#startedWithoutFile) {
      const ours = all.get(key)
      const [theirKey, theirs] = [...all].findLast(
        ([each, record]) =>
          !this.#startedWithoutFile.has(each) && ours !== undefined && overlap(record, ours),
      ) ?? [key]
      if (ours === undefined || theirs === undefined) continue
      all.delete(key)
      all.set(theirKey, joinedOutage(theirs, ours))
      joined.set(key, theirKey)
      this.#outageChanges.changedNow(theirKey)
    }
    this.#startedWithoutFile.clear()
    this.#joined = joined
    return [...all].toSorted(([, one], [, other]) => Date.parse(one.startedAt) - Date.parse(other.startedAt))
  }

  #resumeOutages(
    records: readonly (readonly [string, Static<typeof OutageRecord>])[],
    latest: Instant,
  ): void {
    const before = records.map(([, record]) => outageFromJson(record))
    const outages = correctedOutages(before, latest)
    this.#noteCorrected(this.#keys, records, before, outages, outage => outage.startedAt)
    // An outage whose end was not recorded ended no later than the start of the next one.
    this.#outages = outages.map((outage, index) => {
      const next = outages[index + 1]
      if (outage.endedAt !== null || next === undefined) return outage
      return { ...outage, endedAt: Math.max(outage.startedAt, next.startedAt) }
    })
  }

  #resumePeriods(
    records: readonly (readonly [string, Static<typeof UnreachablePeriodRecord>])[],
    latest: Instant,
  ): void {
    const before = records.map(([, record]) => unreachablePeriodFromJson(record))
    const periods = correctedPeriods(before, latest)
    this.#noteCorrected(this.#periodKeys, records, before, periods, period => period.from)
    this.#periods = periods.map((period, index) => {
      const next = periods[index + 1]
      return period.to === null && next !== undefined
        ? { ...period, to: Math.max(period.from, next.from) }
        : period
    })
  }

  /** A corrected record keeps its key, and the file stays unchanged, because the current clock may be the wrong one. */
  #noteCorrected<T extends Outage | UnreachablePeriod>(
    keys: Map<Instant, string>,
    records: readonly (readonly [key: string, record: unknown])[],
    before: readonly T[],
    corrected: readonly T[],
    beginningOf: (each: T) => Instant,
  ): void {
    keys.clear()
    corrected.forEach((record, index) => {
      const [key] = records[index] ?? []
      if (key !== undefined && key !== rfc3339(beginningOf(record))) keys.set(beginningOf(record), key)
      if (record !== before[index]) this.#corrected.add(record)
    })
  }

  /** The key of an outage in the history file. No two outages start at the same time. */
  keyOf({ startedAt }: Outage): string {
    return this.#keys.get(startedAt) ?? rfc3339(startedAt)
  }

  #periodKeyOf({ from }: UnreachablePeriod): string {
    return this.#periodKeys.get(from) ?? rfc3339(from)
  }
}

type Recorded = Static<typeof OutageRecord>

function overlap(one: Recorded, other: Recorded): boolean {
  const endOf = ({ endedAt }: Recorded) => (endedAt === null ? Number.POSITIVE_INFINITY : Date.parse(endedAt))
  return Date.parse(one.startedAt) <= endOf(other) && Date.parse(other.startedAt) <= endOf(one)
}

/** The records of two processes as one. Our process is still running, so its record continues; counts are added up. */
function joinedOutage(theirs: Recorded, ours: Recorded): Recorded {
  const sum = (name: 'wouldRefuse' | 'spared') => (theirs[name] ?? 0) + (ours[name] ?? 0)
  return {
    ...ours,
    startedAt: theirs.startedAt,
    openedBy: theirs.openedBy,
    endedAt: ours.endedAt ?? theirs.endedAt,
    closedBy: ours.closedBy ?? theirs.closedBy,
    refused: theirs.refused + ours.refused,
    operations: theirs.operations + ours.operations,
    wouldRefuse: sum('wouldRefuse'),
    spared: sum('spared'),
    restarts: theirs.restarts + 1,
  }
}
