import { type Override, type OverrideRequest, standing } from '../domain/override.js'
import type { Instant } from '../domain/time.js'

/** How many past overrides are remembered. */
const MAX_PAST = 20

/** The manual override that stands, and the earlier ones. */
export class Overrides {
  readonly #clock: () => Instant
  readonly #onEnd: (override: Override) => void
  #current: Override | null = null
  #timer: NodeJS.Timeout | undefined
  readonly #past: Override[] = []

  /** @param onEnd is called for an override whose time is over, when that is noticed. */
  constructor(clock: () => Instant, onEnd: (override: Override) => void) {
    this.#clock = clock
    this.#onEnd = onEnd
  }

  /** The earlier overrides, newest first. */
  get past(): readonly Override[] {
    return this.#past
  }

  /** The override that stands at this time, if any. */
  standingAt(now: Instant): Override | null {
    return standing(this.#current, now)
  }

  /** Sets an override, over an earlier one if one stands. */
  set(
    { state, reason, forSeconds }: OverrideRequest,
    by: string,
  ): { readonly override: Override; readonly replaced: Override | null } {
    const since = this.#clock()
    const replaced = this.remove()
    const override: Override = { state, reason, since, until: since + forSeconds * 1000, by }
    this.#current = override
    this.#awaitEnd(override)
    return { override, replaced }
  }

  /** Takes the override back; null when none stood. */
  remove(): Override | null {
    this.stop()
    const earlier = this.#current
    if (earlier === null) return null
    this.#current = null
    this.#past.unshift(earlier)
    this.#past.splice(MAX_PAST)
    if (standing(earlier, this.#clock()) !== null) return earlier
    this.#onEnd(earlier)
    return null
  }

  /** Stops the timer. */
  stop(): void {
    clearTimeout(this.#timer)
  }

  #awaitEnd(override: Override): void {
    const remainingMs = override.until - this.#clock()
    this.#timer = setTimeout(
      () => {
        // Timers and the clock round differently; an override does not end early.
        if (standing(override, this.#clock()) !== null) this.#awaitEnd(override)
        else this.remove()
      },
      Math.max(1, remainingMs),
    ).unref()
  }
}
