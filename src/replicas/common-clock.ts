import type { Instant } from '../domain/time.js'

/** While the clock is ahead of the common time, it runs at half speed, because it must never go back. */
const SLOWED = 0.5

/** Two clocks that differ by less than this count as equal. */
const TOLERANCE_MS = 5

/**
 * The clock of a process with replicas: a steady clock, corrected to the common time, which is that of the log.
 *
 * It never goes back. If it is behind the common time, for example after a pause of the process, it jumps forward. If it is
 * ahead, it runs at half speed until the common time has caught up.
 */
export class CommonClock {
  readonly #steady: () => Instant
  /** The difference between the common time and the steady clock; 0 until it is known. */
  #offsetMs = 0
  /** How far this clock was ahead of the common time at `#aheadAt`, a time of the steady clock. */
  #aheadMs = 0
  #aheadAt: Instant

  constructor(steady: () => Instant) {
    this.#steady = steady
    this.#aheadAt = steady()
  }

  /** The time that the whole process uses. */
  readonly now = (): Instant => {
    const steady = this.#steady()
    return steady + this.#offsetMs + this.#aheadNow(steady)
  }

  /** The common time, which is that of the log, as far as it is known. */
  common(): Instant {
    return this.#steady() + this.#offsetMs
  }

  /** Converts a recent instant of this clock to the common time. */
  toCommon(at: Instant): Instant {
    return at - this.#aheadNow(this.#steady())
  }

  /**
   * Sets the common time to `common`.
   *
   * @param mayGoBack whether the clock may go back, which is safe only before anything was dated by it.
   */
  correct(common: Instant, mayGoBack = false): void {
    const steady = this.#steady()
    const now = this.now()
    this.#offsetMs = common - steady
    this.#aheadMs = mayGoBack ? 0 : Math.max(0, now - common)
    this.#aheadAt = steady
  }

  /**
   * Corrects the clock to a time that Redis reported, unless the round trip explains the difference.
   *
   * @param tookMs the duration of the round trip.
   */
  compare(common: Instant, tookMs: number): void {
    const difference = common + tookMs / 2 - this.common()
    if (Math.abs(difference) > tookMs / 2 + TOLERANCE_MS) this.correct(common + tookMs / 2)
  }

  #aheadNow(steady: Instant): number {
    return Math.max(0, this.#aheadMs - (steady - this.#aheadAt) * SLOWED)
  }
}
