import { appendFileSync, readFileSync } from 'node:fs'
import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import { correctedOutages, correctedPeriods, type Outage, type UnreachablePeriod } from '../domain/outage.js'
import { type Override, overrideAsJson } from '../domain/override.js'
import type { Instant } from '../domain/time.js'
import {
  Nullable,
  OutageRecord,
  OverrideRecord,
  outageAsJson,
  outageFromJson,
  overrideFromJson,
  Timestamp,
  UnreachablePeriodRecord,
  unreachablePeriodAsJson,
  unreachablePeriodFromJson,
} from './record.js'
import { removeLeftovers, replaceFile } from './replace-file.js'

/** The content of a history file, oldest first. */
export type History = {
  readonly outages: readonly Outage[]
  readonly unreachablePeriods: readonly UnreachablePeriod[]
  /** The override that was set over HTTP last, if it was not taken back. */
  readonly override?: Override
}

/** What was read from a history file; `skippedLines` counts malformed and incomplete lines. */
export type LoadedHistory = History & { readonly skippedLines: number }

/** A larger file is rewritten with only what is remembered. */
const MAX_FILE_BYTES = 4_194_304

/** When the rewrite fails: how many bytes later it is tried again, and the size at which appending stops. */
const REWRITE_SPACING_BYTES = 1_048_576
const MAX_UNTRIMMED_BYTES = 4 * MAX_FILE_BYTES

/** The most changes that wait while the file cannot be written. The oldest is dropped first. */
const MAX_PENDING = 2000

/** The possible beginnings of a line. */
const LINE_STARTS = ['{"outage":', '{"unreachable":', '{"override":']

const FOREIGN = new Error('the file holds something else than a history, and is left as it is')

/** The beginning under which an earlier line has the same outage or period: it was in the future, and was corrected. */
const Replaces = Type.Optional(Timestamp)

const Line = Type.Union([
  Type.Object({ outage: OutageRecord, replaces: Replaces }, { additionalProperties: false }),
  Type.Object({ unreachable: UnreachablePeriodRecord, replaces: Replaces }, { additionalProperties: false }),
  /** Null when it was taken back, or has ended. */
  Type.Object({ override: Nullable(OverrideRecord) }, { additionalProperties: false }),
])

/**
 * The history on disk: one line of JSON for each change. A line holds the whole outage, and the last line of an
 * outage counts. So nothing is changed in place, and an incomplete line loses only itself.
 *
 * Writing is synchronous and comes before any other listener is called: whatever is reported has been handed to the
 * operating system and survives the end of this process. A write is a few hundred bytes, a few times an hour.
 */
export class HistoryFile {
  readonly #file: string
  readonly #onFault: (error: unknown) => void
  #bytes = 0
  /** The file is rewritten after this many more bytes. */
  #rewriteIn = MAX_FILE_BYTES
  /** Why the last rewrite failed. */
  #rewriteProblem: unknown
  /** False when the file exists but could not be read: its content must not be replaced. */
  #isKnown = true
  /** True when the file holds no history at all: most likely the path is wrong. */
  #isForeign = false
  /** True when the last line may be incomplete: the next one must start on a line of its own. */
  #isTorn = false
  /** The lines that are not written yet, by outage or period. */
  readonly #pending = new Map<string, string>()
  #isFailing = false
  /** The beginnings that were corrected on loading: the one in the file, by outage or period. */
  readonly #replaced = new Map<string, string>()
  readonly #corrected = new Set<Outage | UnreachablePeriod>()

  /** @param onFault is called with the error when writing starts to fail, and with undefined when it works again. */
  constructor(file: string, onFault: (error: unknown) => void) {
    this.#file = file
    this.#onFault = onFault
  }

  /** The loaded records whose times were corrected. How long they lasted is not known. */
  get corrected(): ReadonlySet<Outage | UnreachablePeriod> {
    return this.#corrected
  }

