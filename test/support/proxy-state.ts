import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { Agent } from 'undici'
import { Exposition } from './exposition.js'
import { at, until } from './harness.js'
import { ask } from './http-client.js'

/**
 * The state that a running proxy reports. Every request uses its own connection from its own address, and closes it
 * with the response: it affects no count of sockets and no client share.
 */
export class ProxyState {
  readonly #url: string
  readonly #dispatcher: Agent

  constructor(t: TestContext, proxy: { readonly url: string }) {
    this.#url = proxy.url
    this.#dispatcher = new Agent({
      pipelining: 0,
      localAddress: '127.0.0.9',
      connect: { rejectUnauthorized: false },
    })
    t.after(() => this.#dispatcher.destroy())
  }

  /** The JSON of `GET /-/status`. */
  async status(): Promise<unknown> {
    const { statusCode, json } = await ask(`${this.#url}/-/status`, { dispatcher: this.#dispatcher })
    assert.equal(statusCode, 200)
    return json
  }

  /** The metrics. */
  async metrics(): Promise<Exposition> {
    const { bytes } = await ask(`${this.#url}/-/metrics`, { dispatcher: this.#dispatcher })
    return new Exposition(bytes.toString())
  }

  /** Waits until the circuit is in this state. */
  async circuitIs(state: 'closed' | 'half-open' | 'open'): Promise<void> {
    await until(async () => at(await this.status(), 'circuit', 'state') === state, {
      what: `the circuit is ${state}`,
    })
  }

  /** Waits until guarded requests wait for the circuit: at least `least`, at most `most`. */
  async waitingIs(least: number, most = least): Promise<void> {
    let waiting = Number.NaN
    const isReached = async () => {
      waiting = Number(at(await this.status(), 'waiting'))
      return waiting >= least && waiting <= most
    }
    await until(isReached).catch(() => assert.fail(`${waiting} requests wait, expected ${least} to ${most}`))
  }

  /** Waits until no guarded request is in flight and none waits, according to the status and the metrics. */
  async isAtRest(): Promise<void> {
    let seen = ''
    const check = async () => {
      const status = await this.status()
      const metrics = await this.metrics()
      const counts = [
        at(status, 'inFlight'),
        at(status, 'waiting'),
        metrics.value('focus_breaker_in_flight_requests'),
        metrics.value('focus_breaker_waiting_requests'),
      ]
      seen = counts.join(', ')
      return counts.every(count => count === 0)
    }
    await until(check, { everyMs: 50 }).catch(() =>
      assert.fail(`in flight and waiting, by status and by metrics, are not 0: ${seen}`),
    )
  }
}
