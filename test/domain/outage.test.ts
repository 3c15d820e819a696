import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  beganBy,
  correctedOutages,
  correctedPeriods,
  forecast,
  isDuring,
  type Outage,
  type PastOutage,
} from '../../src/domain/outage.js'

const minutes = (...lengths: readonly number[]) => lengths.map(length => length * 60_000)

const ofWaiting = (lengthsMs: readonly number[]): readonly PastOutage[] =>
  lengthsMs.map(lengthMs => ({ cause: 'waiting', lengthMs }))

test('with fewer than five past outages there is no forecast', () => {
  assert.equal(forecast([], 'waiting', 0), null)
  assert.equal(forecast(ofWaiting(minutes(1, 2, 3, 4)), 'waiting', 0), null)
  assert.notEqual(forecast(ofWaiting(minutes(1, 2, 3, 4, 5)), 'waiting', 0), null)
})

const FORECASTS: readonly {
  readonly that: string
  readonly past: readonly number[]
  readonly elapsedMs?: number
  readonly expected: readonly [p50Seconds: number, p90Seconds: number, samples: number] | null
}[] = [
  { that: 'with five: the third and the fifth', past: minutes(1, 2, 3, 4, 5), expected: [180, 300, 5] },
  {
    that: 'the order of the outages does not matter',
    past: minutes(4, 1, 5, 3, 2),
    expected: [180, 300, 5],
  },
  {
    that: 'lengths are compared as numbers',
    past: minutes(9, 10, 100, 2, 30),
    expected: [600, 6000, 5],
  },
  {
    that: 'of ten outages, the fifth and the ninth, without interpolation',
    past: minutes(10, 20, 30, 40, 50, 60, 70, 80, 90, 1000),
    expected: [3000, 5400, 10],
  },
  {
    that: 'of eleven outages, the sixth and the tenth',
    past: minutes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
    expected: [360, 600, 11],
  },
  { that: 'equal lengths', past: minutes(7, 7, 7, 7, 7), expected: [420, 420, 5] },
  {
    that: 'an outage that lasted exactly as long as this one counts',
    past: minutes(1, 2, 3, 4, 5),
    elapsedMs: 60_000,
    expected: [180, 300, 5],
  },
  {
    that: 'an outage that was slightly shorter does not count, and four are too few',
    past: minutes(1, 2, 3, 4, 5),
    elapsedMs: 60_000.001,
    expected: null,
  },
  {
    that: 'only outages that lasted at least as long count',
    past: minutes(1, 1, 1, 1, 60, 70, 80, 90, 100),
    elapsedMs: 120_000,
    expected: [4800, 6000, 5],
  },
  {
    that: 'an outage that is longer than all before',
    past: minutes(1, 2, 3, 4, 5, 6),
    elapsedMs: 3_600_000,
    expected: null,
  },
  {
    that: 'lengths are in whole seconds',
    past: [1499, 1500, 1501, 61_400, 61_600],
    expected: [2, 62, 5],
  },
]

for (const { that, past, elapsedMs = 0, expected } of FORECASTS) {
  test(`${that}: ${expected ?? 'no forecast'}`, () => {
    const result = forecast(ofWaiting(past), 'waiting', elapsedMs)
    assert.deepEqual(result && [result.p50Seconds, result.p90Seconds, result.samples], expected)
  })
}

test('a forecast is based on the outages of its cause, and their number determines its confidence', () => {
  const past = (cause: PastOutage['cause'], count: number) =>
    Array.from(
      { length: count },
      (): PastOutage => ({ cause, lengthMs: cause === 'waiting' ? 3_600_000 : 20_000 }),
    )
  for (const [waiting, unreachable] of [
    [4, 30],
    [5, 29],
    [9, 10],
    [10, 9],
    [29, 5],
    [30, 4],
  ] as const) {
    const mixed = [...past('waiting', waiting), ...past('unreachable', unreachable)]
    for (const [cause, count, seconds] of [
      ['waiting', waiting, 3600],
      ['unreachable', unreachable, 20],
    ] as const) {
      const confidence = count < 10 ? 'low' : count < 30 ? 'fair' : 'good'
      const expected = { cause, p50Seconds: seconds, p90Seconds: seconds, samples: count, confidence }
      assert.deepEqual(forecast(mixed, cause, 10_000), count < 5 ? null : expected)
    }
    assert.equal(forecast(mixed, 'starting', 0), null)
  }
})

test('the outage history is not modified', () => {
  const past = Object.freeze(ofWaiting(minutes(5, 4, 3, 2, 1)))
  forecast(past, 'waiting', 0)
  assert.deepEqual(past, ofWaiting(minutes(5, 4, 3, 2, 1)))
})

test('for any history: at least half lasted no longer than the median, and nine tenths no longer than the decile', () => {
  const anyLengths = fc.array(fc.integer({ min: 0, max: 1e5 }), { maxLength: 60 })
  fc.assert(
    fc.property(anyLengths, fc.nat(1e5), (lengths, elapsed) => {
      const past = lengths.map(seconds => seconds * 1000)
      const alike = lengths.filter(seconds => seconds >= elapsed)
      const result = forecast(ofWaiting(past), 'waiting', elapsed * 1000)
      assert.equal(result === null, alike.length < 5)
      if (result === null) return
      assert.equal(result.samples, alike.length)
      for (const [seconds, tenths] of [
        [result.p50Seconds, 5],
        [result.p90Seconds, 9],
      ] as const) {
        // Nearest rank: the smallest length that this many tenths do not exceed.
        const notLonger = alike.filter(length => length <= seconds).length
        const shorter = alike.filter(length => length < seconds).length
        assert.ok(alike.includes(seconds))
        assert.ok(10 * notLonger >= tenths * alike.length)
        assert.ok(10 * shorter < tenths * alike.length)
      }
      assert.ok(result.p50Seconds <= result.p90Seconds && result.p50Seconds >= elapsed)
    }),
  )
})

