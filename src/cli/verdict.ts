import { inWords } from '../domain/time.js'
import type { ReadingKind } from '../domain/vocabulary.js'

/** How long outages like the current one last in total, as reported by a proxy. */
export type ForecastSeen = {
  readonly p50Seconds: number
  readonly p90Seconds: number
  /** The number of outages that it is based on; null if the proxy does not report it. */
  readonly samples: number | null
  readonly confidence: string | null
}

/** The circuit of a proxy: its state, since when it has had this state and cause, and when the outage began. */
export type CircuitSeen = {
  readonly state: string
  readonly since: string
  readonly cause: string | null
  /** Null if the circuit is closed, or if the proxy does not report it. */
  readonly outageStartedAt: string | null
}

/** The result of a check, of a proxy or of focus-server itself. */
export type Verdict = {
  readonly ready: boolean
  readonly state: ReadingKind | 'proxy_unreachable'
  /** One line for people. */
  readonly message: string
  /** The message without its durations: two verdicts with the same reason are the same state. */
  readonly reason: string
  /** Start of the current state, RFC 3339; null if it is not known. */
  readonly since: string | null
  /** Duration of the current state by the clock of the proxy; null if it is not known. */
  readonly forMs: number | null
  /** Null if no proxy was asked, or if it did not respond. */
  readonly circuit: CircuitSeen | null
  /** How long outages like this one last in total; null without an outage, or with too few in the history. */
  readonly forecast: ForecastSeen | null
}

/** A forecast for people: the durations, the number of outages that it is based on, and the confidence. */
export function forecastInWords({ p50Seconds, p90Seconds, samples, confidence }: ForecastSeen): string {
  const [half, most] = [inWords(p50Seconds * 1000), inWords(p90Seconds * 1000)]
  const basis = [
    ...(samples === null ? [] : [`from ${samples} outages`]),
    ...(confidence === null ? [] : [`confidence ${confidence}`]),
  ]
  const origin = basis.length === 0 ? '' : ` (${basis.join(', ')})`
  return `such outages last ${half}, one in ten more than ${most}${origin}`
}
