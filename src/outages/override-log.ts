import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import {
  correctedOverride,
  MAX_PAST_OVERRIDES,
  type Override,
  overrideAsJson,
  type PastOverride,
  pastOverrideAsJson,
} from '../domain/override.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { OVERRIDE_ENDS } from '../domain/vocabulary.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import { Nullable, OverrideRecord, overrideFromJson, Timestamp } from './record.js'

/** The key of the override in force. */
const KEY_IN_FORCE = 'override'

/** The space that overrides may take in the history file: a reason has at most 500 characters. */
const MAX_IN_FORCE_BYTES = 16_384
const MAX_PAST_BYTES = 524_288

/** An override that has ended, in the history file. */
export const PastOverrideRecord = Type.Object({
  ...OverrideRecord.properties,
  endedAt: Timestamp,
  end: Type.Enum(OVERRIDE_ENDS),
  endedBy: Nullable(Type.String()),
})

/** Remembers the override in force, and how past overrides ended. */
export class OverrideLog {
  readonly #inForceChanges: Changes
  readonly #pastChanges: Changes
  #inForce: Override | undefined
  /** Whether the breaker has adopted the override that the last process left. */
  #isAdopted = false
  /** Oldest first. */
  #past: PastOverride[] = []

  constructor(store: Store = IN_MEMORY) {
    this.#pastChanges = store.join({
      kind: 'override',
      schema: PastOverrideRecord,
      maxBytes: MAX_PAST_BYTES,
      records: () => this.#past.map(override => [keyOf(override), pastOverrideAsJson(override)] as const),
      record: key => {
        const override = this.#past.findLast(each => keyOf(each) === key)
        return override && pastOverrideAsJson(override)
      },
      resume: (records, latest) => {
        this.#past = records
          .map(([, record]) => pastFromJson(record, latest))
          .toSorted((one, other) => one.endedAt - other.endedAt)
          .slice(-MAX_PAST_OVERRIDES)
      },
    })
    this.#inForceChanges = store.join({
      kind: 'standing',
      schema: OverrideRecord,
      maxBytes: MAX_IN_FORCE_BYTES,
      records: () =>
        this.#inForce === undefined ? [] : [[KEY_IN_FORCE, overrideAsJson(this.#inForce)] as const],
      record: () => this.#inForce && overrideAsJson(this.#inForce),
      resume: (records, latest) => {
        if (this.#isAdopted) {
          // Another process has written the file meanwhile. This process knows which override is in force here.
          this.#inForceChanges.changedNow(KEY_IN_FORCE)
          return
        }
        const [, record] = records.at(-1) ?? []
        this.#inForce = record && correctedOverride(overrideFromJson(record), latest)
      },
    })
  }

  /** The override in force. After a start, it is the one that the last process left, even if it has expired since. */
  get inForce(): Override | undefined {
    return this.#inForce
  }

  /** The past overrides, newest first. */
  get past(): readonly PastOverride[] {
    return this.#past.toReversed()
  }

  /** Starts listening to the breaker. The breaker calls its listeners in the order in which they were attached. */
  attach(breaker: Breaker): void {
    this.#isAdopted = true
    breaker.on('override', event => {
      const ended = event.kind === 'set' ? event.replaced : event.override
      if (ended !== null) this.#remember(ended)
      const set = event.kind === 'set' ? event.override : undefined
      if (set === this.#inForce) return
      this.#inForce = set
      this.#inForceChanges.changedNow(KEY_IN_FORCE)
    })
  }

  #remember(override: PastOverride): void {
    this.#past.push(override)
    this.#pastChanges.changedNow(keyOf(override))
    const forgotten = this.#past.length > MAX_PAST_OVERRIDES ? this.#past.shift() : undefined
    if (forgotten !== undefined) this.#pastChanges.changed(keyOf(forgotten))
  }
}

/** The key has both times because a declared override can be in force more than once. */
function keyOf({ since, endedAt }: PastOverride): string {
  return `${rfc3339(since)}/${rfc3339(endedAt)}`
}

function pastFromJson(record: Static<typeof PastOverrideRecord>, latest: Instant): PastOverride {
  const { endedAt, end, endedBy } = record
  const override = overrideFromJson(record)
  const { state, reason, by, silent, until } = override
  const since = Math.min(override.since, latest)
  return {
    ...{ state, reason, by, since, until, ...(silent === true && { silent }) },
    ...{ endedAt: Math.max(since, Math.min(Date.parse(endedAt), latest)), end, endedBy },
  }
}
