import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RecentHours } from '../../src/observability/recent-hours.js'
import { ask, setUp } from '../support/breaker-set-up.js'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS

test('the states are those that the circuit entered, with their causes', () => {
  const { breaker, clock, see } = setUp()
  const recentHours = new RecentHours(breaker, clock)
  recentHours.attach(breaker)
  see('+ -x xx ++++++')
  assert.deepEqual(recentHours.past().states, [
    { from: 0, state: 'open', cause: 'starting' },
    { from: 1000, state: 'closed', cause: null },
    { from: 2000, state: 'open', cause: 'waiting' },
    { from: 5000, state: 'open', cause: 'unreachable' },
    { from: 7000, state: 'half-open', cause: 'unreachable' },
    { from: 10_000, state: 'closed', cause: null },
  ])
})

test('refusals are counted by the minute, and minutes without any are left out', () => {
  const { breaker, clock, see, pass, change } = setUp()
  const recentHours = new RecentHours(breaker, clock)
  recentHours.attach(breaker)
  see('+-')
  ask(breaker)
  ask(breaker)
  pass(2 * MINUTE_MS)
  ask(breaker)
  change({ mode: 'observe' })
  ask(breaker)
  assert.deepEqual(recentHours.past().refused, [
    { minute: 0, count: 2 },
    { minute: 2 * MINUTE_MS, count: 1 },
  ])
})

test('what is older than six hours is dropped, and the state of that time is kept', () => {
  const { breaker, clock, see, pass } = setUp()
  const recentHours = new RecentHours(breaker, clock)
  recentHours.attach(breaker)
  see('+-')
  ask(breaker)
  pass(5 * HOUR_MS)
  ask(breaker)
  pass(2 * HOUR_MS)
  const now = 7 * HOUR_MS + 2000
  assert.deepEqual(recentHours.past(), {
    from: now - 6 * HOUR_MS,
    to: now,
    states: [{ from: now - 6 * HOUR_MS, state: 'open', cause: 'waiting' }],
    refused: [{ minute: 5 * HOUR_MS, count: 1 }],
  })
})
