import { connect } from 'node:tls'
import type { Clock } from './clock.js'

/** How long the check may take, and how often it is made. */
const TIMEOUT_MS = 1000
const EVERY_MS = 60_000

/**
 * Whether a server that closes connections of plain HTTP without a byte uses TLS. Most servers say nothing then, so the
 * check begins a TLS handshake of its own, at most once a minute.
 */
export class TlsCheck {
  readonly #url: URL
  readonly #clock: Clock
  #checkedAt = Number.NEGATIVE_INFINITY
  #speaksTls = false

  constructor(url: URL, clock: Clock) {
    this.#url = url
    this.#clock = clock
  }

  /** Whether TLS was found there; false for an https URL. */
  async speaksTls(): Promise<boolean> {
    if (this.#url.protocol === 'https:') return false
    const now = this.#clock()
    if (now - this.#checkedAt >= EVERY_MS) {
      this.#checkedAt = now
      this.#speaksTls = await completesHandshake(this.#url)
    }
    return this.#speaksTls
  }

  /** Forgets what was found, because the server has answered. */
  forget(): void {
    this.#checkedAt = Number.NEGATIVE_INFINITY
    this.#speaksTls = false
  }
}

/** Nothing is sent on the connection, so its certificate does not matter. */
function completesHandshake({ hostname, port }: URL): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || 80),
      rejectUnauthorized: false,
    })
    const end = (isTls: boolean) => {
      clearTimeout(timer)
      socket.destroy()
      resolve(isTls)
    }
    // Neither is unreferenced: a command has nothing else to wait for.
    const timer = setTimeout(() => end(false), TIMEOUT_MS)
    socket.once('secureConnect', () => end(true)).on('error', () => end(false))
  })
}
