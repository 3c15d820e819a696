import assert from 'node:assert/strict'
import { createHook } from 'node:async_hooks'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import fc from 'fast-check'
import { Breaker } from '../../src/breaker/breaker.js'
import { startingCircuit, step } from '../../src/domain/circuit.js'
import { decide } from '../../src/domain/decision.js'
import {
  answered,
  ask,
  CLIENT,
  hold,
  OPERATOR,
  RefusedError,
  run,
  SETTINGS,
  setUp,
} from '../support/breaker-set-up.js'
import { anyHistory, anyRules, readings, recovery, STEP_MS } from '../support/play.js'

test('a new breaker refuses, and has no reading', () => {
  const { breaker } = setUp()
  assert.deepEqual(breaker.decide(), { admitted: false, code: 'metadata_unavailable', retryInMs: 0 })
  const { circuit, ...known } = breaker.snapshot()
  assert.equal(circuit.state, 'open')
  assert.deepEqual(known, { override: null, reading: null, streak: 0, lastReadyAt: null, inFlight: 0 })
})

test('each reading is reported, then the change that it causes', () => {
  const { emitted, see } = setUp()
  see('-xxx-')
  see('++++ +')
  assert.deepEqual(emitted, [
    ...['waiting', 'starting became waiting'],
    ...['unreachable', 'unreachable', 'unreachable', 'waiting became unreachable'],
    ...['waiting', 'unreachable became waiting'],
    ...['ready', 'ready', 'open to half-open, waiting, after 6000 ms'],
    ...['ready', 'ready', 'ready', 'half-open to closed, waiting, after 9000 ms'],
  ])
})

test('an outage is reported with its start, however often its recovery fails', () => {
  const { emitted, see } = setUp()
  see('+-++x++')
  assert.deepEqual(
    emitted.filter(line => line.includes(' to ')),
    [
      'open to closed, starting, after 1000 ms',
      'closed to open, waiting, after 0 ms',
      'open to half-open, waiting, after 2000 ms',
      'half-open to open, unreachable, after 3000 ms',
      'open to half-open, unreachable, after 5000 ms',
    ],
  )
})

test('listeners see the circuit after the change', () => {
  const { breaker, see, state } = setUp()
  const seen: string[] = []
  breaker.on('transition', () => seen.push(`${state()} ${breaker.decide().admitted}`))
  see('+-++')
  assert.deepEqual(seen, ['closed true', 'open false', 'half-open true'])
})

test('readings of one kind in a row are counted, and the last good one is remembered', () => {
  const { breaker, see } = setUp()
  const known = () => {
    const { reading, streak, lastReadyAt } = breaker.snapshot()
    return [reading?.kind, streak, lastReadyAt]
  }
  see('--')
  assert.deepEqual(known(), ['waiting', 2, null])
  see('+++')
  assert.deepEqual(known(), ['ready', 3, 5000])
  see('x')
  assert.deepEqual(known(), ['unreachable', 1, 5000])
})

test('a late reading is reported and changes nothing', () => {
  const { breaker, emitted, see } = setUp()
  const newest: boolean[] = []
  see('+-++')
  breaker.on('reading', (_, isNewest) => newest.push(isNewest))
  const before = breaker.snapshot()
  emitted.length = 0
  for (const reading of readings('+-x')) breaker.observe({ ...reading, at: 3999 })
  assert.deepEqual(breaker.snapshot(), before)
  assert.deepEqual(emitted, ['ready', 'waiting', 'unreachable'])
  assert.deepEqual(newest, [false, false, false])
})

// A client's reading that only repeats the last one is not counted, but it is remembered.
for (const [newer, older, drawing] of [
  ['+', '-', '+'],
  ['+', 'x', '+'],
  ['-', '+', '-+'],
  ['x', '+', 'x+'],
  ['-', 'x', '+'],
] as const) {
  test(`an older ${older} does not override a newer ${newer} that was not counted (after ${drawing})`, () => {
    const rules = { waiting: 1, unreachable: 1, ready: 2 }
    const { breaker, see, pass } = setUp({ thresholds: rules })
    see(drawing)
    pass(500)
    const at = drawing.length * 1000 + 500
    for (const reading of readings(newer)) breaker.observe({ ...reading, source: 'client', at }, false)
    const before = breaker.snapshot()
    for (const reading of readings(older)) breaker.observe({ ...reading, at: at - 1 })
    const lastReadyAt = older === '+' ? at - 1 : before.lastReadyAt
    assert.deepEqual(breaker.snapshot(), { ...before, lastReadyAt })
    for (const reading of readings(older)) breaker.observe({ ...reading, at })
    assert.notDeepEqual(breaker.snapshot().circuit, before.circuit, 'a reading of the same time counts')
  })
}

