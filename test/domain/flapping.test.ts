import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Circuit } from '../../src/domain/circuit.js'
import { closed, draw, play, type Rules } from '../support/play.js'

// The default thresholds: 1 waiting, 3 unreachable, 2 ready in a row. The ramp is as long as three readings.
const FLAPPING: readonly {
  readonly that: string
  readonly rules?: Rules
  readonly given: string
  readonly states: string
  readonly transitions: number
}[] = [
  {
    that: 'one slow probe in ten has no effect',
    given: '+++++++++x +++++++++x +++++++++x',
    states: 'cccccccccc cccccccccc cccccccccc',
    transitions: 0,
  },
  {
    that: 'a slow probe after each good one has no effect',
    given: 'x+x+x+x+x+ x+x+x+x+x+',
    states: 'cccccccccc cccccccccc',
    transitions: 0,
  },
  {
    that: 'two slow probes for each good one have no effect',
    given: 'xx+xx+xx+xx',
    states: 'ccccccccccc',
    transitions: 0,
  },
  {
    that: 'three slow probes in a row count as an unreachable upstream',
    given: '+xx+xxx ++ ++++',
    states: 'cccccco oh hhcc',
    transitions: 3,
  },
  {
    that: 'one waiting reading in ten is an outage with a ramp each time',
    given: '+++++++++- +++++++++- +++++++++-',
    states: 'ccccccccco ohhhccccco ohhhccccco',
    transitions: 7,
  },
  {
    that: 'one waiting reading in ten has no effect with a threshold of two',
    rules: { thresholds: { waiting: 2 } },
    given: '+++++++++- +++++++++- +++++++++-',
    states: 'cccccccccc cccccccccc cccccccccc',
    transitions: 0,
  },
  {
    that: 'if every other reading is waiting, it is one outage that does not end',
    given: '+-+-+-+-+- +-+-+-+-+-',
    states: 'cooooooooo oooooooooo',
    transitions: 1,
  },
  {
    that: 'one waiting reading in three admits a few requests repeatedly, within the same outage',
    given: '+- ++- ++- ++- ++-',
    states: 'co oho oho oho oho',
    transitions: 9,
  },
  {
    that: 'with one waiting reading in six, the circuit closes in between for one reading',
    given: '- +++++ - +++++ -',
    states: 'o ohhhc o ohhhc o',
    transitions: 7,
  },
  {
    that: 'an occasional slow probe does not change an outage',
    given: '---x----x- xx--',
    states: 'oooooooooo oooo',
    transitions: 1,
  },
  {
    that: 'alternating waiting and slow probes are one outage',
    given: '+-x-x-x-x-x',
    states: 'coooooooooo',
    transitions: 1,
  },
  {
    // The count starts again, so that no request is admitted while the state of the upstream is uncertain.
    that: 'a slow probe after each good one keeps an open circuit open',
    given: '- +x+x+x+x+x ++',
    states: 'o oooooooooo oh',
    transitions: 2,
  },
  {
    // Half-open has no threshold: a slow probe may be caused by the requests that were just admitted.
    that: 'one slow probe in a recovery ends it, though it would not open a closed circuit',
    given: '- ++ x ++ + x ++ +++ x+x+',
    states: 'o oh o oh h o oh hhc cccc',
    transitions: 7,
  },
]

for (const { that, rules = {}, given, states, transitions } of FLAPPING) {
  test(`${that}: ${given} makes ${states}`, () => {
    const drawn = draw(play(given, closed, rules))
    assert.equal(drawn, states.replaceAll(' ', ''))
    assert.equal(countOfChanges(`c${drawn}`), transitions)
  })
}

test('a fiber that flaps during an outage does not change its start', () => {
  const begun = play('+- ++- ++- ++x ++-').flatMap(circuit =>
    'openedAt' in circuit ? [circuit.openedAt] : [],
  )
  assert.deepEqual([...new Set(begun)], [2000])
})

test('for any history: slow probes alone, if fewer in a row than the threshold, cause no transition', () => {
  const anyRun = fc.record({ slow: fc.nat(2), good: fc.integer({ min: 1, max: 4 }) })
  fc.assert(
    fc.property(fc.array(anyRun), runs => {
      const given = runs.map(({ slow, good }) => 'x'.repeat(slow) + '+'.repeat(good)).join('')
      const circuits: readonly Circuit[] = play(given)
      assert.ok(circuits.every(({ state, since }) => state === 'closed' && since === 0))
    }),
  )
})

function countOfChanges(states: string): number {
  return [...states].filter((state, index) => index > 0 && state !== states[index - 1]).length
}
