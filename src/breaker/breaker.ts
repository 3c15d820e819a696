import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { type Cause, type Circuit, startingCircuit, step } from '../domain/circuit.js'
import { type Decision, decide, type Rules, type Snapshot } from '../domain/decision.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'

/** A change of the circuit's state, and what caused it. */
export type Transition = {
  readonly at: Instant
  readonly from: Circuit['state']
  readonly to: Circuit['state']
  /** Why the circuit is not closed; when it closes, why it was not. */
  readonly cause: Cause
  /** From the beginning of the outage to now; 0 when it begins. */
  readonly outageMs: number
  readonly reading: Reading
}

/** An outage that goes on for another cause; the first reading of a bad start is one too. */
export type CauseChange = {
  readonly at: Instant
  readonly from: Cause
  readonly to: Cause
  readonly reading: Reading
}

/** A guarded request that was refused: the decision, and who asked. */
export type RefusedEvent = {
  readonly decision: Refusal
  readonly client: Client
  /** False in mode `observe`, where the request was forwarded all the same. */
  readonly enforced: boolean
}

/** Who sends a request, as far as the log and the counts of distinct clients need it. */
export type Client = { readonly address: string }

/** Whether refusals are carried out, or only counted and marked. */
export type Mode = 'enforce' | 'observe'

/** A decision that does not admit. */
export type Refusal = Extract<Decision, { admitted: false }>

/** What a breaker tells its listeners. They must not throw and cannot call back. */
export type BreakerEvents = {
  transition: [Transition]
  cause: [CauseChange]
  reading: [Reading]
  refused: [RefusedEvent]
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

/**
 * Holds the circuit: the one place that changes it, by one method.
 *
 * opossum switches here and does not decide: readings open and close it, it admits, times and counts the
 * guarded requests that are forwarded. Whether one is admitted is read from the snapshot, without a promise.
 */
export class Breaker extends EventEmitter<BreakerEvents> {
  /** Whether refusals are carried out; not in mode `observe`. */
  readonly enforces: boolean
  readonly #rules: Rules
  readonly #clock: () => Instant
  readonly #switch: CircuitBreaker<[() => Promise<void>], void>
  #circuit: Circuit
  #reading: Reading | null = null
  #streak = 0
  #lastReadyAt: Instant | null = null
  #inFlight = 0

  constructor(rules: Rules, mode: Mode, clock: () => Instant) {
    super()
    this.enforces = mode === 'enforce'
    this.#rules = rules
    this.#clock = clock
    this.#circuit = startingCircuit(clock())
    this.#switch = new CircuitBreaker((forward: () => Promise<void>) => forward(), {
      // Only readings decide: neither time, nor failures, nor a threshold of them.
      resetTimeout: LONGEST_TIMER_MS,
      timeout: false,
      volumeThreshold: Number.MAX_SAFE_INTEGER,
      rollingPercentilesEnabled: false,
    })
    this.#switch.on('halfOpen', () => this.#switch.open())
    this.#switch.open()
  }

  /** Everything that is known now. */
  snapshot(): Snapshot {
    return {
      circuit: this.#circuit,
      override: null,
      reading: this.#reading,
      streak: this.#streak,
      lastReadyAt: this.#lastReadyAt,
      inFlight: this.#inFlight,
    }
  }

  /** Whether a guarded request would be admitted now. Counts nothing. */
  decide(): Decision {
    return decide(this.snapshot(), this.#rules, this.#clock())
  }

  /** Decides about a client's guarded request, and tells the listeners of a refusal. */
  admit(client: Client): Decision {
    const decision = this.decide()
    if (!decision.admitted) this.emit('refused', { decision, client, enforced: this.enforces })
    return decision
  }

  /**
   * Forwards a guarded request, if it is admitted at this moment. It counts as in flight until the promise
   * of `forward` settles; a rejection is passed on.
   *
   * @throws {RefusedError} when the circuit does not admit it; `forward` was not called then.
   */
  async run(forward: () => Promise<void>): Promise<void> {
    const decision = this.decide()
    if (!decision.admitted && this.enforces) throw new RefusedError(decision)
    this.#inFlight += 1
    try {
      await (this.enforces ? this.#switch.fire(forward) : forward())
    } finally {
      this.#inFlight -= 1
    }
  }

  /** Takes a reading into account. One that is older than the newest known changes nothing. */
  observe(reading: Reading): void {
    if (reading.at < this.#circuit.judgedAt) return
    this.#streak = this.#reading?.kind === reading.kind ? this.#streak + 1 : 1
    this.#reading = reading
    if (reading.kind === 'ready') this.#lastReadyAt = reading.at
    this.emit('reading', reading)
    this.#settle(step(this.#circuit, reading, this.#rules.thresholds, this.#rules.recovery), reading)
  }

  /** Stops opossum's timers. The breaker decides as before, and is not to be run again. */
  shutdown(): void {
    this.#switch.shutdown()
  }

  #settle(next: Circuit, reading: Reading): void {
    const previous = this.#circuit
    this.#circuit = next
    if (next.state === previous.state) {
      if (next.state === 'open' && previous.state === 'open' && next.cause !== previous.cause) {
        this.emit('cause', { at: reading.at, from: previous.cause, to: next.cause, reading })
      }
      return
    }
    if (next.state === 'open') this.#switch.open()
    else this.#switch.close()
    this.emit('transition', {
      at: reading.at,
      from: previous.state,
      to: next.state,
      cause: next.state !== 'closed' ? next.cause : previous.state !== 'closed' ? previous.cause : 'starting',
      outageMs: reading.at - outageBegan(previous, next),
      reading,
    })
  }
}

/** When the outage began that the transition belongs to. */
function outageBegan(previous: Circuit, next: Circuit): Instant {
  if (previous.state !== 'closed') return previous.openedAt
  return next.state !== 'closed' ? next.openedAt : next.since
}
