import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Agent } from 'undici'
import { type Answer, ask, configure } from './http-client.js'

/** A response that takes longer is as bad as none. */
const PATIENCE_MS = 8000

/** What an honest client has seen. */
export interface Experience {
  readonly requests: number
  /** One line for each request that was not answered as it should be. */
  readonly errors: readonly string[]
  readonly p50Ms: number
  readonly p99Ms: number
}

/** What the honest client asks for, over and over. */
export interface Errand {
  readonly name: string
  /** Sends one request over this connection pool. */
  readonly send: (url: string, options: { readonly dispatcher: Agent }) => Promise<Answer>
  /** The statuses that are right. */
  readonly expected: readonly number[]
}

/** A plain read. */
export const readChannels: Errand = {
  name: 'GET /channels',
  send: (url, options) => ask(`${url}/channels`, options),
  expected: [200],
}

/** A job, which is answered with one of these statuses. */
export const configureJob = (...expected: readonly number[]): Errand => ({
  name: 'POST /configure',
  send: (url, options) => configure({ url }, options),
  expected,
})

/** A client that does nothing wrong: one request after the other, from an address of its own, until it is stopped. */
export class HonestClient {
  readonly #agent: Agent
  readonly #errors: string[] = []
  readonly #durationsMs: number[] = []
  readonly #done: Promise<void>
  #isStopped = false

  constructor(
    t: TestContext,
    options: {
      readonly url: string
      readonly errands: readonly Errand[]
      readonly localAddress?: string
      readonly pauseMs?: number
    },
  ) {
    const { url, errands, localAddress = '127.0.0.2', pauseMs = 20 } = options
    this.#agent = new Agent({
      localAddress,
      headersTimeout: PATIENCE_MS,
      bodyTimeout: PATIENCE_MS,
      connect: { rejectUnauthorized: false, timeout: PATIENCE_MS },
    })
    t.after(() => {
      this.#isStopped = true
      return this.#agent.destroy()
    })
    this.#done = this.#run(url, errands, pauseMs)
  }

  /** The requests that were answered, right or wrong. */
  get requests(): number {
    return this.#durationsMs.length
  }

  /** Whether any was answered wrong. */
  get hasErrors(): boolean {
    return this.#errors.length > 0
  }

  /** Ends after the request that is under way, and gives what was seen. */
  async stop(): Promise<Experience> {
    this.#isStopped = true
    await this.#done
    await this.#agent.close()
    const sorted = this.#durationsMs.toSorted((a, b) => a - b)
    const quantile = (share: number) => sorted[Math.ceil(sorted.length * share) - 1] ?? Number.NaN
    return {
      requests: sorted.length,
      errors: this.#errors,
      p50Ms: quantile(0.5),
      p99Ms: quantile(0.99),
    }
  }

  async #run(url: string, errands: readonly Errand[], pauseMs: number): Promise<void> {
    while (!this.#isStopped) {
      for (const { name, send, expected } of errands) {
        const startedAt = performance.now()
        try {
          const { statusCode, bytes } = await send(url, { dispatcher: this.#agent })
          if (!expected.includes(statusCode)) this.#errors.push(`${name}: ${statusCode} ${bytes}`)
        } catch (error) {
          this.#errors.push(`${name}: ${error}`)
        }
        this.#durationsMs.push(performance.now() - startedAt)
      }
      await delay(pauseMs)
    }
  }
}
