import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { pino } from 'pino'
import { makeCore } from '../../src/assembly/core.js'
import { observe } from '../../src/assembly/observers.js'
import { reachUpstream } from '../../src/assembly/upstream-stage.js'
import { load } from '../../src/config/load.js'
import type { Reading } from '../../src/domain/reading.js'
import { readings } from '../support/play.js'

/** The stages up to the upstream, which sends no probe until it is started. */
function stages(t: TestContext) {
  const environment = {
    FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1',
    FOCUS_BREAKER_CIRCUIT_READY_THRESHOLD: '3',
    FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '3',
  }
  const loaded = load({ environment })
  assert.ok(loaded.ok)
  const core = makeCore(loaded.config, pino({ level: 'silent' }), 'test')
  t.after(() => core.breaker.shutdown())
  const observers = observe(core, { linesDropped: () => 0 })
  t.after(() => observers.logSummary.close())
  const upstream = reachUpstream(core, observers)
  const startedAt = core.clock()
  return {
    state: () => core.breaker.snapshot().circuit.state,
    see: (mark: string, source: Reading['source'], atMs: number) => {
      for (const reading of readings(mark)) upstream.observe({ ...reading, source, at: startedAt + atMs })
    },
  }
}

// The third counted good reading starts the recovery.
for (const [gapMs, state] of [
  [1, 'open'],
  [400, 'open'],
  [999, 'open'],
  [1000, 'half-open'],
] as const) {
  test(`readings of clients that are ${gapMs} ms apart leave the circuit ${state} after the third`, t => {
    const { see, state: current } = stages(t)
    see('-', 'probe', 1000)
    for (let count = 1; count <= 3; count += 1) see('+', 'client', 1000 + count * gapMs)
    assert.equal(current(), state)
  })
}

test('however often clients read the metadata in one second, at most one of their readings counts', t => {
  const { see, state } = stages(t)
  see('-', 'probe', 1000)
  for (let atMs = 1001; atMs < 4000; atMs += 1) see('+', 'client', atMs)
  assert.equal(state(), 'open', 'two of them counted')
  see('+', 'client', 4000)
  assert.equal(state(), 'half-open')
})

test("a client's reading of a missing fiber counts at any time, and a probe's reading always", t => {
  const { see, state } = stages(t)
  see('+', 'probe', 1000)
  see('-', 'client', 1001)
  assert.equal(state(), 'open')
  for (const atMs of [1002, 1003, 1004]) see('+', 'probe', atMs)
  assert.equal(state(), 'half-open')
})
