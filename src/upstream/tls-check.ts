import { connect } from 'node:tls'
import type { Clock } from './clock.js'

/** Timeout of the check, and the minimum interval between two checks. */
const TIMEOUT_MS = 1000
const EVERY_MS = 60_000

/**
 * Checks whether a server that closes plain HTTP connections without a response uses TLS. Most such servers give no
 * hint, so the check starts a TLS handshake of its own, at most once a minute.
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

  /** Whether the server uses TLS; always false for an https URL. */
  async speaksTls(): Promise<boolean> {
    if (this.#url.protocol === 'https:') return false
    const now = this.#clock()
    if (now - this.#checkedAt >= EVERY_MS) {
      this.#checkedAt = now
      this.#speaksTls = await completesHandshake(this.#url)
    }
    return this.#speaksTls
  }

  /** Discards the last result, because the server has responded. */
  forget(): void {
    this.#checkedAt = Number.NEGATIVE_INFINITY
    this.#speaksTls = false
  }
}

/** Tries a TLS handshake. Nothing is sent on the connection, so the certificate does not matter. */
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
    // Neither is unreferenced: a CLI command has nothing else to wait for.
    const timer = setTimeout(() => end(false), TIMEOUT_MS)
    socket.once('secureConnect', () => end(true)).on('error', () => end(false))
  })
}
