import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { concurrencyAt } from '../../src/domain/recovery.js'
import { anyRules, thresholds } from '../support/play.js'

const recovery = { initialConcurrency: 2, maxConcurrency: 30, rampMs: 10_000 }
const STARTED_AT = 1_000_000

const RAMP: readonly (readonly [elapsedMs: number, concurrency: number])[] = [
  [-5000, 2],
  [0, 2],
  [357, 2],
  [358, 3],
  [5000, 16],
  [9999, 29],
  [10_000, 30],
  [1e9, 30],
]

for (const [elapsedMs, concurrency] of RAMP) {
  test(`${elapsedMs} ms into the ramp ${concurrency} requests may be in flight`, () => {
    assert.equal(concurrencyAt(STARTED_AT + elapsedMs, STARTED_AT, recovery), concurrency)
  })
}

test('without a ramp, the maximum applies at once', () => {
  assert.equal(concurrencyAt(0, 0, { ...recovery, rampMs: 0 }), 30)
})

test('a ramp between equal numbers is flat', () => {
  const flat = { initialConcurrency: 3, maxConcurrency: 3, rampMs: 100 }
  assert.deepEqual(
    [0, 50, 100].map(at => concurrencyAt(at, 0, flat)),
    [3, 3, 3],
  )
})

test('for any ramp: a whole number, never below the initial, never above the maximum, never falling', () => {
  const anyTimes = fc.array(fc.double({ min: -1e4, max: 1e5, noNaN: true }))
  const noRamp = { thresholds, recovery: { ...recovery, rampMs: 0 } }
  fc.assert(
    fc.property(anyRules, anyTimes, ({ recovery }, times) => {
      let before = recovery.initialConcurrency
      for (const now of times.toSorted((a, b) => a - b)) {
        const concurrency = concurrencyAt(now, 0, recovery)
        assert.ok(Number.isInteger(concurrency), `${concurrency} at ${now} ms`)
        assert.ok(concurrency >= before && concurrency <= recovery.maxConcurrency)
        before = concurrency
      }
    }),
    { examples: [[noRamp, [-1]]] },
  )
})
