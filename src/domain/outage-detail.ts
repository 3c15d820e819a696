import type { Outage } from './outage.js'
import type { Reading } from './reading.js'
import {
  addClients,
  addRuns,
  type ClientRefusals,
  EMPTY_TALLY,
  minus,
  NO_REFUSALS,
  plus,
  type RefusalBatch,
  type RefusalCounts,
  type RunRefusals,
  sumOf,
  type Tally,
} from './refusal-counts.js'
import type { Instant } from './time.js'
import type { Cause, CircuitState, FailedReadingKind } from './vocabulary.js'

/** A state that the circuit entered during an outage, and the reading that caused it. */
export type OutageChange = {
  readonly at: Instant
  /** Null when focus-breaker stopped: what happened between then and the next change is not known. */
  readonly state: CircuitState | null
  /** Why the circuit is not closed. */
  readonly cause: Cause | null
  readonly reading: Reading | null
}

/** A guarded request that was admitted while the circuit was half-open. */
export type LetIn = {
  readonly at: Instant
  readonly address: string
  readonly userAgent: string
  readonly run: string | null
  /** Method and path. */
  readonly operation: string
}

/** The refusals of one stretch of minutes; `minute` counts minutes since the epoch. */
export type MinuteCounts = RefusalCounts & { readonly minute: number }

/** Refusals over time, in stretches of `spanMinutes` that start at multiples of it. Empty stretches are omitted. */
export type Minutes = { readonly spanMinutes: number; readonly counts: readonly MinuteCounts[] }

/** What happened during an outage, in bounded space. */
export type OutageDetail = {
  /** Oldest first. When there are too many, the first ones and the latest ones are kept. */
  readonly changes: readonly OutageChange[]
  readonly omittedChanges: number
  readonly minutes: Minutes
  readonly clients: Tally<ClientRefusals>
  readonly runs: Tally<RunRefusals>
  /** Refusals of requests that named no test run. */
  readonly withoutRun: RefusalCounts
  /** The first of the admitted requests. */
  readonly letIn: readonly LetIn[]
  /** The number of all of them. */
  readonly letInTotal: number
}

/** Limits on what is kept for one outage. */
export const MAX_CHANGES = 100
export const MAX_MINUTES = 360
export const MAX_LET_IN = 50

const MINUTE_MS = 60_000

/** The detail of an outage in which nothing has happened yet. */
export const NO_DETAIL: OutageDetail = {
  changes: [],
  omittedChanges: 0,
  minutes: { spanMinutes: 1, counts: [] },
  clients: EMPTY_TALLY,
  runs: EMPTY_TALLY,
  withoutRun: NO_REFUSALS,
  letIn: [],
  letInTotal: 0,
}

/** The detail after one more change. */
export function withChange(detail: OutageDetail, change: OutageChange): OutageDetail {
  const changes = [...detail.changes, change]
  if (changes.length <= MAX_CHANGES) return { ...detail, changes }
  return {
    ...detail,
    changes: changes.toSpliced(MAX_CHANGES / 2, 1),
    omittedChanges: detail.omittedChanges + 1,
  }
}

/** The detail after more refusals. */
export function withRefusals(detail: OutageDetail, batch: RefusalBatch): OutageDetail {
  const { at, clients, runs } = batch
  const inRuns = sumOf(runs)
  return {
    ...detail,
    minutes: withMinute(detail.minutes, Math.floor(at / MINUTE_MS), batch),
    clients: addClients([detail.clients, { items: clients, others: minus(batch, sumOf(clients)) }]),
    runs: addRuns([detail.runs, { items: runs, others: NO_REFUSALS }]),
    withoutRun: plus(detail.withoutRun, minus(batch, inRuns)),
  }
}

