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

/** Who holds a lock. */
export type Holder = {
  readonly id: string
  readonly pid: number
  readonly host: string
  /** The namespace of its pid: two containers of one host name may both have a process 1. */
  readonly processes?: string
}

/** What a lock needs. */
export type HistoryLockOptions = {
  /** The history file; the lock is beside it. */
  readonly file: string
  readonly clock: () => Instant
  readonly pid?: number
  readonly host?: string
  readonly processes?: string
}

/** How often the holder renews its lock. */
export const RENEW_MS = 10_000

/** A lock that was not renewed for so long belongs to a process that is gone. */
const STALE_AFTER_MS = 3 * RENEW_MS

/**
 * Says which process may write a history file: the one whose random id stands in `<file>.lock`. A lock is left behind by
 * a process that was killed. It is taken over when that process no longer runs on this host, or when the lock was not
 * renewed for 30 s. Two processes that take it at the same moment both look again before each write, and one gives way.
 *
 * Where no lock can be made, as beside a single file that is mounted, there is none, and the file is written all the same.
 */
export class HistoryLock {
  readonly #file: string
  readonly #clock: () => Instant
  readonly #me: Holder
  /** What the lock of another process was when it last changed, by our clock. */
  #seen = { what: '', at: 0 }
  #hasLock = false
  /** Whether another process has had the lock since this one started. */
  #hasWaited = false

  constructor({ file, clock, ...options }: HistoryLockOptions) {
    const { pid = process.pid, host = hostname(), processes = pidNamespace() } = options
    this.#file = file
    this.#clock = clock
    this.#me = { id: randomBytes(8).toString('hex'), pid, host, processes }
  }

  /** Takes the lock if it is free. The result is the process that holds it, or undefined when it is ours. */
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

  /** The process that would keep this one from taking the lock. Changes nothing. */
  look(): Holder | undefined {
    const holder = this.#holder()
    try {
      return holder === undefined || this.#isStale(this.#path(), holder) ? undefined : holder
    } catch {
      return undefined
    }
  }

  /** The process that holds the lock; undefined when it is ours, or when there is none and none can be made. */
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
      // The age of the file is compared with the time of day by whoever looks at it.
      const seconds = Date.now() / 1000
      utimesSync(this.#path(), seconds, seconds)
    } catch {}
  }

  /** Gives the lock back, if it is ours. */
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

  /** Beside the file behind the links: two processes may know it by different names. */
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

  /** Makes the lock; false when there is one. */
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

  /** Someone has removed our lock. */
  #createAgain(): Holder | undefined {
    try {
      return this.#create(this.#path()) ? undefined : this.#holder()
    } catch {
      return undefined
    }
  }

  /** Who holds the lock; undefined when there is none. A lock that is being written has an unknown holder. */
  #holder(): Holder | undefined {
    let text: string
    try {
      text = readFileSync(this.#path(), 'utf8')
    } catch (error) {
      // One that another user has made.
      if (isOf(error, 'EACCES') || isOf(error, 'EPERM')) return UNKNOWN
      return undefined
    }
    return holderOf(text) ?? UNKNOWN
  }

  #isStale(lock: string, { id, pid, host, processes }: Holder): boolean {
    if (host === this.#me.host && (pid === this.#me.pid || !isRunning(pid))) {
      // A container that is started again has another namespace, and so has one that runs beside it under the same name.
      // At the start it is most likely the first. If it is the other, that one sees it, and only waits from then on.
      if (!this.#hasWaited || processes === this.#me.processes) return true
    }
    const { mtimeMs } = statSync(lock)
    const what = `${id} ${mtimeMs}`
    const now = this.#clock()
    if (what !== this.#seen.what) this.#seen = { what, at: now }
    // The time of day of another host may be ahead. Then the lock seems young for ever, but it does not change.
    return Date.now() - mtimeMs > STALE_AFTER_MS || now - this.#seen.at > STALE_AFTER_MS
  }
}

const UNKNOWN: Holder = { id: '', pid: 0, host: '' }

/** The namespace of the pids of this process, where the system has such. */
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

/** Whether a process of this host runs. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return isOf(error, 'EPERM')
  }
}
