import assert from 'node:assert/strict'
import { test } from 'node:test'
import { phaseOf, type TimelineEntry, withCause, withoutRepeats } from '../../src/domain/timeline.js'
import { CAUSES, CIRCUIT_STATES, PHASES } from '../../src/domain/vocabulary.js'

const OVERRIDES = [
  null,
  { state: 'open', silent: false },
  { state: 'open', silent: true },
  { state: 'closed', silent: false },
] as const

test('an override outranks the circuit in every state, and a time without focus-breaker outranks both', () => {
  const seen = new Set<string>()
  for (const override of OVERRIDES) {
    const outranking =
      override && (override.state === 'closed' ? 'let-through' : override.silent ? 'maintenance' : 'stopped')
    const phaseFor = (state: TimelineEntry['state'], cause: TimelineEntry['cause']) => {
      const phase = phaseOf({ state, cause, override })
      seen.add(phase)
      return phase
    }
    assert.equal(phaseFor(null, null), 'not-running')
    for (const state of CIRCUIT_STATES) {
      for (const cause of state === 'closed' ? [null] : CAUSES) {
        const alone = state === 'closed' ? 'ready' : state === 'half-open' ? 'recovering' : cause
        assert.equal(phaseFor(state, cause), outranking ?? alone)
      }
    }
  }
  assert.deepEqual([...seen].sort(), [...PHASES].sort())
})

test('a new cause begins in the timeline when it began, also before intermediate changes', () => {
  const entry = (from: number, cause: TimelineEntry['cause'], index: 0 | 1 = 0): TimelineEntry => ({
    from,
    state: 'open',
    cause,
    override: OVERRIDES[index],
  })
  const before = [entry(0, 'waiting'), entry(10, 'waiting', 1)]
  assert.deepEqual(withCause(before, 20, 'unreachable'), [...before, entry(20, 'unreachable', 1)])
  assert.deepEqual(withCause(before, 10, 'unreachable'), [before[0], entry(10, 'unreachable', 1)])
  assert.deepEqual(withCause(before, 5, 'unreachable'), [
    before[0],
    entry(5, 'unreachable'),
    entry(10, 'unreachable', 1),
  ])
  const notRunning = { from: 12, state: null, cause: null, override: null } as const
  assert.deepEqual(withCause([...before, notRunning, entry(15, 'starting')], 10, 'waiting'), [
    ...[before[0], entry(10, 'waiting', 1), notRunning, entry(15, 'waiting')],
  ])
  // If earlier entries were forgotten, the new entry is the only one.
  assert.deepEqual(withCause([], 5, 'unreachable'), [entry(5, 'unreachable')])
})

test('an entry that equals the one before it is left out, and no other', () => {
  const all = [null, ...CIRCUIT_STATES].flatMap(state =>
    [null, ...CAUSES].flatMap(cause => OVERRIDES.map(override => ({ state, cause, override }))),
  )
  const entries = all.flatMap((each, index) => [
    { ...each, from: 2 * index },
    { ...each, override: each.override && { ...each.override }, from: 2 * index + 1 },
  ])
  assert.deepEqual(
    withoutRepeats(entries),
    entries.filter(({ from }) => from % 2 === 0),
  )
})
