import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import {
  type Bucket,
  DAY_MS,
  emptyBucket,
  HOUR_MS,
  hourOf,
  observedMs,
  together,
} from '../../src/domain/bucket.js'
import { plus, totalOf } from '../../src/domain/refusal-counts.js'
import { BucketRecord, bucketAsJson, bucketFromJson } from '../../src/outages/bucket-record.js'
import { OPERATOR } from '../support/breaker-set-up.js'
import { historyPath, runProcess } from '../support/kept-buckets.js'
import { recordsIn } from '../support/kept-history.js'

const MINUTE = 60_000

test('time is counted by phase, from each change on, to the millisecond', () => {
  const { see, pass, breaker, buckets, clock } = runProcess(undefined, 0)
  see('+')
  pass(90 * MINUTE)
  see('- xxx')
  breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 600, silent: true }, OPERATOR)
  pass(5000)
  breaker.removeOverride(OPERATOR)
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, OPERATOR)
  pass(7000)
  breaker.removeOverride(OPERATOR)
  see('++ ++++')
  const all = sum(buckets.buckets())
  assert.deepEqual(all.ms, {
    starting: 1000,
    ready: 90 * MINUTE + 1000 + 1000,
    waiting: 1000,
    // The first of the three unreachable readings shows the cause.
    unreachable: 2000 + 2000,
    maintenance: 5000,
    'let-through': 7000,
    recovering: 3000,
  })
  assert.equal(observedMs(all), clock())
  assert.deepEqual(
    buckets.buckets().map(({ from }) => from),
    [0, HOUR_MS],
  )
  breaker.shutdown()
})

test('outages are counted in the hour in which they begin, and their lengths in the hour in which they end', () => {
  const { see, pass, buckets } = runProcess(undefined, 0)
  see('+ - ++ ++++')
  see('xxx')
  pass(2 * HOUR_MS)
  const lasting = buckets.lasting()
  assert.deepEqual(lasting.outage, { from: 11_000, ms: 2 * HOUR_MS, cause: 'unreachable' })
  assert.deepEqual(lasting.cause, lasting.outage)
  assert.deepEqual(lasting.absence, { from: 9000, ms: 2 * HOUR_MS + 2000 })
  see('++ ++++')
  const [first, ...others] = buckets.buckets()
  const last = others.at(-1)
  assert.deepEqual(first?.outages, { waiting: 1, unreachable: 1 })
  assert.deepEqual(first?.longestOutage, { from: 2000, ms: 5000, cause: 'waiting' })
  assert.deepEqual(first?.longest.waiting, { from: 2000, ms: 2000 })
  assert.deepEqual(last?.outages, { waiting: 0, unreachable: 0 })
  assert.deepEqual(last?.longestOutage, { from: 11_000, ms: 2 * HOUR_MS + 5000, cause: 'unreachable' })
  assert.deepEqual(buckets.lasting(), { outage: null, cause: null, absence: null })
})

test('absences are counted whether or not they open the circuit, and their time by the hour', () => {
  const { see, pass, buckets } = runProcess(undefined, 0)
  see('+ x + xx')
  pass(HOUR_MS)
  see('+')
  const [first, second] = buckets.buckets()
  assert.deepEqual([first?.absences, first?.absenceMs], [2, 1000 + HOUR_MS - 4000])
  assert.deepEqual([second?.absences, second?.absenceMs], [0, 6000])
  assert.deepEqual(first?.longestAbsence, { from: 2000, ms: 1000 })
  assert.deepEqual(second?.longestAbsence, { from: 4000, ms: HOUR_MS + 2000 })
})

test('refusals count for their hour, also those by an override, and only refusals for a missing fiber count as spared', () => {
  const { see, pass, ask, breaker, buckets } = runProcess(undefined, 0)
  see('+ -')
  ask({ run: 'nightly' })
  ask()
  pass(HOUR_MS)
  ask()
  breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 60 }, OPERATOR)
  ask()
  breaker.removeOverride(OPERATOR)
  see('xxx')
  ask()
  const hours = buckets.buckets()
  assert.deepEqual(
    hours.map(({ refusals, spared }) => [refusals.refused, spared]),
    [
      [2, 2],
      [3, 1],
    ],
  )
  for (const hour of hours) assertSums(hour)
  breaker.shutdown()
})

test('the record of an hour is read back unchanged', () => {
  const { see, ask, pass, buckets } = runProcess(undefined, 0)
  see('+ - xxx')
  for (let attempt = 0; attempt < 30; attempt += 1)
    ask({ address: `192.0.2.${attempt}`, run: `run-${attempt}` })
  buckets.answered(320)
  pass(1000)
  see('++ ++++')
  const [hour = emptyBucket(0)] = buckets.buckets()
  const record = bucketAsJson(hour)
  assert.deepEqual(bucketAsJson(bucketFromJson(0, HOUR_MS, record)), record)
  assert.equal(Object.keys(record.clients).length, 20)
  assertSums(bucketFromJson(0, HOUR_MS, record))
})

test('an hour in which two processes ran at the same time counts at most one hour, in the same proportions', () => {
  const hour = { ...emptyBucket(0), ms: { ready: HOUR_MS, waiting: HOUR_MS / 2 } }
  const { ms } = bucketFromJson(0, HOUR_MS, bucketAsJson(hour))
  assert.deepEqual(ms, { ready: HOUR_MS / 1.5, waiting: HOUR_MS / 3 })
})

