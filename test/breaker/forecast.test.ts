import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Forecast } from '../../src/domain/outage.js'
import { OPERATOR, setUp } from '../support/breaker-set-up.js'
import { recovery, thresholds } from '../support/play.js'

/** One good reading ends an outage, so that its length is the number of its bad readings. */
const PROMPT = { thresholds: { ...thresholds, ready: 1 }, recovery: { ...recovery, rampMs: 0 } }

/** A forecast for a missing fiber. */
function forecastOf(p50Seconds: number, p90Seconds: number, samples: number): Forecast {
  const confidence = samples < 10 ? 'low' : samples < 30 ? 'fair' : 'good'
  return { cause: 'waiting', p50Seconds, p90Seconds, samples, confidence }
}

/** A closed breaker after outages of these lengths. */
function after(...seconds: readonly number[]) {
  const all = setUp(PROMPT)
  all.see('+')
  for (const length of seconds) all.see(`${'-'.repeat(length)}+`)
  return all
}

test('a forecast has the median, the ninth decile and the number of past outages', () => {
  const { breaker, see } = after(10, 20, 30, 40, 50)
  assert.equal(breaker.forecast(), null)
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(30, 50, 5))
})

test('an outage that continues after a restart keeps its age', () => {
  const { breaker, see, emitted } = setUp(
    {},
    {
      outages: [10, 20, 30, 40, 50, 300, 300, 300, 300, 300].map(each => ({
        cause: 'waiting',
        lengthMs: each * 1000,
      })),
      underWay: { openedAt: -100_000, cause: 'waiting', causeSince: -100_000 },
    },
  )
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(300, 300, 5))
  see('+++++')
  assert.equal(emitted.at(-1), 'half-open to closed, waiting, after 106000 ms')
})

test('after four outages there is no forecast', () => {
  const { breaker, see } = after(10, 20, 30, 40)
  see('-')
  assert.equal(breaker.forecast(), null)
})

test('the longer an outage lasts, the more shorter ones are excluded, until too few are left', () => {
  const { breaker, see, pass } = after(5, 10, 20, 30, 40, 50, 60)
  see('-')
  const saidIn = (inMs: number) => {
    pass(inMs)
    const { p50Seconds, p90Seconds, samples } = breaker.forecast() ?? {}
    return [p50Seconds, p90Seconds, samples]
  }
  assert.deepEqual(saidIn(0), [30, 60, 7])
  assert.deepEqual(saidIn(5000), [30, 60, 7])
  assert.deepEqual(saidIn(1000), [30, 60, 6])
  assert.deepEqual(saidIn(4000), [30, 60, 6])
  assert.deepEqual(saidIn(1000), [40, 60, 5])
  assert.deepEqual(saidIn(9000), [40, 60, 5])
  assert.deepEqual(saidIn(1000), [undefined, undefined, undefined])
})

test('the forecast is the same within one second, and new in the next outage', () => {
  const { breaker, see } = after(10, 20, 30, 40, 50)
  see('-')
  const first = breaker.forecast()
  assert.equal(breaker.forecast(), first)
  see(`${'-'.repeat(99)}+-`)
  assert.deepEqual(breaker.forecast(), forecastOf(30, 100, 6))
})

test('the ramp is part of an outage, and so is a recovery that failed', () => {
  const { breaker, see } = setUp()
  see('+')
  // Six seconds from opening to closing; the last outage takes eleven, with a failed recovery.
  for (let count = 0; count < 4; count += 1) see('--+++++')
  see('--++x-+++++')
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(6, 10, 5))
})

test('there is a forecast during the recovery too, but not after the circuit closes', () => {
  const { breaker, see, state } = setUp()
  see('+')
  for (let count = 0; count < 5; count += 1) see('-+++++')
  see('-++')
  assert.equal(state(), 'half-open')
  assert.deepEqual(breaker.forecast(), forecastOf(5, 5, 5))
  see('+++')
  assert.deepEqual([state(), breaker.forecast()], ['closed', null])
})

test('before the first reading there is no forecast, and the start does not count as an outage', () => {
  const { breaker, see } = setUp(PROMPT)
  assert.equal(breaker.forecast(), null)
  see('+')
  for (let count = 0; count < 4; count += 1) see('-+')
  see('-')
  assert.equal(breaker.forecast(), null)
})

test('an outage that is in progress at the start counts from its first reading', () => {
  const { breaker, see } = setUp(PROMPT)
  see('---+')
  for (let count = 0; count < 4; count += 1) see('---+')
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(3, 3, 5))
})

test('a manual override is not an outage', () => {
  const { breaker, pass, see } = after(10, 20, 30, 40)
  for (let count = 0; count < 5; count += 1) {
    breaker.setOverride({ state: 'open', reason: 'maintenance', forSeconds: 600 }, OPERATOR)
    assert.equal(breaker.forecast(), null)
    pass(5000)
    breaker.removeOverride(OPERATOR)
  }
  see('-')
  assert.equal(breaker.forecast(), null)
})

test('the last thousand outages are remembered', () => {
  const { breaker, see } = after(50, ...Array(1000).fill(2))
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(2, 2, 1000))
})

test('an outage whose cause changes is compared with those that ended with its current cause', () => {
  const { breaker, see } = setUp({ ...PROMPT, thresholds: { ...PROMPT.thresholds, unreachable: 1 } })
  see('+')
  for (let count = 0; count < 10; count += 1) see('-------+')
  for (let count = 0; count < 5; count += 1) see('xx+')
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(7, 7, 10))
  see('x')
  const { cause, p50Seconds, samples } = breaker.forecast() ?? {}
  assert.deepEqual({ cause, p50Seconds, samples }, { cause: 'unreachable', p50Seconds: 2, samples: 5 })
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(7, 7, 10))
})

test('many outages of one cause do not displace those of the other', () => {
  const { breaker, see } = setUp({ ...PROMPT, thresholds: { ...PROMPT.thresholds, unreachable: 1 } })
  see('+')
  for (let count = 0; count < 5; count += 1) see('--+')
  see('x+'.repeat(1100))
  see('-')
  assert.deepEqual(breaker.forecast(), forecastOf(2, 2, 5))
})
