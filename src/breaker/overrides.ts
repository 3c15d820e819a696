import {
  DECLARED_BY,
  expired,
  inForce,
  MAX_PAST_OVERRIDES,
  type Override,
  type PastOverride,
  pastOverride,
} from '../domain/override.js'
import type { Instant } from '../domain/time.js'

/** The longest delay that a timer supports; a longer one would fire at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** The overrides inherited from earlier processes. */
export type OverridesPast = {
  /** The override that was set over HTTP and not removed. */
  readonly override?: Override | null
  /** The override that was declared in `override.file`, if it was in force. */
  readonly declared?: Override | null
  /** The ended overrides, newest first. */
  readonly pastOverrides?: readonly PastOverride[]
}

/**
 * Decides which manual override is in force: the one set over HTTP, else the one declared in
 * `override.file`. Remembers past overrides, each with the period in which it was in force.
 */
export class Overrides {
  readonly #clock: () => Instant
  readonly #onEnd: (override: PastOverride) => void
  /** The override that was set over HTTP. */
  #current: Override | null = null
  /** `since` is when it came into force; while another override outranks it, when it was read. */
  #declared: Override | null = null
  #timer: NodeJS.Timeout | undefined
  readonly #past: PastOverride[]

  /** @param onEnd called when an override that was in force is found to have expired. */
  constructor(
    clock: () => Instant,
    onEnd: (override: PastOverride) => void,
    { override = null, declared = null, pastOverrides = [] }: OverridesPast = {},
  ) {
    this.#clock = clock
    this.#onEnd = onEnd
    this.#past = pastOverrides.slice(0, MAX_PAST_OVERRIDES)
    // An override that expired while no process was running is not in force. Its end is reported once there are listeners.
    this.#current = override
    this.#declared = declared
    this.#awaitEnd()
  }

  /** The past overrides, newest first. */
  get past(): readonly PastOverride[] {
    return this.#past
  }

  /** The override in force at `now`, if any. */
  inForceAt(now: Instant): Override | null {
    return inForce(this.#current, now) ?? inForce(this.#declared, now)
  }

  /** The override that was set over HTTP, if it is in force at `now`. */
  setAt(now: Instant): Override | null {
    return inForce(this.#current, now)
  }

  /** Sets an override. Returns the override in force that it replaces, if any. */
  set(override: Override): PastOverride | null {
    this.#endExpired()
    const { since, by } = override
    const earlier = this.inForceAt(since)
    const replaced = earlier && this.#remember(pastOverride(earlier, since, 'replaced', by))
    this.#current = override
    this.#awaitEnd()
    return replaced
  }

  /** Removes the override that was set over HTTP; null if none was in force. A declared override remains. */
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
   * Replaces the declared override; null if none is declared any more. Returns the override that this ends, which is null
   * while an override set over HTTP is in force.
   */
  declare(declared: Override | null): PastOverride | null {
    this.#endExpired()
    const now = this.#clock()
    if (declared !== null && this.#declared !== null && isSame(declared, this.#declared)) return null
    const earlier = this.#current === null ? this.#declared : null
    this.#declared = inForce(declared, now)
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

  /** Brings the declared override into force after the one that outranked it has ended. */
  #comesBack(from: Instant): void {
    const declared = inForce(this.#declared, from)
    this.#declared = declared && { ...declared, since: from }
  }

  /** Ends expired overrides. It is also called before the timer fires, which may be late. */
  #endExpired(): void {
    const now = this.#clock()
    const current = this.#current
    if (current !== null && inForce(current, now) === null) {
      this.#current = null
      this.#comesBack(current.until)
      this.#onEnd(this.#remember(expired(current)))
    }
    const declared = this.#declared
    if (declared === null || inForce(declared, now) !== null) return
    this.#declared = null
    // If it was outranked until its end, its last period in force ended when it was replaced.
    if (this.#current === null) this.#onEnd(this.#remember(expired(declared)))
  }

  #awaitEnd(): void {
    this.stop()
    const next = this.#current ?? this.#declared
    if (next === null) return
    const remainingMs = Math.min(LONGEST_TIMER_MS, Math.max(1, next.until - this.#clock()))
    this.#timer = setTimeout(() => {
      // The timer and the clock round differently; an override must not end early.
      this.#endExpired()
      this.#awaitEnd()
    }, remainingMs).unref()
  }
}

/** Whether a file that was read again declares the same override. */
function isSame(one: Override, other: Override): boolean {
  return (
    one.state === other.state &&
    one.reason === other.reason &&
    one.until === other.until &&
    (one.silent === true) === (other.silent === true)
  )
}
