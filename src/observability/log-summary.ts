import type { Logger } from 'pino'
import type { Breaker } from '../breaker/breaker.js'
import type { Client } from '../breaker/events.js'
import { oneLine } from '../domain/text.js'
import type { NotCounted, RefusalCode, UpstreamFailureKind } from '../domain/vocabulary.js'
import type { ExchangeEvents } from './exchange-events.js'

/** How often the summaries are logged. */
const SUMMARY_MS = 10_000

/** The maximum number of distinct clients in one summary, so that a flood of addresses does not fill the memory. */
const MAX_DISTINCT_CLIENTS = 10_000

/** The maximum number of distinct test runs in one summary. */
const MAX_DISTINCT_RUNS = 1000

/** How many clients and runs a summary names, and the maximum length of a name. */
const NAMED = 3
const MAX_NAME_LENGTH = 100

/**
 * Logs frequent events as counts: every ten seconds one line for all refusals, one for all failures of the upstream,
 * and so on. Many refused requests must not produce many lines.
 */
export class LogSummary {
  readonly #log: Logger
  readonly #timer: NodeJS.Timeout
  readonly #codes = new Map<RefusalCode, number>()
  readonly #addresses = new Set<string>()
  /** The refused requests, by address and user agent. */
  readonly #clients = new Map<string, { readonly client: Client; readonly requests: number }>()
  readonly #runs = new Map<string, number>()
  readonly #failures = new Map<UpstreamFailureKind, number>()
  readonly #notCounted = new Map<NotCounted, number>()
  #lastFailure = ''
  #wouldRefuse = 0
  #wrongTokens = 0
  #overloaded = 0
  #repeated = 0
  #lastWrongToken = ''

  constructor(log: Logger) {
    this.#log = log
    this.#timer = setInterval(() => this.#summarize(), SUMMARY_MS).unref()
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('refused', ({ decision, client, enforced }) => {
      if (enforced) this.#codes.set(decision.code, (this.#codes.get(decision.code) ?? 0) + 1)
      else this.#wouldRefuse += 1
      this.#countClient(client)
    })
  }

  /** Starts listening to the requests that are forwarded to focus-server. */
  attachToExchanges(exchanges: ExchangeEvents): void {
    exchanges.on('failed', (kind, error) => this.#countFailure(kind, error))
    exchanges.on('repeated', () => {
      this.#repeated += 1
    })
    exchanges.on('overloaded', () => {
      this.#overloaded += 1
    })
  }

  /** Adds an attempt with a wrong token to the next summary. The token itself is not logged. */
  wrongToken(address: string): void {
    this.#wrongTokens += 1
    this.#lastWrongToken = address
  }

  /** Logs the last summary and stops. */
  close(): void {
    clearInterval(this.#timer)
    this.#summarize()
  }

  /** Adds a probe that failed for a local reason, and so is not a reading, to the next summary. */
  probeNotCounted(why: NotCounted): void {
    this.#notCounted.set(why, (this.#notCounted.get(why) ?? 0) + 1)
  }

  #countClient(client: Client): void {
    const { address, userAgent, run } = client
    if (this.#addresses.size < MAX_DISTINCT_CLIENTS) this.#addresses.add(address)
    const key = `${address} ${userAgent}`
    const known = this.#clients.get(key)
    if (known !== undefined || this.#clients.size < MAX_DISTINCT_CLIENTS) {
      this.#clients.set(key, { client, requests: (known?.requests ?? 0) + 1 })
    }
    if (run === undefined) return
    const ofRun = this.#runs.get(run)
    if (ofRun !== undefined || this.#runs.size < MAX_DISTINCT_RUNS) this.#runs.set(run, (ofRun ?? 0) + 1)
  }

  /**
   * The clients and runs with the most requests. Their names come from clients, so they are put on one line and
   * shortened.
   */
  #offenders() {
    const topClients = [...this.#clients]
      .sort(([, a], [, b]) => b.requests - a.requests)
      .slice(0, NAMED)
      .map(([, { client, requests }]) => {
        return { address: client.address, userAgent: shown(client.userAgent), requests }
      })
    const topRuns = [...this.#runs]
      .sort(([, a], [, b]) => b - a)
      .slice(0, NAMED)
      .map(([run, requests]) => ({ run: shown(run), requests }))
    return { topClients, ...(topRuns.length > 0 && { topRuns }) }
  }

  /** Logs the first internal error in an interval at once, and counts the others. */
  #countFailure(kind: UpstreamFailureKind, error: Error): void {
    if (kind === 'proxy_internal_error' && !this.#failures.has(kind)) {
      this.#log.error({ err: error }, 'forwarding failed: internal error')
    }
    this.#failures.set(kind, (this.#failures.get(kind) ?? 0) + 1)
    this.#lastFailure = error.message
  }

  #summarize(): void {
    const clients = this.#addresses.size
    const refused = sum(this.#codes)
    if (refused > 0) {
      this.#log.info(
        { refused, clients, ...Object.fromEntries(this.#codes), ...this.#offenders() },
        'guarded requests were refused',
      )
    }
    if (this.#wouldRefuse > 0) {
      const fields = { wouldRefuse: this.#wouldRefuse, clients, ...this.#offenders() }
      this.#log.info(fields, 'guarded requests would have been refused')
    }
    const failed = sum(this.#failures)
    if (failed > 0) {
      const fields = { failed, ...Object.fromEntries(this.#failures), last: this.#lastFailure }
      this.#log.warn(fields, 'requests failed at the upstream')
    }
    if (this.#repeated > 0) {
      this.#log.info(
        { repeated: this.#repeated },
        'requests sent again: focus-server had closed the idle connection (lower upstream.keepAliveMs)',
      )
    }
    const notCounted = sum(this.#notCounted)
    if (notCounted > 0) {
      this.#log.warn(
        { notCounted, ...Object.fromEntries(this.#notCounted) },
        'probes not counted: they failed because of a problem on this machine',
      )
    }
    if (this.#overloaded > 0) {
      this.#log.warn({ overloaded: this.#overloaded }, 'requests rejected: upstream queue full')
    }
    if (this.#wrongTokens > 0) {
      const fields = { attempts: this.#wrongTokens, last: this.#lastWrongToken }
      this.#log.warn(fields, 'admin authentication failed')
    }
    this.#codes.clear()
    this.#addresses.clear()
    this.#clients.clear()
    this.#runs.clear()
    this.#failures.clear()
    this.#notCounted.clear()
    this.#wouldRefuse = 0
    this.#wrongTokens = 0
    this.#overloaded = 0
    this.#repeated = 0
  }
}

function sum(counts: ReadonlyMap<string, number>): number {
  let total = 0
  for (const count of counts.values()) total += count
  return total
}

function shown(name: string): string {
  return oneLine(name).slice(0, MAX_NAME_LENGTH)
}
