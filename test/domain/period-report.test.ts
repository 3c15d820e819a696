import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Bucket,
  DAY_MS,
  durationClass,
  emptyBucket,
  HOUR_MS,
  hourOf,
  hoursOf,
  withPhase,
  withRefusalsIn,
} from '../../src/domain/bucket.js'
import { periodReport, type ReportFacts } from '../../src/domain/period-report.js'
import type { Phase } from '../../src/domain/vocabulary.js'
import { batchOf } from '../support/refusal-batches.js'

const DAY = Date.UTC(2026, 0, 10)
const NOW = DAY + 12 * HOUR_MS + 30 * 60_000

const NOTHING: ReportFacts = {
  now: NOW,
  buckets: [],
  outage: null,
  cause: null,
  absence: null,
  underWayAt: () => ({ outage: null, absence: false }),
}

test('one day is the last 24 hours including the current one, and more days are UTC days', () => {
  const day = periodReport(1, NOTHING)
  assert.deepEqual([day.from, day.to, day.rows.length], [hourOf(NOW) - 23 * HOUR_MS, NOW, 24])
  assert.deepEqual(day.rows.at(-1)?.from, hourOf(NOW))
  assert.deepEqual(day.rows.at(-1)?.to, NOW)
  for (const days of [7, 30, 400]) {
    const report = periodReport(days, NOTHING)
    assert.deepEqual([report.from, report.rows.length], [DAY - (days - 1) * DAY_MS, days])
    assert.deepEqual(
      report.rows.map(({ from }) => from),
      [...Array(days).keys()].map(index => report.from + index * DAY_MS),
    )
  }
})

test('a period without observation has no availability, and no row shows 100 %', () => {
  const { availability, observedSeconds, notRunningSeconds, saved, rows, outages } = periodReport(7, NOTHING)
  assert.deepEqual([availability.ready, observedSeconds, notRunningSeconds, saved], [null, 0, 0, null])
  assert.ok(rows.every(row => row.availability === null && row.observedSeconds === 0))
  assert.equal(outages.longest, null)
})

test('availability refers to observed time, and time without focus-breaker is shown as not running', () => {
  const buckets = observed([
    ['ready', DAY - 2 * DAY_MS, 6 * HOUR_MS],
    ['waiting', DAY - 2 * DAY_MS + 6 * HOUR_MS, 2 * HOUR_MS],
    // Not running for a day and four hours.
    ['ready', DAY + 12 * HOUR_MS, 30 * 60_000],
  ])
  const report = periodReport(7, { ...NOTHING, buckets })
  assert.equal(report.observedSeconds, 8.5 * 3600)
  assert.equal(report.availability.ready, Math.floor((6.5 / 8.5) * 1e6) / 1e6)
  assert.equal(report.notRunningSeconds, 52 * 3600)
  assert.equal(report.availability.secondsBy['not-running'], 52 * 3600)
  assert.equal(report.availability.secondsBy.waiting, 2 * 3600)
  // Days before the first observation are unknown.
  assert.deepEqual(
    report.rows.map(row => [row.observedSeconds, row.notRunningSeconds]),
    [...Array(4).fill([0, 0]), [8 * 3600, 16 * 3600], [0, 24 * 3600], [1800, 12 * 3600]],
  )
})

test('a moment without the fiber makes the availability less than 1', () => {
  const buckets = observed([
    ['ready', DAY - 6 * DAY_MS, 6 * DAY_MS - 1],
    ['waiting', DAY - 1, 1],
  ])
  const { ready } = periodReport(7, { ...NOTHING, buckets }).availability
  assert.ok(ready !== null && ready < 1 && ready > 0.99999, String(ready))
})

test('the rows add up to the totals', () => {
  const buckets = observed([
    ['ready', DAY - 3 * DAY_MS, 2 * DAY_MS],
    ['waiting', DAY - DAY_MS, 90 * 60_000],
    ['recovering', DAY - DAY_MS + 90 * 60_000, 10_000],
  ]).map(bucket =>
    withRefusalsIn(bucket, batchOf(bucket.from, { refused: 3, wouldRefuse: 1, spared: 2, run: 'nightly' })),
  )
  const report = periodReport(30, { ...NOTHING, buckets })
  const sum = (of: (row: (typeof report.rows)[number]) => number) =>
    report.rows.reduce((total, row) => total + of(row), 0)
  assert.equal(
    sum(row => row.observedSeconds),
    report.observedSeconds,
  )
  assert.equal(
    sum(row => row.notRunningSeconds),
    report.notRunningSeconds,
  )
  assert.equal(
    sum(row => row.refused),
    report.attempts.refused,
  )
  assert.equal(
    sum(row => row.wouldRefuse),
    report.attempts.wouldRefuse,
  )
  assert.equal(
    sum(row => row.spared),
    report.attempts.spared,
  )
  assert.equal(report.attempts.refused, 3 * buckets.length)
  const [client] = report.attempts.clients
  assert.deepEqual(
    [client?.refused, client?.wouldRefuse],
    [report.attempts.refused, report.attempts.wouldRefuse],
  )
})

