import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Disagreement } from './events.js'

/**
 * The number of probe periods for which focus-server's response to a configure request is compared with the metadata.
 */
const STALE_PERIODS = 3

/** Tracks whether configure and metadata agree about the fiber. */
export class Contradiction {
  /**
   * Since when configure has reported a missing fiber; null once the metadata agrees or a configure request succeeds.
   */
  #denial: Disagreement | null = null
  #deniedAt: Instant = 0
  #current: Disagreement | null = null

  /** Set while metadata and configure contradict each other. */
  get current(): Disagreement | null {
    return this.#current
  }

  /** Notes that the response to a configure request reported a missing fiber. */
  deny(missing: readonly string[], at: Instant): void {
    this.#denial ??= { since: at, missing }
    this.#deniedAt = at
  }

  /**
   * Compares a reading with the responses to configure; returns the contradiction that the reading starts, if any.
   *
   * While configures keep failing, each probe is older than the last of them. What matters is whether the probe was sent
   * after the first failure.
   */
  compare(reading: Reading, probePeriodMs: number): Disagreement | undefined {
    if (reading.source === 'configure' || this.#denial === null || reading.at < this.#denial.since)
      return undefined
    if (reading.kind === 'waiting') this.end()
    if (reading.kind !== 'ready' || this.#current !== null) return undefined
    // A failed configure request from before a long gap without metadata does not contradict the metadata now.
    if (reading.at - this.#deniedAt > STALE_PERIODS * probePeriodMs) {
      this.end()
      return undefined
    }
    this.#current = this.#denial
    return this.#current
  }

  /** Notes that configure and metadata agree. */
  end(): void {
    this.#denial = null
    this.#current = null
  }
}
