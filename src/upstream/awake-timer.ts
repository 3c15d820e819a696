/** How many times a timer checks the clock before it fires. */
const STEPS = 20

/**
 * A timer that counts only the time during which the event loop runs.
 *
 * While the process is suspended or its event loop is blocked, arriving data is not read. That time must not count as
 * silence of the other side.
 */
export class AwakeTimer {
  readonly #onTimeout: () => void
  readonly #stepMs: number
  #remainingMs: number
  #longestStallMs = 0
  #step = 0
  #checkedAt = performance.now()
  /** The monotonic clock stops while the machine sleeps; the time of day does not. */
  #timeOfDay = Date.now()
  #timer: NodeJS.Timeout | undefined

  constructor(timeoutMs: number, onTimeout: () => void) {
    this.#onTimeout = onTimeout
    this.#remainingMs = timeoutMs
    this.#stepMs = Math.max(1, timeoutMs / STEPS)
    this.#schedule()
  }

  /** The longest time so far during which the event loop was blocked. */
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
      // Data that arrived while the loop was blocked is read before this fires.
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
