import { setTimeout as sleep } from 'node:timers/promises'
import type { Instant } from '../domain/time.js'
import type { Clock } from './clock.js'
import type { Look, MetadataReader } from './metadata-reader.js'

/** What a `Prober` needs. */
export type ProberOptions = {
  readonly metadata: MetadataReader
  /** Read anew before each wait, so that it can be changed while running. */
  readonly periodMs: () => number
  readonly clock: Clock
  /** In [0, 1). */
  readonly random: () => number
  /** Hears when probes are slowed because the upstream asks for it, until when, and with undefined that they no longer are. */
  readonly onSlowed?: (until: Instant | undefined) => void
  /** Whether this process is the one that probes. Asked before each probe; without it, it always is. */
  readonly isOnDuty?: () => boolean
}

/** A tenth either way, so that the probes of many replicas do not fall together. */
const JITTER = 0.1

/** The least time between two probes that were asked for: a storm of doubts must not become one of probes. */
const MIN_SPACING_MS = 250

/** The longest time for which an upstream can stop the probes (429 with `Retry-After`). */
const MAX_PAUSE_MS = 60_000

/** Looks at the upstream once a period, and when it is asked to; one probe at a time, until it is stopped. */
export class Prober {
  readonly #options: ProberOptions
  readonly #stopped = new AbortController()
  #wake = new AbortController()
  #isWanted = false
  #loop: Promise<void> | undefined
  #slowedUntil: Instant | undefined

  constructor(options: ProberOptions) {
    this.#options = options
  }

  /** Takes the first reading, then goes on by itself. */
  async start(): Promise<void> {
    const first = this.#isOnDuty ? this.#options.metadata.read('probe') : Promise.resolve(undefined)
    this.#loop = first.then(look => this.#run(look))
    await first
  }

  /** Until when the upstream has asked for no more probes; undefined when it has not. */
  get slowedUntil(): Instant | undefined {
    return this.#slowedUntil
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

  get #isOnDuty(): boolean {
    return this.#options.isOnDuty?.() ?? true
  }

  /** @param first undefined when another process probed. */
  async #run(first: Look | undefined): Promise<void> {
    const { metadata, periodMs, random, clock } = this.#options
    let look = first
    let tookMs = 0
    while (!this.#stopped.signal.aborted) {
      this.#heed(look)
      // What was missed while this process stood still is asked for as soon as possible.
      if (look?.notCounted === 'stalled') this.#isWanted = true
      const waitMs = Math.max(0, periodMs() * (1 - JITTER + 2 * JITTER * random()) - tookMs)
      const spacingMs = Math.min(MIN_SPACING_MS, waitMs)
      const pauseMs = this.#slowedUntil === undefined ? 0 : this.#slowedUntil - clock()
      await this.#wait(Math.max(spacingMs, pauseMs), this.#stopped.signal)
      if (!this.#isWanted && pauseMs < waitMs)
        await this.#wait(waitMs - Math.max(spacingMs, pauseMs), this.#wake.signal)
      if (this.#stopped.signal.aborted) return
      const wantedAt = this.#isWanted ? clock() : 0
      this.#isWanted = false
      this.#wake = new AbortController()
      if (!this.#isOnDuty) {
        look = undefined
        tookMs = 0
        continue
      }
      look = await metadata.read('probe')
      // A client's look that was joined may have begun before there was any doubt.
      if (look.at < wantedAt && !this.#stopped.signal.aborted) look = await metadata.read('probe')
      const { at, answeredAt } = look
      tookMs = answeredAt - at
    }
  }

  /** Slows the probes if the upstream asks for it: with the probes it would go on refusing them. */
  #heed(look: Look | undefined): void {
    const before = this.#slowedUntil
    this.#slowedUntil =
      look?.retryAfterMs === undefined
        ? undefined
        : look.answeredAt + Math.min(look.retryAfterMs, MAX_PAUSE_MS)
    if ((before === undefined) !== (this.#slowedUntil === undefined))
      this.#options.onSlowed?.(this.#slowedUntil)
  }

  /** An aborted wait is over, and no error. */
  async #wait(milliseconds: number, signal: AbortSignal): Promise<void> {
    await sleep(milliseconds, undefined, { signal, ref: false }).catch(() => undefined)
  }
}