test('the fiber was last seen at the newest ready reading, in whatever order readings arrive', () => {
  const { breaker } = setUp()
  for (const at of [2000, 1000, 3000, 2500]) {
    for (const reading of readings('+')) breaker.observe({ ...reading, at })
  }
  assert.equal(breaker.snapshot().lastReadyAt, 3000)
})

test('the passing of time does not move the circuit', () => {
  const { breaker, see, pass, state } = setUp()
  see('+-')
  pass(365 * 86_400_000)
  assert.equal(state(), 'open')
  assert.equal(breaker.decide().admitted, false)
})

test('a refusal is reported when a client is refused, and not when the decision is only read', () => {
  const { breaker, emitted, see } = setUp()
  see('+-')
  emitted.length = 0
  breaker.decide()
  breaker.snapshot()
  assert.equal(emitted.length, 0)
  assert.equal(ask(breaker).admitted, false)
  assert.deepEqual(emitted, ['refused: waiting_for_fiber'])
  see('++')
  assert.equal(ask(breaker).admitted, true)
  assert.equal(emitted.filter(line => line.startsWith('refused')).length, 1)
})

test('a reported refusal names the client', () => {
  const { breaker } = setUp()
  const clients: unknown[] = []
  breaker.on('refused', ({ client }) => clients.push(client))
  ask(breaker)
  assert.deepEqual(clients, [CLIENT])
})

test('a forward runs while the circuit is closed, and counts as in flight until it ends', async () => {
  const { breaker, emitted, see } = setUp()
  see('+')
  emitted.length = 0
  const [first, second] = [hold(breaker), hold(breaker)]
  assert.deepEqual([first.began(), second.began(), breaker.snapshot().inFlight], [true, true, 2])
  first.end()
  await first.done
  assert.equal(breaker.snapshot().inFlight, 1)
  assert.deepEqual(emitted, [])
  await second.fail(new Error('reset'))
  assert.equal(breaker.snapshot().inFlight, 0)
  assert.deepEqual(emitted, ['probe requested'])
})

test('a forward that throws before it returns a promise no longer counts', async () => {
  for (const mode of ['enforce', 'observe'] as const) {
    const { breaker, emitted, see } = setUp({ mode })
    see(mode === 'enforce' ? '+' : '-')
    emitted.length = 0
    await run(breaker, () => {
      throw new Error('no socket')
    })
    assert.equal(breaker.snapshot().inFlight, 0)
    assert.deepEqual(emitted, ['probe requested'])
  }
})

test('an open circuit does not call the forward and gives the reason', async () => {
  const { breaker, see } = setUp()
  see('+-')
  const refused = hold(breaker)
  await assert.rejects(refused.done, (error: unknown) => {
    assert.ok(error instanceof RefusedError)
    assert.deepEqual(error.decision, { admitted: false, code: 'waiting_for_fiber', retryInMs: 4000 })
    return true
  })
  assert.equal(refused.began(), false)
  assert.equal(breaker.snapshot().inFlight, 0)
})

test('a half-open circuit runs as many forwards at a time as the ramp allows, and one more for each that ends', async () => {
  const { breaker, see, pass, state } = setUp()
  see('+-++')
  assert.equal(state(), 'half-open')
  const held = [hold(breaker), hold(breaker), hold(breaker)]
  assert.deepEqual(
    held.map(({ began }) => began()),
    [true, true, false],
  )
  await assert.rejects(held[2]?.done ?? assert.fail(), (error: unknown) => {
    assert.ok(error instanceof RefusedError)
    assert.deepEqual(error.decision, { admitted: false, code: 'recovering', retryInMs: 1000 })
    return true
  })
  held[0]?.end()
  await held[0]?.done
  const next = hold(breaker)
  assert.equal(next.began(), true)
  assert.equal(hold(breaker).began(), false)
  // Half of the ramp: 16 in flight.
  pass(recovery.rampMs / 2)
  const more = Array.from({ length: 20 }, () => hold(breaker))
  assert.equal(more.filter(({ began }) => began()).length, 14)
  assert.equal(breaker.snapshot().inFlight, 16)
})

test('a closed circuit runs as many forwards at a time as its limit allows', async () => {
  const { breaker, see } = setUp({ maxConcurrency: 2 })
  see('+')
  const held = [hold(breaker), hold(breaker)]
  await assert.rejects(hold(breaker).done, (error: unknown) => {
    assert.ok(error instanceof RefusedError)
    assert.deepEqual(error.decision, { admitted: false, code: 'overloaded', retryInMs: 1000 })
    return true
  })
  held[0]?.end()
  await held[0]?.done
  assert.equal(hold(breaker).began(), true)
})

