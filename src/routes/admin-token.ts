import { createHash, timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { sendError } from '../server/error-response.js'

/** Dependencies of the token check. */
export type AdminTokenOptions = {
  /** Called for each request. Without a token nothing can be changed. */
  readonly token: () => string | undefined
  /** Called for each attempt with a wrong token. */
  readonly onWrongToken: (address: string) => void
  /** The client's address, or the peer's address if a gateway reports none. */
  readonly addressOf: (request: FastifyRequest) => string
}

/** How long the response to a wrong token is delayed. */
const WRONG_TOKEN_DELAY_MS = 1000

/**
 * How many responses may be delayed at a time: per client, per gateway (which may report made-up clients), and in
 * total.
 */
const MAX_DELAYED_PER_CLIENT = 20
const MAX_DELAYED_PER_GATEWAY = 100
const MAX_DELAYED = 1000

/**
 * Authenticates requests that change the state over HTTP: they need the admin token.
 *
 * The correct token is accepted at once, however many wrong ones are being sent, so that an attacker cannot lock the
 * operator out. The token is long enough (`admin.token`) to resist fast guessing.
 */
export class AdminToken {
  readonly #options: AdminTokenOptions
  /** The number of delayed responses per client and per gateway. */
  readonly #delayed = new Map<string, number>()
  #delayedInAll = 0

  constructor(options: AdminTokenOptions) {
    this.#options = options
  }

  /** Whether a token is configured. */
  get isConfigured(): boolean {
    return this.#options.token() !== undefined
  }

  /** The address of the request's client, for display. */
  addressOf(request: FastifyRequest): string {
    return this.#options.addressOf(request)
  }

  /**
   * Whether the request has the right token. If not, the response has been sent: 404 if no token is configured, 401 for
   * a missing token, and for a wrong one 401 after a delay, or 429 if too many responses are delayed.
   */
  async allows(request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
    const expected = this.#options.token()
    if (expected === undefined) {
      sendError(reply, 404, 'Not Found', 'Nothing can be changed over HTTP: no admin.token is configured.')
      return false
    }
    const given = /^Bearer +(.+)$/i.exec(request.headers.authorization ?? '')?.[1]
    if (given !== undefined && isSame(given, expected)) return true
    if (given !== undefined && !(await this.#delayWrong(request))) {
      reply.header('retry-after', 1)
      sendError(
        reply,
        429,
        'Too Many Requests',
        'Too many requests with a wrong token. The correct token is still accepted.',
      )
      return false
    }
    reply.header('www-authenticate', 'Bearer realm="focus-breaker"')
    sendError(
      reply,
      401,
      'Unauthorized',
      'This request needs the header Authorization: Bearer with the value of admin.token.',
    )
    return false
  }

  /** Delays a request with a wrong token; returns false at once if too many are delayed. */
  async #delayWrong(request: FastifyRequest): Promise<boolean> {
    const { addressOf, onWrongToken } = this.#options
    const client = addressOf(request)
    const peer = request.raw.socket.remoteAddress ?? ''
    onWrongToken(client)
    const isFull =
      this.#delayedInAll >= MAX_DELAYED ||
      this.#delayedOf(client) >= MAX_DELAYED_PER_CLIENT ||
      this.#delayedOf(gateway(peer)) >= MAX_DELAYED_PER_GATEWAY
    if (isFull) return false
    this.#count(client, peer, 1)
    // A shutdown does not wait for this timer; it closes the connection instead.
    await sleep(WRONG_TOKEN_DELAY_MS, undefined, { ref: false })
    this.#count(client, peer, -1)
    return true
  }

  #count(client: string, peer: string, change: number): void {
    this.#delayedInAll += change
    for (const key of client === peer ? [client] : [client, gateway(peer)]) {
      const delayed = this.#delayedOf(key) + change
      if (delayed > 0) this.#delayed.set(key, delayed)
      else this.#delayed.delete(key)
    }
  }

  #delayedOf(key: string): number {
    return this.#delayed.get(key) ?? 0
  }
}

/** The key of a peer that reports addresses of other clients. */
function gateway(peer: string): string {
  return `gateway ${peer}`
}

/** Compares in constant time, independent of the lengths. */
function isSame(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}
