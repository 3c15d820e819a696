import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { CommonClock } from '../../src/replicas/common-clock.js'

function setUp() {
  const steady = { now: 1000 }
  return { steady, clock: new CommonClock(() => steady.now) }
}

test('before the common time is known, the clock is that of the process', () => {
  const { steady, clock } = setUp()
  steady.now = 1500
  assert.equal(clock.now(), 1500)
  assert.equal(clock.common(), 1500)
  assert.equal(clock.toCommon(1400), 1400)
})

test('the clock jumps forward to the common time and continues from there', () => {
  const { steady, clock } = setUp()
  clock.correct(6000)
  assert.equal(clock.now(), 6000)
  steady.now += 100
  assert.equal(clock.now(), 6100)
})

test('when it is ahead of the common time, the clock runs at half speed until both agree', () => {
  const { steady, clock } = setUp()
  clock.correct(500)
  assert.equal(clock.now(), 1000)
  assert.equal(clock.toCommon(1000), 500)
  steady.now += 400
  assert.equal(clock.now(), 1200)
  assert.equal(clock.common(), 900)
  assert.equal(clock.toCommon(1200), 900)
  steady.now += 600
  assert.equal(clock.now(), 1500)
  assert.equal(clock.common(), 1500)
  steady.now += 100
  assert.equal(clock.now(), 1600)
})

test('a difference that the round trip to Redis can explain is not corrected', () => {
  const { clock } = setUp()
  clock.compare(900, 180)
  assert.equal(clock.common(), 1000)
  clock.compare(920, 140)
  assert.equal(clock.common(), 1000)
  clock.compare(1100, 20)
  assert.equal(clock.common(), 1110)
})

test('before anything is dated, the clock may go back', () => {
  const { clock } = setUp()
  clock.correct(500, true)
  assert.equal(clock.now(), 500)
})

test('whatever the corrections, the clock never goes back, and reaches the common time', () => {
  const anyStep = fc.record({
    passedMs: fc.integer({ min: 0, max: 5000 }),
    correctionMs: fc.option(fc.integer({ min: -5000, max: 5000 })),
  })
  fc.assert(
    fc.property(fc.array(anyStep), steps => {
      const { steady, clock } = setUp()
      let latest = clock.now()
      for (const { passedMs, correctionMs } of steps) {
        steady.now += passedMs
        assert.ok(clock.now() >= latest)
        latest = clock.now()
        if (correctionMs !== null) clock.correct(clock.common() + correctionMs)
        assert.ok(clock.now() >= latest)
        assert.ok(clock.now() >= clock.common())
        latest = clock.now()
      }
      steady.now += 2 * (clock.now() - clock.common())
      assert.ok(Math.abs(clock.now() - clock.common()) < 1e-6)
    }),
  )
})