test('requests from before the outage take slots of the recovery', () => {
  const { breaker, see } = setUp()
  see('+')
  hold(breaker)
  hold(breaker)
  see('-++')
  assert.equal(hold(breaker).began(), false)
})

test('neither the success nor the failure of forwarded requests moves the circuit', async () => {
  const { breaker, emitted, see, state } = setUp()
  see('+')
  const old = hold(breaker)
  for (let count = 0; count < 200; count += 1) {
    await run(breaker, () => Promise.reject(new Error('503')))
  }
  assert.equal(emitted.filter(line => line === 'probe requested').length, 200)
  assert.equal(state(), 'closed')
  see('-')
  emitted.length = 0
  old.end()
  await old.done
  assert.equal(state(), 'open')
  assert.equal(hold(breaker).began(), false)
  see('++')
  assert.equal(state(), 'half-open')
  await run(breaker, async () => answered(200))
  assert.equal(state(), 'half-open')
  await run(breaker, () => Promise.reject(new Error('503')))
  assert.equal(state(), 'half-open')
})

test('when the circuit opens, running forwards continue', async () => {
  const { breaker, see } = setUp()
  see('+')
  const running = hold(breaker)
  see('-')
  running.end()
  await running.done
  assert.equal(breaker.snapshot().inFlight, 0)
})

test('a forward has no time limit', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { breaker, see } = setUp()
  see('+')
  const long = hold(breaker)
  t.mock.timers.tick(86_400_000)
  assert.equal(breaker.snapshot().inFlight, 1)
  long.end()
  await long.done
  assert.equal(breaker.snapshot().inFlight, 0)
})

test('in mode observe everything is forwarded, and refusals are only reported', async () => {
  const { breaker, emitted, see } = setUp({ mode: 'observe' })
  assert.equal(breaker.enforces, false)
  see('+-')
  emitted.length = 0
  assert.equal(ask(breaker).admitted, false)
  const held = Array.from({ length: 50 }, () => hold(breaker))
  assert.ok(held.every(({ began }) => began()))
  assert.equal(breaker.snapshot().inFlight, 50)
  assert.deepEqual(emitted, ['would refuse: waiting_for_fiber'])
  for (const { end } of held) end()
  await Promise.all(held.map(({ done }) => done))
  assert.equal(breaker.snapshot().inFlight, 0)
})

test('after a shutdown the breaker has no timers left and still decides', async t => {
  const timers = new Set<number>()
  const hook = createHook({
    init: (id, type) => {
      if (type === 'Timeout') timers.add(id)
    },
    destroy: id => timers.delete(id),
  }).enable()
  t.after(() => hook.disable())
  const { breaker, see, state } = setUp()
  see('+-')
  await run(breaker, async () => answered(200)).catch(() => undefined)
  assert.ok(timers.size > 0, 'the breaker started without timers, so this test proves nothing')
  breaker.shutdown()
  see('++++++-')
  assert.equal(state(), 'open')
  assert.equal(breaker.decide().admitted, false)
  // Ended timers are noticed in the next turn.
  await nextTurn()
  await nextTurn()
  assert.equal(timers.size, 0)
})

test('for any history: the breaker runs a forward exactly when the domain admits it', async () => {
  await fc.assert(
    fc.asyncProperty(anyHistory, anyRules, async (history, rules) => {
      let now = 0
      const all = { ...SETTINGS, ...rules, probePeriodMs: STEP_MS }
      const breaker = new Breaker(
        () => all,
        () => now,
      )
      let circuit = startingCircuit(0)
      for (const reading of history) {
        now = reading.at
        breaker.observe(reading)
        circuit = step(circuit, reading, rules.thresholds, rules.recovery)
        assert.deepEqual(breaker.snapshot().circuit, circuit)
        const admitted = decide(breaker.snapshot(), all, now).admitted
        const ran = await run(breaker, async () => answered(200)).then(
          () => true,
          (error: unknown) => {
            assert.ok(error instanceof RefusedError, `${error}`)
            return false
          },
        )
        assert.equal(ran, admitted)
      }
      breaker.shutdown()
    }),
  )
})

test('a request that does not need the fiber passes whatever the readings show, and counts as in flight', async () => {
  for (const history of ['', '-', '+-', '+-++', '+xxx', '+']) {
    const { breaker, see } = setUp()
    see(history)
    const held = Array.from({ length: 40 }, () => hold(breaker, false))
    assert.ok(held.every(({ began }) => began()))
    assert.equal(breaker.snapshot().inFlight, 40)
    await Promise.all(held.map(({ end }) => end(answered(200))))
    assert.equal(breaker.snapshot().inFlight, 0)
  }
})

