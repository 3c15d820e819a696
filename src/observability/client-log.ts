import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { type Attempts, firstAttempt, nextAttempt, together } from '../domain/attempts.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { type Changes, IN_MEMORY, type Store } from '../outages/keeper.js'
import { Nullable, Timestamp } from '../outages/record.js'
import { LeastSeenFirst } from './least-seen-first.js'

/** A client with refused requests (or requests that only mode `observe` forwarded), and its attempts. */
export type RefusedClient = {
  readonly address: string
  /** '' if the client sends none; null for the user agents that are counted together. */
  readonly userAgent: string | null
  readonly attempts: Attempts
}

/** How many addresses are remembered. A network has many, so addresses that were seen once are dropped first. */
const MAX_ADDRESSES = 1000

/**
 * How many user agents of one address are counted separately. A new one replaces another only if that one was not seen
 * for `SILENT_MS`, so that a flood of invented user agents does not push out the real ones.
 */
const MAX_AGENTS_PER_ADDRESS = 10
const SILENT_MS = 600_000

/** The maximum size of the clients in the history file, in bytes. */
const MAX_BYTES = 1_572_864

/** The record of a refused client in the history file. Its key consists of address and user agent. */
export const RefusedClientRecord = Type.Object({
  address: Type.String(),
  userAgent: Nullable(Type.String()),
  first: Timestamp,
  last: Timestamp,
  attempts: Type.Integer({ minimum: 1 }),
  wouldRefuse: Type.Optional(Type.Integer({ minimum: 0 })),
  operations: Type.Integer({ minimum: 0 }),
  /** The latest intervals between two attempts, in milliseconds. */
  intervals: Type.Array(Type.Number()),
})

/** Remembers the clients whose requests were refused, or would be without mode `observe`, in bounded memory. */
export class ClientLog {
  readonly #clock: () => Instant
  readonly #byAddress = new LeastSeenFirst<Map<string | null, Attempts>>(MAX_ADDRESSES)
  readonly #onOperation: () => void
  readonly #changes: Changes
  /** How often the circuit has closed, or an override has started or ended. */
  #chances = 0

