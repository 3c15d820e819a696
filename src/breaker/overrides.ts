import { isDeclared, type Override, type OverrideRequest, standing } from '../domain/override.js'
import type { Instant } from '../domain/time.js'

/** How many past overrides are remembered. */
const MAX_PAST = 20

/** The longest delay that a timer takes; a longer one would fire at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/**
 * Decides which manual override is in force: the one that was set over HTTP, else the one that is declared in
 * `override.file`. Remembers the earlier ones.
 */
export class Overrides {
  readonly #clock: () => Instant
  readonly #onEnd: (override: Override) => void
  /** The one that was set over HTTP. */
  #current: Override | null = null
  #declared: Override | null = null
  #timer: NodeJS.Timeout | undefined
  readonly #past: Override[] = []

  /**
   * @param onEnd is called for an override in force whose time is over, when that is noticed.
   * @param resumed an override that was set over HTTP before a restart.
   */
  constructor(clock: () => Instant, onEnd: (override: Override) => void, resumed: Override | null = null) {
    this.#clock = clock
    this.#onEnd = onEnd
    this.#current = resumed
    this.#awaitEnd()
  }

  /** The earlier overrides, newest first. */
  get past(): readonly Override[] {
    return this.#past
  }

  /** The override in force at this time, if any. */
  standingAt(now: Instant): Override | null {
    return standing(this.#current, now) ?? standing(this.#declared, now)
  }

  /** Sets an override, over an earlier one if one is in force. */
  set(
    { forSeconds, ...request }: OverrideRequest,
    by: string,
  ): { readonly override: Override; readonly replaced: Override | null } {
    const since = this.#clock()
    const declared = standing(this.#declared, since)
    const replaced = this.remove() ?? declared
    const override: Override = { ...request, since, until: since + forSeconds * 1000, by }
    this.#current = override
    this.#awaitEnd()
    return { override, replaced }
  }

  /** Takes back the override that was set over HTTP; null when none was in force. A declared one stays. */
  remove(): Override | null {
    const earlier = this.#current
    if (earlier === null) return null
    this.#current = null
    this.#forget(earlier)
    this.#awaitEnd()
    if (standing(earlier, this.#clock()) !== null) return earlier
    this.#onEnd(earlier)
    return null
  }

  /** Replaces the declared override. Gives the earlier one if it had not ended. */
  declare(declared: Override | null): Override | null {
    const earlier = standing(this.#declared, this.#clock())
    if (this.#declared !== null) this.#forget(this.#declared)
    this.#declared = standing(declared, this.#clock())
    this.#awaitEnd()
    return earlier
  }

  /** Stops the timer. */
  stop(): void {
    clearTimeout(this.#timer)
  }

  #forget(override: Override): void {
    this.#past.unshift(override)
    this.#past.splice(MAX_PAST)
  }

  #awaitEnd(): void {
    this.stop()
    const next = this.#current ?? this.#declared
    if (next === null) return
    const remainingMs = Math.min(LONGEST_TIMER_MS, Math.max(1, next.until - this.#clock()))
    this.#timer = setTimeout(() => {
      // Timers and the clock round differently; an override does not end early.
      if (standing(next, this.#clock()) !== null) this.#awaitEnd()
      else if (isDeclared(next)) {
        this.declare(null)
        this.#onEnd(next)
      } else this.remove()
    }, remainingMs).unref()
  }
}
