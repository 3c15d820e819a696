import { EventEmitter } from 'node:events'
import type { Message, OverrideChange, Shared } from '../domain/agreement.js'
import { type Circuit, type OutageUnderWay, startingCircuit } from '../domain/circuit.js'
import {
  type Decision,
  decide,
  decideWithoutFiber,
  type Rules,
  type Snapshot,
  slotLimit,
} from '../domain/decision.js'
import { afterReading, isNewest, type Knowledge, startingKnowledge } from '../domain/knowledge.js'
import { type Forecast, forecast, type PastOutage } from '../domain/outage.js'
import {
  inForce,
  isDeclared,
  type Override,
  type OverrideRequest,
  type PastOverride,
} from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Cause, GuardMode } from '../domain/vocabulary.js'
import { Contradiction } from './contradiction.js'
import type { BreakerEvents, Client, Disagreement, Refusal } from './events.js'
import { OpossumSwitch } from './opossum-switch.js'
import { Overrides, type OverridesPast } from './overrides.js'

/** The settings of a breaker: the rules, and whether it refuses requests or only counts and marks them. */
export type Settings = Rules & { readonly mode: GuardMode }

/** The state that a breaker inherits from earlier processes. */
export type Past = OverridesPast & {
  /** Past outages, oldest first; forecasts are based on them. */
  readonly outages?: readonly PastOutage[]
  /** The outage that was in progress when the previous process stopped. */
  readonly underWay?: OutageUnderWay | undefined
}

/** The outcome of an admitted guarded request. */
export type Outcome =
  | {
      readonly kind: 'answered'
      readonly statusCode: number
      /** Set for a job that replays stored data: its success shows nothing about the fiber. */
      readonly isHistoric?: boolean
    }
  | { readonly kind: 'missing-fiber'; readonly missing: readonly string[] }
  /** The connection to focus-server, or focus-server itself, failed. */
  | { readonly kind: 'failed' }
  /** It ended for a reason that does not concern focus-server: its client left or stalled, or the queue was full. */
  | { readonly kind: 'nothing-learned' }

/** The slot of one guarded request in flight. `settle` frees it; later calls of `settle` do nothing. */
export type Permit = { readonly settle: (outcome: Outcome) => void }

/** The result for a guarded request that is ready to be forwarded. */
export type Admission = { readonly admitted: true; readonly permit: Permit } | Refusal

/** The breaker's connection to the other replicas. What it sends comes back through `adopt`. */
export type Group = {
  readonly send: (message: Message) => void
  /** False while all that is known is out of date, because the process was suspended. */
  readonly isCurrent: boolean
  /** This replica's share of `limit`, the number of guarded requests that all replicas together may have in flight. */
  readonly share: (limit: number) => number
  /** Reports that a request found no free slot here. */
  readonly lacksSlot: () => void
}

/** Readings from clients and configures that only repeat the last one are sent to the other replicas at most this often. */
const REPEATED_AFTER_MS = 1000

/** The number of past outages of each cause that are remembered. */
const MAX_OUTAGES = 1000

/**
 * Holds the circuit. Only one method, `#know`, changes it.
 *
 * Whether a request is admitted is decided from the snapshot. opossum follows (`OpossumSwitch`).
 */
