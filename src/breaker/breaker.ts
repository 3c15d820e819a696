import { EventEmitter } from 'node:events'
import type { Message, OverrideChange, Shared } from '../domain/agreement.js'
import { type Circuit, type OutageUnderWay, startingCircuit } from '../domain/circuit.js'
import {
  type Decision,
  decide,
  decideWithoutFiber,
  placeLimit,
  type Rules,
  type Snapshot,
} from '../domain/decision.js'
import { afterReading, isNewest, type Knowledge, startingKnowledge } from '../domain/knowledge.js'
import { type Forecast, forecast, type PastOutage } from '../domain/outage.js'
import {
  isDeclared,
  type Override,
  type OverrideRequest,
  type PastOverride,
  standing,
} from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Cause, GuardMode } from '../domain/vocabulary.js'
import { Contradiction } from './contradiction.js'
import type { BreakerEvents, Client, Disagreement, Refusal } from './events.js'
import { OpossumSwitch } from './opossum-switch.js'
import { Overrides, type OverridesPast } from './overrides.js'

/** What a breaker goes by: the rules, and whether refusals are carried out or only counted and marked. */
export type Settings = Rules & { readonly mode: GuardMode }

/** What a breaker takes over from earlier processes. */
export type Past = OverridesPast & {
  /** The earlier outages, oldest first; forecasts go by them. */
  readonly outages?: readonly PastOutage[]
  /** The outage that was under way at the end of the last one. */
  readonly underWay?: OutageUnderWay | undefined
}

/** What came of a guarded request that was admitted. */
export type Outcome =
  | {
      readonly kind: 'answered'
      readonly statusCode: number
      /** Set for a job that replays stored data: its success says nothing about the fiber. */
      readonly isHistoric?: boolean
    }
  | { readonly kind: 'missing-fiber'; readonly missing: readonly string[] }
  /** It failed on the way to focus-server or at it. */
  | { readonly kind: 'failed' }
  /** It ended for a reason that says nothing about focus-server: its client left or stalled, or the queue was full. */
  | { readonly kind: 'nothing-learned' }

/** A place in flight for one guarded request. It is given back by `settle`, and only once: later calls change nothing. */
export type Permit = { readonly settle: (outcome: Outcome) => void }

/** The answer to a guarded request that wants to be forwarded now. */
export type Admission = { readonly admitted: true; readonly permit: Permit } | Refusal

/** The other replicas, as the breaker reaches them. What it tells them comes back by `adopt`. */
export type Group = {
  readonly tell: (message: Message) => void
  /** False while nothing that is known is recent enough, because the process was suspended. */
  readonly isCurrent: boolean
  /** How many guarded requests may be in flight here, of those that all replicas together may have. */
  readonly share: (limit: number) => number
  /** A request found no place here. */
  readonly lacksPlace: () => void
}

/** A client's or a configure's reading that says the same as the last one is sent to the other replicas once in this time. */
const TOLD_AGAIN_MS = 1000

/** How many past outages of each cause are remembered. */
const MAX_OUTAGES = 1000

/**
 * Holds the circuit: the one place that changes it, by one method.
 *
 * Whether a request is admitted is read from the snapshot. opossum follows (`OpossumSwitch`).
 */
