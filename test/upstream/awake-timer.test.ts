import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { AwakeTimer } from '../../src/upstream/awake-timer.js'

/** Blocks the event loop. */
function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
}

test('the timer fires after its timeout', async () => {
  const startedAt = performance.now()
  await new Promise<void>(resolve => new AwakeTimer(60, resolve))
  assert.ok(performance.now() - startedAt >= 59)
})

test('time during which the event loop was blocked does not count', async () => {
  const startedAt = performance.now()
  let firedAt = 0
  const timer = new AwakeTimer(200, () => {
    firedAt = performance.now()
  })
  block(400)
  await sleep(0)
  assert.equal(firedAt, 0)
  assert.ok(timer.longestStallMs >= 380, `${timer.longestStallMs} ms`)
  while (firedAt === 0) await sleep(5)
  assert.ok(firedAt - startedAt >= 400 + 150, `${firedAt - startedAt} ms`)
})

test('a stopped timer does not fire', async () => {
  let fired = false
  new AwakeTimer(1, () => {
    fired = true
  }).stop()
  await sleep(20)
  assert.equal(fired, false)
})

test('the time of day reveals that the machine was asleep', t => {
  const timer = new AwakeTimer(1000, () => undefined)
  t.after(() => timer.stop())
  const now = Date.now()
  t.mock.method(Date, 'now', () => now + 3_600_000)
  assert.ok(timer.longestStallMs >= 3_500_000)
})
