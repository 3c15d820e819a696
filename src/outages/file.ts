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

/** The options of a history file. */
export type HistoryFileOptions = {
  readonly file: string
  readonly clock: () => Instant
  /** Called with the error when writing starts to fail, and with undefined once it works again. */
  readonly onFault: (error: unknown) => void
  /** Decides whether this process may write. Without a lock, it may. */
  readonly lock?: HistoryLock
}

/** The file is rewritten as a whole when about this many bytes have been appended; a smaller file is never rewritten. */
const MAX_APPENDED_BYTES = 4_194_304

/** If rewriting fails: the number of bytes after which it is retried, and the size at which appending stops. */
const REWRITE_SPACING_BYTES = 1_048_576
export const MAX_FILE_BYTES = 16_777_216

/** The maximum size of a rewritten file; the rest is reserved for appending. */
const MAX_WHOLE_BYTES = 11_534_336

/** A larger file is not a history. */
export const MAX_READ_BYTES = 4 * MAX_FILE_BYTES

/**
 * Counts are written within this time, which is before the event stream reports them (`observability/event-ring`). When many
 * records change, it takes longer, so that the number of bytes per second stays limited.
 */
const WRITE_WITHIN_MS = 500
const MAX_WRITE_WITHIN_MS = 10_000
const BYTES_PER_MS = 8.192

/** The number of changed records that are tracked while the file cannot be written. Beyond it, the file is rewritten. */
const MAX_CHANGED = 20_000

/** How often a process checks whether the file that another process writes has become free. */
const WAIT_FOR_LOCK_MS = 2000

/** Why a history file is left unchanged. */
export class LeftAlone extends Error {
  readonly reason: 'foreign' | 'newer' | 'in use'

  constructor(reason: LeftAlone['reason'], message: string) {
    super(message)
    this.name = 'LeftAlone'
    this.reason = reason
  }
}

const FOREIGN = new LeftAlone('foreign', 'not a history file; leaving it unchanged')

/** A keeper without the type of its records. */
type Joined = {
  readonly maxBytes: number
  /** The keys whose records have to be written. */
  readonly changed: Set<string>
  /** Loads the records of this kind from the file. */
  readonly load: (changes: readonly RawChange[]) => void
  /** Loads them again after another process has written the file, and merges what both have changed. */
  readonly takeOver: (changes: readonly RawChange[], base: readonly RawChange[], latest: Instant) => void
  readonly lineOf: (keys: Iterable<string>) => readonly (readonly [key: string, record: unknown])[]
  readonly all: () => Iterable<readonly [key: string, record: unknown]>
  readonly beforeWrite: ((now: Instant) => void) | undefined
}

/**
 * The outage history on disk: what keepers remember (`keeper`), one line of JSON for each write (`history-text`). The class
 * is independent of the kinds of records; each keeper defines its own.
 *
 * Writing is synchronous. A change of the circuit is written before any listener that reports it is called, so everything
 * that is reported has been passed to the operating system and survives the end of this process.
 */
export class HistoryFile implements Store {
  readonly #options: HistoryFileOptions
  readonly #joined = new Map<string, Joined>()
  /** Records of kinds that no keeper has joined for: those of a newer version of the program. */
  #unclaimed = new Map<string, readonly RawChange[]>()
  /** The content of the file when another process began to write it. */
  #base: ReadonlyMap<string, readonly RawChange[]> = new Map()
  #version: number | undefined
  #skippedLines = 0
  #bytes = 0
  /** The inode of the file, to notice that another process has replaced it. */
  #inode: number | undefined
  /** The file is written as a whole when it would become larger than this. */
  #rewriteAt = MAX_APPENDED_BYTES
  /** Why the last rewrite failed. */
  #rewriteProblem: unknown
  /** False when the file exists but could not be read: its content must not be replaced. */
  #isKnown = true
  /** Set when this program must not write the file, with the reason. */
  #leftAlone: LeftAlone | undefined
  /** True when the last line may be incomplete: the next one must start on a line of its own. */
  #isTorn = false
  /** True when the header of this version must be written before the next line. */
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
    // A record dated exactly now comes from this process.
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