  /**
   * Reads the file. The history is empty when there is no file, or when it cannot be read.
   *
   * @param latest no time of a record is later; a later one is corrected. The file stays as it is, because it may be
   * the present clock that is wrong.
   */
  load(latest: Instant = Number.POSITIVE_INFINITY): LoadedHistory {
    removeLeftovers(this.#file, Date.now())
    let text: string
    try {
      text = readFileSync(this.#file, 'utf8')
    } catch (error) {
      if (isMissing(error)) this.#tryOpening()
      else {
        this.#isKnown = false
        this.#rewriteProblem = error
        this.#fail(error)
      }
      return { outages: [], unreachablePeriods: [], skippedLines: 0 }
    }
    this.#bytes = Buffer.byteLength(text)
    this.#rewriteIn = MAX_FILE_BYTES - this.#bytes
    const outages = new Map<string, Outage>()
    const periods = new Map<string, UnreachablePeriod>()
    let override: Override | null = null
    let skippedLines = 0
    for (const line of text.split('\n')) {
      if (line === '') continue
      const record = parseLine(line)
      if (record === undefined) skippedLines += 1
      else if ('override' in record) override = record.override && overrideFromJson(record.override)
      else if ('outage' in record) {
        outages.delete(record.replaces ?? '')
        outages.set(record.outage.startedAt, outageFromJson(record.outage))
      } else {
        periods.delete(record.replaces ?? '')
        periods.set(record.unreachable.from, unreachablePeriodFromJson(record.unreachable))
      }
    }
    this.#isTorn = text !== '' && !text.endsWith('\n')
    this.#isForeign = outages.size + periods.size === 0 && !isBegunHistory(text)
    if (this.#isForeign) this.#fail(FOREIGN)
    else this.#tryOpening()
    return {
      outages: this.#correct(outages, all => correctedOutages(all, latest)),
      unreachablePeriods: this.#correct(periods, all => correctedPeriods(all, latest)),
      ...(override !== null && { override }),
      skippedLines,
    }
  }

  /** @param records by their beginning in the file. */
  #correct<T extends Outage | UnreachablePeriod>(
    records: ReadonlyMap<string, T>,
    correct: (all: readonly T[]) => readonly T[],
  ): readonly T[] {
    const beginnings = [...records.keys()]
    const all = [...records.values()]
    const corrected = correct(all)
    corrected.forEach((record, index) => {
      const [before, beginning] = [all[index], beginnings[index]]
      if (record === before || before === undefined || beginning === undefined) return
      this.#corrected.add(record)
      if (keyOf(record) !== keyOf(before)) this.#replaced.set(keyOf(record), beginning)
    })
    return corrected
  }

  /** Reports a file that cannot be written at the start, not only at the first outage. */
  #tryOpening(): void {
    try {
      appendFileSync(this.#file, '')
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Writes one change; `whole` is everything that is remembered, for a rewrite of the file. */
  append(change: Outage | UnreachablePeriod, whole: () => History): void {
    this.#append(keyOf(change), this.#lineOf(change), whole)
  }

  /** Writes the override that was set over HTTP, or null when there is none any more. */
  appendOverride(override: Override | null, whole: () => History): void {
    this.#append('override', overrideLine(override), whole)
  }

  /** Whether what was written last is on disk. */
  get isKeeping(): boolean {
    return !this.#isFailing
  }

  #append(key: string, line: string, whole: () => History): void {
    this.#remember(key, line)
    this.#rewriteIn -= line.length
    try {
      if (this.#isForeign) throw FOREIGN
      if (this.#rewriteIn < 0 && this.#isKnown) this.#rewrite(whole())
      this.#writePending()
      if (this.#isFailing) this.#onFault(undefined)
      this.#isFailing = false
    } catch (error) {
      this.#fail(error)
    }
  }

  #lineOf(change: Outage | UnreachablePeriod): string {
    const replaces = this.#replaced.get(keyOf(change))
    const record =
      'startedAt' in change
        ? { outage: outageAsJson(change), replaces }
        : { unreachable: unreachablePeriodAsJson(change), replaces }
    return `${JSON.stringify(record)}\n`
  }

  #fail(error: unknown): void {
    if (!this.#isFailing) this.#onFault(error)
    this.#isFailing = true
    // A part of the line may have been written.
    this.#isTorn = true
  }

  #remember(key: string, line: string): void {
    this.#pending.set(key, line)
    const [oldest] = this.#pending.keys()
    if (oldest !== undefined && this.#pending.size > MAX_PENDING) this.#pending.delete(oldest)
  }

  #writePending(): void {
    if (this.#pending.size === 0) return
    const text = (this.#isTorn ? '\n' : '') + [...this.#pending.values()].join('')
    if (this.#bytes + text.length > MAX_UNTRIMMED_BYTES) throw this.#rewriteProblem
    appendFileSync(this.#file, text)
    this.#pending.clear()
    this.#bytes += Buffer.byteLength(text)
    this.#isTorn = false
  }

  /** Replaces the file. A rewrite that fails leaves the file unchanged. */
  #rewrite({ outages, unreachablePeriods, override }: History): void {
    const lines = [...outages, ...unreachablePeriods].map(change => this.#lineOf(change))
    const text = [...lines, ...(override === undefined ? [] : [overrideLine(override)])].join('')
    try {
      replaceFile(this.#file, text)
    } catch (error) {
      this.#rewriteIn = REWRITE_SPACING_BYTES
      this.#rewriteProblem = error
      return
    }
    this.#pending.clear()
    this.#bytes = Buffer.byteLength(text)
    this.#rewriteIn = MAX_FILE_BYTES - this.#bytes
    this.#isTorn = false
  }
}

function parseLine(line: string): Static<typeof Line> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return Value.Check(Line, value) && timesOf(value).every(isTime) ? value : undefined
  } catch {
    return undefined
  }
}

/** Whether a file without a complete line may be a history whose first line is incomplete. */
function isBegunHistory(text: string): boolean {
  // A power failure can leave zero bytes where data was not written out.
  const written = text.replaceAll('\0', '').trimStart()
  return LINE_STARTS.some(start => written.startsWith(start) || start.startsWith(written))
}

function timesOf(line: Static<typeof Line>): readonly (string | null | undefined)[] {
  if ('override' in line) return [line.override?.since, line.override?.until]
  if ('unreachable' in line) return [line.unreachable.from, line.unreachable.to, line.replaces]
  const { startedAt, endedAt, openedBy, closedBy } = line.outage
  return [startedAt, endedAt, openedBy.at, closedBy?.at, line.replaces]
}

/** The format `date-time` allows leap seconds, which `Date` cannot parse. */
function isTime(text: string | null | undefined): boolean {
  return typeof text !== 'string' || Number.isFinite(Date.parse(text))
}

/** No two outages start at the same time, and no two unreachable periods do. */
function keyOf(change: Outage | UnreachablePeriod): string {
  return 'startedAt' in change ? `outage ${change.startedAt}` : `period ${change.from}`
}

function overrideLine(override: Override | null): string {
  return `${JSON.stringify({ override: override && overrideAsJson(override) })}\n`
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
