/** What a lane goes by. */
export type LaneOptions = {
  /** How many may be on their way at a time. */
  readonly concurrency: number
  /** How many more may wait for that. */
  readonly capacity: number
  /** How long one may wait. */
  readonly timeoutMs: number
}

/** Why somebody could not go: as many as may wait are waiting, or the time was over. */
export type LaneRefusal = 'full' | 'late'

type Waiting = {
  readonly start: () => void
  readonly refused: (why: LaneRefusal) => void
  timer: NodeJS.Timeout | undefined
}

/**
 * The way to the upstream: so many exchanges at a time, a bounded number that wait, and none that waits for
 * ever. A slow or dead upstream then costs its own requests, and not all memory and sockets of the proxy.
 */
export class Lane {
  readonly #options: LaneOptions
  readonly #waiting = new Set<Waiting>()
  #onTheirWay = 0
  #emptied: (() => void) | undefined

  constructor(options: LaneOptions) {
    this.#options = options
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size
  }

  /**
   * Calls `start` when there is room, now or later, or `refused` when there will be none. Whoever was
   * started calls `leave` once.
   *
   * @returns a function that gives up waiting; it answers whether it was waiting still.
   */
  enter(start: () => void, refused: (why: LaneRefusal) => void): () => boolean {
    const { concurrency, capacity, timeoutMs } = this.#options
    if (this.#onTheirWay < concurrency) {
      this.#onTheirWay += 1
      start()
      return () => false
    }
    if (this.#waiting.size >= capacity) {
      refused('full')
      return () => false
    }
    const waiting: Waiting = { start, refused, timer: undefined }
    const giveUp = () => {
      clearTimeout(waiting.timer)
      return this.#waiting.delete(waiting)
    }
    waiting.timer = setTimeout(() => {
      if (giveUp()) refused('late')
    }, timeoutMs).unref()
    this.#waiting.add(waiting)
    return giveUp
  }

  /** Resolves as soon as nobody is on the way. */
  empty(): Promise<void> {
    if (this.#onTheirWay === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.#emptied = resolve
    })
  }

  /** Makes room for the next. */
  leave(): void {
    const [next] = this.#waiting
    if (next === undefined) {
      this.#onTheirWay -= 1
      if (this.#onTheirWay === 0) this.#emptied?.()
      return
    }
    clearTimeout(next.timer)
    this.#waiting.delete(next)
    next.start()
  }
}
