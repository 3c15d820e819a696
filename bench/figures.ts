import type { Stretch } from './load.js'

/** A ratio taken in each round. */
export type Ratio = { readonly median: number; readonly least: number; readonly most: number }

/** The figures of one server over all its stretches. NaN if the processor time cannot be read. */
export type Figures = {
  /** Processor time for one request, over all stretches. */
  readonly cpuMicroseconds: number
  readonly requestsPerSecond: number
  /** The share of one core that the server used. Well below 1, something else limited the requests per second. */
  readonly busy: number
  readonly p50Ms: number
  readonly p99Ms: number
}

/** The figures of one server: medians over the rounds, except for the processor time. */
export function figuresOf(stretches: readonly Stretch[]): Figures {
  const sum = (of: (stretch: Stretch) => number) => stretches.reduce((total, each) => total + of(each), 0)
  const cpu = sum(({ cpuMs }) => cpuMs ?? Number.NaN)
  return {
    cpuMicroseconds: (cpu * 1000) / sum(({ requests }) => requests),
    requestsPerSecond: median(stretches.map(perSecond)),
    busy: cpu / sum(({ elapsedMs }) => elapsedMs),
    p50Ms: median(stretches.map(({ p50Ms }) => p50Ms)),
    p99Ms: median(stretches.map(({ p99Ms }) => p99Ms)),
  }
}

/** Our processor time per request divided by the peer's in the same round. */
export function cpuRatio(ours: readonly Stretch[], theirs: readonly Stretch[]): Ratio {
  return ratio(ours, theirs, ({ cpuMs, requests }) => (cpuMs ?? Number.NaN) / requests)
}

/** Our requests per second divided by the peer's in the same round. */
export function rateRatio(ours: readonly Stretch[], theirs: readonly Stretch[]): Ratio {
  return ratio(ours, theirs, perSecond)
}

function ratio(
  ours: readonly Stretch[],
  theirs: readonly Stretch[],
  of: (stretch: Stretch) => number,
): Ratio {
  const ratios = ours.flatMap((stretch, round) => {
    const other = theirs[round]
    return other === undefined ? [] : [of(stretch) / of(other)]
  })
  return { median: median(ratios), least: Math.min(...ratios), most: Math.max(...ratios) }
}

function perSecond({ requests, elapsedMs }: Stretch): number {
  return (requests / elapsedMs) * 1000
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  return ((sorted[Math.ceil(middle) - 1] ?? Number.NaN) + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2
}
