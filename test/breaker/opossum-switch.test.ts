import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { OpossumSwitch } from '../../src/breaker/opossum-switch.js'

/** opossum turns half-open on its own after this time: the longest delay of a timer. */
const HALF_OPEN_AFTER_MS = 2 ** 31 - 1

/** Every rejection that nothing handles, until the end of the test. */
function unhandledRejections(t: TestContext): readonly unknown[] {
  const rejections: unknown[] = []
  const keep = (reason: unknown) => rejections.push(reason)
  process.on('unhandledRejection', keep)
  t.after(() => process.off('unhandledRejection', keep))
  return rejections
}

/** Puts a switch into a state. */
const STATES: Readonly<Record<string, (it: OpossumSwitch, t: TestContext) => void>> = {
  closed: it => it.set(false),
  open: it => it.set(true),
  'half-open on its own': (it, t) => {
    it.set(true)
    t.mock.timers.tick(HALF_OPEN_AFTER_MS)
  },
  'shut down while closed': it => it.shutdown(),
  'shut down while open': it => {
    it.set(true)
    it.shutdown()
  },
}

for (const [state, bring] of Object.entries(STATES)) {
  test(`while opossum is ${state}, actions start and end without any error`, async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const rejections = unhandledRejections(t)
    const it = new OpossumSwitch(() => undefined)
    t.after(() => it.shutdown())
    bring(it, t)
    const ends = [it.begin(), it.begin(), it.begin()]
    await nextTurn()
    for (const [index, end] of ends.entries()) {
      end(index % 2 === 0)
      end(index % 2 !== 0)
    }
    await nextTurn()
    it.set(false)
    it.begin()(false)
    await nextTurn()
    assert.deepEqual(rejections, [])
  })
}

test('when opossum turns half-open on its own, it asks to be opened or closed again', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let calls = 0
  const it = new OpossumSwitch(() => {
    calls += 1
    it.set(true)
  })
  t.after(() => it.shutdown())
  it.set(true)
  t.mock.timers.tick(HALF_OPEN_AFTER_MS - 1)
  assert.equal(calls, 0)
  t.mock.timers.tick(1)
  assert.equal(calls, 1)
  // It was opened again, so the time starts again.
  t.mock.timers.tick(HALF_OPEN_AFTER_MS)
  assert.equal(calls, 2)
})

test('a switch that is shut down has no timers left', t => {
  const timers = new Set<unknown>()
  for (const [start, stop] of [
    ['setTimeout', 'clearTimeout'],
    ['setInterval', 'clearInterval'],
  ] as const) {
    // The timers are not started; only clearing them counts.
    t.mock.method(globalThis, start, () => {
      const timer = { unref: () => timer }
      timers.add(timer)
      return timer
    })
    t.mock.method(globalThis, stop, (timer: unknown) => timers.delete(timer))
  }
  const it = new OpossumSwitch(() => undefined)
  it.set(true)
  assert.ok(timers.size > 0)
  it.shutdown()
  assert.equal(timers.size, 0)
})
