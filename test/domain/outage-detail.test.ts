import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  correctedDetail,
  MAX_CHANGES,
  MAX_LET_IN,
  MAX_MINUTES,
  NO_DETAIL,
  type OutageDetail,
  withChange,
  withLetIn,
  withMinute,
  withRefusals,
} from '../../src/domain/outage-detail.js'
import { MAX_LISTED, plus, sumOf, topOf, totalOf } from '../../src/domain/refusal-counts.js'
import { anyBatch, batchOf } from '../support/refusal-batches.js'

const MINUTE = 60_000
const HOUR = 60 * MINUTE

test('for any refusals, minutes, clients and runs of an outage each add up to the total', () => {
  fc.assert(
    fc.property(fc.array(anyBatch, { maxLength: 30 }), fc.nat(40 * 24 * HOUR), (batches, latest) => {
      const detail = batches.reduce(withRefusals, NO_DETAIL)
      for (const each of [detail, correctedDetail(detail, latest)]) assertSums(each, sumOf(batches))
    }),
  )
})

test('the listed clients are those with the most refusals, with the times of all their attempts', () => {
  let detail = NO_DETAIL
  for (let round = 0; round < 3; round += 1) {
    for (let client = 1; client <= 30; client += 1) {
      const address = `192.0.2.${client}`
      detail = withRefusals(detail, batchOf(round * MINUTE, { refused: client, address }))
    }
  }
  const { items, others } = topOf(detail.clients)
  assert.equal(items.length, MAX_LISTED)
  assert.deepEqual(items[0], {
    ...{ address: '192.0.2.30', userAgent: 'test', refused: 90, wouldRefuse: 0 },
    ...{ first: 0, last: 2 * MINUTE },
  })
  assert.deepEqual(others, { refused: 3 * 55, wouldRefuse: 0 })
})

test('a client that starts late is listed, however many others were seen once before', () => {
  let detail = NO_DETAIL
  for (let client = 0; client < 1000; client += 1) {
    detail = withRefusals(detail, batchOf(client, { refused: 1, address: `2001:db8::${client}` }))
  }
  for (let attempt = 0; attempt < 3; attempt += 1) {
    detail = withRefusals(detail, batchOf(2000 + attempt, { refused: 1, address: '192.0.2.9' }))
  }
  assert.equal(detail.clients.items[0]?.address, '192.0.2.9')
  assert.equal(detail.clients.items[0]?.refused, 3)
  assertSums(detail, { refused: 1003, wouldRefuse: 0 })
})

test('one address with two user agents counts as two clients, and requests without a test run are counted separately', () => {
  const detail = [
    batchOf(0, { refused: 2, userAgent: 'a', run: 'nightly' }),
    batchOf(1, { wouldRefuse: 1, userAgent: 'b' }),
  ].reduce(withRefusals, NO_DETAIL)
  assert.deepEqual(
    detail.clients.items.map(({ userAgent, refused, wouldRefuse }) => [userAgent, refused, wouldRefuse]),
    [
      ['a', 2, 0],
      ['b', 0, 1],
    ],
  )
  assert.deepEqual(detail.runs, {
    items: [{ run: 'nightly', refused: 2, wouldRefuse: 0 }],
    others: { refused: 0, wouldRefuse: 0 },
  })
  assert.deepEqual(detail.withoutRun, { refused: 0, wouldRefuse: 1 })
})

test('refusals are counted by the minute for six hours, and in longer stretches after that', () => {
  let detail = NO_DETAIL
  for (let minute = 0; minute < MAX_MINUTES; minute += 1) {
    detail = withRefusals(detail, batchOf(minute * MINUTE, { refused: 1 }))
  }
  assert.equal(detail.minutes.spanMinutes, 1)
  assert.equal(detail.minutes.counts.length, MAX_MINUTES)
  detail = withRefusals(detail, batchOf(MAX_MINUTES * MINUTE, { refused: 5 }))
  assert.equal(detail.minutes.spanMinutes, 2)
  assert.deepEqual(detail.minutes.counts.at(0), { minute: 0, refused: 2, wouldRefuse: 0 })
  assert.deepEqual(detail.minutes.counts.at(-1), { minute: 360, refused: 5, wouldRefuse: 0 })
  assertSums(detail, { refused: 365, wouldRefuse: 0 })
})

