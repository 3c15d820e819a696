import { constants, fstatSync, openSync, writeSync } from 'node:fs'

/** How many bytes are buffered for a reader that does not read. */
const MAX_PENDING_BYTES = 1_048_576

/** How soon to retry a full pipe or a stopped terminal. */
const FULL_RETRY_MS = 50

/** How soon to retry an output that failed. Until then each line is dropped. */
const FAILED_RETRY_MS = 1000

/** The lines that were lost while an output did not work. */
export type Loss = {
  /** Lines dropped since the last report. */
  readonly dropped: number
  /** The error code of the last dropped line, such as ENOSPC; EAGAIN for a reader that did not read. */
  readonly code: string
}

/** Options of an output; `write` replaces the real output in tests. */
export type OutputOptions = {
  /** Writes some of the bytes without waiting and returns the number written, or throws an error with a code. */
  readonly write?: (bytes: Uint8Array) => number
  readonly maxPendingBytes?: number
}

/**
 * Standard output or standard error, for a process that must not depend on either.
 *
 * `write` never throws and never waits, even with a full disk, a closed terminal or a pipe that is not read. Lines that
 * cannot be written are dropped and counted.
 *
 * Writes are synchronous and non-blocking. A write that waits in one of Node's threads would make `process.exit` wait
 * as well, because it waits for those threads.
 */
export class Output {
  readonly #write: (bytes: Uint8Array) => number
  readonly #maxPendingBytes: number
  readonly #pending: Uint8Array[] = []
  #pendingBytes = 0
  /** Whether the pending bytes start with the rest of a line that is partly written. */
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

  /** The code of the last error while writing fails, such as ENOSPC; undefined while writing works. */
  get failure(): string | undefined {
    return this.#failure
  }

  /** Calls `report` when the output works again after lines were dropped. `report` may write a line about the loss. */
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
    // If other lines are pending, the timer is already set.
    if (this.#pending.length === 1) this.#flush()
  }

  /** Resolves when everything is written, when writing fails, or after `maxMs`. */
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

  /** Drops the pending lines, except for the rest of a partly written one, so that a reader never gets half a line. */
  #fail(code: string): void {
    this.#failure = code
    const lost = this.#pending.splice(this.#isMidLine ? 1 : 0).length
    this.#pendingBytes = this.#pending[0]?.length ?? 0
    // The line that reports the loss does not count as lost.
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

  /** Reports dropped lines. The report itself tests the output: if it cannot be written, it is repeated later. */
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
 * Returns a function that writes to the descriptor and throws EAGAIN instead of waiting.
 *
 * A pipe or a terminal is opened again, because O_NONBLOCK on the given descriptor would also apply to other processes
 * that share it. If that is not allowed, and for sockets, Node makes the descriptor itself non-blocking, except for a
 * terminal of another user: writing to that waits while the terminal is stopped. Writing to a file never fails with
 * EAGAIN.
 */
function nonBlockingWriter(descriptor: 1 | 2): (bytes: Uint8Array) => number {
  const own = ownDescriptor(descriptor)
  return bytes => writeSync(own, bytes)
}

function ownDescriptor(descriptor: 1 | 2): number {
  try {
    // `bigint` avoids a bug in Node 20: `realpathSync` reads the result of the last plain `stat`, so the next module
    // would be resolved with the result for this pipe, and keep the symbolic links in its path.
    const status = fstatSync(descriptor, { bigint: true })
    if (status.isFile()) return descriptor
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants
    return openSync(`/proc/self/fd/${descriptor}`, O_WRONLY | O_NONBLOCK | O_NOCTTY)
  } catch {
    // Node makes the descriptor non-blocking when it creates the stream.
    void (descriptor === 1 ? process.stdout : process.stderr)
    return descriptor
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown'
}