  /**
   * @param onOperation is called for each request that is refused because of an outage and does not repeat an earlier
   * one.
   */
  constructor(clock: () => Instant, onOperation: () => void, store: Store = IN_MEMORY) {
    this.#clock = clock
    this.#onOperation = onOperation
    this.#changes = store.join({
      kind: 'client',
      schema: RefusedClientRecord,
      maxBytes: MAX_BYTES,
      records: () =>
        [...this.#byAddress.entries()].flatMap(([address, agents]) =>
          [...agents].map(([agent, attempts]) => recordOf(address, agent, attempts)),
        ),
      record: key => this.#recordOf(key),
      resume: (records, latest) => {
        this.#byAddress.clear()
        for (const [, record] of records) this.#resume(record, latest)
      },
    })
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ to }) => {
      // A refused request can succeed while the circuit is closed, so the same request later is a new operation.
      if (to === 'closed') this.#chances += 1
    })
    // The same is true before and after an override: its refusals do not belong to an outage.
    breaker.on('override', () => {
      this.#chances += 1
    })
    breaker.on('refused', ({ client, decision, enforced }) => {
      const request = `${this.#chances} ${client.request}`
      const isNew = this.#remember(client.address, client.userAgent, request, enforced)
      // A refusal by an override does not belong to the outage.
      if (isNew && decision.code !== 'forced_open') this.#onOperation()
    })
  }

  /** All refused clients, the most recently seen first. */
  list(): readonly RefusedClient[] {
    return [...this.#byAddress.entries()]
      .flatMap(([address, agents]) =>
        [...agents].map(([userAgent, attempts]) => ({ address, userAgent, attempts })),
      )
      .sort((a, b) => b.attempts.last - a.attempts.last)
  }

  /** Adds an attempt. Returns true if it does not repeat an earlier request. */
  #remember(address: string, userAgent: string, received: string, enforced: boolean): boolean {
    const at = this.#clock()
    const agents = this.#byAddress.get(address) ?? new Map<string | null, Attempts>()
    const isNamed = agents.has(userAgent) || this.#hasRoom(address, agents, at)
    const key = isNamed ? userAgent : null
    const known = agents.get(key)
    const request = known?.requests.has(received) === true ? received : copyOf(received)
    const attempts =
      known === undefined ? firstAttempt(request, at, enforced) : nextAttempt(known, request, at, enforced)
    agents.set(key === null || known !== undefined ? key : copyOf(key), attempts)
    this.#changes.changed(keyOf(address, key))
    this.#noteForgotten(this.#byAddress.see(address, agents))
    return attempts.operations !== (known?.operations ?? 0)
  }

  /**
   * Whether one more user agent of an address can be counted separately. At the limit, the least recently seen one is
   * replaced if it was silent for long enough: its attempts are added to those that are counted together.
   */
  #hasRoom(address: string, agents: Map<string | null, Attempts>, now: Instant): boolean {
    const named = [...agents].filter(([agent]) => agent !== null)
    if (named.length < MAX_AGENTS_PER_ADDRESS) return true
    const [[agent, attempts] = [null, undefined]] = named.sort(([, a], [, b]) => a.last - b.last)
    if (attempts === undefined || now - attempts.last < SILENT_MS) return false
    const rest = agents.get(null)
    agents.delete(agent)
    agents.set(null, rest === undefined ? attempts : together(rest, attempts))
    for (const each of [agent, null]) this.#changes.changed(keyOf(address, each))
    return true
  }

  #noteForgotten(forgotten: readonly [string, ReadonlyMap<string | null, Attempts>] | undefined): void {
    if (forgotten === undefined) return
    const [address, agents] = forgotten
    for (const agent of agents.keys()) this.#changes.changed(keyOf(address, agent))
  }

  #recordOf(key: string): Static<typeof RefusedClientRecord> | undefined {
    const [address, agent] = addressAndAgent(key)
    const attempts = address === undefined ? undefined : this.#byAddress.get(address)?.get(agent)
    return address === undefined || attempts === undefined ? undefined : recordOf(address, agent, attempts)[1]
  }

  #resume({ address, userAgent, ...record }: Static<typeof RefusedClientRecord>, latest: Instant): void {
    const time = (text: string) => Math.min(Date.parse(text), latest)
    const { attempts, wouldRefuse = 0, operations, intervals } = record
    const known = {
      attempts,
      wouldRefuse,
      operations,
      intervals,
      first: time(record.first),
      last: time(record.last),
    }
    const agents = this.#byAddress.get(address) ?? new Map<string | null, Attempts>()
    // The requests from before the restart are no longer known, so the same request counts as a new operation.
    agents.set(userAgent, { ...known, requests: new Map() })
    this.#byAddress.see(address, agents, attempts)
  }
}

function keyOf(address: string, agent: string | null): string {
  return JSON.stringify([address, agent])
}

function addressAndAgent(key: string): readonly [address: string | undefined, agent: string | null] {
  const parts: unknown = JSON.parse(key)
  if (!Array.isArray(parts)) return [undefined, null]
  const [address, agent]: readonly unknown[] = parts
  return [typeof address === 'string' ? address : undefined, typeof agent === 'string' ? agent : null]
}

function recordOf(
  address: string,
  userAgent: string | null,
  { first, last, attempts, wouldRefuse, operations, intervals }: Attempts,
): readonly [key: string, record: Static<typeof RefusedClientRecord>] {
  const times = { first: rfc3339(first), last: rfc3339(last) }
  const spans = intervals.map(Math.round)
  const counts = { attempts, wouldRefuse, operations }
  return [keyOf(address, userAgent), { address, userAgent, ...times, ...counts, intervals: spans }]
}

/** A copy of the text. A substring would keep the whole original string in memory. */
function copyOf(text: string): string {
  return Buffer.from(text).toString()
}