test('stretches are in order, start at multiples of their length, and are never too many', () => {
  const anyMinutes = fc.array(
    fc.record({ minute: fc.nat(60 * 24 * 60), refused: fc.nat(3), wouldRefuse: fc.nat(3) }),
    {
      maxLength: 1500,
      size: 'max',
    },
  )
  fc.assert(
    fc.property(anyMinutes, all => {
      const minutes = all.reduce((sum, each) => withMinute(sum, each.minute, each), NO_DETAIL.minutes)
      const starts = minutes.counts.map(({ minute }) => minute)
      assert.deepEqual(
        starts,
        [...new Set(starts)].sort((a, b) => a - b),
      )
      assert.ok(starts.every(start => start % minutes.spanMinutes === 0))
      assert.ok(starts.length <= MAX_MINUTES)
      assert.deepEqual(sumOf(minutes.counts), sumOf(all))
    }),
    { numRuns: 20 },
  )
})

test('for an outage that flaps for hours, the first and the latest changes are kept, and the others are counted', () => {
  let detail = NO_DETAIL
  for (let at = 0; at < 1000; at += 1) {
    detail = withChange(detail, {
      at,
      state: at % 2 === 0 ? 'open' : 'half-open',
      cause: 'waiting',
      reading: null,
    })
  }
  assert.equal(detail.changes.length, MAX_CHANGES)
  assert.equal(detail.omittedChanges, 900)
  assert.deepEqual(
    detail.changes.map(({ at }) => at),
    [...Array(50).keys(), ...[...Array(50).keys()].map(index => 950 + index)],
  )
})

test('the first admitted requests are kept, and all are counted', () => {
  let detail = NO_DETAIL
  for (let at = 0; at < 200; at += 1) {
    const operation = 'POST /configure'
    detail = withLetIn(detail, { at, address: '192.0.2.7', userAgent: 'test', run: null, operation })
  }
  assert.equal(detail.letIn.length, MAX_LET_IN)
  assert.equal(detail.letIn.at(-1)?.at, 49)
  assert.equal(detail.letInTotal, 200)
})

test('after the clock was set back, no time in a detail is in the future', () => {
  const reading = { at: 5 * HOUR, source: 'probe', kind: 'waiting', metadata: {}, missing: ['prr'] } as const
  let detail = withChange(NO_DETAIL, { at: 5 * HOUR, state: 'open', cause: 'waiting', reading })
  detail = [
    batchOf(HOUR, { refused: 1 }),
    batchOf(5 * HOUR, { refused: 2 }),
    batchOf(6 * HOUR, { refused: 4 }),
  ].reduce(withRefusals, detail)
  const operation = 'POST /configure'
  detail = withLetIn(detail, { at: 6 * HOUR, address: '192.0.2.7', userAgent: 'test', run: null, operation })
  const corrected = correctedDetail(detail, 2 * HOUR)
  assert.equal(corrected.changes[0]?.at, 2 * HOUR)
  assert.equal(corrected.changes[0]?.reading?.at, 2 * HOUR)
  assert.deepEqual(corrected.minutes.counts, [
    { minute: 60, refused: 1, wouldRefuse: 0 },
    { minute: 120, refused: 6, wouldRefuse: 0 },
  ])
  assert.deepEqual(
    corrected.clients.items.map(({ first, last }) => [first, last]),
    [[HOUR, 2 * HOUR]],
  )
  assert.equal(corrected.letIn[0]?.at, 2 * HOUR)
})

function assertSums(detail: OutageDetail, whole: { readonly refused: number; readonly wouldRefuse: number }) {
  const expected = sumOf([whole])
  assert.deepEqual(sumOf(detail.minutes.counts), expected)
  assert.deepEqual(totalOf(detail.clients), expected)
  assert.deepEqual(totalOf(topOf(detail.clients)), expected)
  assert.deepEqual(plus(totalOf(detail.runs), detail.withoutRun), expected)
  assert.deepEqual(plus(totalOf(topOf(detail.runs)), detail.withoutRun), expected)
}
