import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock } from './clock.js'
import type { MetadataReader } from './metadata-reader.js'

/** What a `Prober` needs. */
export type ProberOptions = {
  readonly metadata: MetadataReader
  /** Read anew before each wait, so that it can be changed while running. */
  readonly periodMs: () => number
  readonly clock: Clock
  /** In [0, 1). */
  readonly random: () => number
}

/** A tenth either way, so that the probes of many replicas do not fall together. */
const JITTER = 0.1

/** The least time between two probes that were asked for: a storm of doubts must not become one of probes. */
const MIN_SPACING_MS = 250

/** Looks at the upstream once a period, and when it is asked to; one probe at a time, until it is stopped. */
export class Prober {
  readonly #options: ProberOptions
  readonly #stopped = new AbortController()
  #wake = new AbortController()
  #isWanted = false
  #loop: Promise<void> | undefined

  constructor(options: ProberOptions) {
    this.#options = options
  }

  /** Takes the first reading, then goes on by itself. */
  async start(): Promise<void> {
    const first = this.#options.metadata.read('probe')
    this.#loop = first.then(() => this.#run())
    await first
  }

  /** Asks for a probe now. Asking again before it has begun changes nothing. */
  probeNow(): void {
    this.#isWanted = true
    this.#wake.abort()
  }

  /** Ends the loop; a probe under way is waited for. */
  async stop(): Promise<void> {
    this.#stopped.abort()
    this.#wake.abort()
    await this.#loop
  }

  async #run(): Promise<void> {
    const { metadata, periodMs, random } = this.#options
    let tookMs = 0
    while (!this.#stopped.signal.aborted) {
      const waitMs = Math.max(0, periodMs() * (1 - JITTER + 2 * JITTER * random()) - tookMs)
      const spacingMs = Math.min(MIN_SPACING_MS, waitMs)
      await this.#wait(spacingMs, this.#stopped.signal)
      if (!this.#isWanted) await this.#wait(waitMs - spacingMs, this.#wake.signal)
      if (this.#stopped.signal.aborted) return
      const wantedAt = this.#isWanted ? this.#options.clock() : 0
      this.#isWanted = false
      this.#wake = new AbortController()
      let look = await metadata.read('probe')
      // A client's look that was joined may have begun before there was any doubt.
      if (look.at < wantedAt && !this.#stopped.signal.aborted) look = await metadata.read('probe')
      const { at, answeredAt } = look
      tookMs = answeredAt - at
    }
  }

  /** An aborted wait is over, and no error. */
  async #wait(milliseconds: number, signal: AbortSignal): Promise<void> {
    await sleep(milliseconds, undefined, { signal, ref: false }).catch(() => undefined)
  }
}
