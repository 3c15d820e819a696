import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { type Circuit, startingCircuit, step } from '../domain/circuit.js'
import { type Decision, decide, decideWithoutFiber, type Rules, type Snapshot } from '../domain/decision.js'
import { type Forecast, forecast } from '../domain/outage.js'
import { type Override, type OverrideRequest, standing } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { BreakerEvents, Client, Disagreement, Refusal } from './events.js'

/** What a breaker goes by: the rules, and whether refusals are carried out or only counted and marked. */
export type Settings = Rules & { readonly mode: 'enforce' | 'observe' }

/** What a breaker takes over from earlier processes. */
export type Past = {
  /** How long earlier outages lasted, oldest first; forecasts go by them. */
  readonly outagesMs?: readonly number[]
  /** When the outage began that was under way at the end of the last one. */
  readonly openSince?: Instant | undefined
}

/** What came of a guarded request that was forwarded. */
export type Outcome =
  | { readonly kind: 'answered'; readonly statusCode: number }
  | { readonly kind: 'missing-fiber'; readonly missing: readonly string[] }

/**
 * A guarded request came to nothing for a reason that says nothing of focus-server: its client left or
 * stalled, or there was no room on the way.
 */
export class NothingLearnedError extends Error {
  override readonly name: string = 'NothingLearnedError'
}

/** A guarded request was not forwarded, because the circuit changed between decision and forwarding. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError'
  readonly decision: Refusal

  constructor(decision: Refusal) {
    super('the circuit does not admit this request')
    this.decision = decision
  }
}

/**
 * The longest delay a timer takes. opossum turns half-open by itself after its `resetTimeout`, and
 * `Infinity` would be clamped to 1 ms: https://nodejs.org/api/timers.html#settimeoutcallback-delay-args.
 */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** How many probe periods configure's word holds against the metadata. */
const STALE_PERIODS = 3

/** Past outages and overrides that are remembered. */
const MAX_OUTAGES = 1000
const MAX_OVERRIDES = 20

/**
 * Holds the circuit: the one place that changes it, by one method.
 *
 * opossum switches here and does not decide: it admits, runs and counts the guarded requests that are
 * forwarded. Whether one is admitted is read from the snapshot, without a promise.
 */