  /** Whether everything that was counted up to `at` is on disk, or cannot be written. */
  hasWritten(at: Instant): boolean {
    return this.#isFailing || this.#writtenAt >= at || !this.#hasChanges()
  }

  /** The number of malformed and incomplete lines, and of malformed records. */
  get skippedLines(): number {
    return this.#skippedLines
  }

  /** Whether the last write succeeded. */
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

  /** Starts listening to the breaker. To be called after the keepers attach, and before the parts that report changes. */
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
    /** Records in the file with members that the schema does not define, and records that do not match the schema. */
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
          // A newer version of the program may be able to read it.
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
          // Unchanged records are written as they were read.
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
        // Drop the keys of records that the keeper has forgotten; the keeper limits the number of the others.
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

  /** Writes all pending changes, stops, and releases the lock for another process. */
  close(): void {
    clearTimeout(this.#beatTimer)
    this.#takeOverIfFree()
    this.write()
    this.#isClosed = true
    if (!this.isInUse) this.#options.lock?.release()
  }

  /** Asks the keepers to report pending changes. */
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

  /** @throws {LeftAlone} if this process must not write the file. */
  #assertOurs(): void {
    const holder = this.#leftAlone === undefined ? this.#options.lock?.holderElse() : undefined
    if (holder !== undefined) {
      this.#leftAlone = inUse(holder)
      this.#base = this.#changesSoFar()
    }
    if (this.#leftAlone !== undefined) throw this.#leftAlone
  }

  /** The content of the file after this process last wrote it. The other process may have written to it since. */
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

  /** Writes everything again if the file was removed or truncated while this process was running. */
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
    // If the file cannot be replaced, all records are appended instead.
    for (const { changed, all } of this.#joined.values()) for (const [key] of all()) changed.add(key)
  }

  /** If the other process has stopped: reads what it has written, and adds what was recorded here meanwhile. */
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
      // If the file could not be read, try again later.
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
    // The records of a newer version may have a different meaning.
    this.#leftAlone = newerVersion(version)
    return new Map()
  }

  #read(): HistoryText & { readonly bytes: number; readonly inode: number | undefined } {
    const { file } = this.#options
    try {
      const stats = statSync(file)
      if (stats.size > MAX_READ_BYTES) return { ...NO_TEXT, isForeign: true }
      // Reading a device or a pipe may never end. Reading a directory fails, which is the right result.
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

  /** Opens the file for appending, so that a file that cannot be written is reported at the start. */
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
      // The bytes that were not appended count towards the next rewrite as well.
      this.#rewriteAt -= bytes
      throw this.#rewriteProblem
    }
    appendFileSync(this.#options.file, text, { mode: 0o600 })
    this.#bytes += bytes
    this.#isTorn = false
    this.#needsHeader = false
  }

  /** Replaces the file with what is currently remembered. Returns false if that fails; the file is then unchanged. */
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
    // The file may double in size, but a small one may grow to a few megabytes, and a large one by no more than that.
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
    // Part of the line may have been written.
    if (!(error instanceof LeftAlone)) this.#isTorn = true
  }
}

function inUse({ pid, host }: Holder): LeftAlone {
  return new LeftAlone('in use', `the file is in use by another process (${pid} on ${host})`)
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
    `history version ${version} is newer than ${HISTORY_VERSION}, the newest that this program supports; leaving the file unchanged`,
  )
}

/** Keeps a copy of a version 1 file for a rollback. An existing copy is not replaced. */
function keepVersion1(file: string): void {
  // The copy must be complete, because an existing copy is never replaced.
  if (!existsSync(version1Of(file))) replaceFile(version1Of(file), readFileSync(file))
}

function version1Of(file: string): string {
  return `${file}.v1`
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
