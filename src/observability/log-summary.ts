import { type DestinationStream, type Logger, pino } from 'pino'
import pretty from 'pino-pretty'
import type { Breaker } from '../breaker/breaker.js'
import { inWords, rfc3339 } from '../domain/time.js'
import type { LogFormat, LogLevel, RefusalCode } from '../domain/vocabulary.js'
import type { UpstreamFailure } from '../upstream/failure.js'

/** What the logger goes by. */
export type LogOptions = {
  readonly level: LogLevel
  readonly format: LogFormat
  /** With `pretty`: the message alone, without its fields. */
  readonly hideFields?: boolean
  /** Where lines go; standard output without it. */
  readonly destination?: DestinationStream
}

/** How often refusals and failures are summed into a line. */
const SUMMARY_MS = 10_000

/** The most clients that one summary tells apart; a flood of addresses must not cost memory. */
const MAX_DISTINCT_CLIENTS = 10_000

/** The logger of the program: JSON lines, or lines for people. Fields that may hold secrets are masked. */
export function createLogger({ level, format, hideFields = false, destination }: LogOptions): Logger {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: {
      paths: [
        'authorization',
        'token',
        '*.authorization',
        '*.cookie',
        '*.token',
        'req.headers',
        'headers.authorization',
        'headers.cookie',
      ],
      censor: '********',
    },
  }
  if (format === 'pretty') {
    const stream = pretty({
      // Without the fields, pino-pretty ends a single line by nothing.
      singleLine: !hideFields,
      hideObject: hideFields,
      ...(hideFields && { messageFormat: '{if refused}{refused} {end}{msg}' }),
      translateTime: 'SYS:HH:MM:ss',
      ignore: 'pid,hostname',
      ...(destination && { destination }),
    })
    return pino(options, stream)
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}

/**
 * Writes what happens to the breaker: a line for each transition, and one line in ten seconds for all
 * refusals and one for all failures of the upstream. A storm of either must not become one of lines.
 */
export class Journal {
  readonly #log: Logger
  readonly #timer: NodeJS.Timeout
  readonly #codes = new Map<RefusalCode, number>()
  readonly #clients = new Set<string>()
  readonly #failures = new Map<UpstreamFailure['kind'], number>()
  #lastFailure = ''
  #wouldRefuse = 0
  #wrongTokens = 0
  #overloaded = 0
  #lastWrongToken = ''

  constructor(log: Logger, breaker: Breaker) {
    this.#log = log
    this.#timer = setInterval(() => this.#summarize(), SUMMARY_MS).unref()
    breaker.on('transition', ({ from, to, cause, outageMs, reading }) => {
      const fields = {
        from,
        to,
        cause,
        ...(from !== 'closed' && { outageSeconds: Math.round(outageMs / 1000) }),
        source: reading.source,
        ...(reading.kind === 'waiting' && { missing: reading.missing }),
        ...(reading.kind === 'unreachable' && { problem: reading.problem }),
      }
      const length = cause !== 'starting' && outageMs > 0 ? ` after ${inWords(outageMs)}` : ''
      // That all is well at the start is said by the line that says where the proxy listens.
      if (to === 'closed') log[cause === 'starting' ? 'debug' : 'info'](fields, `circuit closed${length}`)
      else if (to === 'half-open') log.info(fields, `circuit half-opened${length}`)
      else
        log.warn(
          fields,
          `circuit opened: ${cause === 'waiting' ? 'the fiber is missing' : 'the metadata cannot be read'}`,
        )
    })
    breaker.on('cause', ({ from, to, outageMs, reading }) => {
      const problem = reading.kind === 'unreachable' ? reading.problem : undefined
      log.warn(
        { from, to, outageSeconds: Math.round(outageMs / 1000), problem },
        `circuit stayed open: ${to === 'waiting' ? 'the fiber is missing' : 'the metadata cannot be read'}`,
      )
    })
    breaker.on('override', event => {
      const { state, reason, until, by } = event.override
      const fields = { state, reason, until: rfc3339(until), by }
      if (event.kind === 'set') {
        const replaced = event.replaced && { state: event.replaced.state, reason: event.replaced.reason }
        log.warn({ ...fields, ...(replaced && { replaced }) }, `override set: circuit forced ${state}`)
      } else if (event.kind === 'removed') log.warn({ ...fields, by: event.by }, 'override removed')
      else log.warn(fields, 'override ended')
    })
    breaker.on('disagreement', ({ missing }) => {
      log.warn({ missing }, 'metadata says that the fiber is there, configure says that it is missing')
    })
    breaker.on('refused', ({ decision, client, enforced }) => {
      if (!enforced) return this.#countWouldRefuse(client.address)
      this.#codes.set(decision.code, (this.#codes.get(decision.code) ?? 0) + 1)
      this.#remember(client.address)
    })
    breaker.on('reading', reading => log.trace({ ...reading, at: rfc3339(reading.at) }, 'reading taken'))
  }

  /** Takes a failed exchange with the upstream into the next summary. */
  failed(failure: UpstreamFailure, error: Error): void {
    if (failure.kind === 'proxy_internal_error') {
      this.#log.error({ err: error }, 'forwarding failed by a fault of focus-breaker')
      return
    }
    this.#failures.set(failure.kind, (this.#failures.get(failure.kind) ?? 0) + 1)
    this.#lastFailure = error.message
  }

  /** Takes a request for which there was no room into the next summary. */
  overloaded(): void {
    this.#overloaded += 1
  }

  /** Takes an attempt with a wrong token into the next summary; the token itself is not told. */
  wrongToken(address: string): void {
    this.#wrongTokens += 1
    this.#lastWrongToken = address
  }

  /** Writes what is left to sum up, and stops. */
  close(): void {
    clearInterval(this.#timer)
    this.#summarize()
  }

  #countWouldRefuse(address: string): void {
    this.#wouldRefuse += 1
    this.#remember(address)
  }

  #remember(address: string): void {
    if (this.#clients.size < MAX_DISTINCT_CLIENTS) this.#clients.add(address)
  }

  #summarize(): void {
    const clients = this.#clients.size
    const refused = sum(this.#codes)
    if (refused > 0) {
      this.#log.info(
        { refused, clients, ...Object.fromEntries(this.#codes) },
        'guarded requests were refused',
      )
    }
    if (this.#wouldRefuse > 0) {
      this.#log.info({ wouldRefuse: this.#wouldRefuse, clients }, 'guarded requests would have been refused')
    }
    const failed = sum(this.#failures)
    if (failed > 0) {
      const fields = { failed, ...Object.fromEntries(this.#failures), last: this.#lastFailure }
      this.#log.warn(fields, 'requests failed at the upstream')
    }
    if (this.#overloaded > 0) {
      this.#log.warn({ overloaded: this.#overloaded }, 'requests found no room on the way to the upstream')
    }
    if (this.#wrongTokens > 0) {
      const fields = { attempts: this.#wrongTokens, last: this.#lastWrongToken }
      this.#log.warn(fields, 'wrong admin tokens were given')
    }
    this.#codes.clear()
    this.#clients.clear()
    this.#failures.clear()
    this.#wouldRefuse = 0
    this.#wrongTokens = 0
    this.#overloaded = 0
  }
}

function sum(counts: ReadonlyMap<string, number>): number {
  let total = 0
  for (const count of counts.values()) total += count
  return total
}
