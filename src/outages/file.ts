import { appendFileSync, existsSync, readFileSync, statSync } from 'node:fs'
import type Type from 'typebox'
import type { Static } from 'typebox'
import { Compile } from 'typebox/compile'
import type { Breaker } from '../breaker/breaker.js'
import type { Instant } from '../domain/time.js'
import { type HistoryLock, type Holder, RENEW_MS } from './history-lock.js'
import {
  HEADER,
  HISTORY_VERSION,
  type HistoryText,
  historyLine,
  isObject,
  parseHistory,
  type RawChange,
} from './history-text.js'
import type { Changes, Keeper, Store } from './keeper.js'
import { mergedRecord } from './merged-record.js'
import { removeLeftovers, replaceFile } from './replace-file.js'
import { inspect, withUnknown } from './unknown-members.js'

/** What a history file needs. */
export type HistoryFileOptions = {
  readonly file: string
  readonly clock: () => Instant
  /** Called with the error when writing starts to fail, and with undefined when it works again. */
  readonly onFault: (error: unknown) => void
  /** Decides whether this process may write; without one it may. */
  readonly lock?: HistoryLock
}

/** The file is written as a whole when this many bytes were appended to it, and at least this large. */
const MAX_APPENDED_BYTES = 4_194_304

/** When that fails: how many bytes later it is tried again, and the size at which appending stops. */
const REWRITE_SPACING_BYTES = 1_048_576
export const MAX_FILE_BYTES = 16_777_216

/** What the file holds after it was written as a whole: the rest is for appending. */
const MAX_WHOLE_BYTES = 11_534_336

/** A larger file is not one of ours. */
export const MAX_READ_BYTES = 4 * MAX_FILE_BYTES

/**
 * How soon counts are written: sooner than the event stream reports them (`observability/event-ring`). When many records
 * change, later: so that no more than this many bytes are written in a second.
 */
const WRITE_WITHIN_MS = 500
const MAX_WRITE_WITHIN_MS = 10_000
const BYTES_PER_MS = 8.192

/** While the file cannot be written, more changed records than these are not listed: it is then written as a whole. */
const MAX_CHANGED = 20_000

/** How often a process looks whether the file that another one writes has become free. */
const WAIT_FOR_LOCK_MS = 2000

/** Why a history file is left as it is. */
export class LeftAlone extends Error {
  readonly reason: 'foreign' | 'newer' | 'in use'

  constructor(reason: LeftAlone['reason'], message: string) {
    super(message)
    this.name = 'LeftAlone'
    this.reason = reason
  }
}

const FOREIGN = new LeftAlone('foreign', 'the file holds something else than a history, and is left as it is')

/** A keeper without the type of its records. */
type Joined = {
  readonly maxBytes: number
  /** The keys whose records are to be written. */
  readonly changed: Set<string>
  /** Takes what the file holds of this kind. */
  readonly load: (changes: readonly RawChange[]) => void
  /** The same again, after another process has written it: what both have changed is brought together. */
  readonly takeOver: (changes: readonly RawChange[], base: readonly RawChange[], latest: Instant) => void
  readonly lineOf: (keys: Iterable<string>) => readonly (readonly [key: string, record: unknown])[]
  readonly all: () => Iterable<readonly [key: string, record: unknown]>
  readonly beforeWrite: ((now: Instant) => void) | undefined
}

/**
 * The history on disk: what keepers remember (`keeper`), one line of JSON for each write (`history-text`). It knows no
 * kind of record; each keeper brings its own.
 *
 * Writing is synchronous. A change of the circuit is written before any listener that reports it is called: whatever is
 * reported has been handed to the operating system and survives the end of this process.
 */
