import type { Breaker } from '../breaker/breaker.js'
import { beganBy, type Outage, type Spell } from '../domain/outage.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Cause } from '../domain/vocabulary.js'
import type { History, HistoryFile } from './file.js'

/** What is remembered, on disk too. */
const MAX_OUTAGES = 1000
const MAX_SPELLS = 1000

/**
 * How soon the counts of an outage under way are kept. Sooner than the stream of events tells them
 * (`http/events`): whatever was told survives the end of this process.
 */
const KEEP_MS = 500

/**
 * The outages, as the breaker's listener: when they began and ended, and what they cost.
 *
 * It has to be made before whoever tells of a transition, so that what is told has been kept.
 */
export class Ledger {
  readonly #file: HistoryFile | undefined
  readonly #outages: Outage[]
  readonly #spells: Spell[]
  #timer: NodeJS.Timeout | undefined
  #isKept = true

  constructor(breaker: Breaker, { outages, spells }: History, file?: HistoryFile) {
    this.#file = file
    // An end that was not kept came before the next beginning at the latest.
    this.#outages = outages.slice(-MAX_OUTAGES).map((outage, index, all) => {
      const next = all[index + 1]
      return outage.endedAt === null && next !== undefined ? { ...outage, endedAt: next.startedAt } : outage
    })
    this.#spells = spells.slice(-MAX_SPELLS)
    breaker.on('reading', reading => this.#see(reading))
    breaker.on('transition', ({ from, to, cause, reading, at }) => {
      if (to === 'closed') this.#end(reading, at)
      else if (from === 'closed') this.#begin(beganBy(reading, cause))
      else this.#goOn(cause)
    })
    breaker.on('cause', ({ from, to, reading }) => {
      const current = this.current()
      if (current === undefined) this.#begin(beganBy(reading, to))
      // It was under way when this program was started.
      else if (from === 'starting') this.#change({ ...current, cause: to, restarts: current.restarts + 1 })
      else this.#change({ ...current, cause: to })
    })
    breaker.on('refused', ({ decision, enforced }) => {
      if (!enforced) return
      this.#timer ??= setTimeout(() => this.#keepCounts(), KEEP_MS).unref()
      if (decision.code !== 'forced_open') this.#count('refused')
    })
  }

  /** The outages, newest first. */
  outages(): readonly Outage[] {
    return [...this.#outages].reverse()
  }

  /** When the metadata could not be read, newest first. */
  spells(): readonly Spell[] {
    return [...this.#spells].reverse()
  }

  /** The outage that is under way. */
  current(): Outage | undefined {
    const last = this.#outages.at(-1)
    return last?.endedAt === null ? last : undefined
  }

  /** Counts a refused request that is not one of before, tried again. */
  operationBegun(): void {
    this.#count('operations')
  }

  /** Keeps what is not kept yet, and stops. */
  close(): void {
    clearTimeout(this.#timer)
    this.#keepCounts()
  }

  #begin(outage: Outage): void {
    this.#outages.push(outage)
    this.#outages.splice(0, this.#outages.length - MAX_OUTAGES)
    this.#keep(outage)
  }

  #end(reading: Reading, at: Instant): void {
    const current = this.current()
    if (current !== undefined) this.#change({ ...current, endedAt: at, closedBy: reading })
  }

  /** A recovery may fail for another cause than the outage began with. */
  #goOn(cause: Cause): void {
    const current = this.current()
    if (current !== undefined && current.cause !== cause) this.#change({ ...current, cause })
  }

  #change(outage: Outage): void {
    this.#outages[this.#outages.length - 1] = outage
    this.#keep(outage)
  }

  #count(what: 'refused' | 'operations'): void {
    const current = this.current()
    if (current === undefined) return
    this.#outages[this.#outages.length - 1] = { ...current, [what]: current[what] + 1 }
    this.#isKept = false
  }

  #see(reading: Reading): void {
    const last = this.#spells.at(-1)
    const open = last?.to === null ? last : undefined
    if (reading.kind === 'unreachable' && open === undefined) {
      const spell: Spell = { from: reading.at, to: null, problem: reading.problem }
      this.#spells.push(spell)
      this.#spells.splice(0, this.#spells.length - MAX_SPELLS)
      this.#keep(spell)
    } else if (reading.kind !== 'unreachable' && open !== undefined) {
      const spell = { ...open, to: reading.at }
      this.#spells[this.#spells.length - 1] = spell
      this.#keep(spell)
    }
  }

  #keepCounts(): void {
    this.#timer = undefined
    const current = this.current()
    if (current !== undefined && !this.#isKept) this.#keep(current)
  }

  #keep(change: Outage | Spell): void {
    this.#isKept = true
    this.#file?.append(change, () => ({ outages: this.#outages, spells: this.#spells }))
  }
}
