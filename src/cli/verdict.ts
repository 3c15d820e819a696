import { inWords } from '../domain/time.js'
import type { ReadingKind } from '../domain/vocabulary.js'

/** How long outages like the present one last in all, as a proxy says it. */
export type ForecastSeen = {
  readonly p50Seconds: number
  readonly p90Seconds: number
  /** How many outages it is made from; null where the proxy does not say. */
  readonly samples: number | null
  readonly confidence: string | null
}

/** The circuit of a proxy: its state, since when it is in it for its cause, and when the outage began. */
export type CircuitSeen = {
  readonly state: string
  readonly since: string
  readonly cause: string | null
  /** Null when the circuit is closed, and where the proxy does not say. */
  readonly outageStartedAt: string | null
}

/** What a look found, whichever way it was taken. */
export type Verdict = {
  readonly ready: boolean
  readonly state: ReadingKind | 'proxy_unreachable'
  /** One line for people. */
  readonly message: string
  /** The same without anything that changes by itself: two verdicts with one reason are the same news. */
  readonly reason: string
  /** Since when it is so, RFC 3339; null where one look cannot tell. */
  readonly since: string | null
  /** How long that is ago, by the clock of the proxy; null where it is not known. */
  readonly forMs: number | null
  /** Null where no proxy was asked, or it did not answer. */
  readonly circuit: CircuitSeen | null
  /** How long outages like this one last in all; null when there is none, or too few were seen. */
  readonly forecast: ForecastSeen | null
}

/** A forecast for people: how long, of how many outages, and how sure that is. */
export function forecastInWords({ p50Seconds, p90Seconds, samples, confidence }: ForecastSeen): string {
  const [half, most] = [inWords(p50Seconds * 1000), inWords(p90Seconds * 1000)]
  const basis = [
    ...(samples === null ? [] : [`from ${samples} outages`]),
    ...(confidence === null ? [] : [`confidence ${confidence}`]),
  ]
  const origin = basis.length === 0 ? '' : ` (${basis.join(', ')})`
  return `such outages last ${half}, one in ten more than ${most}${origin}`
}
