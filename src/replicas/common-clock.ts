import type { Instant } from '../domain/time.js'

/** While the clock is ahead of the common time it goes at half its speed: it never goes back. */
const SLOWED = 0.5

/** Two clocks that differ by less than this are the same. */
const TOLERANCE_MS = 5

/**
 * The clock of a process whose replicas agree on the time: a steady one, corrected to the clock of the log.
 *
 * It never goes back. It jumps forward to the common time, as after a pause of the process, and waits for it at half its
 * speed.
 */
export class CommonClock {
  readonly #steady: () => Instant
  /** The common time less the steady clock's; 0 until it is known. */
  #offsetMs = 0
  /** How far this clock was ahead of the common time at `#aheadAt` of the steady clock. */
  #aheadMs = 0
  #aheadAt: Instant

  constructor(steady: () => Instant) {
    this.#steady = steady
    this.#aheadAt = steady()
  }

  /** What everything goes by. */
  readonly now = (): Instant => {
    const steady = this.#steady()
    return steady + this.#offsetMs + this.#aheadNow(steady)
  }

  /** The common time: that of the log, as far as it is known. */
  common(): Instant {
    return this.#steady() + this.#offsetMs
  }

  /** The common time of an instant of this clock that is not long past, and the other way round. */
  toCommon(at: Instant): Instant {
    return at - this.#aheadNow(this.#steady())
  }

  /**
   * Takes over that the common time is now `common`.
   *
   * @param mayGoBack before anything was dated by this clock.
   */
  correct(common: Instant, mayGoBack = false): void {
    const steady = this.#steady()
    const now = this.now()
    this.#offsetMs = common - steady
    this.#aheadMs = mayGoBack ? 0 : Math.max(0, now - common)
    this.#aheadAt = steady
  }

  /**
   * Corrects the clock by what Redis said its time was, unless the difference may come from the way there and back.
   *
   * @param tookMs from asking to knowing.
   */
  compare(common: Instant, tookMs: number): void {
    const difference = common + tookMs / 2 - this.common()
    if (Math.abs(difference) > tookMs / 2 + TOLERANCE_MS) this.correct(common + tookMs / 2)
  }

  #aheadNow(steady: Instant): number {
    return Math.max(0, this.#aheadMs - (steady - this.#aheadAt) * SLOWED)
  }
}