export class Breaker extends EventEmitter<BreakerEvents> {
  readonly #settings: () => Settings
  readonly #clock: () => Instant
  readonly #switch: OpossumSwitch
  #knowledge: Knowledge
  readonly #group: Group | undefined
  /** The last change of the override that the replicas agree on. */
  #overridden: OverrideChange
  /** Counts transitions: an answer to a request of an earlier one says nothing of the present. */
  #generation = 0
  readonly #overrides: Overrides
  readonly #contradiction = new Contradiction()
  #takesReadings = true
  #inFlight = 0
  /** Refusals that the listeners have not heard of yet. */
  #refusals: {
    readonly decision: Refusal
    readonly from: { readonly client: Client }
    readonly enforced: boolean
  }[] = []
  readonly #outages = new Map<Cause, PastOutage[]>()
  /** The forecast of one second of an outage, while its cause is the same. */
  #forecast: { readonly of: string; readonly value: Forecast | null } = { of: '', value: null }

  /**
   * @param settings read again at each use, so that they can be changed while running.
   * @param past what is known of earlier processes.
   * @param group the other replicas, if it is one of several.
   */
  constructor(
    settings: () => Settings,
    clock: () => Instant,
    { outages = [], underWay, ...overrides }: Past = {},
    group?: Group,
  ) {
    super()
    // Each keeper and each part that reports listens once. Node would warn of a leak from the eleventh on.
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
    const override = this.#overrides.standingAt(now)
    const known = { circuit, override, reading, streak, lastReadyAt, inFlight: this.#inFlight }
    const limit = this.#group === undefined ? null : placeLimit(circuit, this.#settings(), now)
    return limit === null ? known : { ...known, share: this.#group?.share(limit) ?? limit }
  }

  /** Everything that readings have shown, as replicas agree on it. */
  get knowledge(): Knowledge {
    return this.#knowledge
  }

  /** The override that was set over HTTP, if it is in force. */
  get httpOverride(): Override | null {
    return this.#overrides.setAt(this.#clock())
  }

  /** How many guarded requests are in flight here. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** How many guarded requests all replicas together may have in flight at an instant; null for any number. */
  placeLimitAt(now: Instant): number | null {
    return placeLimit(this.#circuit, this.#settings(), now)
  }

  /** Whether refusals are carried out; not in mode `observe`. */
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

  /** The earlier overrides, newest first; the one that stands is not among them. */
  get pastOverrides(): readonly PastOverride[] {
    return this.#overrides.past
  }

  /** How long the present outage is likely to last; null when there is none, or too few with its cause were seen. */
  forecast(): Forecast | null {
    const circuit = this.#circuit
    if (circuit.state === 'closed' || circuit.cause === 'starting') return null
    const elapsedMs = this.#clock() - circuit.openedAt
    // Every refusal shows it, and it changes with the seconds.
    const second = Math.floor(elapsedMs / 1000)
    const of = `${circuit.openedAt} ${circuit.cause} ${second}`
    if (this.#forecast.of !== of) {
      const past = this.#outages.get(circuit.cause) ?? []
      this.#forecast = { of, value: forecast(past, circuit.cause, elapsedMs) }
    }
    return this.#forecast.value
  }

  /**
   * Whether a guarded request would be admitted now. Counts nothing.
   *
   * @param needsFiber false for a historic job, which the circuit lets through.
   */
  decide(needsFiber = true): Decision {
    return this.#decide(needsFiber, this.#clock())
  }

  /** Tells the listeners that a client's guarded request was refused, or would have been. */
  refused(decision: Refusal, client: Client): void {
    this.emit('refused', { decision, client, enforced: this.enforces })
  }

  /**
   * The same, as soon as the present callbacks have run, together with the others of that time: what counts and records a
   * refusal costs a third when it does many in a row. Everything that changes the circuit tells of them first.
   *
   * @param from is asked for the client then.
   */
  refusedSoon(decision: Refusal, from: { readonly client: Client }): void {
    this.#refusals.push({ decision, from, enforced: this.enforces })
    if (this.#refusals.length === 1) setImmediate(() => this.#tellRefusals())
  }

  /**
   * Takes a place in flight for a guarded request that is about to be forwarded, if it is admitted at this moment. In
   * mode `observe` every request gets one. What came of the request is a reading, or raises a doubt.
   *
   * @param needsFiber false for a historic job, which the circuit lets through.
   * @param from is asked for the client only while the circuit is half-open.
   */
  admit(needsFiber = true, from?: { readonly client: Client }): Admission {
    const now = this.#clock()
    const decision = this.#decide(needsFiber, now)
    if (!decision.admitted && this.enforces) return decision
    if (this.#circuit.state === 'half-open' && needsFiber && decision.admitted && from !== undefined) {
      const isByReadings = this.#overrides.standingAt(now) === null
      if (isByReadings) this.emit('admitted', { at: now, client: from.client })
    }
    const generation = this.#generation
    this.#inFlight += 1
    // An override may have ended a moment ago, before its timer.
    this.#align(now)
    // opossum knows but one circuit, and that may be open for what needs no fiber.
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
   * Takes a reading into account. Every reading is reported to the listeners. One that is older than the newest known, as
   * that of a probe which a configure has overtaken, moves neither the circuit nor the reading that is shown as the last.
   *
   * @param isCounted false for one that is reported and shown, and does not move the circuit.
   */
  observe(reading: Reading, isCounted = true): void {
    if (!this.#takesReadings) return
    this.#tellRefusals()
    if (this.#group === undefined) {
      const known = afterReading(this.#knowledge, reading, isCounted, this.#settings())
      this.#know(known, { reading, isOwn: true })
    } else if (this.#isWorthTelling(reading, isCounted)) {
      this.#group.tell({ kind: 'reading', reading, isCounted })
    } else this.emit('reading', reading, false, true)
  }

  /**
   * Takes over what the replicas go by.
   *
   * @param told what has changed it, if it was one message; `isOwn` when this replica has told it.
   */
  adopt(
    { knowledge, overridden }: Shared,
    told?: { readonly message: Message; readonly isOwn: boolean },
  ): void {
    this.#tellRefusals()
    if (this.#takesReadings) {
      const reading = told?.message.kind === 'reading' ? told.message.reading : undefined
      this.#know(knowledge, reading && { reading, isOwn: told?.isOwn === true })
    }
    if (overridden.at === this.#overridden.at && overridden.by === this.#overridden.by) return
    this.#overridden = overridden
    const override = standing(overridden.override, this.#clock())
    if (override === null) this.#overrideRemoved(overridden.by)
    else this.#overrideSet(override)
  }

  /** Sets an override, over an earlier one if there is any. */
  setOverride({ forSeconds, ...request }: OverrideRequest, by: string): Override {
    this.#tellRefusals()
    const since = this.#clock()
    const override: Override = { ...request, since, until: since + forSeconds * 1000, by }
    if (this.#group === undefined) this.#overrideSet(override)
    else this.#group.tell({ kind: 'override', override, at: since, by })
    return override
  }

  /** Takes the override back; false when there was none. */
  removeOverride(by: string): boolean {
    this.#tellRefusals()
    if (this.#group === undefined) return this.#overrideRemoved(by)
    const at = this.#clock()
    if (this.#overrides.setAt(at) === null) return false
    this.#group.tell({ kind: 'override', override: null, at, by })
    return true
  }

  /** Takes over the override that is declared in a file, or null when none is. One that was set over HTTP outranks it. */
  declareOverride(declared: Override | null): void {
    this.#tellRefusals()
    const before = this.#overrides.standingAt(this.#clock())
    const replaced = this.#overrides.declare(declared)
    const override = this.#overrides.standingAt(this.#clock())
    if (override === before) return
    this.#align()
    if (override !== null) this.emit('override', { kind: 'set', override, replaced })
    else if (replaced !== null) this.emit('override', { kind: 'removed', override: replaced })
  }

  /**
   * Takes no reading from now on, of any source. While the proxy drains, focus-server may be stopping beside it: what is
   * read then says nothing about an outage.
   */
  ignoreReadings(): void {
    this.#takesReadings = false
  }

  /** Stops the timers. The breaker decides as before, and is not to be run again. */
  shutdown(): void {
    this.#tellRefusals()
    this.#overrides.stop()
    this.#switch.shutdown()
  }

  get #circuit(): Circuit {
    return this.#knowledge.circuit
  }

  /** One `now` for everything that a decision asks: an override must not end between two looks at the clock. */
  #decide(needsFiber: boolean, now: Instant): Decision {
    const known = this.snapshot(now)
    const rules = this.#settings()
    if (this.#group === undefined) return (needsFiber ? decide : decideWithoutFiber)(known, rules, now)
    // What a process knew before it was suspended is worth as much as nothing.
    const current = this.#group.isCurrent ? known : { ...known, circuit: startingCircuit(now) }
    const decision = (needsFiber ? decide : decideWithoutFiber)(current, rules, now)
    const isForPlace =
      !decision.admitted && (decision.code === 'recovering' || decision.code === 'overloaded')
    if (isForPlace && current.share !== undefined) this.#group.lacksPlace()
    return decision
  }

  /** Clients ask as often as they like: only news, or the same some time later, is sent to the others. */
  #isWorthTelling(reading: Reading, isCounted: boolean): boolean {
    if (reading.source === 'probe') return true
    if (!isCounted) return false
    const { circuit, reading: last, countedAt } = this.#knowledge
    const isSame = circuit.state === 'open' && last?.kind === reading.kind
    return !isSame || reading.at - countedAt >= TOLD_AGAIN_MS
  }

  /** @param news the reading that has shown it, if it was one. */
  #know(known: Knowledge, news?: { readonly reading: Reading; readonly isOwn: boolean }): void {
    const before = this.#knowledge
    if (news !== undefined) {
      const { reading, isOwn } = news
      // Listeners see the reading, and the circuit as it was before it.
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
      // A historic job succeeds without the fiber. What was begun before the circuit last changed says nothing of now.
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
    this.emit('doubt')
  }

  #tellRefusals(): void {
    const refusals = this.#refusals
    if (refusals.length === 0) return
    this.#refusals = []
    for (const { decision, from, enforced } of refusals) {
      this.emit('refused', { decision, client: from.client, enforced })
    }
  }

  #overrideEnded(override: PastOverride): void {
    this.#tellRefusals()
    this.#align()
    this.emit('override', { kind: 'ended', override })
    this.#declaredAgain()
  }

  /** After the override that outranked it. */
  #declaredAgain(): void {
    const override = this.#overrides.standingAt(this.#clock())
    if (override !== null && isDeclared(override)) {
      this.emit('override', { kind: 'set', override, replaced: null })
    }
  }

  /** Tells the listeners how the circuit has changed, if it has. */
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

  /** Meanwhile the other replicas have seen the end of one outage, and the beginning of the next. */
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
    // Of a change that the other replicas have seen before this one joined, `reading` is a later one.
    const at = Math.max(next.since, previous.judgedAt)
    const outageStartedAt = outageBegan(previous, next)
    const outageMs = Math.max(0, at - outageStartedAt)
    if (next.state === 'closed' && cause !== 'starting') this.#rememberOutage({ cause, lengthMs: outageMs })
    const { state: from } = previous
    const { state: to, since } = next
    this.emit('transition', { at, from, to, cause, since, outageMs, outageStartedAt, reading })
  }

  /** Goes by these outages in forecasts, oldest first, in place of those that were remembered: all replicas have seen them. */
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

  /** Brings opossum to what circuit and override say; it knows open and closed only. */
  #align(now = this.#clock()): void {
    const override = this.#overrides.standingAt(now)
    this.#switch.set(override === null ? this.#circuit.state === 'open' : override.state === 'open')
  }
}

/** When the outage began that the transition belongs to. */
function outageBegan(previous: Circuit, next: Circuit): Instant {
  if (previous.state !== 'closed') return previous.openedAt
  return next.state !== 'closed' ? next.openedAt : next.since
}

/** Whether the fiber was there between the beginnings of two outages. In one process it never is: the circuit closes then. */
function isAnother(
  previous: Extract<Circuit, { state: 'open' }>,
  next: Extract<Circuit, { state: 'open' }>,
  lastReadyAt: Instant | null,
): boolean {
  if (previous.cause === 'starting' || lastReadyAt === null) return false
  return previous.judgedAt < lastReadyAt && lastReadyAt < next.openedAt
}