test('an outage is counted where it began, and one in progress at the start of the period is counted too', () => {
  const hour = hourOf(NOW) - 2 * HOUR_MS
  const buckets: readonly Bucket[] = [
    {
      ...emptyBucket(hour),
      ms: { waiting: HOUR_MS },
      outages: { waiting: 2, unreachable: 1 },
      longestOutage: { from: hour - 40 * HOUR_MS, ms: 41 * HOUR_MS, cause: 'waiting' },
      longest: { waiting: { from: hour - 40 * HOUR_MS, ms: 41 * HOUR_MS }, unreachable: null },
      absences: 2,
      absenceMs: 60_000,
      longestAbsence: { from: hour, ms: 40_000 },
    },
  ]
  const { outages, absences, rows } = periodReport(1, {
    ...NOTHING,
    buckets,
    underWayAt: () => ({ outage: 'waiting', absence: true }),
  })
  assert.equal(outages.count, 4)
  assert.deepEqual(outages.byCause, {
    waiting: { count: 3, seconds: 3600, longestSeconds: 3600 },
    unreachable: { count: 1, seconds: 0, longestSeconds: 0 },
  })
  assert.deepEqual(outages.longest, {
    ...{ from: hour - 40 * HOUR_MS, cause: 'waiting', seconds: 41 * 3600, isUnderWay: false },
  })
  assert.deepEqual(absences, { count: 3, seconds: 60, longestSeconds: 40 })
  // The rows add up to the total: the outage in progress counts in the first row.
  assert.deepEqual([rows[0]?.outages, rows[0]?.absences], [1, 1])
  assert.equal(
    rows.reduce((sum, row) => sum + row.outages, 0),
    outages.count,
  )
  assert.equal(
    rows.reduce((sum, row) => sum + row.absences, 0),
    absences.count,
  )
})

test('an outage in progress can be the longest one', () => {
  const outage = { from: NOW - 5000, ms: 5000, cause: 'unreachable' } as const
  const buckets = observed([['unreachable', NOW - 5000, 5000]])
  const { outages, absences, rows } = periodReport(1, {
    ...{ ...NOTHING, buckets, outage, cause: outage },
    absence: { from: NOW - 9000, ms: 9000 },
  })
  assert.deepEqual(outages.longest, {
    ...{ from: outage.from, cause: 'unreachable', seconds: 5, isUnderWay: true },
  })
  assert.equal(rows.at(-1)?.longestOutageSeconds, 5)
  assert.equal(outages.byCause.unreachable.longestSeconds, 5)
  // No unreachable time was observed.
  assert.equal(absences.longestSeconds, 0)
})

test('the saved time is that of the spared attempts, and null if nothing was measured', () => {
  const bucket = withRefusalsIn(emptyBucket(hourOf(NOW)), batchOf(NOW, { refused: 200, spared: 150 }))
  assert.equal(periodReport(1, { ...NOTHING, buckets: [bucket] }).saved, null)
  const measured = { ...bucket, durations: { [durationClass(335)]: 9, [durationClass(9000)]: 2 } }
  const { saved } = periodReport(1, { ...NOTHING, buckets: [measured] })
  assert.equal(saved?.measured, 11)
  const each = saved?.perAttemptSeconds ?? 0
  assert.ok(each > 0.27 && each < 0.4, String(each))
  assert.equal(saved?.seconds, Math.round(150 * each))
})

test('buckets from a clock that was ahead are not in the period', () => {
  const buckets = observed([['ready', NOW + DAY_MS, HOUR_MS]])
  const report = periodReport(7, { ...NOTHING, buckets })
  assert.deepEqual([report.observedSeconds, report.notRunningSeconds], [0, 0])
})

/** Buckets of hours in which these phases were observed. */
function observed(spans: readonly (readonly [Phase, from: number, ms: number])[]): readonly Bucket[] {
  const hours = new Map<number, Bucket>()
  for (const [phase, from, ms] of spans) {
    for (const part of hoursOf(from, from + ms)) {
      const hour = hourOf(part.from)
      hours.set(hour, withPhase(hours.get(hour) ?? emptyBucket(hour, part.from), phase, part.from, part.to))
    }
  }
  return [...hours.values()]
}
