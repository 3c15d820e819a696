import type { Instant } from './time.js'

/** The attempts of one client that were refused, or would have been in mode `enforce`. */
export type Attempts = {
  readonly first: Instant
  readonly last: Instant
  readonly attempts: number
  /** How many of the attempts were forwarded, because of mode `observe`. */
  readonly wouldRefuse: number
  /** Attempts without repetitions of earlier ones: four attempts of one retrying call are one operation. */
  readonly operations: number
  /** When each of the latest requests was last attempted. */
  readonly requests: ReadonlyMap<string, Instant>
  /** The latest intervals between attempts, in milliseconds, oldest first. */
  readonly intervals: readonly number[]
}

/** A request that is repeated within this time is the same operation. */
const SAME_OPERATION_MS = 60_000

/** The number of different requests that are tracked for one client. */
const MAX_REQUESTS = 20

/** The number of intervals from which a rhythm is derived, and the fewest that show one. */
const MAX_INTERVALS = 12
const MIN_INTERVALS = 5

/** A client keeps a rhythm when the middle half of its intervals differs from their median by at most this fraction. */
const RHYTHM = 0.25

/** The first attempt of a client. */
export function firstAttempt(request: string, at: Instant, enforced = true): Attempts {
  return {
    first: at,
    last: at,
    attempts: 1,
    wouldRefuse: enforced ? 0 : 1,
    operations: 1,
    requests: new Map([[request, at]]),
    intervals: [],
  }
}

/** One more attempt. */
export function nextAttempt(known: Attempts, request: string, at: Instant, enforced = true): Attempts {
  const before = known.requests.get(request)
  const isNew = before === undefined || at - before > SAME_OPERATION_MS
  const requests = new Map(known.requests)
  // Reinserting moves it to the end of the map, where the latest request is.
  requests.delete(request)
  requests.set(request, at)
  const [oldest] = requests.keys()
  if (requests.size > MAX_REQUESTS && oldest !== undefined) requests.delete(oldest)
  return {
    first: known.first,
    last: at,
    attempts: known.attempts + 1,
    wouldRefuse: known.wouldRefuse + (enforced ? 0 : 1),
    operations: known.operations + (isNew ? 1 : 0),
    requests,
    intervals: [...known.intervals, at - known.last].slice(-MAX_INTERVALS),
  }
}

/** Two clients combined: the counts of both, and the requests and the rhythm of the first. */
export function together(one: Attempts, other: Attempts): Attempts {
  return {
    ...one,
    first: Math.min(one.first, other.first),
    last: Math.max(one.last, other.last),
    attempts: one.attempts + other.attempts,
    wouldRefuse: one.wouldRefuse + other.wouldRefuse,
    operations: one.operations + other.operations,
  }
}

/** The seconds between attempts of a client that keeps a rhythm; null for any other client. */
export function cadenceSeconds({ intervals }: Attempts): number | null {
  if (intervals.length < MIN_INTERVALS) return null
  const sorted = [...intervals].sort((a, b) => a - b)
  const at = (part: number) => sorted[Math.floor(part * (sorted.length - 1))] ?? 0
  const median = at(0.5)
  const isSteady = at(0.25) >= median * (1 - RHYTHM) && at(0.75) <= median * (1 + RHYTHM)
  return isSteady ? Math.round(median / 100) / 10 : null
}
