import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DECLARED_BY } from '../../src/domain/override.js'
import { rfc3339 } from '../../src/domain/time.js'
import { phaseOf } from '../../src/domain/timeline.js'
import { RecentHours } from '../../src/observability/recent-hours.js'
import { ask, OPERATOR, setUp, setUpWithTimers } from '../support/breaker-set-up.js'
import { memoryStore } from '../support/memory-store.js'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS

test('the states are those that the circuit entered, with their causes', () => {
  const { breaker, clock, see } = setUp()
  const recentHours = new RecentHours(breaker, clock)
  recentHours.attach(breaker)
  see('+ -x xx ++++++')
  assert.deepEqual(recentHours.past().states, [
    { from: 0, state: 'open', cause: 'starting', override: null },
    { from: 1000, state: 'closed', cause: null, override: null },
    { from: 2000, state: 'open', cause: 'waiting', override: null },
    { from: 3000, state: 'open', cause: 'unreachable', override: null },
    { from: 7000, state: 'half-open', cause: 'unreachable', override: null },
    { from: 10_000, state: 'closed', cause: null, override: null },
  ])
})

test('refusals are counted per minute, and minutes without any are omitted', () => {
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
  pass(MINUTE_MS)
  ask(breaker)
  assert.deepEqual(recentHours.past().refused, [
    { minute: 0, refused: 2, wouldRefuse: 0 },
    { minute: 2 * MINUTE_MS, refused: 1, wouldRefuse: 1 },
    { minute: 3 * MINUTE_MS, refused: 0, wouldRefuse: 1 },
  ])
})

test('entries older than six hours are dropped, except the state that was in force at that time', () => {
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
    states: [{ from: now - 6 * HOUR_MS, state: 'open', cause: 'waiting', override: null }],
    refused: [{ minute: 5 * HOUR_MS, refused: 1, wouldRefuse: 0 }],
  })
})

test('an override is in the timeline from its start to its end, and the states continue underneath', t => {
  const { breaker, clock, see, pass } = setUpWithTimers(t)
  const recentHours = new RecentHours(breaker, clock)
  recentHours.attach(breaker)
  const phases = () => recentHours.past().states.map(each => `${each.from / 1000} ${phaseOf(each)}`)
  see('+-')
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, OPERATOR)
  see('-x')
  breaker.setOverride({ state: 'open', reason: 'amplifier', forSeconds: 10, silent: true }, OPERATOR)
  see('xxx')
  breaker.setOverride({ state: 'open', reason: 'amplifier', forSeconds: 2 }, OPERATOR)
  pass(3000, 1000)
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 10 }, OPERATOR)
  pass(1000)
  breaker.removeOverride(OPERATOR)
  assert.deepEqual(phases(), [
    '0 starting',
    '1 ready',
    '2 let-through',
    '4 maintenance',
    '7 stopped',
    '9 unreachable',
    '10 let-through',
    '11 unreachable',
  ])
})

test('an override whose end is noticed late ended on time, and the one below it was in force again', () => {
  const { breaker, clock, see, pass } = setUp()
  const recentHours = new RecentHours(breaker, clock)
  recentHours.attach(breaker)
  see('+')
  const declared = { state: 'open', reason: 'declared', since: 1000, until: 1e9, by: DECLARED_BY } as const
  breaker.declareOverride(declared)
  pass(1000)
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 5 }, OPERATOR)
  pass(20_000)
  breaker.setOverride({ state: 'open', reason: 'more', forSeconds: 5, silent: true }, OPERATOR)
  assert.deepEqual(
    recentHours.past().states.map(each => `${each.from / 1000} ${phaseOf(each)}`),
    ['0 starting', '1 stopped', '2 let-through', '7 stopped', '22 maintenance'],
  )
})

test('the timeline of earlier processes is continued, without repeated spans', () => {
  const state = (from: number, state: string | null, cause: string | null) =>
    [rfc3339(from), { from: rfc3339(from), state, cause, override: null }] as const
  const left = [
    state(0, 'open', 'starting'),
    state(1000, 'closed', null),
    state(2000, 'closed', null),
    state(3000, 'open', 'waiting'),
    state(5000, null, null),
    state(6000, null, null),
  ]
  const underWay = { openedAt: 3000, cause: 'waiting', causeSince: 3000 } as const
  const { breaker, clock, see } = setUp({}, { underWay }, 9000)
  const store = memoryStore({ state: left })
  const recentHours = new RecentHours(breaker, clock, { store, lifetime: { since: 0, earlierEnd: 5000 } })
  recentHours.attach(breaker)
  see('-')
  assert.deepEqual(
    recentHours.past().states.map(each => `${each.from / 1000} ${phaseOf(each)} ${each.cause}`),
    ['0 starting starting', '1 ready null', '3 waiting waiting', '5 not-running null', '9 waiting waiting'],
  )
})