for (const end of ['SIGTERM', 'kill -9'] as const) {
  test(`the hours continue after ${end}: unobserved time is in none of them`, t => {
    const path = historyPath(t)
    const before = runProcess(path, 0)
    before.see('+ -')
    before.ask()
    before.pass(80 * MINUTE)
    before.ask()
    before.write()
    if (end === 'SIGTERM') before.close()
    else before.breaker.shutdown()
    const stoppedAt = before.clock()

    const after = runProcess(path, 4 * HOUR_MS)
    assert.equal(after.buckets.stoppedAt, stoppedAt)
    after.see('-')
    after.ask()
    after.pass(10_000)
    const hours = after.buckets.buckets()
    const all = sum(hours)
    assert.equal(observedMs(all), stoppedAt + 11_000)
    assert.deepEqual(all.ms, {
      ready: 1000,
      starting: 1000,
      // The cause is the same before and after the restart.
      waiting: 80 * MINUTE + 11_000,
    })
    assert.deepEqual([all.refusals.refused, all.spared, all.outages.waiting], [3, 3, 1])
    // It is one outage across the restart.
    assert.deepEqual(after.buckets.lasting().outage, {
      ...{ from: 2000, ms: after.clock() - 2000, cause: 'waiting' },
    })
    after.close()
    // Another start does not count anything twice.
    const again = runProcess(path, 5 * HOUR_MS)
    assert.equal(observedMs(sum(again.buckets.buckets())), stoppedAt + 11_000)
    assert.equal(sum(again.buckets.buckets()).refusals.refused, 3)
    again.close()
  })
}

test('hours beyond 31 days are added to their days, days beyond 400 are forgotten, and nothing else is lost', t => {
  const path = historyPath(t)
  const { see, pass, ask, buckets, write, close, clock } = runProcess(path, 0)
  see('+ -')
  let refused = 0
  for (let hour = 0; hour < 24 * 33; hour += 1) {
    ask({ address: `192.0.2.${hour % 40}` })
    refused += 1
    pass(HOUR_MS)
    if (hour % 100 === 0) write()
  }
  const known = buckets.buckets()
  const all = sum(known)
  assert.equal(observedMs(all), clock())
  assert.equal(all.refusals.refused, refused)
  assertSums(all)
  // The hours of the last 31 days, the current one, and the days before.
  assert.ok(known.length <= 31 * 24 + 1 + 3, String(known.length))
  close()
  const after = runProcess(path, clock() + DAY_MS)
  const kept = sum(after.buckets.buckets())
  assert.equal(observedMs(kept), clock())
  assert.equal(kept.refusals.refused, refused)
  after.pass(500 * DAY_MS)
  assert.ok(after.buckets.buckets().length <= 31 * 24 + 400 + 2)
  after.close()
})

test('an hour that an interrupted write left in addition to its day is not counted twice', t => {
  const path = historyPath(t)
  const first = runProcess(path, 0)
  first.see('+ -')
  first.ask()
  first.write()
  const hourLine = readFileSync(path, 'utf8')
    .split('\n')
    .findLast(line => line.includes('"hour"'))
  for (let hour = 0; hour < 24 * 32; hour += 1) {
    first.pass(HOUR_MS)
    first.buckets.buckets()
  }
  first.close()
  assert.ok(hourLine !== undefined)
  const { v, hour } = JSON.parse(hourLine)
  appendFileSync(path, `${JSON.stringify({ v, hour })}\n`)
  const after = runProcess(path, first.clock() + 1000)
  assert.equal(sum(after.buckets.buckets()).refusals.refused, 1)
  after.close()
})

test('after the clock was set back, later hours stay in the file, and no hour is longer than an hour', t => {
  const path = historyPath(t)
  const ahead = runProcess(path, 10 * HOUR_MS)
  ahead.see('+')
  ahead.pass(4.5 * HOUR_MS)
  ahead.close()
  const behind = runProcess(path, 11 * HOUR_MS)
  behind.see('+')
  behind.pass(HOUR_MS / 2)
  const hours = behind.buckets.buckets()
  for (const hour of hours) assert.ok(observedMs(hour) <= HOUR_MS)
  assert.deepEqual(
    hours.map(({ from }) => from / HOUR_MS),
    [10, 11, 12, 13],
  )
  behind.close()
})

test('a malformed record is skipped, and the others are read', t => {
  const path = historyPath(t)
  const before = runProcess(path, 0)
  before.see('+ -')
  before.ask()
  before.close()
  const [hour] = recordsIn(path, 'hour', BucketRecord)
  const whole = hour?.[1]
  const noTime = { refused: 1, wouldRefuse: 0, first: '2016-12-31T23:59:60Z', last: '1970-01-01T00:00:00Z' }
  const bad = {
    v: 2,
    hour: {
      ...{ 'not a time': {}, '1970-01-01T01:00:00.000Z': { ms: { ready: -1 } } },
      // Records that are well-formed on their own.
      ...{ never: whole, '1970-01-01T00:30:00.000Z': whole },
      '1970-01-01T00:00:00.000Z': { ...whole, clients: { 'a b': noTime } },
    },
    day: { never: whole },
  }
  writeFileSync(path, `${readFileSync(path, 'utf8')}${JSON.stringify(bad)}\n{"v":2,"hour":{"1970`)
  const after = runProcess(path, HOUR_MS)
  assert.equal(sum(after.buckets.buckets()).refusals.refused, 1)
  after.pass(HOUR_MS)
  after.see('-')
  after.close()
  assert.equal(sum(runProcess(path, 4 * HOUR_MS).buckets.buckets()).refusals.refused, 1)
})

function sum(buckets: readonly Bucket[]): Bucket {
  return together(hourOf(0), buckets)
}

function assertSums({ clients, runs, withoutRun, refusals }: Bucket): void {
  assert.deepEqual(totalOf(clients), refusals)
  assert.deepEqual(plus(totalOf(runs), withoutRun), refusals)
}
