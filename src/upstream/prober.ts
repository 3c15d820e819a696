import { setTimeout as sleep } from 'node:timers/promises'
import type { Instant } from '../domain/time.js'
import type { Clock } from './clock.js'
import type { MetadataReader, MetadataResult } from './metadata-reader.js'

/** Dependencies of a `Prober`. */
export type ProberOptions = {
  readonly metadata: MetadataReader
  /** Called before each wait, so that the period can be changed while running. */
  readonly periodMs: () => number
  readonly clock: Clock
  /** In [0, 1). */
  readonly random: () => number
  /** Called when the upstream asks for fewer probes, with the time until then; with undefined when that ends. */
  readonly onSlowed?: (until: Instant | undefined) => void
  /** Whether this process is the prober. Called before each probe. Without it, the process always probes. */
  readonly isOnDuty?: () => boolean
}

/** 10 % in either direction, so that the probes of many replicas do not coincide. */
const JITTER = 0.1

/** Minimum time between two requested probes, so that a burst of probe requests does not become a burst of probes. */
const MIN_SPACING_MS = 250

/** The longest time for which an upstream can pause the probes (429 with `Retry-After`). */
const MAX_PAUSE_MS = 60_000

/** Probes the upstream once per period and on request, one probe at a time, until it is stopped. */
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

  /** Takes the first reading, then keeps probing in the background. */
  async start(): Promise<void> {
    const first = this.#isOnDuty ? this.#options.metadata.read('probe') : Promise.resolve(undefined)
    this.#loop = first.then(result => this.#run(result))
    await first
  }

  /** The time until which the upstream has asked for no probes; undefined if it has not. */
  get slowedUntil(): Instant | undefined {
    return this.#slowedUntil
  }

  /** Requests a probe now. Further requests before it starts are coalesced. */
  probeNow(): void {
    this.#isWanted = true
    this.#wake.abort()
  }

  /** Stops probing and waits for a probe in flight. */
  async stop(): Promise<void> {
    this.#stopped.abort()
    this.#wake.abort()
    await this.#loop
  }

  get #isOnDuty(): boolean {
    return this.#options.isOnDuty?.() ?? true
  }

  /** @param first undefined if another process is the prober. */
  async #run(first: MetadataResult | undefined): Promise<void> {
    const { metadata, periodMs, random, clock } = this.#options
    let result = first
    let tookMs = 0
    while (!this.#stopped.signal.aborted) {
      this.#heed(result)
      // Repeat a probe that was lost while this process was stalled as soon as possible.
      if (result?.notCounted === 'stalled') this.#isWanted = true
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
        result = undefined
        tookMs = 0
        continue
      }
      result = await metadata.read('probe')
      // The probe may have joined a client's request that was sent before the probe was requested.
      if (result.at < wantedAt && !this.#stopped.signal.aborted) result = await metadata.read('probe')
      const { at, receivedAt } = result
      tookMs = receivedAt - at
    }
  }

  /** Slows the probes if the upstream asks for it. Otherwise it would keep rejecting them. */
  #heed(result: MetadataResult | undefined): void {
    const before = this.#slowedUntil
    this.#slowedUntil =
      result?.retryAfterMs === undefined
        ? undefined
        : result.receivedAt + Math.min(result.retryAfterMs, MAX_PAUSE_MS)
    if ((before === undefined) !== (this.#slowedUntil === undefined))
      this.#options.onSlowed?.(this.#slowedUntil)
  }

  /** Waits. An aborted wait ends early, without an error. */
  async #wait(milliseconds: number, signal: AbortSignal): Promise<void> {
    await sleep(milliseconds, undefined, { signal, ref: false }).catch(() => undefined)
  }
}
