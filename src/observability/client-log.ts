import { LRUCache } from 'lru-cache'
import type { Breaker } from '../breaker/breaker.js'
import { type Attempts, firstAttempt, nextAttempt, together } from '../domain/attempts.js'
import type { Instant } from '../domain/time.js'

/** Who is being refused, and how often. */
export type RefusedClient = {
  readonly address: string
  /** '' without one; null for further ones of an address that names itself in many ways. */
  readonly userAgent: string | null
  readonly attempts: Attempts
}

/** What a test run met. */
export type Run = {
  readonly forwarded: number
  readonly refused: number
  readonly first: Instant
  readonly last: Instant
}

/** How many addresses and test runs are remembered, the latest of them. */
const MAX_ADDRESSES = 1000
const MAX_RUNS = 1000

/**
 * A flood of invented user agents from one address must not push the others out: only one that has not been
 * heard of for so long makes room.
 */
const MAX_AGENTS_PER_ADDRESS = 10
const SILENT_MS = 600_000

/**
 * Remembers who is refused, and what each test run met. Both are bounded: the one that was heard of least
 * lately is forgotten first.
 */
export class Clients {
  readonly #clock: () => Instant
  readonly #byAddress = new LRUCache<string, Map<string | null, Attempts>>({ max: MAX_ADDRESSES })
  readonly #runs = new LRUCache<string, Run>({ max: MAX_RUNS })
  readonly #operationBegun: () => void
  /** Counts the times that the circuit has closed. */
  #closings = 0

  /**
   * @param operationBegun is told of each request refused for want of a fiber that is not one of before,
   * tried again.
   */
  constructor(breaker: Breaker, clock: () => Instant, operationBegun: () => void) {
    this.#clock = clock
    this.#operationBegun = operationBegun
    breaker.on('transition', ({ to }) => {
      // What was refused then can be had since: whoever is refused again later has asked for something anew.
      if (to === 'closed') this.#closings += 1
    })
    breaker.on('refused', ({ client, decision, enforced }) => {
      if (!enforced) return
      const isNew = this.#remember(client.address, client.userAgent, `${this.#closings} ${client.request}`)
      // Nor does the ledger count as refused what an operator refuses.
      if (isNew && decision.code !== 'forced_open') this.#operationBegun()
      if (client.run !== undefined) this.#count(client.run, 'refused')
    })
  }

  /** Everyone who was refused, who was heard of last first. */
  list(): readonly RefusedClient[] {
    return [...this.#byAddress.entries()]
      .flatMap(([address, agents]) =>
        [...agents].map(([userAgent, attempts]) => ({ address, userAgent, attempts })),
      )
      .sort((a, b) => b.attempts.last - a.attempts.last)
  }

  /** What the run of this name met; undefined when nothing is known of it. */
  run(name: string): Run | undefined {
    return this.#runs.get(name)
  }

  /** Counts a forwarded request of a test run. */
  forwarded(run: string): void {
    this.#count(run, 'forwarded')
  }

  /** Whether it is not one of before, tried again. */
  #remember(address: string, userAgent: string, spelled: string): boolean {
    const request = copyOf(spelled)
    const at = this.#clock()
    const agents = this.#byAddress.get(address) ?? new Map<string | null, Attempts>()
    const key = agents.has(userAgent) || hasRoom(agents, at) ? userAgent : null
    const known = agents.get(key)
    const attempts = known === undefined ? firstAttempt(request, at) : nextAttempt(known, request, at)
    agents.set(key === null || known !== undefined ? key : copyOf(key), attempts)
    this.#byAddress.set(address, agents)
    return attempts.operations !== (known?.operations ?? 0)
  }

  #count(name: string, what: 'forwarded' | 'refused'): void {
    const at = this.#clock()
    const run = this.#runs.get(name) ?? { forwarded: 0, refused: 0, first: at, last: at }
    this.#runs.set(name, { ...run, [what]: run[what] + 1, last: at })
  }
}

/**
 * Whether one more agent of an address can be told apart. Where there are enough, the one that was silent for
 * longest makes room, if that was long: what is known of it becomes a part of the line without a name.
 */
function hasRoom(agents: Map<string | null, Attempts>, now: Instant): boolean {
  const named = [...agents].filter(([agent]) => agent !== null)
  if (named.length < MAX_AGENTS_PER_ADDRESS) return true
  const [[agent, attempts] = [null, undefined]] = named.sort(([, a], [, b]) => a.last - b.last)
  if (attempts === undefined || now - attempts.last < SILENT_MS) return false
  const rest = agents.get(null)
  agents.delete(agent)
  agents.set(null, rest === undefined ? attempts : together(rest, attempts))
  return true
}

/** A text that was cut from a longer one keeps the whole of it in memory; this one does not. */
function copyOf(text: string): string {
  return Buffer.from(text).toString()
}
