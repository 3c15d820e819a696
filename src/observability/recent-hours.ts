import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { inTimeline, type TimelineEntry, withCause, withoutRepeats } from '../domain/timeline.js'
import { CAUSES, CIRCUIT_STATES, OVERRIDE_STATES } from '../domain/vocabulary.js'
import { type Changes, IN_MEMORY, type Store } from '../outages/keeper.js'
import { Nullable, Timestamp } from '../outages/record.js'

const MINUTE_MS = 60_000

/** How many minutes are remembered: six hours. */
const MINUTES = 360

/** The maximum number of entries, for a circuit that changes very often. */
const MAX_STATES = 1000

/** The maximum size of states and minutes in the history file, in bytes. */
const MAX_STATE_BYTES = 262_144
const MAX_MINUTE_BYTES = 65_536

/** The record of a state in the history file: what was in force from a moment on. */
export const StateRecord = Type.Object({
  from: Timestamp,
  /** Null while no process ran. */
  state: Nullable(Type.Enum(CIRCUIT_STATES)),
  cause: Nullable(Type.Enum(CAUSES)),
  override: Nullable(Type.Object({ state: Type.Enum(OVERRIDE_STATES), silent: Type.Boolean() })),
})

/** The record of the refusals of a minute in the history file. */
export const MinuteRecord = Type.Object({
  minute: Timestamp,
  refused: Type.Integer({ minimum: 0 }),
  wouldRefuse: Type.Integer({ minimum: 0 }),
})

/** What earlier processes recorded. */
export type Earlier = {
  readonly store: Store
  /** Start of the counts, and the time until which the previous process ran. */
  readonly lifetime: { readonly since: Instant; readonly earlierEnd: Instant | undefined }
}

/**
 * The number of guarded requests that were refused in the minute that starts at `minute`, and of those that only mode
 * `observe` forwarded.
 */
export type RefusedMinute = {
  readonly minute: Instant
  readonly refused: number
  readonly wouldRefuse: number
}

/** The recent hours. Both lists are oldest first. */
export type RecentPast = {
  /** Start of the counts, or six hours before `to`. */
  readonly from: Instant
  readonly to: Instant
  /** The state at `from`, and each later change. */
  readonly states: readonly TimelineEntry[]
  /** Only minutes in which a request was refused or would have been. */
  readonly refused: readonly RefusedMinute[]
}

/** Remembers the states of the circuit, the overrides and the refusals per minute of the last six hours. */
export class RecentHours {
  readonly #breaker: Breaker
  readonly #clock: () => Instant
  readonly #startedAt: Instant
  readonly #lifetime: Earlier['lifetime']
  readonly #stateChanges: Changes
  readonly #minuteChanges: Changes
  #states: readonly TimelineEntry[] = []
  /** The counts of each minute since the epoch. */
  readonly #refused = new Map<number, Omit<RefusedMinute, 'minute'>>()