export class Breaker extends EventEmitter<BreakerEvents> {
  readonly #settings: () => Settings
  readonly #clock: () => Instant
  readonly #switch: OpossumSwitch
  #knowledge: Knowledge
  readonly #group: Group | undefined
  /** The latest change of the override that the replicas agree on. */
  #overridden: OverrideChange
  /** Counts transitions: a response to a request from before the last one shows nothing about the present. */
  #generation = 0
  readonly #overrides: Overrides
  readonly #contradiction = new Contradiction()
  #takesReadings = true
  #inFlight = 0
  /** Refusals that have not been reported to the listeners yet. */
  #refusals: {
    readonly decision: Refusal
    readonly from: { readonly client: Client }
    readonly enforced: boolean
  }[] = []
  readonly #outages = new Map<Cause, PastOutage[]>()
  /** The forecast for the current second of the outage and its current cause. */
  #forecast: { readonly of: string; readonly value: Forecast | null } = { of: '', value: null }

  /**
   * @param settings read again at each use, so that they can change at runtime.
   * @param past the state that earlier processes left.
   * @param group the other replicas, if there are several.
   */
  constructor(
    settings: () => Settings,
    clock: () => Instant,
    { outages = [], underWay, ...overrides }: Past = {},
    group?: Group,
  ) {
    super()
    // Each keeper and each reporting part listens once. Node would warn of a leak from the eleventh listener on.
    this.setMaxListeners(0)
    for (const outage of outages) this.#rememberOutage(outage)
    this.#settings = settings
    this.#clock = clock
    this.#knowledge = startingKnowledge(clock(), underWay)
    this.#overrides = new Overrides(clock, ended => this.#overrideEnded(ended), overrides)
    this.#group = group
    const { override = null } = overrides
    this.#overridden = { override, at: override?.since ?? 0, by: override?.by ?? '' }
    this.#switch = new OpossumSwitch(() => this.#align())
    this.#align()
  }

  /** Everything that is known now. */
  snapshot(now = this.#clock()): Snapshot {
    const { circuit, reading, streak, lastReadyAt } = this.#knowledge
    const override = this.#overrides.inForceAt(now)
    const known = { circuit, override, reading, streak, lastReadyAt, inFlight: this.#inFlight }
    const limit = this.#group === undefined ? null : slotLimit(circuit, this.#settings(), now)
    return limit === null ? known : { ...known, share: this.#group?.share(limit) ?? limit }
  }

  /** Everything that readings have shown, as the replicas agree on it. */
  get knowledge(): Knowledge {
    return this.#knowledge
  }

  /** The override that was set over HTTP, if it is in force. */
  get httpOverride(): Override | null {
    return this.#overrides.setAt(this.#clock())
  }

  /** The number of guarded requests in flight here. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** The number of guarded requests that all replicas together may have in flight at `now`; null if there is no limit. */
  slotLimitAt(now: Instant): number | null {
    return slotLimit(this.#circuit, this.#settings(), now)
  }

  /** Whether requests are refused; false in mode `observe`. */
  get enforces(): boolean {
    return this.#settings().mode === 'enforce'
  }

  /** Set while metadata and configure contradict each other. */
  get disagreement(): Disagreement | null {
    return this.#contradiction.current
  }

  /** The time of the newest reading that counted towards the thresholds. */
  get countedAt(): Instant {
    return this.#knowledge.countedAt
  }

  /** The past overrides, newest first, without the one in force. */
  get pastOverrides(): readonly PastOverride[] {
    return this.#overrides.past
  }

  /** How long the current outage is likely to last; null without an outage, or with too few past ones of its cause. */
  forecast(): Forecast | null {
    const circuit = this.#circuit
    if (circuit.state === 'closed' || circuit.cause === 'starting') return null
    const elapsedMs = this.#clock() - circuit.openedAt
    // Every refusal shows it, but it changes only once a second.
    const second = Math.floor(elapsedMs / 1000)
    const of = `${circuit.openedAt} ${circuit.cause} ${second}`
    if (this.#forecast.of !== of) {
      const past = this.#outages.get(circuit.cause) ?? []
      this.#forecast = { of, value: forecast(past, circuit.cause, elapsedMs) }
    }
    return this.#forecast.value
  }

  /**
   * Whether a guarded request would be admitted now. Nothing is counted.
   *
   * @param needsFiber false for a historic job, which the circuit does not refuse.
   */
  decide(needsFiber = true): Decision {
    return this.#decide(needsFiber, this.#clock())
  }

  /** Reports to the listeners that a client's guarded request was refused, or would have been in mode `enforce`. */
  refused(decision: Refusal, client: Client): void {
    this.emit('refused', { decision, client, enforced: this.enforces })
  }

  /**
   * The same, but batched: refusals are reported together once the current callbacks have run, because counting and recording
   * many in a row costs a third per refusal. Every change of the circuit reports pending refusals first.
   *
   * @param from provides the client when the refusal is reported.
   */
  refusedSoon(decision: Refusal, from: { readonly client: Client }): void {
    this.#refusals.push({ decision, from, enforced: this.enforces })
    if (this.#refusals.length === 1) setImmediate(() => this.#reportRefusals())
  }

  /**
   * Takes a slot for a guarded request that is about to be forwarded, if it is admitted at this moment. In
   * mode `observe` every request gets one. The outcome of the request may be a reading, or may request a probe.
   *
   * @param needsFiber false for a historic job, which the circuit does not refuse.
   * @param from provides the client; it is used only while the circuit is half-open.
   */
  admit(needsFiber = true, from?: { readonly client: Client }): Admission {
    const now = this.#clock()
    const decision = this.#decide(needsFiber, now)
    if (!decision.admitted && this.enforces) return decision
    if (this.#circuit.state === 'half-open' && needsFiber && decision.admitted && from !== undefined) {
      const isByReadings = this.#overrides.inForceAt(now) === null
      if (isByReadings) this.emit('admitted', { at: now, client: from.client })
    }
    const generation = this.#generation
    this.#inFlight += 1
    // An override may have ended a moment ago, before its timer.
    this.#align(now)
    // opossum has only one circuit, which may be open for requests that do not need the fiber.
    const end = decision.admitted && needsFiber ? this.#switch.begin() : undefined
    let isSettled = false
    const settle = (outcome: Outcome) => {
      if (isSettled) return
      isSettled = true
      end?.(outcome.kind !== 'failed')
      this.#learn(outcome, generation, needsFiber)
      this.#inFlight -= 1
      this.emit('freed')
    }
    return { admitted: true, permit: { settle } }
  }

  /**
   * Takes a reading into account. Every reading is reported to the listeners. A reading that is older than the newest
   * known one, such as the result of a probe that a configure request has overtaken, changes neither the circuit nor
   * the reading shown.
   *
   * @param isCounted false for a reading that is reported and shown but does not move the circuit.
   */
  observe(reading: Reading, isCounted = true): void {
    if (!this.#takesReadings) return
    this.#reportRefusals()
    if (this.#group === undefined) {
      const known = afterReading(this.#knowledge, reading, isCounted, this.#settings())
      this.#know(known, { reading, isOwn: true })
    } else if (this.#isWorthSending(reading, isCounted)) {
      this.#group.send({ kind: 'reading', reading, isCounted })
    } else this.emit('reading', reading, false, true)
  }

  /**
   * Adopts the state that the replicas have agreed on.
   *
   * @param cause the message that changed it, if it was one message; `isOwn` is true if this replica sent it.
   */
  adopt(
    { knowledge, overridden }: Shared,
    cause?: { readonly message: Message; readonly isOwn: boolean },
  ): void {
    this.#reportRefusals()
    if (this.#takesReadings) {
      const reading = cause?.message.kind === 'reading' ? cause.message.reading : undefined
      this.#know(knowledge, reading && { reading, isOwn: cause?.isOwn === true })
    }
    if (overridden.at === this.#overridden.at && overridden.by === this.#overridden.by) return
    this.#overridden = overridden
    const override = inForce(overridden.override, this.#clock())
    if (override === null) this.#overrideRemoved(overridden.by)
    else this.#overrideSet(override)
  }

  /** Sets an override; it replaces an earlier one. */
  setOverride({ forSeconds, ...request }: OverrideRequest, by: string): Override {
    this.#reportRefusals()
    const since = this.#clock()
    const override: Override = { ...request, since, until: since + forSeconds * 1000, by }
    if (this.#group === undefined) this.#overrideSet(override)
    else this.#group.send({ kind: 'override', override, at: since, by })
    return override
  }

  /** Removes the override that was set over HTTP; false if there was none. */
  removeOverride(by: string): boolean {
    this.#reportRefusals()
    if (this.#group === undefined) return this.#overrideRemoved(by)
    const at = this.#clock()
    if (this.#overrides.setAt(at) === null) return false
    this.#group.send({ kind: 'override', override: null, at, by })
    return true
  }

  /** Adopts the override that is declared in a file, or null if none is. An override set over HTTP outranks it. */
  declareOverride(declared: Override | null): void {
    this.#reportRefusals()
    const before = this.#overrides.inForceAt(this.#clock())
    const replaced = this.#overrides.declare(declared)
    const override = this.#overrides.inForceAt(this.#clock())
    if (override === before) return
    this.#align()
    if (override !== null) this.emit('override', { kind: 'set', override, replaced })
    else if (replaced !== null) this.emit('override', { kind: 'removed', override: replaced })
  }

  /**
   * Ignores all readings from now on. While the proxy drains, a focus-server in the same pod may be stopping too, so
   * readings show nothing about an outage.
   */
  ignoreReadings(): void {
    this.#takesReadings = false
  }

  /** Stops the timers. The breaker still decides as before, but must not be used for new requests. */
  shutdown(): void {
    this.#reportRefusals()
    this.#overrides.stop()
    this.#switch.shutdown()
  }

  get #circuit(): Circuit {
    return this.#knowledge.circuit
  }

  /** Uses one `now` for the whole decision: an override must not end between two reads of the clock. */
  #decide(needsFiber: boolean, now: Instant): Decision {
    const known = this.snapshot(now)
    const rules = this.#settings()
    if (this.#group === undefined) return (needsFiber ? decide : decideWithoutFiber)(known, rules, now)
    // What a process knew before it was suspended no longer counts.
    const current = this.#group.isCurrent ? known : { ...known, circuit: startingCircuit(now) }
    const decision = (needsFiber ? decide : decideWithoutFiber)(current, rules, now)
    const lacksSlot = !decision.admitted && (decision.code === 'recovering' || decision.code === 'overloaded')
    if (lacksSlot && current.share !== undefined) this.#group.lacksSlot()
    return decision
  }

  /** Clients send requests at any rate, so a repeated reading is sent to the other replicas only after some time. */
  #isWorthSending(reading: Reading, isCounted: boolean): boolean {
    if (reading.source === 'probe') return true
    if (!isCounted) return false
    const { circuit, reading: last, countedAt } = this.#knowledge
    const isSame = circuit.state === 'open' && last?.kind === reading.kind
    return !isSame || reading.at - countedAt >= REPEATED_AFTER_MS
  }

  /** The one method that changes the circuit. @param news the reading that caused the change, if it was one reading. */
  #know(known: Knowledge, news?: { readonly reading: Reading; readonly isOwn: boolean }): void {
    const before = this.#knowledge
    if (news !== undefined) {
      const { reading, isOwn } = news
      // Listeners of `reading` see the circuit as it was before the reading.
      this.#knowledge = { ...known, circuit: before.circuit }
      this.emit('reading', reading, isNewest(before, reading), isOwn)
      if (!isOwn && reading.source === 'configure' && reading.kind === 'waiting')
        this.#contradiction.deny(reading.missing, reading.at)
      const disagreement = this.#contradiction.compare(reading, this.#settings().probePeriodMs)
      if (disagreement !== undefined) this.emit('disagreement', disagreement)
    }
    this.#knowledge = known
    if (known.reading !== null) this.#report(before.circuit, known.reading)
  }

  #overrideSet(override: Override): void {
    const replaced = this.#overrides.set(override)
    this.#align()
    this.emit('override', { kind: 'set', override, replaced })
  }

  #overrideRemoved(by: string): boolean {
    const override = this.#overrides.remove(by)
    if (override === null) return false
    this.#align()
    this.emit('override', { kind: 'removed', override })
    this.#declaredAgain()
    return true
  }

  #learn(outcome: Outcome, generation: number, needsFiber: boolean): void {
    if (outcome.kind === 'nothing-learned' || !this.#takesReadings) return
    if (outcome.kind === 'answered' && outcome.statusCode < 500) {
      // A historic job succeeds without the fiber. A request from before the last change shows nothing about the present.
      const provesFiber = needsFiber && outcome.isHistoric !== true
      if (provesFiber && outcome.statusCode < 300 && generation === this.#generation)
        this.#contradiction.end()
      return
    }
    if (outcome.kind === 'missing-fiber' && generation === this.#generation) {
      const { missing } = outcome
      const at = this.#clock()
      this.#contradiction.deny(missing, at)
      this.observe({ at, source: 'configure', kind: 'waiting', metadata: {}, missing })
    }
    this.emit('probeRequested')
  }

  #reportRefusals(): void {
    const refusals = this.#refusals
    if (refusals.length === 0) return
    this.#refusals = []
    for (const { decision, from, enforced } of refusals) {
      this.emit('refused', { decision, client: from.client, enforced })
    }
  }

  #overrideEnded(override: PastOverride): void {
    this.#reportRefusals()
    this.#align()
    this.emit('override', { kind: 'ended', override })
    this.#declaredAgain()
  }

  /** Reports the declared override when the override that outranked it has ended. */
  #declaredAgain(): void {
    const override = this.#overrides.inForceAt(this.#clock())
    if (override !== null && isDeclared(override)) {
      this.emit('override', { kind: 'set', override, replaced: null })
    }
  }

  /** Reports to the listeners how the circuit has changed, if it has. */
  #report(previous: Circuit, reading: Reading): void {
    const next = this.#circuit
    if (next.state === previous.state) {
      if (next.state !== 'open' || previous.state !== 'open') return
      if (isAnother(previous, next, this.#knowledge.lastReadyAt)) this.#reportAnother(previous, next, reading)
      else if (next.cause !== previous.cause) {
        const { cause: to, since, openedAt } = next
        const { at } = reading
        const outage = { outageMs: at - openedAt, outageStartedAt: openedAt }
        this.emit('cause', { at, from: previous.cause, to, since, ...outage, reading })
      }
      return
    }
    this.#generation += 1
    this.#align()
    this.#reportTransition(previous, next, reading)
  }

  /** Reports that the other replicas have meanwhile seen the end of one outage and the start of the next. */
  #reportAnother(previous: Circuit, next: Circuit, reading: Reading): void {
    const between: Circuit = {
      ...{ state: 'closed', since: next.since, judgedAt: next.since },
      failures: { waiting: 0, unreachable: 0 },
    }
    this.#generation += 1
    this.#reportTransition(previous, between, reading)
    this.#reportTransition(between, next, reading)
  }

  #reportTransition(previous: Circuit, next: Circuit, reading: Reading): void {
    const cause =
      next.state !== 'closed' ? next.cause : previous.state !== 'closed' ? previous.cause : 'starting'
    // If the other replicas saw the change before this one joined, `reading` is later than the change.
    const at = Math.max(next.since, previous.judgedAt)
    const outageStartedAt = outageBegan(previous, next)
    const outageMs = Math.max(0, at - outageStartedAt)
    if (next.state === 'closed' && cause !== 'starting') this.#rememberOutage({ cause, lengthMs: outageMs })
    const { state: from } = previous
    const { state: to, since } = next
    this.emit('transition', { at, from, to, cause, since, outageMs, outageStartedAt, reading })
  }

  /** Replaces the remembered outages, for forecasts, with those that all replicas together have seen, oldest first. */
  rememberOutages(outages: readonly PastOutage[]): void {
    this.#outages.clear()
    for (const outage of outages) this.#rememberOutage(outage)
    this.#forecast = { of: '', value: null }
  }

  #rememberOutage(outage: PastOutage): void {
    const alike = this.#outages.get(outage.cause) ?? []
    this.#outages.set(outage.cause, alike)
    alike.push(outage)
    if (alike.length > MAX_OUTAGES) alike.shift()
  }

  /** Sets opossum to the state that circuit and override require; opossum only has open and closed here. */
  #align(now = this.#clock()): void {
    const override = this.#overrides.inForceAt(now)
    this.#switch.set(override === null ? this.#circuit.state === 'open' : override.state === 'open')
  }
}

/** The start of the outage that the transition belongs to. */
function outageBegan(previous: Circuit, next: Circuit): Instant {
  if (previous.state !== 'closed') return previous.openedAt
  return next.state !== 'closed' ? next.openedAt : next.since
}

/** Whether the fiber was back between two outages. This happens only with replicas: in one process, the circuit closes. */
function isAnother(
  previous: Extract<Circuit, { state: 'open' }>,
  next: Extract<Circuit, { state: 'open' }>,
  lastReadyAt: Instant | null,
): boolean {
  if (previous.cause === 'starting' || lastReadyAt === null) return false
  return previous.judgedAt < lastReadyAt && lastReadyAt < next.openedAt
}