test('an outage begins with the reading that opened it, at the time of that reading, with nothing refused', () => {
  const reading = { at: 7, source: 'configure', kind: 'waiting', metadata: {}, missing: ['prr'] } as const
  assert.deepEqual(beganBy(reading, 'waiting'), {
    startedAt: 7,
    endedAt: null,
    cause: 'waiting',
    openedBy: reading,
    closedBy: null,
    causeSince: 7,
    ...{ refused: 0, wouldRefuse: 0, spared: 0, operations: 0, restarts: 0 },
  })
})

const DURING: readonly (readonly [period: readonly [number, number | null], expected: boolean])[] = [
  [[0, 9], false],
  // The readings that opened it belong to it.
  [[0, 10], true],
  [[8, 12], true],
  [[12, 15], true],
  [[5, 25], true],
  [[19, null], true],
  [[0, null], true],
  [[20, 22], false],
  [[21, null], false],
]
for (const [[from, to], expected] of DURING) {
  test(`an unreachable period from ${from} to ${to ?? 'now'} ${expected ? 'falls' : 'does not fall'} into an outage from 10 to 20`, () => {
    const reading = { at: 10, source: 'probe', kind: 'unreachable', problem: '' } as const
    const outage = { ...beganBy(reading, 'unreachable'), endedAt: 20 }
    assert.equal(isDuring({ from, to, problem: '' }, outage), expected)
    // Any later period falls into an outage that still lasts.
    assert.equal(isDuring({ from, to, problem: '' }, { ...outage, endedAt: null }), to === null || to >= 10)
  })
}

const LATEST = 1_000_000

/** Times on both sides of `LATEST`, near and far: 9999-12-31 is the last one that a file can contain. */
const TIME = fc.oneof(
  fc.integer({ min: LATEST - 5, max: LATEST + 5 }),
  fc.integer({ min: 0, max: 2 * LATEST }),
  fc.constantFrom(-62_135_596_800_000, 253_402_300_799_999),
)
const END = fc.option(TIME)
const outageOf = (from: number, to: number | null, openedAt: number, closedAt: number | null): Outage => ({
  ...beganBy({ at: openedAt, source: 'probe', kind: 'waiting', metadata: {}, missing: [] }, 'waiting'),
  startedAt: from,
  endedAt: to,
  closedBy: closedAt === null ? null : { at: closedAt, source: 'probe', kind: 'ready', metadata: {} },
})

test('for any times in the history: none is later than now, no end is before its start, and nothing is lost', () => {
  const outage = fc.tuple(TIME, END, TIME, END).map(times => outageOf(...times))
  const property = fc.property(fc.array(outage, { maxLength: 8 }), outages => {
    const right = correctedOutages(outages, LATEST)
    assert.equal(right.length, outages.length)
    right.forEach((each, index) => {
      const before = outages[index]
      const { startedAt, endedAt, openedBy, closedBy } = each
      for (const at of [startedAt, endedAt ?? startedAt, openedBy.at, closedBy?.at ?? 0])
        assert.ok(at <= LATEST)
      assert.ok((endedAt ?? LATEST) >= startedAt)
      assert.equal(endedAt === null, before?.endedAt === null)
      // A valid start stays, and so does a valid end.
      if (before !== undefined && before.startedAt <= LATEST) {
        assert.equal(startedAt, before.startedAt)
        if (before.endedAt !== null && before.endedAt >= startedAt && before.endedAt <= LATEST)
          assert.equal(endedAt, before.endedAt)
      }
    })
    // Correcting twice gives the same result.
    const again = correctedOutages(right, LATEST)
    again.forEach((each, index) => {
      assert.equal(each, right[index])
    })
  })
  fc.assert(property, { numRuns: 2000 })
})

test('for any times of unreachable periods: none is later than now, and no end is before its start', () => {
  const period = fc.record({ from: TIME, to: END, problem: fc.constant('') })
  const property = fc.property(fc.array(period, { maxLength: 8 }), periods => {
    const right = correctedPeriods(periods, LATEST)
    assert.equal(right.length, periods.length)
    for (const { from, to } of right)
      assert.ok(from <= LATEST && (to === null || (to >= from && to <= LATEST)))
    correctedPeriods(right, LATEST).forEach((each, index) => {
      assert.equal(each, right[index])
    })
  })
  fc.assert(property, { numRuns: 2000 })
})

test('outages that began in the future keep their order and start at different times, before later ones', () => {
  const outages = [outageOf(10, 20, 10, 20), outageOf(2e6, 3e6, 2e6, 3e6), outageOf(4e6, 5e6, 4e6, 5e6)]
  const latest = outageOf(500, null, 500, null)
  assert.deepEqual(
    correctedOutages([...outages, latest], LATEST).map(({ startedAt, endedAt }) => [startedAt, endedAt]),
    [
      [10, 20],
      [498, 499],
      [499, 500],
      [500, null],
    ],
  )
  assert.deepEqual(
    correctedOutages(outages, LATEST).map(({ startedAt }) => startedAt),
    [10, LATEST - 1, LATEST],
  )
})

test('a record with possible times is not modified', () => {
  const outages = [outageOf(10, 20, 10, 20), outageOf(30, 30, 30, 30), outageOf(LATEST, null, LATEST, null)]
  correctedOutages(outages, LATEST).forEach((each, index) => {
    assert.equal(each, outages[index])
  })
})