/** The detail after one more admission while the circuit was half-open. */
export function withLetIn(detail: OutageDetail, letIn: LetIn): OutageDetail {
  const isFull = detail.letIn.length >= MAX_LET_IN
  return {
    ...detail,
    letIn: isFull ? detail.letIn : [...detail.letIn, letIn],
    letInTotal: detail.letInTotal + 1,
  }
}

/**
 * The detail without times after `latest`, which come from before the clock was set back. Nothing is lost: times in the
 * future become `latest`.
 */
export function correctedDetail(detail: OutageDetail, latest: Instant): OutageDetail {
  const lastMinute = Math.floor(latest / MINUTE_MS)
  const { minutes } = detail
  const isPast = (minutes.counts.at(-1)?.minute ?? 0) <= lastMinute
  const atLatest = <Item extends { readonly at: Instant }>(item: Item) =>
    item.at <= latest ? item : { ...item, at: latest }
  return {
    ...detail,
    changes: detail.changes.map(change => ({
      ...atLatest(change),
      reading: change.reading && atLatest(change.reading),
    })),
    minutes: isPast
      ? minutes
      : minutes.counts.reduce<Minutes>(
          (all, counts) => withMinute(all, Math.min(counts.minute, lastMinute), counts),
          { spanMinutes: minutes.spanMinutes, counts: [] },
        ),
    clients: {
      ...detail.clients,
      items: detail.clients.items.map(client => ({
        ...client,
        first: Math.min(client.first, latest),
        last: Math.min(client.last, latest),
      })),
    },
    letIn: detail.letIn.map(atLatest),
  }
}

/** Adds counts to the stretch that contains a minute. When there are too many stretches, their length is doubled. */
export function withMinute(minutes: Minutes, minute: number, counts: RefusalCounts): Minutes {
  let { spanMinutes } = minutes
  let list = added(minutes.counts, { ...plus(NO_REFUSALS, counts), minute: startOf(minute, spanMinutes) })
  while (list.length > MAX_MINUTES) {
    spanMinutes *= 2
    const before = list
    list = []
    for (const each of before) list = added(list, { ...each, minute: startOf(each.minute, spanMinutes) })
  }
  return { spanMinutes, counts: list }
}

function startOf(minute: number, spanMinutes: number): number {
  return minute - (minute % spanMinutes)
}

/** Usually this is the last stretch or a new one after it; an earlier one if the clock was set back. */
function added(list: readonly MinuteCounts[], more: MinuteCounts): readonly MinuteCounts[] {
  const index = list.findLastIndex(({ minute }) => minute <= more.minute)
  const before = list[index]
  return before?.minute === more.minute
    ? list.with(index, { ...before, ...plus(before, more) })
    : list.toSpliced(index + 1, 0, more)
}

/** A part of an outage with one cause. `to` is null while it lasts. */
export type CauseSpan = {
  readonly cause: FailedReadingKind
  readonly from: Instant
  readonly to: Instant | null
}

/**
 * The causes of an outage in order, from its start to its end. A cause lasts until another one begins, even through a
 * failed recovery and while focus-breaker was not running.
 *
 * @param changes the known changes. Without any, only the first and the latest cause are known.
 */
export function causesOf(outage: Outage, changes: readonly OutageChange[] = []): readonly CauseSpan[] {
  const { startedAt, endedAt, openedBy } = outage
  const known: { readonly from: Instant; readonly cause: FailedReadingKind }[] = [
    { from: startedAt, cause: openedBy.kind === 'unreachable' ? 'unreachable' : 'waiting' },
  ]
  const began = (from: Instant, cause: Cause | null) => {
    const last = known.at(-1)
    if (last === undefined || cause === null || cause === 'starting' || cause === last.cause) return
    known.push({ from: Math.max(from, last.from), cause })
  }
  for (const { at, state, cause } of changes) if (state === 'open') began(at, cause)
  began(outage.causeSince, outage.cause)
  return known.map(({ from, cause }, index) => ({ cause, from, to: known[index + 1]?.from ?? endedAt }))
}