export class HistoryFile implements Store {
  readonly #options: HistoryFileOptions
  readonly #joined = new Map<string, Joined>()
  /** What the file holds of kinds that no keeper has joined for: those of a later program. */
  #unclaimed = new Map<string, readonly RawChange[]>()
  /** What the file held when another process began to write it. */
  #base: ReadonlyMap<string, readonly RawChange[]> = new Map()
  #version: number | undefined
  #skippedLines = 0
  #bytes = 0
  /** The inode of the file, to notice that another process has replaced it. */
  #inode: number | undefined
  /** The file is written as a whole when it would become larger than this. */
  #rewriteAt = MAX_APPENDED_BYTES
  /** Why the last such write failed. */
  #rewriteProblem: unknown
  /** False when the file exists but could not be read: its content must not be replaced. */
  #isKnown = true
  /** Why nothing is ever written to the file: it is not one that this program can write. */
  #leftAlone: LeftAlone | undefined
  /** True when the last line may be incomplete: the next one must start on a line of its own. */
  #isTorn = false
  /** True when the next line must come after the first line of a file of this version. */
  #needsHeader = true
  #needsRewrite = false
  #isFailing = false
  #isUrgent = false
  #isClosed = false
  #writtenAt = 0
  #timer: NodeJS.Timeout | undefined
  #beatTimer: NodeJS.Timeout | undefined
  #writeWithinMs = WRITE_WITHIN_MS
  readonly #latest: Instant

