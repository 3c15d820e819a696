import { createHash, timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { sendError } from '../server/error-response.js'

/** What checking the token needs. */
export type AdminTokenOptions = {
  /** Read at each request. Without a token nothing can be changed. */
  readonly token: () => string | undefined
  /** Called for each attempt with a wrong token. */
  readonly onWrongToken: (address: string) => void
}

/** How long the response to a wrong token is delayed. */
const WRONG_TOKEN_DELAY_MS = 1000

/** How many such responses may be delayed at a time, for one address and for how many addresses. */
const MAX_DELAYED_PER_ADDRESS = 20
const MAX_DELAYED = 1000

/** Decides who may change the state over HTTP: clients that send the admin token. */
export class AdminToken {
  readonly #options: AdminTokenOptions
  /** The number of delayed responses of each address. */
  readonly #delayed = new Map<string, number>()

  constructor(options: AdminTokenOptions) {
    this.#options = options
  }

  /** Whether a token is configured. */
  get isConfigured(): boolean {
    return this.#options.token() !== undefined
  }

  /**
   * Whether the request has the token. If not, the response has been sent: 404 when no token is configured, 429 when
   * too many wrong tokens were sent, else 401, which is delayed for a wrong token.
   */
  async allows(request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
    const { token, onWrongToken } = this.#options
    const expected = token()
    if (expected === undefined) {
      sendError(reply, 404, 'Not Found', 'Nothing can be changed over HTTP: no admin.token is configured.')
      return false
    }
    const { ip } = request
    // The token is not even compared: an immediate response to the right one would help a fast guesser.
    if (this.#delayedOf(ip) >= MAX_DELAYED_PER_ADDRESS || this.#delayed.size >= MAX_DELAYED) {
      reply.header('retry-after', 1)
      sendError(reply, 429, 'Too Many Requests', 'Too many wrong tokens at a time.')
      return false
    }
    const given = /^Bearer +(.+)$/i.exec(request.headers.authorization ?? '')?.[1]
    if (given !== undefined && isSame(given, expected)) return true
    if (given !== undefined) {
      onWrongToken(ip)
      this.#delayed.set(ip, this.#delayedOf(ip) + 1)
      // A shutdown does not wait for this timer; it closes the connection instead.
      await sleep(WRONG_TOKEN_DELAY_MS, undefined, { ref: false })
      if (this.#delayedOf(ip) > 1) this.#delayed.set(ip, this.#delayedOf(ip) - 1)
      else this.#delayed.delete(ip)
    }
    reply.header('www-authenticate', 'Bearer realm="focus-breaker"')
    sendError(reply, 401, 'Unauthorized', 'This needs Authorization: Bearer with the admin.token.')
    return false
  }

  #delayedOf(address: string): number {
    return this.#delayed.get(address) ?? 0
  }
}

/** Compares in constant time, whatever the lengths. */
function isSame(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}
