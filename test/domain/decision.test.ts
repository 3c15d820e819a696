import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Circuit, step } from '../../src/domain/circuit.js'
import { decide, decideWithoutFiber, type Snapshot } from '../../src/domain/decision.js'
import { inForce, type Override } from '../../src/domain/override.js'
import {
  after,
  anyHistory,
  anyRules,
  closed,
  readings,
  recovery,
  starting,
  thresholds,
} from '../support/play.js'

const PROBE_PERIOD_MS = 2000
const rules = { thresholds, recovery, probePeriodMs: PROBE_PERIOD_MS, maxConcurrency: 0 }
const opened = (until: number): Override => ({
  state: 'open',
  reason: 'maintenance',
  since: 0,
  until,
  by: '192.0.2.9',
})
const forced = (until: number): Override => ({
  state: 'closed',
  reason: 'a test',
  since: 0,
  until,
  by: '192.0.2.9',
})

/** In a drawn history, readings come one second apart, the first one at one second. */
const DECISIONS: readonly {
  readonly that: string
  readonly circuit: Circuit
  readonly override?: Override
  readonly inFlight?: number
  readonly maxConcurrency?: number
  readonly now: number
  readonly decision: string
}[] = [
  { that: 'a closed circuit admits', circuit: closed, now: 500, decision: 'admitted' },
  {
    that: 'a closed circuit has no limit',
    circuit: closed,
    inFlight: 10_000,
    now: 500,
    decision: 'admitted',
  },
  {
    that: 'a closed circuit with a limit admits below it',
    circuit: closed,
    maxConcurrency: 20,
    inFlight: 19,
    now: 500,
    decision: 'admitted',
  },
  {
    that: 'a closed circuit with a limit refuses at it',
    circuit: closed,
    maxConcurrency: 20,
    inFlight: 20,
    now: 500,
    decision: 'overloaded in 1000 ms',
  },
  {
    that: 'an override admits above the limit of a closed circuit',
    circuit: closed,
    override: forced(10_000),
    maxConcurrency: 20,
    inFlight: 20,
    now: 500,
    decision: 'admitted',
  },
  {
    that: 'a closed circuit admits below its threshold',
    circuit: after('xx'),
    now: 2500,
    decision: 'admitted',
  },
  { that: 'a new circuit refuses', circuit: starting, now: 5, decision: 'metadata_unavailable in 0 ms' },
  {
    that: 'a missing fiber needs two good readings, the first a period after the last',
    circuit: after('-'),
    now: 1000,
    decision: 'waiting_for_fiber in 4000 ms',
  },
  {
    that: 'the wait becomes shorter as time passes',
    circuit: after('-'),
    now: 2500,
    decision: 'waiting_for_fiber in 2500 ms',
  },
  {
    that: 'an overdue reading is expected now',
    circuit: after('-'),
    now: 60_000,
    decision: 'waiting_for_fiber in 2000 ms',
  },
  {
    that: 'after a good reading, one less is needed',
    circuit: after('-+'),
    now: 2000,
    decision: 'recovering in 2000 ms',
  },
  {
    that: 'unreadable metadata is not a missing fiber',
    circuit: after('xxx'),
    now: 3000,
    decision: 'metadata_unavailable in 4000 ms',
  },
  {
    that: 'a slow probe during an outage does not change its cause',
    circuit: after('-x'),
    now: 2000,
    decision: 'waiting_for_fiber in 4000 ms',
  },
  {
    that: 'a recovery admits up to its limit',
    circuit: after('-++'),
    inFlight: 1,
    now: 3000,
    decision: 'admitted',
  },
  {
    that: 'a recovery refuses at its limit',
    circuit: after('-++'),
    inFlight: 2,
    now: 3000,
    decision: 'recovering in 1000 ms',
  },
  {
    that: 'the limit grows with the time since the recovery began',
    circuit: after('-++'),
    inFlight: 15,
    now: 4500,
    decision: 'admitted',
  },
  {
    that: 'without a good reading after the ramp, the maximum remains the limit',
    circuit: after('-++'),
    inFlight: 30,
    now: 60_000,
    decision: 'recovering in 1000 ms',
  },
  {
    that: 'an override refuses what the circuit admits, until its end',
    circuit: closed,
    override: opened(10_000),
    now: 4000,
    decision: 'forced_open in 6000 ms',
  },
  {
    that: 'an override refuses with its own code what the circuit refuses too',
    circuit: after('-'),
    override: opened(10_000),
    now: 4000,
    decision: 'forced_open in 6000 ms',
  },
  {
    that: 'an override admits what the circuit refuses',
    circuit: after('-'),
    override: forced(10_000),
    now: 4000,
    decision: 'admitted',
  },
  {
    that: 'an override admits what a full recovery refuses',
    circuit: after('-++'),
    override: forced(10_000),
    inFlight: 100,
    now: 4000,
    decision: 'admitted',
  },
  {
    that: 'an expired override has no effect, from the moment of its end',
    circuit: closed,
    override: opened(10_000),
    now: 10_000,
    decision: 'admitted',
  },
]

