import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Circuit, startingCircuit, step, type Thresholds } from '../../src/domain/circuit.js'
import { decide } from '../../src/domain/decision.js'
import type { Reading } from '../../src/domain/reading.js'
import type { Recovery } from '../../src/domain/recovery.js'
import {
  after,
  anyHistory,
  anyRules,
  closed,
  draw,
  play,
  type Rules,
  readings,
  recovery,
  STEP_MS,
  starting,
  thresholds,
} from '../support/play.js'

const HISTORIES: readonly {
  readonly that: string
  readonly from?: Circuit
  readonly rules?: Rules
  readonly given: string
  readonly states: string
}[] = [
  { that: 'a new circuit closes at the first good reading', from: starting, given: '+', states: 'c' },
  {
    that: 'a new circuit is not moved by bad readings',
    from: starting,
    given: '-x-xxxx',
    states: 'ooooooo',
  },
  {
    that: 'an outage that was seen at the start ends like any other',
    from: starting,
    given: '-++ +++',
    states: 'ooh hhc',
  },
  { that: 'one waiting reading opens', given: '+-', states: 'co' },
  {
    that: 'waiting readings in a row open the circuit',
    rules: { thresholds: { waiting: 3 } },
    given: '--+ ---',
    states: 'ccc cco',
  },
  { that: 'unreachable readings in a row open', given: 'xx+ xxx', states: 'ccc cco' },
  {
    that: 'alternating kinds of bad readings open the circuit too',
    rules: { thresholds: { waiting: 3 } },
    given: 'x-x-x',
    states: 'cccco',
  },
  {
    that: 'a fiber that flaps faster than the threshold does not open the circuit',
    rules: { thresholds: { waiting: 2 } },
    given: '-+-+-+-+',
    states: 'cccccccc',
  },
  {
    that: 'a fiber that flaps while the circuit is open keeps it open',
    given: '-+-+-+-+',
    states: 'oooooooo',
  },
  { that: 'good readings in a row start the recovery', given: '-+ ++', states: 'oo hh' },
  {
    that: 'one good reading starts the recovery if the threshold is one',
    rules: { thresholds: { ready: 1 } },
    given: '-+',
    states: 'oh',
  },
  {
    that: 'a bad reading of either kind resets the count of good ones',
    rules: { thresholds: { ready: 3 } },
    given: '-++-++x+++',
    states: 'oooooooooh',
  },
  {
    that: 'one bad reading ends a recovery',
    from: closed,
    given: '--++-+++',
    states: 'oohoohh'.replace('oohoohh', 'ooohoohh'),
  },
  { that: 'one unreachable reading ends a recovery, whatever the threshold', given: '-++x', states: 'ooho' },
  { that: 'a ramp without a bad reading closes', given: '-++++ +', states: 'oohhh c' },
  {
    that: 'a recovery without a ramp closes the circuit at once',
    rules: { recovery: { rampMs: 0 } },
    given: '-++',
    states: 'ooc',
  },
  { that: 'a circuit that closed again opens as it did before', given: '-+++++ +-', states: 'oohhhc co' },
]

for (const { that, from = closed, rules = {}, given, states } of HISTORIES) {
  test(`${that}: ${given} makes ${states}`, () => {
    assert.equal(draw(play(given, from, rules)), states.replaceAll(' ', ''))
  })
}

test('a new circuit is open because there is no reading yet', () => {
  const { state, since, openedAt, cause } = assertOpen(startingCircuit(42))
  assert.deepEqual(
    { state, since, openedAt, cause },
    { state: 'open', since: 42, openedAt: 42, cause: 'starting' },
  )
})

test('an outage in progress at the start keeps its own start, whatever the first reading shows', () => {
  const resumed = startingCircuit(500, { openedAt: 100, cause: 'waiting', causeSince: 200 })
  assert.deepEqual(facts(resumed), { state: 'open', since: 500, openedAt: 100, cause: 'starting' })
  assert.deepEqual(facts(after('x', resumed)), {
    state: 'open',
    since: 1500,
    openedAt: 100,
    cause: 'unreachable',
  })
  assert.deepEqual(facts(after('-++-', resumed)).openedAt, 100)
})

test('a cause from before a restart keeps its age if the first reading shows it again', () => {
  for (const cause of ['waiting', 'unreachable'] as const) {
    const resumed = startingCircuit(500, { openedAt: 100, cause, causeSince: 200 })
    for (const mark of ['-', 'x']) {
      const isSame = (mark === '-') === (cause === 'waiting')
      assert.equal(facts(after(mark, resumed)).since, isSame ? 200 : 1500, `${cause}, then ${mark}`)
      // It is remembered only until the first reading.
      assert.equal(facts(after(`${mark}++${mark}`, resumed)).since, 4500)
    }
  }
})

