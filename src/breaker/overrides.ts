import {
  DECLARED_BY,
  expired,
  MAX_PAST_OVERRIDES,
  type Override,
  type PastOverride,
  pastOverride,
  standing,
} from '../domain/override.js'
import type { Instant } from '../domain/time.js'

/** The longest delay that a timer takes; a longer one would fire at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** What overrides take over from earlier processes. */
export type OverridesPast = {
  /** The one that was set over HTTP and was not taken back. */
  readonly override?: Override | null
  /** The one that was declared in `override.file`, if it was in force. */
  readonly declared?: Override | null
  /** Those that ended, newest first. */
  readonly pastOverrides?: readonly PastOverride[]
}

/**
 * Decides which manual override is in force: the one that was set over HTTP, else the one that is declared in
 * `override.file`. Remembers the earlier ones, each for the time in which it was in force.
 */
export class Overrides {
  readonly #clock: () => Instant
  readonly #onEnd: (override: PastOverride) => void
  /** The one that was set over HTTP. */
  #current: Override | null = null
  /** `since` is when it came into force; while another one outranks it, when it was read. */
  #declared: Override | null = null
  #timer: NodeJS.Timeout | undefined
  readonly #past: PastOverride[]

  /** @param onEnd is called for an override in force whose time is over, when that is noticed. */
  constructor(
    clock: () => Instant,
    onEnd: (override: PastOverride) => void,
    { override = null, declared = null, pastOverrides = [] }: OverridesPast = {},
  ) {
    this.#clock = clock
    this.#onEnd = onEnd
    this.#past = pastOverrides.slice(0, MAX_PAST_OVERRIDES)
    // One that ended while no process ran is not in force. Its end is reported once there are listeners.
    this.#current = override
    this.#declared = declared
    this.#awaitEnd()
  }

  /** The earlier overrides, newest first. */
  get past(): readonly PastOverride[] {
    return this.#past
  }

  /** The override in force at this time, if any. */
  standingAt(now: Instant): Override | null {
    return standing(this.#current, now) ?? standing(this.#declared, now)
  }

  /** The one that was set over HTTP, if it is in force at this time. */
  setAt(now: Instant): Override | null {
    return standing(this.#current, now)
  }

  /** Sets an override, over an earlier one if one is in force: that is returned. */
  set(override: Override): PastOverride | null {
    this.#endExpired()
    const { since, by } = override
    const earlier = this.standingAt(since)
    const replaced = earlier && this.#remember(pastOverride(earlier, since, 'replaced', by))
    this.#current = override
    this.#awaitEnd()
    return replaced
  }

  /** Takes back the override that was set over HTTP; null when none was in force. A declared one stays. */
  remove(by: string): PastOverride | null {
    this.#endExpired()
    const earlier = this.#current
    if (earlier === null) return null
    const now = this.#clock()
    this.#current = null
    this.#comesBack(now)
    this.#awaitEnd()
    return this.#remember(pastOverride(earlier, now, 'removed', by))
  }

  /**
   * Replaces the declared override, by null if none is declared any more. Gives what ended by that: nothing while one that
   * was set over HTTP is in force.
   */
  declare(declared: Override | null): PastOverride | null {
    this.#endExpired()
    const now = this.#clock()
    if (declared !== null && this.#declared !== null && isSame(declared, this.#declared)) return null
    const earlier = this.#current === null ? this.#declared : null
    this.#declared = standing(declared, now)
    this.#awaitEnd()
    if (earlier === null) return null
    const end = this.#declared === null ? 'removed' : 'replaced'
    return this.#remember(pastOverride(earlier, now, end, DECLARED_BY))
  }

  /** Stops the timer. */
  stop(): void {
    clearTimeout(this.#timer)
  }

  #remember(override: PastOverride): PastOverride {
    this.#past.unshift(override)
    this.#past.splice(MAX_PAST_OVERRIDES)
    return override
  }

  /** The declared override is in force from now on, after the one that outranked it. */
  #comesBack(from: Instant): void {
    const declared = standing(this.#declared, from)
    this.#declared = declared && { ...declared, since: from }
  }

  /** Ends what is over, also before its timer comes: that may be late. */
  #endExpired(): void {
    const now = this.#clock()
    const current = this.#current
    if (current !== null && standing(current, now) === null) {
      this.#current = null
      this.#comesBack(current.until)
      this.#onEnd(this.#remember(expired(current)))
    }
    const declared = this.#declared
    if (declared === null || standing(declared, now) !== null) return
    this.#declared = null
    // One that was outranked until its end ended when it was replaced.
    if (this.#current === null) this.#onEnd(this.#remember(expired(declared)))
  }

  #awaitEnd(): void {
    this.stop()
    const next = this.#current ?? this.#declared
    if (next === null) return
    const remainingMs = Math.min(LONGEST_TIMER_MS, Math.max(1, next.until - this.#clock()))
    this.#timer = setTimeout(() => {
      // Timers and the clock round differently; an override does not end early.
      this.#endExpired()
      this.#awaitEnd()
    }, remainingMs).unref()
  }
}

/** Whether a file that was read again declares the same. */
function isSame(one: Override, other: Override): boolean {
  return (
    one.state === other.state &&
    one.reason === other.reason &&
    one.until === other.until &&
    (one.silent === true) === (other.silent === true)
  )
}