for (const { that, circuit, override = null, inFlight = 0, maxConcurrency = 0, now, decision } of DECISIONS) {
  test(`${that}: ${decision}`, () => {
    const reading = readings('+')[0] ?? null
    const snapshot: Snapshot = { circuit, override, reading, streak: 1, lastReadyAt: null, inFlight }
    const decided = decide(snapshot, { ...rules, maxConcurrency }, now)
    assert.equal(decided.admitted ? 'admitted' : `${decided.code} in ${decided.retryInMs} ms`, decision)
  })
}

test('the concurrency limit also applies during a recovery, where the ramp would exceed it', () => {
  const snapshot = { circuit: after('-++'), override: null, reading: null, streak: 1, lastReadyAt: null }
  const admits = (inFlight: number) =>
    decide({ ...snapshot, inFlight }, { ...rules, maxConcurrency: 5 }, 60_000).admitted
  assert.deepEqual([admits(4), admits(5)], [true, false])
})

test('a threshold that is lowered at runtime still requires one more good reading', () => {
  const circuit = after('-+++', closed, { thresholds: { ready: 5 } })
  const snapshot = { circuit, override: null, reading: null, streak: 3, lastReadyAt: 4000, inFlight: 0 }
  const decision = decide(snapshot, { ...rules, thresholds: { ...thresholds, ready: 2 } }, 4000)
  assert.ok(!decision.admitted)
  assert.equal(decision.retryInMs, PROBE_PERIOD_MS)
})

test('for any history: a refusal names a time that has not passed', () => {
  fc.assert(
    fc.property(anyHistory, anyRules, fc.nat(100_000), fc.nat(50), (history, drawn, laterMs, inFlight) => {
      let circuit = starting
      for (const reading of history) {
        circuit = step(circuit, reading, drawn.thresholds, drawn.recovery)
        const snapshot = { circuit, override: null, reading, streak: 1, lastReadyAt: null, inFlight }
        const decision = decide(snapshot, { ...rules, ...drawn }, reading.at + laterMs)
        if (!decision.admitted) assert.ok(decision.retryInMs >= 0 && Number.isFinite(decision.retryInMs))
      }
    }),
  )
})

test('an override is in force until its end, exclusive', () => {
  const override = opened(10_000)
  assert.equal(inForce(override, 9999.999), override)
  assert.equal(inForce(override, 10_000), null)
  assert.equal(inForce(null, 0), null)
})

test('a historic job that an override refuses can be retried when the override ends', () => {
  const snapshot = {
    circuit: closed,
    override: opened(6000),
    reading: null,
    streak: 0,
    lastReadyAt: null,
    inFlight: 0,
  }
  assert.deepEqual(decideWithoutFiber(snapshot, rules, 500), {
    admitted: false,
    code: 'forced_open',
    retryInMs: 5500,
  })
})
