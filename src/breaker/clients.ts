import { LRUCache } from 'lru-cache'
import { type Attempts, firstAttempt, nextAttempt } from '../domain/attempts.js'
import type { Instant } from '../domain/time.js'
import type { Breaker } from './breaker.js'

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

/** A flood of invented user agents from one address must not push the others out. */
const MAX_AGENTS_PER_ADDRESS = 10

/**
 * Remembers who is refused, and what each test run met. Both are bounded: the one that was heard of least
 * lately is forgotten first.
 */
export class Clients {
  readonly #clock: () => Instant
  readonly #byAddress = new LRUCache<string, Map<string | null, Attempts>>({ max: MAX_ADDRESSES })
  readonly #runs = new LRUCache<string, Run>({ max: MAX_RUNS })
  readonly #operationBegun: () => void

  /** @param operationBegun is told of each refused request that is not one of before, tried again. */
  constructor(breaker: Breaker, clock: () => Instant, operationBegun: () => void) {
    this.#clock = clock
    this.#operationBegun = operationBegun
    breaker.on('refused', ({ client, enforced }) => {
      if (!enforced) return
      this.#remember(client.address, client.userAgent, client.request)
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

  #remember(address: string, userAgent: string, request: string): void {
    const at = this.#clock()
    const agents = this.#byAddress.get(address) ?? new Map<string | null, Attempts>()
    const key = agents.has(userAgent) || agents.size < MAX_AGENTS_PER_ADDRESS ? userAgent : null
    const known = agents.get(key)
    const attempts = known === undefined ? firstAttempt(request, at) : nextAttempt(known, request, at)
    if (attempts.operations !== (known?.operations ?? 0)) this.#operationBegun()
    agents.set(key, attempts)
    this.#byAddress.set(address, agents)
  }

  #count(name: string, what: 'forwarded' | 'refused'): void {
    const at = this.#clock()
    const run = this.#runs.get(name) ?? { forwarded: 0, refused: 0, first: at, last: at }
    this.#runs.set(name, { ...run, [what]: run[what] + 1, last: at })
  }
}
