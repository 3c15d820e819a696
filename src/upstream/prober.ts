import { setTimeout as sleep } from 'node:timers/promises'
import type { Reading } from '../domain/reading.js'
import type { MetadataReader } from './metadata.js'

/** What a `Prober` needs. */
export type ProberOptions = {
  readonly metadata: MetadataReader
  readonly periodMs: number
  /** Takes each reading, and how long the probe took. */
  readonly observe: (reading: Reading, durationMs: number) => void
  /** In [0, 1). */
  readonly random: () => number
}

/** A tenth either way, so that the probes of many replicas do not fall together. */
const JITTER = 0.1

/** Looks at the upstream once a period, one probe at a time, until it is stopped. */
export class Prober {
  readonly #options: ProberOptions
  readonly #stopped = new AbortController()
  #loop: Promise<void> | undefined

  constructor(options: ProberOptions) {
    this.#options = options
  }

  /** Takes the first reading, then goes on by itself. */
  async start(): Promise<void> {
    await this.#probe()
    this.#loop = this.#run()
  }

  /** Ends the loop; a probe under way is waited for and not observed. */
  async stop(): Promise<void> {
    this.#stopped.abort()
    await this.#loop
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopped
    while (!signal.aborted) {
      const { periodMs, random } = this.#options
      const waitMs = periodMs * (1 - JITTER + 2 * JITTER * random())
      // An aborted wait ends the loop by its condition.
      await sleep(waitMs, undefined, { signal, ref: false }).catch(() => undefined)
      if (!signal.aborted) await this.#probe()
    }
  }

  async #probe(): Promise<void> {
    const { at, durationMs, finding } = await this.#options.metadata.read()
    if (!this.#stopped.signal.aborted) this.#options.observe({ at, source: 'probe', ...finding }, durationMs)
  }
}