  /** Reads the file. The history is empty when there is no file, or when it cannot be read. Nothing is written yet. */
  constructor(options: HistoryFileOptions) {
    this.#options = options
    // A record of this very moment is made by this process.
    this.#latest = Math.floor(options.clock()) - 1
    for (const file of [options.file, version1Of(options.file), `${options.file}.lock`])
      removeLeftovers(file, Date.now())
    const holder = options.lock?.take()
    this.#unclaimed = new Map(this.#load())
    if (this.#leftAlone === undefined && holder !== undefined) {
      this.#leftAlone = inUse(holder)
      this.#base = new Map(this.#unclaimed)
    }
    if (this.#leftAlone !== undefined) {
      this.#fail(this.#leftAlone)
      if (!this.isInUse) options.lock?.release()
    } else if (this.#isKnown) this.#tryOpening()
  }

  /** Whether what was counted up to this moment is on disk, or cannot be. */
  hasWritten(at: Instant): boolean {
    return this.#isFailing || this.#writtenAt >= at || !this.#hasChanges()
  }

  /** Malformed and incomplete lines, and records that are malformed. */
  get skippedLines(): number {
    return this.#skippedLines
  }

  /** Whether what was written last is on disk. */
  get isKeeping(): boolean {
    return !this.#isFailing
  }

  /** Whether another process writes the file. */
  get isInUse(): boolean {
    return this.#leftAlone?.reason === 'in use'
  }

  /** The size of the file. */
  get bytes(): number {
    return this.#bytes
  }

  /** Begins to listen to the breaker, after the keepers and before those that report. */
  attach(breaker: Breaker): void {
    const writeUrgent = () => {
      if (this.#isUrgent) this.write()
    }
    breaker.on('reading', writeUrgent)
    breaker.on('transition', writeUrgent)
    breaker.on('cause', writeUrgent)
    breaker.on('override', writeUrgent)
    this.#beatSoon()
  }

  join<Record extends Type.TObject>(keeper: Keeper<Record>): Changes {
    const validator = Compile(keeper.schema)
    const isRecord = (value: unknown): value is Static<Record> => validator.Check(value)
    /** Records in the file that the schema does not know whole, and records that it does not know at all. */
    const earlier = new Map<string, unknown>()
    const opaque = new Map<string, unknown>()
    const changed = new Set<string>()
    const fold = (changes: readonly RawChange[]) => {
      const known = new Map<string, Static<Record>>()
      earlier.clear()
      opaque.clear()
      for (const { key, record, isVersioned } of changes) {
        if (record === null) {
          for (const each of [known, earlier, opaque]) each.delete(key)
          continue
        }
        const isKnown = isRecord(record)
        const { hasUnknown, hasTimes } = isKnown ? inspect(keeper.schema, record) : NOTHING_KNOWN
        if (!isKnown || !hasTimes) {
          this.#skippedLines += 1
          // A later program may know it.
          if (isVersioned && isObject(record)) opaque.set(key, record)
          continue
        }
        known.set(key, record)
        opaque.delete(key)
        if (hasUnknown) earlier.set(key, record)
        else earlier.delete(key)
      }
      return known
    }
    const whole = (key: string, record: unknown) => {
      const unknown = earlier.get(key)
      return unknown === undefined ? record : withUnknown(keeper.schema, record, unknown)
    }
    const joined: Joined = {
      maxBytes: keeper.maxBytes,
      changed,
      load: changes => keeper.resume([...fold(changes)], this.#latest),
      takeOver: (changes, base, latest) => {
        const before = lastOf(base)
        const merged = fold(changes)
        for (const key of changed) {
          const ours = keeper.record(key)
          const record = ours && mergedRecord(before.get(key), merged.get(key), ours)
          if (record === undefined) merged.delete(key)
          else if (isRecord(record)) merged.set(key, record)
        }
        keeper.resume([...merged], latest)
      },
      lineOf: keys =>
        [...keys].map(key => {
          const record = keeper.record(key)
          if (record === undefined) earlier.delete(key)
          const text = record === undefined ? null : whole(key, record)
          if (earlier.has(key)) earlier.set(key, text)
          return [key, text] as const
        }),
      *all() {
        for (const [key, record] of keeper.records()) {
          // What was not changed is written as it was.
          yield [key, earlier.has(key) && !changed.has(key) ? earlier.get(key) : whole(key, record)]
        }
        yield* opaque
      },
      beforeWrite: keeper.beforeWrite,
    }
    this.#joined.set(keeper.kind, joined)
    joined.load(this.#unclaimed.get(keeper.kind) ?? [])
    this.#unclaimed.delete(keeper.kind)
    const mark = (key: string) => {
      changed.add(key)
      opaque.delete(key)
      if (changed.size > MAX_CHANGED) {
        // Those that are forgotten; the keeper bounds the others.
        for (const each of changed) if (keeper.record(each) === undefined) changed.delete(each)
        this.#needsRewrite = true
      }
    }
    return {
      changed: key => {
        mark(key)
        this.#timer ??= setTimeout(() => this.write(), this.#writeWithinMs).unref()
      },
      changedNow: key => {
        mark(key)
        this.#isUrgent = true
        this.#timer ??= setTimeout(() => this.write(), this.#writeWithinMs).unref()
      },
    }
  }

  /** Writes what has changed since the last write. */
  write(): void {
    if (this.#isClosed) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#isUrgent = false
    const now = this.#bringUpToDate()
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (!this.#hasChanges()) return
    try {
      this.#assertOurs()
      this.#noticeLoss()
      this.#writeChanges()
      this.#writtenAt = now
      if (this.#isFailing) this.#options.onFault(undefined)
      this.#isFailing = false
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Writes what is not written yet, stops, and lets another process write the file. */
  close(): void {
    clearTimeout(this.#beatTimer)
    this.#takeOverIfFree()
    this.write()
    this.#isClosed = true
    if (!this.isInUse) this.#options.lock?.release()
  }

  /** Asks the keepers for what they have not reported as changed yet. */
  #bringUpToDate(): Instant {
    const now = this.#options.clock()
    for (const { beforeWrite } of this.#joined.values()) beforeWrite?.(now)
    return now
  }

  #beatSoon(): void {
    const delayMs = this.isInUse ? WAIT_FOR_LOCK_MS : RENEW_MS
    this.#beatTimer = setTimeout(() => {
      this.#options.lock?.renew()
      this.#takeOverIfFree()
      this.write()
      if (!this.#isClosed) this.#beatSoon()
    }, delayMs).unref()
  }

  /** @throws when this process may not write the file. */
  #assertOurs(): void {
    const holder = this.#leftAlone === undefined ? this.#options.lock?.holderElse() : undefined
    if (holder !== undefined) {
      this.#leftAlone = inUse(holder)
      this.#base = this.#changesSoFar()
    }
    if (this.#leftAlone !== undefined) throw this.#leftAlone
  }

  /** What the file held after this process last wrote it. The other process may have written for a while already. */
  #changesSoFar(): ReadonlyMap<string, readonly RawChange[]> {
    const { file } = this.#options
    try {
      const bytes = readFileSync(file)
      const isReplaced = statSync(file).ino !== this.#inode
      return parseHistory(bytes.subarray(0, isReplaced ? bytes.length : this.#bytes).toString()).changes
    } catch {
      return new Map()
    }
  }

  /** The file was removed or truncated while this process runs: everything that is remembered is written once more. */
  #noticeLoss(): void {
    if (!this.#isKnown) return
    const stats = statSync(this.#options.file, { throwIfNoEntry: false })
    const size = stats?.isFile() === true ? stats.size : 0
    if (size >= this.#bytes) return
    this.#bytes = size
    this.#isTorn = size > 0
    this.#needsHeader = true
    this.#version = undefined
    this.#writeEverything()
  }

  #writeEverything(): void {
    this.#needsRewrite = true
    // Where the file cannot be replaced, this is appended.
    for (const { changed, all } of this.#joined.values()) for (const [key] of all()) changed.add(key)
  }

  /** The other process has stopped: what it has written is read, and what was remembered meanwhile is added. */
  #takeOverIfFree(): void {
    const inUseBy = this.#leftAlone
    if (!this.isInUse) return
    this.#bringUpToDate()
    if (this.#options.lock?.take() !== undefined) return
    this.#leftAlone = undefined
    this.#isKnown = true
    this.#skippedLines = 0
    const changes = this.#load()
    if (this.#leftAlone !== undefined || !this.#isKnown) {
      // What cannot be read now is tried again.
      if (!this.#isKnown) this.#leftAlone = inUseBy
      this.#isFailing &&= this.#leftAlone === inUseBy
      if (this.#leftAlone !== undefined) this.#fail(this.#leftAlone)
      this.#options.lock?.release()
      return
    }
    const latest = Math.floor(this.#options.clock())
    if (this.#bytes === 0) this.#writeEverything()
    else {
      for (const [kind, { takeOver }] of this.#joined) {
        takeOver(changes.get(kind) ?? [], this.#base.get(kind) ?? [], latest)
      }
      this.#unclaimed = new Map([...changes].filter(([kind]) => !this.#joined.has(kind)))
    }
    this.#base = new Map()
  }

  #load(): ReadonlyMap<string, readonly RawChange[]> {
    const { version, changes, skippedLines, isTorn, isForeign, bytes, inode } = this.#read()
    this.#inode = inode
    this.#version = version
    this.#skippedLines += skippedLines
    this.#isTorn = isTorn
    this.#bytes = bytes
    this.#needsHeader = (version ?? 1) < HISTORY_VERSION
    // A file of an earlier version is replaced as a whole.
    this.#needsRewrite = version === 1
    this.#rewriteAt = Math.max(MAX_APPENDED_BYTES, Math.min(bytes, MAX_WHOLE_BYTES) + MAX_APPENDED_BYTES)
    if (isForeign) this.#leftAlone = FOREIGN
    if (isForeign || (version ?? 1) <= HISTORY_VERSION) return changes
    // Its records may mean something else than they seem to.
    this.#leftAlone = newerVersion(version)
    return new Map()
  }

  #read(): HistoryText & { readonly bytes: number; readonly inode: number | undefined } {
    const { file } = this.#options
    try {
      const stats = statSync(file)
      if (stats.size > MAX_READ_BYTES) return { ...NO_TEXT, isForeign: true }
      // Reading a device or a pipe may never end. Reading a directory fails, as it should.
      if (!stats.isFile() && !stats.isDirectory()) return NO_TEXT
      const text = readFileSync(file, 'utf8')
      return { ...parseHistory(text), bytes: stats.size, inode: stats.ino }
    } catch (error) {
      if (!isMissing(error)) {
        this.#isKnown = false
        this.#rewriteProblem = error
        this.#fail(error)
      }
      return NO_TEXT
    }
  }

  /** Reports a file that cannot be written at the start, not only at the first change. */
  #tryOpening(): void {
    try {
      appendFileSync(this.#options.file, '', { mode: 0o600 })
      this.#inode = statSync(this.#options.file).ino
    } catch (error) {
      this.#fail(error)
    }
  }

  #hasChanges(): boolean {
    return [...this.#joined.values()].some(({ changed }) => changed.size > 0)
  }

  #writeChanges(): void {
    const changes = new Map<string, readonly (readonly [key: string, record: unknown])[]>()
    for (const [kind, { changed, lineOf }] of this.#joined) {
      if (changed.size > 0) changes.set(kind, lineOf(changed))
    }
    const text = (this.#isTorn ? '\n' : '') + (this.#needsHeader ? HEADER : '') + historyLine(changes)
    const bytes = Buffer.byteLength(text)
    this.#writeWithinMs = Math.min(MAX_WRITE_WITHIN_MS, Math.max(WRITE_WITHIN_MS, bytes / BYTES_PER_MS))
    const wantsRewrite = this.#needsRewrite || this.#bytes + bytes > this.#rewriteAt
    const isRewritten = wantsRewrite && this.#isKnown && this.#rewrite()
    if (!isRewritten) this.#append(text, bytes)
    for (const { changed } of this.#joined.values()) changed.clear()
  }

  #append(text: string, bytes: number): void {
    if (this.#bytes + bytes > MAX_FILE_BYTES) {
      // What was not appended counts for the next try as well.
      this.#rewriteAt -= bytes
      throw this.#rewriteProblem
    }
    appendFileSync(this.#options.file, text, { mode: 0o600 })
    this.#bytes += bytes
    this.#isTorn = false
    this.#needsHeader = false
  }

  /** Replaces the file with only what is remembered. When that fails the file is unchanged, and the result is false. */
  #rewrite(): boolean {
    const text = this.#wholeText()
    try {
      if (this.#version === 1) keepVersion1(this.#options.file)
      replaceFile(this.#options.file, text)
    } catch (error) {
      this.#rewriteAt = Math.max(this.#bytes, this.#rewriteAt) + REWRITE_SPACING_BYTES
      this.#needsRewrite = false
      this.#rewriteProblem = error
      return false
    }
    this.#bytes = Buffer.byteLength(text)
    this.#version = HISTORY_VERSION
    this.#inode = statSync(this.#options.file, { throwIfNoEntry: false })?.ino
    // As much again as is remembered, but a small file may grow to a few megabytes, and a large one by no more.
    this.#rewriteAt = Math.max(MAX_APPENDED_BYTES, this.#bytes + Math.min(this.#bytes, MAX_APPENDED_BYTES))
    this.#isTorn = false
    this.#needsHeader = false
    this.#needsRewrite = false
    return true
  }

  #wholeText(): string {
    const parts = [HEADER]
    let room = MAX_WHOLE_BYTES - HEADER.length
    const add = (
      kind: string,
      records: Iterable<readonly [key: string, record: unknown]>,
      maxBytes: number,
    ) => {
      const lines = [...records].map(record => historyLine(new Map([[kind, [record]]])))
      let left = Math.min(room, maxBytes)
      const first = lines.findLastIndex(line => {
        left -= Buffer.byteLength(line)
        return left < 0
      })
      const fitting = lines.slice(first + 1)
      room -= fitting.reduce((sum, line) => sum + Buffer.byteLength(line), 0)
      parts.push(...fitting)
    }
    for (const [kind, { all, maxBytes }] of this.#joined) add(kind, all(), maxBytes)
    for (const [kind, changes] of this.#unclaimed) add(kind, lastOf(changes), room)
    return parts.join('')
  }

  #fail(error: unknown): void {
    if (!this.#isFailing) this.#options.onFault(error)
    this.#isFailing = true
    // A part of the line may have been written.
    if (!(error instanceof LeftAlone)) this.#isTorn = true
  }
}

function inUse({ pid, host }: Holder): LeftAlone {
  return new LeftAlone('in use', `another process (${pid} on ${host}) writes the file`)
}

/** The last record of each key. */
function lastOf(changes: readonly RawChange[]): ReadonlyMap<string, unknown> {
  const last = new Map<string, unknown>()
  for (const { key, record } of changes) {
    if (record === null) last.delete(key)
    else last.set(key, record)
  }
  return last
}

const NOTHING_KNOWN = { hasUnknown: true, hasTimes: false }

const NO_TEXT = {
  version: undefined,
  changes: new Map<string, readonly RawChange[]>(),
  skippedLines: 0,
  isTorn: false,
  isForeign: false,
  bytes: 0,
  inode: undefined,
}

function newerVersion(version: number | undefined): LeftAlone {
  return new LeftAlone(
    'newer',
    `the file has version ${version} of the history, this program knows up to ${HISTORY_VERSION}: it is left as it is`,
  )
}

/** Keeps the file of version 1 beside the one that replaces it, for a rollback. The first one kept stays. */
function keepVersion1(file: string): void {
  // Whole or not at all: a part of it would never be replaced.
  if (!existsSync(version1Of(file))) replaceFile(version1Of(file), readFileSync(file))
}

function version1Of(file: string): string {
  return `${file}.v1`
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
