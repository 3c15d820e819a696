import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DECLARED_BY, type Override } from '../../src/domain/override.js'
import { OPERATOR, setUp, setUpWithTimers, verdict } from '../support/breaker-set-up.js'

const DAY_MS = 86_400_000

/** An override as `override.file` declares it. */
function declared(reason: string, until: number, state: Override['state'] = 'open'): Override {
  return { state, reason, since: 0, until, by: DECLARED_BY }
}

const overHttp = { state: 'closed', reason: 'a test', forSeconds: 600 } as const

test('a declared override, its replacement and its removal take effect and are reported', () => {
  const { breaker, emitted, see } = setUp()
  see('+')
  emitted.length = 0
  breaker.declareOverride(declared('maintenance', DAY_MS))
  assert.equal(verdict(breaker), `forced_open in ${DAY_MS - 1000} ms`)
  breaker.declareOverride(declared('a demo', DAY_MS, 'closed'))
  assert.equal(verdict(breaker), 'admitted')
  breaker.declareOverride(null)
  assert.equal(breaker.snapshot().override, null)
  assert.deepEqual(emitted, [
    'override open set: maintenance',
    'override closed set: a demo, over maintenance',
    `override closed removed: a demo, ${DECLARED_BY}`,
  ])
  assert.deepEqual(
    breaker.pastOverrides.map(({ reason }) => reason),
    ['a demo', 'maintenance'],
  )
})

test('a file without an override or with an expired one changes nothing and is not reported', () => {
  const { breaker, emitted, see } = setUp()
  see('+')
  emitted.length = 0
  breaker.declareOverride(null)
  breaker.declareOverride(declared('maintenance', 1000))
  assert.equal(verdict(breaker), 'admitted')
  assert.deepEqual([emitted, breaker.pastOverrides], [[], []])
})

test('earlier refusals are reported before a declared override', () => {
  const { breaker, emitted, see } = setUp()
  see('+-')
  const decision = breaker.decide()
  assert.ok(!decision.admitted)
  emitted.length = 0
  breaker.refusedSoon(decision, {
    client: { address: '192.0.2.7', userAgent: '', request: '', run: undefined },
  })
  breaker.declareOverride(declared('maintenance', DAY_MS))
  assert.deepEqual(emitted, ['refused: waiting_for_fiber', 'override open set: maintenance'])
})

for (const [that, before, after] of [
  ['is declared', null, declared('maintenance', DAY_MS)],
  ['changes', declared('a demo', DAY_MS), declared('maintenance', DAY_MS)],
  ['is removed from its file', declared('maintenance', DAY_MS), null],
] as const) {
  test(`a declared override that ${that} while one set over HTTP is in force has no effect and is not reported`, () => {
    const { breaker, emitted, see } = setUp()
    see('+')
    breaker.declareOverride(before)
    breaker.setOverride(overHttp, OPERATOR)
    emitted.length = 0
    breaker.declareOverride(after)
    assert.deepEqual(emitted, [])
    assert.equal(breaker.snapshot().override?.reason, 'a test')
    assert.equal(verdict(breaker), 'admitted')
  })
}

for (const [that, end, reported] of [
  ['is removed', all => all.breaker.removeOverride(OPERATOR), `removed: a test, ${OPERATOR}`],
  ['ends', all => all.pass(600_000), 'ended: a test'],
] satisfies readonly (readonly [string, (all: ReturnType<typeof setUpWithTimers>) => unknown, string])[]) {
  test(`when an override set over HTTP ${that}, the declared one is in force again and reported`, t => {
    const all = setUpWithTimers(t)
    const { breaker, emitted, see } = all
    see('+')
    breaker.declareOverride(declared('maintenance', DAY_MS))
    breaker.setOverride(overHttp, OPERATOR)
    emitted.length = 0
    end(all)
    assert.deepEqual(emitted, [`override closed ${reported}`, 'override open set: maintenance'])
    assert.equal(breaker.decide().admitted, false)
  })

  test(`when an override set over HTTP ${that} and none is declared, only its end is reported`, t => {
    const all = setUpWithTimers(t)
    const { breaker, emitted, see } = all
    see('+')
    breaker.setOverride(overHttp, OPERATOR)
    emitted.length = 0
    end(all)
    assert.deepEqual(emitted, [`override closed ${reported}`])
  })
}

test('an override set over HTTP replaces the declared one in force', () => {
  const { breaker, emitted } = setUp()
  breaker.declareOverride(declared('maintenance', DAY_MS))
  breaker.setOverride(overHttp, OPERATOR)
  assert.equal(emitted.at(-1), 'override closed set: a test, over maintenance')
})

test('the end of a declared override is reported once, on time, and remembered', t => {
  const { breaker, emitted, see, pass } = setUpWithTimers(t)
  see('+')
  breaker.declareOverride(declared('maintenance', 61_000))
  emitted.length = 0
  pass(59_999)
  assert.deepEqual(emitted, [])
  pass(1)
  assert.deepEqual(emitted, ['override open ended: maintenance'])
  assert.equal(verdict(breaker), 'admitted')
  assert.deepEqual(
    breaker.pastOverrides.map(({ reason }) => reason),
    ['maintenance'],
  )
  pass(DAY_MS)
  breaker.declareOverride(null)
  assert.equal(emitted.length, 1)
})

test('a declared override of sixty days ends on time, with few timers and none longer than Node allows', t => {
  const DAYS = 60
  const { breaker, emitted, pass } = setUp()
  const timers: { readonly call: () => void; readonly delayMs: number }[] = []
  t.mock.method(globalThis, 'setTimeout', (call: () => void, delayMs: number) => {
    timers.push({ call, delayMs })
    const timer = { unref: () => timer }
    return timer
  })
  t.mock.method(globalThis, 'clearTimeout', () => undefined)
  breaker.declareOverride(declared('maintenance', DAYS * DAY_MS))
  for (let timer = timers.pop(); timer !== undefined; timer = timers.pop()) {
    assert.ok(timer.delayMs < 2 ** 31, `Node fires a timer of ${timer.delayMs} ms at once`)
    assert.ok(timer.delayMs > DAY_MS, `a timer of ${timer.delayMs} ms`)
    assert.equal(breaker.snapshot().override?.reason, 'maintenance')
    pass(timer.delayMs)
    timer.call()
  }
  assert.equal(emitted.at(-1), 'override open ended: maintenance')
  assert.equal(breaker.snapshot().override, null)
})
