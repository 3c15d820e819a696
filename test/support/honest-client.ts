import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Agent } from 'undici'
import { type Answer, ask, configure } from './http-client.js'

/** A response that takes longer than this counts as missing. */
const PATIENCE_MS = 8000

/** The results of an honest client. */
export interface Experience {
  readonly requests: number
  /** One line for each request whose response was not as expected. */
  readonly errors: readonly string[]
  readonly p50Ms: number
  readonly p99Ms: number
}

/** The request that the honest client repeats. */
export interface Errand {
  readonly name: string
  /** Sends one request over this connection pool. */
  readonly send: (url: string, options: { readonly dispatcher: Agent }) => Promise<Answer>
  /** The expected statuses. */
  readonly expected: readonly number[]
}

/** A plain read. */
export const readChannels: Errand = {
  name: 'GET /channels',
  send: (url, options) => ask(`${url}/channels`, options),
  expected: [200],
}

/** A job, for which one of these statuses is expected. */
export const configureJob = (...expected: readonly number[]): Errand => ({
  name: 'POST /configure',
  send: (url, options) => configure({ url }, options),
  expected,
})

/** A well-behaved client: one request after the other, from its own address, until it is stopped. */
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

  /** The number of requests with a response, expected or not. */
  get requests(): number {
    return this.#durationsMs.length
  }

  /** Whether any response was unexpected. */
  get hasErrors(): boolean {
    return this.#errors.length > 0
  }

  /** Stops after the current request, and returns the results. */
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
