import { constants, fstatSync, openSync, writeSync } from 'node:fs'

/** How many bytes may wait for a reader that does not read. */
const MAX_PENDING_BYTES = 1_048_576

/** How soon a full pipe or a stopped terminal is tried again. */
const FULL_RETRY_MS = 50

/** How soon an output that failed is tried again. Until then each line is dropped. */
const FAILED_RETRY_MS = 1000

/** What was lost while an output did not work. */
export type Loss = {
  /** Lines dropped since the last report. */
  readonly dropped: number
  /** The error that dropped the last of them, like ENOSPC; EAGAIN for a reader that did not read. */
  readonly code: string
}

/** How an output writes, where it is not a real one. */
export type OutputOptions = {
  /** Writes some of the bytes without waiting and returns how many, or throws an error with a code. */
  readonly write?: (bytes: Uint8Array) => number
  readonly maxPendingBytes?: number
}

/**
 * Standard output or standard error, for a process that must not depend on either.
 *
 * `write` never throws and never waits, whatever happens to the output: a full disk, a closed terminal, a pipe that is not
 * read. Lines that cannot be written are dropped and counted.
 *
 * Writes are synchronous and non-blocking. A write that waits in one of Node's threads would make `process.exit` wait too,
 * because it joins those threads.
 */
export class Output {
  readonly #write: (bytes: Uint8Array) => number
  readonly #maxPendingBytes: number
  readonly #pending: Uint8Array[] = []
  #pendingBytes = 0
  /** The first of the pending bytes are the rest of a line that is already written in part. */
  #isMidLine = false
  #dropped = 0
  #loss: Loss = { dropped: 0, code: '' }
  #failure: string | undefined
  #isReporting = false
  #report: (loss: Loss) => void = () => undefined
  #timer: NodeJS.Timeout | undefined

  /** @param descriptor 1 for standard output, 2 for standard error. */
  constructor(descriptor: 1 | 2, options: OutputOptions = {}) {
    this.#write = options.write ?? nonBlockingWriter(descriptor)
    this.#maxPendingBytes = options.maxPendingBytes ?? MAX_PENDING_BYTES
  }

  /** How many lines were dropped since the start. */
  get dropped(): number {
    return this.#dropped
  }

  /** The code of the last error while writing fails, like ENOSPC; undefined while it works. */
  get failure(): string | undefined {
    return this.#failure
  }

  /** Calls `report` when the output works again after lines were dropped. It may write a line about that. */
  onLoss(report: (loss: Loss) => void): void {
    this.#report = report
  }

  /** Writes a line, or drops it. */
  write(line: string): void {
    const bytes = Buffer.from(line)
    const isFull = this.#pending.length > 0 && this.#pendingBytes + bytes.length > this.#maxPendingBytes
    const obstacle = this.#failure ?? (isFull ? 'EAGAIN' : undefined)
    if (obstacle !== undefined) {
      this.#drop(obstacle)
      return
    }
    this.#pending.push(bytes)
    this.#pendingBytes += bytes.length
    // With others before it, the timer is set.
    if (this.#pending.length === 1) this.#flush()
  }

  /** Resolves when everything is written, when writing fails, or when the time is over. */
  async drained(maxMs: number): Promise<void> {
    const startedAt = performance.now()
    const isOver = () => performance.now() - startedAt >= maxMs
    while (this.#pending.length > 0 && this.#failure === undefined && !isOver()) {
      await new Promise(resolve => setTimeout(resolve, FULL_RETRY_MS / 5))
      this.#flush()
    }
  }

  #flush(): void {
    for (let bytes = this.#pending[0]; bytes !== undefined; bytes = this.#pending[0]) {
      let written: number
      try {
        written = this.#write(bytes)
      } catch (error) {
        const code = codeOf(error)
        if (code === 'EAGAIN') this.#retryIn(FULL_RETRY_MS)
        else this.#fail(code)
        return
      }
      this.#pendingBytes -= written
      this.#isMidLine = written < bytes.length
      if (this.#isMidLine) this.#pending[0] = bytes.subarray(written)
      else this.#pending.shift()
    }
    this.#reportLoss()
  }

  /** Drops what is pending, except for the rest of a line: a reader never finds half a line. */
  #fail(code: string): void {
    this.#failure = code
    const lost = this.#pending.splice(this.#isMidLine ? 1 : 0).length
    this.#pendingBytes = this.#pending[0]?.length ?? 0
    // The line about the loss is not one of those that were lost.
    if (!this.#isReporting) for (let line = 0; line < lost; line += 1) this.#drop(code)
    this.#retryIn(FAILED_RETRY_MS)
  }

  #drop(code: string): void {
    this.#dropped += 1
    this.#loss = { dropped: this.#loss.dropped + 1, code }
  }

  #retryIn(milliseconds: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#failure = undefined
      this.#flush()
    }, milliseconds).unref()
  }

  /** The report itself shows whether the output works again. If it cannot be written, it is due once more. */
  #reportLoss(): void {
    const loss = this.#loss
    if (loss.dropped === 0 || this.#isReporting) return
    this.#loss = { dropped: 0, code: '' }
    this.#isReporting = true
    this.#report(loss)
    this.#isReporting = false
    if (this.#failure !== undefined) this.#loss = loss
  }
}

/**
 * A function that writes to the descriptor and throws EAGAIN in place of waiting.
 *
 * A pipe or a terminal is opened once more, because O_NONBLOCK on the given descriptor would hold for other processes
 * that share it as well. Where that is not allowed, and for sockets, Node makes the descriptor itself non-blocking, except for a
 * terminal of another user: writing to that waits while the terminal is stopped. A file never says EAGAIN.
 */
function nonBlockingWriter(descriptor: 1 | 2): (bytes: Uint8Array) => number {
  const own = ownDescriptor(descriptor)
  return bytes => writeSync(own, bytes)
}

function ownDescriptor(descriptor: 1 | 2): number {
  try {
    // As big integers, because Node 20 would take what this says of a pipe for the next module that it resolves, and leave
    // the symbolic links in its path (`realpathSync` reads the result of the last plain `stat`).
    const status = fstatSync(descriptor, { bigint: true })
    if (status.isFile()) return descriptor
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants
    return openSync(`/proc/self/fd/${descriptor}`, O_WRONLY | O_NONBLOCK | O_NOCTTY)
  } catch {
    // Node makes it non-blocking when its stream is made.
    void (descriptor === 1 ? process.stdout : process.stderr)
    return descriptor
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown'
}
