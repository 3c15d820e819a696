/** A timer looks at the clock this many times before it fires. */
const STEPS = 20

/**
 * A timer that counts only the time in which the event loop ran.
 *
 * While the process is suspended, or its loop is blocked, nothing that arrives is read. That time is no silence of the
 * other side.
 */
export class AwakeTimer {
  readonly #onTimeout: () => void
  readonly #stepMs: number
  #remainingMs: number
  #longestStallMs = 0
  #step = 0
  #checkedAt = performance.now()
  /** The monotonic clock stands still while a machine sleeps, and the time of day does not. */
  #timeOfDay = Date.now()
  #timer: NodeJS.Timeout | undefined

  constructor(timeoutMs: number, onTimeout: () => void) {
    this.#onTimeout = onTimeout
    this.#remainingMs = timeoutMs
    this.#stepMs = Math.max(1, timeoutMs / STEPS)
    this.#schedule()
  }

  /** The longest time up to now in which the loop stood still. */
  get longestStallMs(): number {
    this.#check()
    return this.#longestStallMs
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  #schedule(): void {
    this.#step = Math.min(this.#stepMs, this.#remainingMs)
    this.#timer = setTimeout(() => {
      this.#check()
      if (this.#remainingMs > 0) this.#schedule()
      // What arrived while the loop stood still is read before this.
      else this.#timer = setTimeout(this.#onTimeout, 0)
    }, this.#step)
  }

  #check(): void {
    const [now, timeOfDay] = [performance.now(), Date.now()]
    const passedMs = now - this.#checkedAt
    const stallMs = Math.max(passedMs, timeOfDay - this.#timeOfDay) - this.#step
    this.#longestStallMs = Math.max(this.#longestStallMs, stallMs)
    this.#remainingMs -= Math.min(passedMs, 2 * this.#stepMs)
    this.#checkedAt = now
    this.#timeOfDay = timeOfDay
  }
}
