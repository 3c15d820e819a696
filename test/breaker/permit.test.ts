import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import CircuitBreaker from 'opossum'
import type { Outcome } from '../../src/breaker/breaker.js'
import { answered, CLIENT, missingFiber, OPERATOR, setUp } from '../support/breaker-set-up.js'
import { readings } from '../support/play.js'

const forcedOpen = { state: 'open', reason: 'maintenance', forSeconds: 600 } as const
const forcedClosed = { state: 'closed', reason: 'a test', forSeconds: 600 } as const

test('a request of unknown kind needs the fiber', () => {
  const { breaker, see } = setUp()
  see('+-')
  assert.deepEqual(breaker.admit(), breaker.decide(true))
  assert.equal(breaker.admit().admitted, false)
  assert.equal(breaker.admit(false).admitted, true)
})

for (const outcome of [
  answered(200),
  answered(503),
  missingFiber,
  { kind: 'failed' },
  { kind: 'nothing-learned' },
] satisfies readonly Outcome[]) {
  const { kind } = outcome
  const named = outcome.kind === 'answered' ? `${kind} ${outcome.statusCode}` : kind
  test(`a permit that is settled twice frees one slot and counts once: ${named}`, () => {
    const { breaker, emitted, see } = setUp()
    see('+')
    const [first, second] = [breaker.admit(), breaker.admit()]
    assert.ok(first.admitted && second.admitted)
    let freed = 0
    breaker.on('freed', () => {
      freed += 1
    })
    first.permit.settle(outcome)
    const emittedOnce = [...emitted]
    first.permit.settle(outcome)
    first.permit.settle({ kind: 'failed' })
    assert.deepEqual([breaker.snapshot().inFlight, freed, emitted], [1, 1, emittedOnce])
  })
}

test('a deferred refusal is reported in the next turn even if it is the only one', async () => {
  const { breaker, emitted, see } = setUp()
  see('+-')
  const decision = breaker.decide()
  assert.ok(!decision.admitted)
  emitted.length = 0
  breaker.refusedSoon(decision, { client: CLIENT })
  await nextTurn()
  assert.deepEqual(emitted, ['refused: waiting_for_fiber'])
})

for (const [drawing, uncounted] of [
  ['+', '-'],
  ['+', 'x'],
  ['-+', '+'],
] as const) {
  test(`a reading ${uncounted} that is not counted after ${drawing} is shown and does not move the circuit`, () => {
    const { breaker, see, pass } = setUp({ thresholds: { waiting: 1, unreachable: 1, ready: 2 } })
    see(drawing)
    const { circuit } = breaker.snapshot()
    const countedAt = drawing.length * 1000
    assert.equal(breaker.countedAt, countedAt)
    pass(500)
    for (const reading of readings(uncounted)) {
      const shown = { ...reading, at: countedAt + 500 }
      breaker.observe(shown, false)
      assert.deepEqual(breaker.snapshot().reading, shown)
    }
    assert.deepEqual([breaker.snapshot().circuit, breaker.countedAt], [circuit, countedAt])
  })
}

test('a change of cause reports how long the outage has lasted', () => {
  const { breaker, see } = setUp()
  const changes: unknown[] = []
  breaker.on('cause', ({ at, from, to, outageMs }) => changes.push({ at, from, to, outageMs }))
  see('+--xxx')
  assert.deepEqual(changes, [{ at: 6000, from: 'waiting', to: 'unreachable', outageMs: 4000 }])
})

const pastOutages = (count: number, lengthMs: number) =>
  Array.from({ length: count }, () => ({ cause: 'waiting', lengthMs }) as const)

test('the last thousand outages of earlier processes are remembered', () => {
  const outages = [...pastOutages(500, 900_000), ...pastOutages(1000, 60_000)]
  const { breaker, see } = setUp({}, { outages })
  see('+-')
  const { p50Seconds, p90Seconds, samples } = breaker.forecast() ?? {}
  assert.deepEqual({ p50Seconds, p90Seconds, samples }, { p50Seconds: 60, p90Seconds: 60, samples: 1000 })
})

