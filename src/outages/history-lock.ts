import { randomBytes } from 'node:crypto'
import {
  closeSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import type { Instant } from '../domain/time.js'
import { isObject } from './history-text.js'

/** The process that holds a lock. */
export type Holder = {
  readonly id: string
  readonly pid: number
  readonly host: string
  /** The namespace of its pid: two containers with the same host name may both have a process 1. */
  readonly processes?: string
}

/** The options of a lock. */
export type HistoryLockOptions = {
  /** The history file; the lock is in the same directory. */
  readonly file: string
  readonly clock: () => Instant
  readonly pid?: number
  readonly host?: string
  readonly processes?: string
}

/** How often the holder renews its lock. */
export const RENEW_MS = 10_000

/** A lock that has not been renewed for this long belongs to a process that has ended. */
const STALE_AFTER_MS = 3 * RENEW_MS

/**
 * Decides which process may write a history file: the one whose random id is in `<file>.lock`. A process that is killed
 * leaves its lock behind. The lock is taken over when that process no longer runs on this host, or when the lock has not
 * been renewed for 30 s. If two processes take it at the same moment, both check it again before each write, and one gives way.
 *
 * If no lock can be created, for example because only the file itself is mounted, the file is written without one.
 */
export class HistoryLock {
  readonly #file: string
  readonly #clock: () => Instant
  readonly #me: Holder
  /** The latest state of another process's lock, and when it was first seen, by our clock. */
  #seen = { what: '', at: 0 }
  #hasLock = false
  /** Whether another process has held the lock since this one started. */
  #hasWaited = false

  constructor({ file, clock, ...options }: HistoryLockOptions) {
    const { pid = process.pid, host = hostname(), processes = pidNamespace() } = options
    this.#file = file
    this.#clock = clock
    this.#me = { id: randomBytes(8).toString('hex'), pid, host, processes }
  }

  /** Takes the lock if it is free. Returns the process that holds it, or undefined if this process does. */
  take(): Holder | undefined {
    try {
      this.#hasLock = true
      const lock = this.#path()
      if (this.#create(lock)) return undefined
      const holder = this.#holder()
      if (holder === undefined) return undefined
      if (holder.id === this.#me.id) return undefined
      if (!this.#isStale(lock, holder)) {
        this.#gaveWay()
        return holder
      }
      const temporary = `${lock}.${this.#me.id}.new`
      writeFileSync(temporary, this.#text(), { flag: 'wx', mode: 0o600 })
      renameSync(temporary, lock)
      return this.holderElse()
    } catch {
      return undefined
    }
  }

  /** The process that prevents this one from taking the lock, if any. Changes nothing. */
  check(): Holder | undefined {
    const holder = this.#holder()
    try {
      return holder === undefined || this.#isStale(this.#path(), holder) ? undefined : holder
    } catch {
      return undefined
    }
  }

  /** The other process that holds the lock; undefined if this one does, or if no lock exists and none can be created. */
  holderElse(): Holder | undefined {
    const holder = this.#holder()
    if (holder === undefined && this.#hasLock) return this.#createAgain()
    if (holder === undefined || holder.id === this.#me.id) return undefined
    this.#gaveWay()
    return holder
  }

  /** Renews the lock, so that no other process takes it over. */
  renew(): void {
    if (this.holderElse() !== undefined) return
    try {
      // Other processes compare the age of the file with the time of day.
      const seconds = Date.now() / 1000
      utimesSync(this.#path(), seconds, seconds)
    } catch {}
  }

  /** Releases the lock if this process holds it. */
  release(): void {
    this.#hasLock = false
    try {
      if (this.#holder()?.id === this.#me.id) rmSync(this.#path(), { force: true })
    } catch {}
  }

  #gaveWay(): void {
    this.#hasLock = false
    this.#hasWaited = true
  }

  /** The lock is next to the file that links resolve to, because two processes may use different names for it. */
  #path(): string {
    try {
      return `${realpathSync(this.#file)}.lock`
    } catch {
      return `${this.#file}.lock`
    }
  }

  #text(): string {
    return `${JSON.stringify(this.#me)}\n`
  }

  /** Creates the lock; false if there is one already. */
  #create(lock: string): boolean {
    let descriptor: number
    try {
      descriptor = openSync(lock, 'wx', 0o600)
    } catch (error) {
      if (isOf(error, 'EEXIST')) return false
      throw error
    }
    try {
      writeFileSync(descriptor, this.#text())
    } catch (error) {
      rmSync(lock, { force: true })
      throw error
    } finally {
      closeSync(descriptor)
    }
    return true
  }

  /** Creates the lock again after it was removed. */
  #createAgain(): Holder | undefined {
    try {
      return this.#create(this.#path()) ? undefined : this.#holder()
    } catch {
      return undefined
    }
  }

  /** The holder of the lock; undefined if there is no lock. A lock that is still being written has an unknown holder. */
  #holder(): Holder | undefined {
    let text: string
    try {
      text = readFileSync(this.#path(), 'utf8')
    } catch (error) {
      // The lock of another user cannot be read.
      if (isOf(error, 'EACCES') || isOf(error, 'EPERM')) return UNKNOWN
      return undefined
    }
    return holderOf(text) ?? UNKNOWN
  }

  #isStale(lock: string, { id, pid, host, processes }: Holder): boolean {
    if (host === this.#me.host && (pid === this.#me.pid || !isRunning(pid))) {
      // Another namespace means a restarted container, or a second one with the same host name. At the start, the former
      // is more likely. If it is the latter, the other process notices, gives way, and from then on only waits.
      if (!this.#hasWaited || processes === this.#me.processes) return true
    }
    const { mtimeMs } = statSync(lock)
    const what = `${id} ${mtimeMs}`
    const now = this.#clock()
    if (what !== this.#seen.what) this.#seen = { what, at: now }
    // If the time of day of the other host is ahead, the lock always seems new; but then it does not change.
    return Date.now() - mtimeMs > STALE_AFTER_MS || now - this.#seen.at > STALE_AFTER_MS
  }
}

const UNKNOWN: Holder = { id: '', pid: 0, host: '' }

/** The PID namespace of this process; empty if the system has none. */
function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid')
  } catch {
    return ''
  }
}

function isOf(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

function holderOf(text: string): Holder | undefined {
  try {
    const value: unknown = JSON.parse(text)
    if (!isObject(value)) return undefined
    const { id, pid, host, processes } = value
    if (typeof id !== 'string' || typeof pid !== 'number' || typeof host !== 'string') return undefined
    return { id, pid, host, ...(typeof processes === 'string' && { processes }) }
  } catch {
    return undefined
  }
}

/** Whether a process is running on this host. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return isOf(error, 'EPERM')
  }
}
