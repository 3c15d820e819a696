import { type Instant, rfc3339 } from '../domain/time.js'
import { type TimelineEntry, withoutRepeats } from '../domain/timeline.js'
import { covering } from './cover.js'
import { knownUntil, type RecordSet, type SharedKind, type SharedRecord } from './record-set.js'

/** Records of one kind by key. */
type ByKey<Kind extends SharedKind> = ReadonlyMap<string, SharedRecord<Kind>>

/** The number of latest attempts from which a client's rhythm is derived: one more than the intervals in `domain/attempts`. */
const MAX_TIMES = 13

/** All replicas notice the end of an override within this time. */
const SAME_END_MS = 5000

/** The clients of all sets: their attempts are added up. */
export function mergedClients(sets: readonly RecordSet[]): ByKey<'client'> {
  const clients = added(sets, 'client', (one, other) => ({
    ...one,
    ...spanOf(one, other),
    attempts: one.attempts + other.attempts,
    wouldRefuse: (one.wouldRefuse ?? 0) + (other.wouldRefuse ?? 0),
    operations: one.operations + other.operations,
    intervals: rhythmOf([...timesOf(one), ...timesOf(other)]),
  }))
  return sortedBy(clients, ({ last }) => last)
}

/** The test runs of all sets: their requests are added up. */
export function mergedRuns(sets: readonly RecordSet[]): ByKey<'run'> {
  const runs = added(sets, 'run', (one, other) => ({
    ...spanOf(one, other),
    forwarded: one.forwarded + other.forwarded,
    refused: one.refused + other.refused,
    wouldRefuse: (one.wouldRefuse ?? 0) + (other.wouldRefuse ?? 0),
  }))
  return sortedBy(runs, ({ last }) => last)
}

/** The totals of all sets, added up. */
export function mergedTotals(sets: readonly RecordSet[]): ByKey<'totals'> {
  return added(sets, 'totals', (one, other) => ({
    forwarded: one.forwarded + other.forwarded,
    refused: one.refused + other.refused,
    wouldRefuse: one.wouldRefuse + other.wouldRefuse,
    probes: one.probes + other.probes,
    overloaded: one.overloaded + other.overloaded,
  }))
}

/** The refusals per minute of all sets, added up. */
export function mergedMinutes(sets: readonly RecordSet[]): ByKey<'minute'> {
  const minutes = added(sets, 'minute', (one, other) => ({
    minute: one.minute,
    refused: one.refused + other.refused,
    wouldRefuse: one.wouldRefuse + other.wouldRefuse,
  }))
  return sortedBy(minutes, ({ minute }) => minute)
}

/** The earliest start and the latest end of counting in all sets. */
export function mergedLifetimes(sets: readonly RecordSet[]): ByKey<'alive'> {
  return added(sets, 'alive', (one, other) => ({
    since: earlier(one.since, other.since),
    at: later(one.at, other.at),
  }))
}

/** What was in force. Every replica observes it, so each stretch is taken from one of them. In gaps, none was running. */
export function mergedStates(sets: readonly RecordSet[]): ByKey<'state'> {
  const pieces = covering(sets.flatMap(set => runningOf(set)))
  const entries = pieces.flatMap(({ from, to, of }, index) => {
    const before = of.findLastIndex(entry => entry.from <= from)
    const within = of.slice(Math.max(0, before)).filter(entry => entry.from < to || entry.from === from)
    const next = pieces[index + 1]?.from ?? to
    return [
      ...within.map(entry => ({ ...entry, from: Math.max(from, entry.from) })),
      ...(next > to ? [{ from: to, state: null, cause: null, override: null }] : []),
    ]
  })
  return new Map(
    withoutRepeats(entries).map(entry => {
      const from = rfc3339(entry.from)
      return [from, { ...entry, from, override: entry.override && { ...entry.override } }]
    }),
  )
}

/**
 * The past overrides. All replicas have the same ones, and each notices the end on its own. If an override was in force
 * twice, its two ends are further apart.
 */
export function mergedOverrides(sets: readonly RecordSet[]): ByKey<'override'> {
  const merged = new Map<string, SharedRecord<'override'>>()
  const ends = new Map<string, Instant>()
  const all = sets.flatMap(({ records }) => [...records.override])
  for (const [key, record] of all.sort(([, a], [, b]) => compare(a.endedAt, b.endedAt))) {
    const identity = JSON.stringify([record.since, record.state, record.reason, record.by])
    const end = Date.parse(record.endedAt)
    if (end - (ends.get(identity) ?? Number.NEGATIVE_INFINITY) > SAME_END_MS) merged.set(key, record)
    ends.set(identity, end)
  }
  return merged
}

/** Merges the records of each key. */
function added<Kind extends SharedKind>(
  sets: readonly RecordSet[],
  kind: Kind,
  add: (one: SharedRecord<Kind>, other: SharedRecord<Kind>) => SharedRecord<Kind>,
): ByKey<Kind> {
  const sum = new Map<string, SharedRecord<Kind>>()
  for (const { records } of sets) {
    const ofSet: ByKey<Kind> = records[kind]
    for (const [key, record] of ofSet) {
      const known = sum.get(key)
      sum.set(key, known === undefined ? record : add(known, record))
    }
  }
  return sum
}

/** Sorts records by time, oldest first. All times are RFC 3339 in UTC, so they sort as text. */
function sortedBy<Record>(records: ReadonlyMap<string, Record>, timeOf: (record: Record) => string) {
  return new Map([...records].sort(([, one], [, other]) => compare(timeOf(one), timeOf(other))))
}

type Times = { readonly first: string; readonly last: string }

function spanOf(one: Times, other: Times): Times {
  return { first: earlier(one.first, other.first), last: later(one.last, other.last) }
}

/** The times of the latest attempts. */
function timesOf({ last, intervals }: SharedRecord<'client'>): readonly Instant[] {
  const times = [Date.parse(last)]
  for (const interval of intervals.toReversed()) times.push((times.at(-1) ?? 0) - interval)
  return times
}

/** The intervals between the latest of all attempts. The latest attempts of each replica are enough to know them. */
function rhythmOf(times: readonly Instant[]): number[] {
  const latest = times.toSorted((one, other) => one - other).slice(-MAX_TIMES)
  return latest.slice(1).map((at, index) => at - (latest[index] ?? at))
}

/** The stretches of time in which the processes of a set were running, each with what was in force. */
function runningOf(set: RecordSet) {
  const entries: readonly TimelineEntry[] = [...set.records.state.values()]
    .map(record => ({ ...record, from: Date.parse(record.from) }))
    .sort((one, other) => one.from - other.from)
  const end = knownUntil(set)
  const stretches: { from: Instant; to: Instant; of: TimelineEntry[] }[] = []
  let current: TimelineEntry[] | undefined
  for (const [index, entry] of entries.entries()) {
    if (entry.state === null) {
      current = undefined
      continue
    }
    const to = entries[index + 1]?.from ?? Math.max(end, entry.from)
    const last = stretches.at(-1)
    if (current === undefined || last === undefined) {
      current = [entry]
      stretches.push({ from: entry.from, to, of: current })
    } else {
      current.push(entry)
      last.to = to
    }
  }
  return stretches
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0
}

function earlier(one: string, other: string): string {
  return other < one ? other : one
}

function later(one: string, other: string): string {
  return other > one ? other : one
}