test('a forecast is computed once per second', () => {
  const { breaker, see, pass } = setUp({}, { outages: pastOutages(20, 60_000) })
  see('+-')
  const first = breaker.forecast()
  pass(999)
  assert.equal(breaker.forecast(), first)
})

test('a configure that is redirected does not end a disagreement', () => {
  const { breaker, see } = setUp()
  see('+')
  const denied = breaker.admit()
  assert.ok(denied.admitted)
  denied.permit.settle(missingFiber)
  see('++')
  const redirected = breaker.admit()
  assert.ok(redirected.admitted)
  redirected.permit.settle(answered(300))
  assert.notEqual(breaker.disagreement, null)
})

// opossum decides nothing, and its statistics are correct only while it follows the breaker.
test('opossum is open or closed like the circuit and the override', t => {
  const opened = t.mock.method(CircuitBreaker.prototype, 'open')
  const { breaker, see, pass } = setUp()
  const opossum = opened.mock.calls[0]?.this
  assert.ok(opossum instanceof CircuitBreaker, 'a new breaker has not opened it')
  t.after(() => breaker.shutdown())
  const isOpen = () => {
    assert.equal(opossum.opened, !opossum.closed)
    return opossum.opened
  }
  const STEPS: readonly (readonly [name: string, act: () => unknown, isOpen: boolean])[] = [
    ['it starts', () => undefined, true],
    ['ready', () => see('+'), false],
    ['waiting', () => see('-'), true],
    ['admitted by an override', () => breaker.setOverride(forcedClosed, OPERATOR), false],
    ['taken back', () => breaker.removeOverride(OPERATOR), true],
    ['recovers', () => see('++'), false],
    ['stopped', () => breaker.setOverride(forcedOpen, OPERATOR), true],
    ['closes underneath', () => see('++++'), true],
    ['taken back', () => breaker.removeOverride(OPERATOR), false],
    ['stopped', () => breaker.setOverride(forcedOpen, OPERATOR), true],
    ['its end has passed, and a request comes', () => [pass(600_000), breaker.admit()], false],
  ]
  for (const [name, act, expected] of STEPS) {
    act()
    assert.equal(isOpen(), expected, name)
  }
})

test('opossum that turns half-open on its own is opened again during an outage', t => {
  const opened = t.mock.method(CircuitBreaker.prototype, 'open')
  const { breaker } = setUp()
  const opossum = opened.mock.calls[0]?.this
  assert.ok(opossum instanceof CircuitBreaker)
  t.after(() => breaker.shutdown())
  const before = opened.mock.callCount()
  opossum.emit('halfOpen', 0)
  assert.equal(opened.mock.callCount(), before + 1)
})

test("opossum's statistics include only admitted forwards that need the fiber", async t => {
  const opened = t.mock.method(CircuitBreaker.prototype, 'open')
  const { breaker, see } = setUp({ mode: 'observe' })
  const opossum = opened.mock.calls[0]?.this
  assert.ok(opossum instanceof CircuitBreaker)
  t.after(() => breaker.shutdown())
  const settle = (needsFiber: boolean, outcome: Outcome) => {
    const admission = breaker.admit(needsFiber)
    assert.ok(admission.admitted)
    admission.permit.settle(outcome)
  }
  // In mode `observe`, a request that would be refused is forwarded.
  settle(true, answered(200))
  see('+')
  settle(false, answered(200))
  settle(true, answered(200))
  settle(true, { kind: 'nothing-learned' })
  settle(true, { kind: 'failed' })
  await nextTurn()
  const { fires, successes, failures, rejects } = opossum.stats
  assert.deepEqual(
    { fires, successes, failures, rejects },
    { fires: 3, successes: 2, failures: 1, rejects: 0 },
  )
})