test('times from before a restart that are later than the start, or earlier than their outage, are corrected', () => {
  const since = (openedAt: number, causeSince: number) => {
    const { openedAt: corrected, resumed } = assertOpen(
      startingCircuit(42, { openedAt, cause: 'waiting', causeSince }),
    )
    return [corrected, resumed?.causeSince]
  }
  assert.deepEqual(since(100, 100), [42, 42])
  assert.deepEqual(since(10, 100), [10, 42])
  assert.deepEqual(since(10, 5), [10, 10])
  assert.deepEqual(since(10, 20), [10, 20])
})

test('the cause is the kind of the reading, and the outage begins with the reading that opened the circuit', () => {
  assert.deepEqual(facts(after('+-')), { state: 'open', since: 2000, openedAt: 2000, cause: 'waiting' })
  assert.deepEqual(facts(after('+xxx')), { state: 'open', since: 4000, openedAt: 4000, cause: 'unreachable' })
  // One reading is enough if nothing was known before.
  assert.deepEqual(facts(after('x', starting)), {
    state: 'open',
    since: 1000,
    openedAt: 1000,
    cause: 'unreachable',
  })
})

test('a failed recovery belongs to the same outage', () => {
  assert.deepEqual(facts(after('-++')), { state: 'half-open', since: 3000, openedAt: 1000, cause: 'waiting' })
  assert.deepEqual(facts(after('-++x')), { state: 'open', since: 4000, openedAt: 1000, cause: 'unreachable' })
  assert.deepEqual(facts(after('-++x++-++')), {
    state: 'half-open',
    since: 9000,
    openedAt: 1000,
    cause: 'waiting',
  })
})

test('an outage that begins after the circuit closed has its own start', () => {
  assert.deepEqual(facts(after('-+++++-')), { state: 'open', since: 7000, openedAt: 7000, cause: 'waiting' })
})

test('the cause of an outage changes after as many readings of another kind in a row as would open the circuit', () => {
  const causes = (drawing: string) => play(drawing).map(circuit => facts(circuit).cause)
  assert.deepEqual(causes('-xxx-'), ['waiting', 'waiting', 'waiting', 'unreachable', 'waiting'])
  assert.deepEqual(causes('-xx-xx+x'), Array(8).fill('waiting'))
  // Readings from before the circuit opened do not count towards another cause.
  assert.equal(facts(after('xx-x')).cause, 'waiting')
})

test('the circuit is open for its cause since the first of the readings in a row that showed it', () => {
  const sinces = (drawing: string, rules = {}) =>
    play(drawing, closed, rules).map(({ state, since }) => `${state[0]}${since / 1000}`)
  assert.deepEqual(sinces('--xxxx'), ['o1', 'o1', 'o1', 'o1', 'o3', 'o3'])
  assert.deepEqual(sinces('-xx-xxx'), ['o1', 'o1', 'o1', 'o1', 'o1', 'o1', 'o5'])
  assert.deepEqual(sinces('-xx+xxx'), ['o1', 'o1', 'o1', 'o1', 'o1', 'o1', 'o5'])
  assert.deepEqual(sinces('-xxx-x-').slice(3), ['o2', 'o5', 'o5', 'o5'])
  assert.deepEqual(sinces('xxx--x', { thresholds: { waiting: 2 } }).slice(2), ['o3', 'o3', 'o4', 'o4'])
  // The state begins when the recovery failed, whatever the cause was before.
  assert.deepEqual(sinces('-++x-').slice(1), ['o1', 'h3', 'o4', 'o5'])
  assert.deepEqual(sinces('-++-xxx').slice(2), ['h3', 'o4', 'o4', 'o4', 'o5'])
})

test('one configure response that reports a missing fiber opens the circuit; an unreachable one does not', () => {
  const rules = { ...thresholds, waiting: 3 }
  const states = ['-', 'x', '+'].map(mark => {
    const [reading] = readings(mark)
    assert.ok(reading)
    return step(closed, { ...reading, source: 'configure' }, rules, recovery).state
  })
  assert.deepEqual(states, ['open', 'closed', 'closed'])
})

test('a reading older than the newest one changes nothing, and one of the same time counts', () => {
  for (const circuit of [after('+'), after('-+'), after('-++')]) {
    for (const mark of ['+', '-', 'x']) {
      const [reading] = readings(mark, circuit.judgedAt - STEP_MS)
      assert.ok(reading)
      assert.equal(step(circuit, { ...reading, at: reading.at - 0.001 }, thresholds, recovery), circuit)
    }
    assert.equal(draw([after('-', { ...circuit, judgedAt: circuit.judgedAt - STEP_MS })]), 'o')
  }
})