  constructor(breaker: Breaker, clock: () => Instant, earlier?: Earlier) {
    this.#breaker = breaker
    this.#clock = clock
    this.#startedAt = clock()
    this.#lifetime = earlier?.lifetime ?? { since: this.#startedAt, earlierEnd: undefined }
    const store = earlier?.store ?? IN_MEMORY
    this.#stateChanges = store.join({
      kind: 'state',
      schema: StateRecord,
      maxBytes: MAX_STATE_BYTES,
      records: () => this.#states.map(entry => [rfc3339(entry.from), stateRecord(entry)] as const),
      record: key => {
        const entry = this.#states.findLast(({ from }) => rfc3339(from) === key)
        return entry && stateRecord(entry)
      },
      resume: (records, latest) => this.#resumeStates(records, latest),
    })
    this.#minuteChanges = store.join({
      kind: 'minute',
      schema: MinuteRecord,
      maxBytes: MAX_MINUTE_BYTES,
      records: () =>
        [...this.#refused.keys()].map(minute => [keyOf(minute), this.#minuteRecord(minute)] as const),
      record: key => {
        const minute = Date.parse(key) / MINUTE_MS
        return this.#refused.has(minute) ? this.#minuteRecord(minute) : undefined
      },
      resume: (records, latest) => this.#resumeMinutes(records, latest),
    })
    this.#setStates([...this.#states, ...this.#notRunning(), this.#stateFrom(this.#startedAt)])
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ at }) => this.#add(at))
    breaker.on('cause', ({ since, to }) => {
      this.#setStates(withCause(this.#states, since, to))
    })
    breaker.on('override', ({ kind, override }) =>
      this.#add(kind === 'set' ? override.since : override.endedAt),
    )
    breaker.on('refused', ({ enforced }) => this.#countRefused(enforced))
  }

  /** The recent hours up to now. */
  past(): RecentPast {
    const to = this.#clock()
    const from = Math.max(this.#lifetime.since, to - MINUTES * MINUTE_MS)
    this.#forget(from)
    return {
      from,
      to,
      states: this.#states.map(state => ({ ...state, from: Math.max(from, state.from) })),
      refused: [...this.#refused].map(([minute, counts]) => ({ minute: minute * MINUTE_MS, ...counts })),
    }
  }

  #add(from: Instant): void {
    // The probe was sent, or the override ended, before a change that is already known. Do not undo that change.
    const entry = this.#stateFrom(Math.max(from, this.#states.at(-1)?.from ?? from))
    this.#setStates([...this.#states.filter(({ from }) => from < entry.from), entry])
    this.#forget(this.#clock() - MINUTES * MINUTE_MS)
  }

  #stateFrom(from: Instant): TimelineEntry {
    const { circuit, override } = this.#breaker.snapshot()
    return {
      from,
      state: circuit.state,
      cause: circuit.state === 'closed' ? null : circuit.cause,
      override: inTimeline(override),
    }
  }

  #countRefused(enforced: boolean): void {
    const now = this.#clock()
    const minute = Math.floor(now / MINUTE_MS)
    const counts = this.#refused.get(minute)
    if (counts === undefined) this.#forget(now - MINUTES * MINUTE_MS)
    const { refused, wouldRefuse } = counts ?? { refused: 0, wouldRefuse: 0 }
    this.#refused.set(
      minute,
      enforced ? { refused: refused + 1, wouldRefuse } : { refused, wouldRefuse: wouldRefuse + 1 },
    )
    this.#minuteChanges.changed(keyOf(minute))
  }

  #forget(before: Instant): void {
    for (const minute of this.#refused.keys()) {
      if ((minute + 1) * MINUTE_MS > before) continue
      this.#refused.delete(minute)
      this.#minuteChanges.changed(keyOf(minute))
    }
    // The last state before that moment was still in force then, so keep it.
    const first = this.#states.findLastIndex(({ from }) => from <= before)
    this.#setStates(this.#states.slice(Math.max(0, first, this.#states.length - MAX_STATES)))
  }

  #setStates(all: readonly TimelineEntry[]): void {
    // A restart or a second process adds entries that repeat the previous state.
    const states = withoutRepeats(all)
    const [before, after] = [new Set(this.#states), new Set(states)]
    this.#states = states
    for (const entry of [...before, ...after]) {
      if (!before.has(entry) || !after.has(entry)) this.#stateChanges.changedNow(rfc3339(entry.from))
    }
  }

  /** The time between the end of the previous process and the start of this one. */
  #notRunning(): readonly TimelineEntry[] {
    const { earlierEnd } = this.#lifetime
    if (earlierEnd === undefined) return []
    const from = Math.max(earlierEnd, this.#states.at(-1)?.from ?? earlierEnd)
    return from < this.#startedAt ? [{ from, state: null, cause: null, override: null }] : []
  }

  #resumeStates(records: readonly (readonly [string, Static<typeof StateRecord>])[], latest: Instant): void {
    const earlier = records.map(([, record]) => ({
      ...record,
      from: Math.min(Date.parse(record.from), latest),
    }))
    const isFirstTime = this.#states.length === 0
    this.#states = earlier.toSorted((one, other) => one.from - other.from).slice(-MAX_STATES)
    // Another process has written in the meantime. Add the state that is in force in this process.
    if (!isFirstTime) this.#add(this.#clock())
  }

  #resumeMinutes(
    records: readonly (readonly [string, Static<typeof MinuteRecord>])[],
    latest: Instant,
  ): void {
    this.#refused.clear()
    for (const [, { minute: at, refused, wouldRefuse }] of records) {
      const minute = Math.floor(Math.min(Date.parse(at), latest) / MINUTE_MS)
      const counts = this.#refused.get(minute) ?? { refused: 0, wouldRefuse: 0 }
      this.#refused.set(minute, {
        refused: counts.refused + refused,
        wouldRefuse: counts.wouldRefuse + wouldRefuse,
      })
    }
  }

  #minuteRecord(minute: number): Static<typeof MinuteRecord> {
    const counts = this.#refused.get(minute) ?? { refused: 0, wouldRefuse: 0 }
    return { minute: keyOf(minute), ...counts }
  }
}

/** @param minute minutes since the epoch. */
function keyOf(minute: number): string {
  return rfc3339(minute * MINUTE_MS)
}

function stateRecord({ from, state, cause, override }: TimelineEntry): Static<typeof StateRecord> {
  return { from: rfc3339(from), state, cause, override: override && { ...override } }
}
