import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Disagreement } from './events.js'

/** How many probe periods focus-server's response to a configure holds against the metadata. */
const STALE_PERIODS = 3

/** Keeps whether configure and metadata say the same about the fiber. */
export class Contradiction {
  /** Since when configure says that the fiber is missing, until the metadata agrees or a configure succeeds. */
  #denial: Disagreement | null = null
  #deniedAt: Instant = 0
  #current: Disagreement | null = null

  /** Set while metadata and configure contradict each other. */
  get current(): Disagreement | null {
    return this.#current
  }

  /** A configure was answered that the fiber is missing. */
  deny(missing: readonly string[], at: Instant): void {
    this.#denial ??= { since: at, missing }
    this.#deniedAt = at
  }

  /**
   * Compares a reading with what configure said; returns the contradiction that begins with it, if one does.
   *
   * While configures keep failing, each probe is older than the last of them. What counts is whether it was sent after
   * the first.
   */
  compare(reading: Reading, probePeriodMs: number): Disagreement | undefined {
    if (reading.source === 'configure' || this.#denial === null || reading.at < this.#denial.since)
      return undefined
    if (reading.kind === 'waiting') this.end()
    if (reading.kind !== 'ready' || this.#current !== null) return undefined
    // What configure said before a long silence of the metadata does not contradict what it says now.
    if (reading.at - this.#deniedAt > STALE_PERIODS * probePeriodMs) {
      this.end()
      return undefined
    }
    this.#current = this.#denial
    return this.#current
  }

  /** Configure and metadata agree. */
  end(): void {
    this.#denial = null
    this.#current = null
  }
}