export class Breaker extends EventEmitter<BreakerEvents> {
  readonly #settings: () => Settings
  readonly #clock: () => Instant
  readonly #switch: CircuitBreaker<[() => Promise<Outcome>], Outcome>
  #circuit: Circuit
  /** Counts transitions: an answer to a request of an earlier one says nothing of the present. */
  #generation = 0
  #override: Override | null = null
  #overrideEnd: NodeJS.Timeout | undefined
  readonly #overrides: Override[] = []
  #reading: Reading | null = null
  #streak = 0
  #lastReadyAt: Instant | null = null
  #inFlight = 0
  /** Configure's word that the fiber is missing, until the metadata agrees or a configure succeeds. */
  #denial: Disagreement | null = null
  #deniedAt: Instant = 0
  #disagreement: Disagreement | null = null
  readonly #outagesMs: number[]
  #forecast: { readonly openedAt: Instant; readonly second: number; readonly value: Forecast | null } = {
    openedAt: 0,
    second: -1,
    value: null,
  }

  /**
   * @param settings read anew at each use, so that they can be changed while running.
   * @param past what is known of earlier processes.
   */
  constructor(settings: () => Settings, clock: () => Instant, { outagesMs = [], openSince }: Past = {}) {
    super()
    this.#outagesMs = outagesMs.slice(-MAX_OUTAGES)
    this.#settings = settings
    this.#clock = clock
    this.#circuit = startingCircuit(clock(), openSince)
    this.#switch = new CircuitBreaker((forward: () => Promise<Outcome>) => forward(), {
      // Only readings decide: neither time, nor failures, nor a threshold of them.
      resetTimeout: LONGEST_TIMER_MS,
      timeout: false,
      volumeThreshold: Number.MAX_SAFE_INTEGER,
      rollingPercentilesEnabled: false,
    })
    this.#switch.on('halfOpen', () => this.#align())
    this.#align()
  }

  /** Everything that is known now. */
  snapshot(): Snapshot {
    return {
      circuit: this.#circuit,
      override: standing(this.#override, this.#clock()),
      reading: this.#reading,
      streak: this.#streak,
      lastReadyAt: this.#lastReadyAt,
      inFlight: this.#inFlight,
    }
  }

  /** Whether refusals are carried out; not in mode `observe`. */
  get enforces(): boolean {
    return this.#settings().mode === 'enforce'
  }

  /** Set while metadata and configure contradict each other. */
  get disagreement(): Disagreement | null {
    return this.#disagreement
  }

  /** The operator's earlier words, newest first; the one that stands is not among them. */
  get pastOverrides(): readonly Override[] {
    return this.#overrides
  }

  /** How long the present outage is likely to last; null when there is none, or too few were seen. */
  forecast(): Forecast | null {
    const circuit = this.#circuit
    if (circuit.state === 'closed' || circuit.cause === 'starting') return null
    const elapsedMs = this.#clock() - circuit.openedAt
    // Every refusal shows it, and it changes with the seconds.
    const second = Math.floor(elapsedMs / 1000)
    if (this.#forecast.second !== second || this.#forecast.openedAt !== circuit.openedAt) {
      this.#forecast = { openedAt: circuit.openedAt, second, value: forecast(this.#outagesMs, elapsedMs) }
    }
    return this.#forecast.value
  }

  /**
   * Whether a guarded request would be admitted now. Counts nothing.
   *
   * @param needsFiber false for a historic job, which the circuit lets through.
   */
  decide(needsFiber = true): Decision {
    const judge = needsFiber ? decide : decideWithoutFiber
    return judge(this.snapshot(), this.#settings(), this.#clock())
  }

  /** Tells the listeners that a client's guarded request was refused, or would have been. */
  refused(decision: Refusal, client: Client): void {
    this.emit('refused', { decision, client, enforced: this.enforces })
  }

  /**
   * Forwards a guarded request, if it is admitted at this moment. It is in flight until the promise of
   * `forward` settles; what came of it is a reading, or raises a doubt, as a rejection does.
   *
   * @throws {RefusedError} when the circuit does not admit it; `forward` was not called then.
   */
  async run(forward: () => Promise<Outcome>, needsFiber = true): Promise<void> {
    const decision = this.decide(needsFiber)
    const { enforces } = this
    if (!decision.admitted && enforces) throw new RefusedError(decision)
    const generation = this.#generation
    this.#inFlight += 1
    try {
      // An override may have ended a moment ago, before its timer.
      this.#align()
      // opossum knows but one circuit, and that may be open for what needs the fiber.
      const isSwitched = decision.admitted && needsFiber
      this.#learn(await (isSwitched ? this.#switch.fire(forward) : forward()), generation)
    } catch (error) {
      if (!(error instanceof NothingLearnedError)) this.emit('doubt')
    } finally {
      this.#inFlight -= 1
      this.emit('freed')
    }
  }

  /**
   * Takes a reading into account. One that is older than the newest known changes nothing.
   *
   * @param isCounted false for one that is told and shown, and does not move the circuit.
   */
  observe(reading: Reading, isCounted = true): void {
    if (reading.at < this.#circuit.judgedAt) return
    this.#streak = this.#reading?.kind === reading.kind ? this.#streak + 1 : 1
    this.#reading = reading
    if (reading.kind === 'ready') this.#lastReadyAt = reading.at
    this.emit('reading', reading)
    this.#compare(reading)
    if (!isCounted) return
    const { thresholds, recovery } = this.#settings()
    this.#settle(step(this.#circuit, reading, thresholds, recovery), reading)
  }

  /** Sets the operator's word, over an earlier one if there is any. */
  setOverride({ state, reason, forSeconds }: OverrideRequest, by: string): Override {
    const since = this.#clock()
    const replaced = this.#forgetOverride()
    const override: Override = { state, reason, since, until: since + forSeconds * 1000, by }
    this.#override = override
    this.#awaitOverrideEnd(override)
    this.#align()
    this.emit('override', { kind: 'set', override, replaced })
    return override
  }

  /** Takes the operator's word back; false when there was none. */
  removeOverride(by: string): boolean {
    const override = this.#forgetOverride()
    if (override === null) return false
    this.#align()
    this.emit('override', { kind: 'removed', override, by })
    return true
  }

  /** Stops the timers. The breaker decides as before, and is not to be run again. */
  shutdown(): void {
    clearTimeout(this.#overrideEnd)
    this.#switch.shutdown()
  }

  #learn(outcome: Outcome, generation: number): void {
    if (outcome.kind === 'answered' && outcome.statusCode < 500) {
      // What was begun before the circuit last changed says nothing of now.
      if (outcome.statusCode < 300 && generation === this.#generation) this.#agree()
      return
    }
    if (outcome.kind === 'missing-fiber' && generation === this.#generation) {
      const { missing } = outcome
      const at = this.#clock()
      this.#denial ??= { since: at, missing }
      this.#deniedAt = at
      this.observe({ at, source: 'configure', kind: 'waiting', metadata: {}, missing })
    }
    this.emit('doubt')
  }

  /** Whether metadata and configure say the same. */
  #compare(reading: Reading): void {
    if (reading.source === 'configure') return
    if (reading.kind === 'waiting') {
      this.#agree()
    } else if (reading.kind === 'ready' && this.#denial !== null && this.#disagreement === null) {
      // What configure said before a long silence of the metadata was no contradiction of what it says now.
      if (reading.at - this.#deniedAt > STALE_PERIODS * this.#settings().probePeriodMs) this.#agree()
      else {
        this.#disagreement = this.#denial
        this.emit('disagreement', this.#disagreement)
      }
    }
  }

  #agree(): void {
    this.#denial = null
    this.#disagreement = null
  }

  /** Ends the operator's word; it is given back if it stood until now. */
  #forgetOverride(): Override | null {
    clearTimeout(this.#overrideEnd)
    const earlier = this.#override
    if (earlier === null) return null
    this.#override = null
    this.#overrides.unshift(earlier)
    this.#overrides.splice(MAX_OVERRIDES)
    if (standing(earlier, this.#clock()) !== null) return earlier
    this.#align()
    this.emit('override', { kind: 'ended', override: earlier })
    return null
  }

  #awaitOverrideEnd(override: Override): void {
    const remainingMs = override.until - this.#clock()
    this.#overrideEnd = setTimeout(
      () => {
        // Timers and the clock round differently; an override does not end early.
        if (standing(override, this.#clock()) !== null) return this.#awaitOverrideEnd(override)
        this.#forgetOverride()
      },
      Math.max(1, remainingMs),
    ).unref()
  }

  #settle(next: Circuit, reading: Reading): void {
    const previous = this.#circuit
    this.#circuit = next
    if (next.state === previous.state) {
      if (next.state === 'open' && previous.state === 'open' && next.cause !== previous.cause) {
        const outageMs = reading.at - next.openedAt
        this.emit('cause', { at: reading.at, from: previous.cause, to: next.cause, outageMs, reading })
      }
      return
    }
    this.#generation += 1
    this.#align()
    const cause =
      next.state !== 'closed' ? next.cause : previous.state !== 'closed' ? previous.cause : 'starting'
    const outageMs = reading.at - outageBegan(previous, next)
    if (next.state === 'closed' && cause !== 'starting') {
      this.#outagesMs.push(outageMs)
      if (this.#outagesMs.length > MAX_OUTAGES) this.#outagesMs.shift()
    }
    this.emit('transition', {
      at: reading.at,
      from: previous.state,
      to: next.state,
      cause,
      outageMs,
      reading,
    })
  }

  /** Brings opossum to what circuit and override say; it knows open and closed alone. */
  #align(): void {
    const override = standing(this.#override, this.#clock())
    const isOpen = override === null ? this.#circuit.state === 'open' : override.state === 'open'
    if (isOpen) this.#switch.open()
    else if (!this.#switch.closed) this.#switch.close()
  }
}

/** When the outage began that the transition belongs to. */
function outageBegan(previous: Circuit, next: Circuit): Instant {
  if (previous.state !== 'closed') return previous.openedAt
  return next.state !== 'closed' ? next.openedAt : next.since
}