test('a circuit is plain data: it survives JSON unchanged', () => {
  for (const circuit of [...play('+-++x'), closed]) {
    assert.deepEqual(JSON.parse(JSON.stringify(circuit)), circuit)
  }
})

test('for any history: while it is not closed and the last reading is bad, no guarded request is admitted', () => {
  fc.assert(
    fc.property(anyHistory, anyRules, fc.nat(100_000), (history, rules, laterMs) => {
      for (const { circuit, reading } of run(history, rules)) {
        if (circuit.state === 'closed' || reading.kind === 'ready') continue
        assert.equal(admits(circuit, reading, rules, reading.at + laterMs), false)
      }
    }),
  )
})

test('for any history: with thresholds of 1, none is admitted while the last reading is bad', () => {
  fc.assert(
    fc.property(anyHistory, anyRules, fc.nat(100_000), (history, { recovery }, laterMs) => {
      const rules = { thresholds: { waiting: 1, unreachable: 1, ready: 1 }, recovery }
      for (const { circuit, reading } of run(history, rules)) {
        const admitted = admits(circuit, reading, rules, reading.at + laterMs)
        assert.equal(admitted, reading.kind === 'ready')
      }
    }),
  )
})

test('for any history: enough good readings close the circuit', () => {
  fc.assert(
    fc.property(anyHistory, anyRules, fc.integer({ min: 0, max: 2000 }), (history, rules, gapMs) => {
      let circuit = run(history, rules).at(-1)?.circuit ?? starting
      let { at } = history.at(-1) ?? { at: 0 }
      const good = (waitMs: number) => {
        at += waitMs
        circuit = step(circuit, { ...ready, at }, rules.thresholds, rules.recovery)
      }
      for (let count = 0; count < rules.thresholds.ready; count += 1) good(gapMs)
      assert.notEqual(circuit.state, 'open')
      good(rules.recovery.rampMs)
      assert.equal(circuit.state, 'closed')
    }),
  )
})

test('for any history: an outage ends only after the required number of good readings in a row', () => {
  fc.assert(
    fc.property(anyHistory, anyRules, (history, rules) => {
      let goodInRow = 0
      let previous = starting
      for (const { circuit, reading } of run(history, rules)) {
        goodInRow = reading.kind === 'ready' ? goodInRow + 1 : 0
        const wasOutage = previous.state === 'open' && previous.cause !== 'starting'
        if (wasOutage && circuit.state !== 'open') assert.ok(goodInRow >= rules.thresholds.ready)
        previous = circuit
      }
    }),
  )
})

test('for any history: a reading older than the newest one changes nothing', () => {
  fc.assert(
    fc.property(
      anyHistory,
      anyRules,
      fc.constantFrom('+', '-', 'x'),
      fc.double({ min: 0.001, max: 1e6, noNaN: true }),
      (history, rules, mark, earlierMs) => {
        for (const { circuit, reading } of run(history, rules)) {
          for (const late of readings(mark)) {
            const at = reading.at - earlierMs
            assert.equal(step(circuit, { ...late, at }, rules.thresholds, rules.recovery), circuit)
          }
        }
      },
    ),
  )
})

test('for any history: an outage keeps its start until it ends', () => {
  fc.assert(
    fc.property(anyHistory, anyRules, (history, rules) => {
      let openedAt: number | undefined
      for (const { circuit } of run(history, rules)) {
        if (circuit.state === 'closed') openedAt = undefined
        else openedAt ??= circuit.openedAt
        assert.equal(circuit.state === 'closed' ? undefined : circuit.openedAt, openedAt)
      }
    }),
  )
})

const ready: Reading = { at: 0, source: 'probe', kind: 'ready', metadata: {} }

type FullRules = { readonly thresholds: Thresholds; readonly recovery: Recovery }

/** A history from the start, with the circuit after each reading. */
function run(history: readonly Reading[], rules: FullRules) {
  let circuit = starting
  return history.map(reading => {
    circuit = step(circuit, reading, rules.thresholds, rules.recovery)
    return { circuit, reading }
  })
}

/** Whether the first guarded request in flight would be admitted. */
function admits(circuit: Circuit, reading: Reading, rules: FullRules, now: number): boolean {
  const snapshot = { circuit, reading, override: null, streak: 1, lastReadyAt: null, inFlight: 0 }
  return decide(snapshot, { ...rules, probePeriodMs: 2000, maxConcurrency: 0 }, now).admitted
}

function assertOpen(circuit: Circuit) {
  assert.ok(circuit.state === 'open')
  return circuit
}

/** The public facts about an outage. */
function facts(circuit: Circuit) {
  assert.ok(circuit.state !== 'closed')
  const { state, since, openedAt, cause } = circuit
  return { state, since, openedAt, cause }
}
