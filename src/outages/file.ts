import {
  appendFileSync,
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import type { Outage, Spell } from '../domain/outage.js'
import { rfc3339 } from '../domain/time.js'
import { FAILED_READING_KINDS, READING_KINDS, READING_SOURCES } from '../domain/vocabulary.js'

/** What a history holds: the newest last. */
export type History = { readonly outages: readonly Outage[]; readonly spells: readonly Spell[] }

/** What was found in a file, and how many of its lines were none of ours or broken off. */
export type Loaded = History & { readonly skippedLines: number }

/** Above this the file is written anew, with what is remembered alone. */
const MAX_FILE_BYTES = 4_194_304

/** When that fails: after how much more it is tried again, and above which size nothing more is kept. */
const REWRITE_SPACING_BYTES = 1_048_576
const MAX_UNTRIMMED_BYTES = 4 * MAX_FILE_BYTES

/** The most changes that wait for a file that cannot be written; later ones are worth more. */
const MAX_PENDING = 2000

/** How every line begins. */
const LINE_STARTS = ['{"outage":', '{"unreachable":']

const FOREIGN = new Error('the file holds something else than a history, and is left as it is')

const Timestamp = Type.String({ format: 'date-time' })
const ReadingRecord = Type.Object({
  kind: Type.Enum(READING_KINDS),
  at: Timestamp,
  source: Type.Enum(READING_SOURCES),
  missing: Type.Optional(Type.Array(Type.String())),
  problem: Type.Optional(Type.String()),
})
/** An outage as it stands in the file. */
export const OutageRecord = Type.Object({
  startedAt: Timestamp,
  endedAt: Type.Union([Timestamp, Type.Null()]),
  cause: Type.Enum(FAILED_READING_KINDS),
  openedBy: ReadingRecord,
  closedBy: Type.Union([ReadingRecord, Type.Null()]),
  refused: Type.Integer({ minimum: 0 }),
  operations: Type.Integer({ minimum: 0 }),
  restarts: Type.Integer({ minimum: 0 }),
})
/** A spell as it stands in the file. */
export const SpellRecord = Type.Object({
  from: Timestamp,
  to: Type.Union([Timestamp, Type.Null()]),
  problem: Type.String(),
})
const Line = Type.Union([
  Type.Object({ outage: OutageRecord }, { additionalProperties: false }),
  Type.Object({ unreachable: SpellRecord }, { additionalProperties: false }),
])

/**
 * A history on disk: a line of JSON for each change, which holds the outage as a whole; the last line of an
 * outage counts. So nothing is ever changed in place, and a line that breaks off costs itself alone.
 *
 * It is written before anybody is told of the change, synchronously: what has been told is then in the hands
 * of the system, whatever becomes of this process. That is a few hundred bytes at a few changes an hour.
 */
export class HistoryFile {
  readonly #file: string
  readonly #onFault: (error: unknown) => void
  #bytes = 0
  /** After how many bytes of further changes the file is written anew. */
  #rewriteIn = MAX_FILE_BYTES
  /** Why that cannot be done. */
  #rewriteProblem: unknown
  /** False when there is a file that could not be read: what is in it is not ours to replace. */
  #isKnown = true
  /** Set when nothing in the file is a history: a path that was mistyped, most likely. */
  #isForeign = false
  /** Set when the file may not end with a whole line: what comes next must not be taken for the rest of it. */
  #isTorn = false
  /** The lines that the file lacks, by what they are about. */
  readonly #pending = new Map<string, string>()
  #isFailing = false

  /** @param onFault is told when writing begins to fail, and with undefined when it succeeds again. */
  constructor(file: string, onFault: (error: unknown) => void) {
    this.#file = file
    this.#onFault = onFault
  }

  /** Reads what is there; nothing when there is no file yet, or none that can be read. */
  load(): Loaded {
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
      return { outages: [], spells: [], skippedLines: 0 }
    }
    this.#bytes = Buffer.byteLength(text)
    this.#rewriteIn = MAX_FILE_BYTES - this.#bytes
    const outages = new Map<string, Outage>()
    const spells = new Map<string, Spell>()
    let skippedLines = 0
    for (const line of text.split('\n')) {
      if (line === '') continue
      const record = parseLine(line)
      if (record === undefined) skippedLines += 1
      else if ('outage' in record) outages.set(record.outage.startedAt, outageOf(record.outage))
      else spells.set(record.unreachable.from, spellOf(record.unreachable))
    }
    this.#isTorn = text !== '' && !text.endsWith('\n')
    this.#isForeign = outages.size + spells.size === 0 && !isBegunHistory(text)
    if (this.#isForeign) this.#fail(FOREIGN)
    else this.#tryOpening()
    return { outages: [...outages.values()], spells: [...spells.values()], skippedLines }
  }

  /** That nothing can be written here is to be known at the start, and not at the first outage. */
  #tryOpening(): void {
    try {
      appendFileSync(this.#file, '')
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Keeps one change; `whole` is everything that is remembered, for when the file has to be written anew. */
  append(change: Outage | Spell, whole: () => History): void {
    const line = lineOf(change)
    this.#remember(keyOf(change), line)
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

  #fail(error: unknown): void {
    if (!this.#isFailing) this.#onFault(error)
    this.#isFailing = true
    // Nobody knows how much of it was written.
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

  /** Replaces the file; where that cannot be done, it is left as it is. */
  #rewrite({ outages, spells }: History): void {
    const text = [...outages, ...spells].map(lineOf).join('')
    const beside = `${this.#file}.new`
    try {
      const descriptor = openSync(beside, 'w')
      try {
        // Not `writeSync`: on a disk that becomes full it writes a part, and takes that for success.
        writeFileSync(descriptor, text)
        // The old file goes only when the new one is there for good.
        fsyncSync(descriptor)
      } finally {
        closeSync(descriptor)
      }
      renameSync(beside, this.#file)
    } catch (error) {
      this.#rewriteIn = REWRITE_SPACING_BYTES
      this.#rewriteProblem = error
      removeQuietly(beside)
      return
    }
    this.#pending.clear()
    this.#bytes = Buffer.byteLength(text)
    this.#rewriteIn = MAX_FILE_BYTES - this.#bytes
    this.#isTorn = false
  }
}

/** What is left of a rewrite would keep a place that a full disk wants. Where it cannot be removed, it is none of ours. */
function removeQuietly(file: string): void {
  try {
    rmSync(file, { force: true })
  } catch {}
}

function parseLine(line: string): Static<typeof Line> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return Value.Check(Line, value) && timesOf(value).every(isTime) ? value : undefined
  } catch {
    return undefined
  }
}

/** Whether a file without a whole line may be a history all the same: one whose first line broke off. */
function isBegunHistory(text: string): boolean {
  // What a power failure leaves of a file that was never written out.
  const written = text.replaceAll('\0', '').trimStart()
  return LINE_STARTS.some(start => written.startsWith(start) || start.startsWith(written))
}

function timesOf(line: Static<typeof Line>): readonly (string | null | undefined)[] {
  if ('unreachable' in line) return [line.unreachable.from, line.unreachable.to]
  const { startedAt, endedAt, openedBy, closedBy } = line.outage
  return [startedAt, endedAt, openedBy.at, closedBy?.at]
}

/** The form of a time allows for leap seconds, which `Date` knows nothing of. */
function isTime(text: string | null | undefined): boolean {
  return typeof text !== 'string' || Number.isFinite(Date.parse(text))
}

/** No two outages begin at the same moment, nor do two spells. */
function keyOf(change: Outage | Spell): string {
  return 'startedAt' in change ? `outage ${change.startedAt}` : `spell ${change.from}`
}

function lineOf(change: Outage | Spell): string {
  const record =
    'startedAt' in change ? { outage: outageAsJson(change) } : { unreachable: spellAsJson(change) }
  return `${JSON.stringify(record)}\n`
}

/** An outage as JSON, in the file and in answers. */
export function outageAsJson(outage: Outage): Static<typeof OutageRecord> {
  const { startedAt, endedAt, cause, openedBy, closedBy, refused, operations, restarts } = outage
  return {
    startedAt: rfc3339(startedAt),
    endedAt: endedAt === null ? null : rfc3339(endedAt),
    cause: cause === 'unreachable' ? cause : 'waiting',
    openedBy: readingAsJson(openedBy),
    closedBy: closedBy && readingAsJson(closedBy),
    refused,
    operations,
    restarts,
  }
}

/** A spell as JSON, in the file and in answers. */
export function spellAsJson({ from, to, problem }: Spell): Static<typeof SpellRecord> {
  return { from: rfc3339(from), to: to === null ? null : rfc3339(to), problem }
}

function readingAsJson(reading: Outage['openedBy']): Static<typeof ReadingRecord> {
  return {
    kind: reading.kind,
    at: rfc3339(reading.at),
    source: reading.source,
    ...(reading.kind === 'waiting' && { missing: [...reading.missing] }),
    ...(reading.kind === 'unreachable' && { problem: reading.problem }),
  }
}

function outageOf(record: Static<typeof OutageRecord>): Outage {
  return {
    ...record,
    startedAt: Date.parse(record.startedAt),
    endedAt: record.endedAt === null ? null : Date.parse(record.endedAt),
    openedBy: readingOf(record.openedBy),
    closedBy: record.closedBy && readingOf(record.closedBy),
  }
}

function spellOf({ from, to, problem }: Static<typeof SpellRecord>): Spell {
  return { from: Date.parse(from), to: to === null ? null : Date.parse(to), problem }
}

/** The metadata itself is not kept: what was missing, or why it could not be read, is what counts later. */
function readingOf({ kind, at, source, missing, problem }: Static<typeof ReadingRecord>): Outage['openedBy'] {
  const known = { at: Date.parse(at), source }
  if (kind === 'ready') return { ...known, kind, metadata: {} }
  if (kind === 'waiting') return { ...known, kind, metadata: {}, missing: missing ?? [] }
  return { ...known, kind, problem: problem ?? '' }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
