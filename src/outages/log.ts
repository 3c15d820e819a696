import type { Breaker } from '../breaker/breaker.js'
import { beganBy, type Outage, type UnreachablePeriod } from '../domain/outage.js'
import { isDeclared, type Override } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Cause } from '../domain/vocabulary.js'
import type { History, HistoryFile } from './file.js'

/** How many are remembered, in memory and on disk. */
const MAX_OUTAGES = 1000
const MAX_UNREACHABLE_PERIODS = 1000

/**
 * How soon the counts of the current outage are written. Sooner than the event stream reports them
 * (`observability/event-ring`), so that every reported count survives the end of this process.
 */
const WRITE_COUNTS_MS = 500

/**
 * The ledger: when outages began and ended, how many requests they refused, and when the upstream was unreachable.
 *
 * It listens to the breaker, and must be its first listener: a transition is written before it is reported.
 */
export class OutageLog {
  readonly #file: HistoryFile | undefined
  readonly #outages: Outage[]
  readonly #periods: UnreachablePeriod[]
  /** The override that was set over HTTP and stands. */
  #override: Override | undefined
  #timer: NodeJS.Timeout | undefined
  /** False while the counts of the current outage have changed since they were written. */
  #isWritten = true

  constructor({ outages, unreachablePeriods, override }: History, file?: HistoryFile) {
    this.#file = file
    this.#override = override
    // An outage whose end was not written ended at the latest when the next one began.
    this.#outages = outages.slice(-MAX_OUTAGES).map((outage, index, all) => {
      const next = all[index + 1]
      if (outage.endedAt !== null || next === undefined) return outage
      return { ...outage, endedAt: Math.max(outage.startedAt, next.startedAt) }
    })
    this.#periods = unreachablePeriods.slice(-MAX_UNREACHABLE_PERIODS).map((period, index, all) => {
      const next = all[index + 1]
      return period.to === null && next !== undefined
        ? { ...period, to: Math.max(period.from, next.from) }
        : period
    })
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('reading', (reading, isNewest) => {
      if (isNewest) this.#updatePeriod(reading)
    })
    breaker.on('transition', ({ from, to, cause, reading, at }) => {
      if (to === 'closed') this.#end(reading, at)
      else if (from === 'closed') this.#begin(beganBy(reading, cause))
      else this.#changeCause(cause)
    })
    breaker.on('cause', ({ from, to, reading }) => {
      const current = this.current()
      if (current === undefined) this.#begin(beganBy(reading, to))
      // The outage was under way when this process started.
      else if (from === 'starting') this.#change({ ...current, cause: to, restarts: current.restarts + 1 })
      else this.#change({ ...current, cause: to })
    })
    breaker.on('override', ({ kind, override }) => {
      // The declared one has a file of its own.
      if (isDeclared(override)) return
      this.#override = kind === 'set' ? override : undefined
      this.#file?.appendOverride(this.#override ?? null, () => this.#whole())
    })
    breaker.on('refused', ({ decision, enforced }) => {
      if (!enforced) return
      this.#timer ??= setTimeout(() => this.#writeCounts(), WRITE_COUNTS_MS).unref()
      if (decision.code !== 'forced_open') this.#count('refused')
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

  /** The outage that is under way, if any. */
  current(): Outage | undefined {
    const last = this.#outages.at(-1)
    return last?.endedAt === null ? last : undefined
  }

  /** Counts a new operation of the current outage: a refused request that does not repeat an earlier one. */
  countOperation(): void {
    this.#count('operations')
  }

  /** Writes what is not written yet, and stops. */
  close(): void {
    clearTimeout(this.#timer)
    this.#writeCounts()
  }

  #begin(outage: Outage): void {
    this.#outages.push(outage)
    this.#outages.splice(0, this.#outages.length - MAX_OUTAGES)
    this.#write(outage)
  }

  #end(reading: Reading, at: Instant): void {
    const current = this.current()
    if (current !== undefined) this.#change({ ...current, endedAt: at, closedBy: reading })
  }

  /** A recovery may fail for another cause than the one that opened the circuit. */
  #changeCause(cause: Cause): void {
    const current = this.current()
    if (current !== undefined && current.cause !== cause) this.#change({ ...current, cause })
  }

  #change(outage: Outage): void {
    this.#outages[this.#outages.length - 1] = outage
    this.#write(outage)
  }

  #count(what: 'refused' | 'operations'): void {
    const current = this.current()
    if (current === undefined) return
    this.#outages[this.#outages.length - 1] = { ...current, [what]: current[what] + 1 }
    this.#isWritten = false
  }

  #updatePeriod(reading: Reading): void {
    const last = this.#periods.at(-1)
    const current = last?.to === null ? last : undefined
    if (reading.kind === 'unreachable' && current === undefined) {
      const period: UnreachablePeriod = { from: reading.at, to: null, problem: reading.problem }
      this.#periods.push(period)
      this.#periods.splice(0, this.#periods.length - MAX_UNREACHABLE_PERIODS)
      this.#write(period)
    } else if (reading.kind !== 'unreachable' && current !== undefined) {
      const period = { ...current, to: reading.at }
      this.#periods[this.#periods.length - 1] = period
      this.#write(period)
    }
  }

  #writeCounts(): void {
    this.#timer = undefined
    const current = this.current()
    if (current !== undefined && !this.#isWritten) this.#write(current)
  }

  #write(change: Outage | UnreachablePeriod): void {
    this.#isWritten = true
    this.#file?.append(change, () => this.#whole())
  }

  #whole(): History {
    return {
      outages: this.#outages,
      unreachablePeriods: this.#periods,
      ...(this.#override !== undefined && { override: this.#override }),
    }
  }
}