test('a request that does not need the fiber obeys a manual override and the concurrency limit', async () => {
  const { breaker, see } = setUp({ maxConcurrency: 2 })
  see('+-')
  const verdictOf = () => {
    const decision = breaker.decide(false)
    return decision.admitted ? 'admitted' : decision.code
  }
  assert.equal(verdictOf(), 'admitted')
  hold(breaker, false)
  hold(breaker, false)
  assert.equal(verdictOf(), 'overloaded')
  assert.equal(hold(breaker, false).began(), false)
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, OPERATOR)
  assert.equal(verdictOf(), 'admitted')
  assert.equal(hold(breaker, false).began(), true)
  breaker.setOverride({ state: 'open', reason: 'maintenance', forSeconds: 600 }, OPERATOR)
  assert.equal(verdictOf(), 'forced_open')
  assert.equal(hold(breaker, false).began(), false)
})

for (const [history, state] of [
  ['+', 'open'],
  ['+', 'closed'],
  ['-', 'open'],
  ['-', 'closed'],
  ['+-++', 'open'],
  ['+-++', 'closed'],
] as const) {
  test(`an override ${state} after ${history} that ends between two reads of the clock loses no request`, async t => {
    const rejections: unknown[] = []
    const keep = (reason: unknown) => rejections.push(reason)
    process.on('unhandledRejection', keep)
    t.after(() => process.off('unhandledRejection', keep))
    const FOR_MS = 1000
    const kinds = new Set<string>()
    for (let startMs = FOR_MS - 12; startMs <= FOR_MS + 1; startMs += 1) {
      let now = 0
      let stepMs = 0
      const settings = { ...SETTINGS }
      const breaker = new Breaker(
        () => settings,
        () => {
          now += stepMs
          return now
        },
      )
      for (const reading of readings(history)) {
        now = reading.at
        breaker.observe(reading)
      }
      const from = now
      breaker.setOverride({ state, reason: 'a test', forSeconds: FOR_MS / 1000 }, OPERATOR)
      now = from + startMs
      stepMs = 1
      let forwarded = 0
      let refused = 0
      for (let count = 0; count < 6; count += 1) {
        const before = now
        const admission = breaker.admit(count % 2 === 0)
        assert.equal(now - before, 1, 'one decision reads the clock once')
        if (admission.admitted) {
          admission.permit.settle(count % 3 === 0 ? { kind: 'failed' } : answered(200))
          forwarded += 1
        } else {
          assert.ok(admission.retryInMs > 0 || admission.code !== 'forced_open')
          refused += 1
          kinds.add(admission.code)
        }
        await nextTurn()
      }
      assert.equal(forwarded + refused, 6)
      assert.equal(breaker.snapshot().inFlight, 0)
      breaker.shutdown()
    }
    assert.equal(kinds.has('forced_open'), state === 'open')
    assert.deepEqual(rejections, [])
  })
}

test('deferred refusals are reported together in the next turn, each once, and before any change', async () => {
  const { breaker, emitted, see } = setUp()
  see('+-')
  const decision = breaker.decide()
  assert.ok(!decision.admitted)
  emitted.length = 0
  for (let count = 0; count < 3; count += 1) breaker.refusedSoon(decision, { client: CLIENT })
  assert.equal(emitted.length, 0)
  await nextTurn()
  assert.deepEqual(emitted, Array(3).fill('refused: waiting_for_fiber'))
  await nextTurn()
  assert.equal(emitted.length, 3)
  const CHANGES: readonly (() => unknown)[] = [
    () => see('+'),
    () => breaker.setOverride({ state: 'open', reason: 'a test', forSeconds: 60 }, 'operator'),
    () => breaker.removeOverride('operator'),
    () => breaker.shutdown(),
  ]
  for (const change of CHANGES) {
    emitted.length = 0
    breaker.refusedSoon(decision, { client: CLIENT })
    change()
    assert.equal(emitted[0], 'refused: waiting_for_fiber', String(change))
    await nextTurn()
    assert.equal(emitted.filter(line => line.startsWith('refused')).length, 1)
  }
})

test('there is a forecast only during a known outage', () => {
  const { breaker, see, pass } = setUp(
    {},
    { outages: Array(20).fill({ cause: 'waiting', lengthMs: 60_000 }) },
  )
  assert.equal(breaker.forecast(), null, 'while it starts')
  see('+')
  pass(1000)
  assert.equal(breaker.forecast(), null, 'while it is closed')
  see('-')
  pass(1000)
  assert.notEqual(breaker.forecast(), null)
  see('++')
  assert.notEqual(breaker.forecast(), null, 'while it recovers')
})
