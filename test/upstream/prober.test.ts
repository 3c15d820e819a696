import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { Reading } from '../../src/domain/reading.js'
import type { MetadataReader } from '../../src/upstream/metadata.js'
import { Prober } from '../../src/upstream/prober.js'
import { simulate, until } from '../simulator/simulate.js'
import { readerOf } from './read.js'

const ROUTE = 'GET /live_metadata'
const HOUR_MS = 3_600_000

/** A prober in front of a simulator, and what it has observed. */
async function probe(
  t: TestContext,
  options: { readonly periodMs: number; readonly timeoutMs?: number; readonly random?: () => number },
) {
  const { simulator } = await simulate(t)
  const { periodMs, timeoutMs = 2000, random = () => 0.5 } = options
  const metadata = readerOf(t, simulator.url, { timeoutMs })
  const observed: (Reading & { readonly durationMs: number })[] = []
  const prober = new Prober({
    metadata,
    periodMs,
    random,
    observe: (reading, durationMs) => observed.push({ ...reading, durationMs }),
  })
  t.after(() => prober.stop())
  /** Until so many requests have reached the simulator. */
  const asked = (count: number) =>
    until(
      () => simulator.counters.byRoute[ROUTE] ?? 0,
      requests => requests >= count,
    )
  /** Until so many readings were observed. */
  const seen = (count: number) =>
    until(
      () => observed.length,
      length => length >= count,
    )
  return { simulator, metadata, prober, observed, asked, seen }
}

test('it has observed its first reading when it has started', async t => {
  const { prober, observed, simulator } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  assert.deepEqual(
    observed.map(({ kind, source }) => [kind, source]),
    [['ready', 'probe']],
  )
  assert.equal(simulator.counters.byRoute[ROUTE], 1)
})

test('it starts in front of an upstream that is not there', async t => {
  const { prober, observed, simulator } = await probe(t, { periodMs: HOUR_MS })
  await simulator.setFault('*', { kind: 'refuse' })
  await prober.start()
  assert.deepEqual(
    observed.map(({ kind }) => kind),
    ['unreachable'],
  )
})

test('it goes on by itself, whatever it finds', async t => {
  const { prober, observed, simulator, seen } = await probe(t, { periodMs: 5 })
  await prober.start()
  await simulator.setFiber('missing')
  await until(
    () => observed.at(-1)?.kind,
    kind => kind === 'waiting',
  )
  await simulator.setFault('*', { kind: 'refuse' })
  await until(
    () => observed.at(-1)?.kind,
    kind => kind === 'unreachable',
  )
  await simulator.setFault('*', null)
  await simulator.setFiber('present')
  await until(
    () => observed.at(-1)?.kind,
    kind => kind === 'ready',
  )
  await seen(observed.length + 2)
})

test('it takes one reading at a time, also when each takes longer than the period', async t => {
  const { prober, observed, simulator, seen } = await probe(t, { periodMs: 1 })
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 20 })
  await prober.start()
  await seen(4)
  await prober.stop()
  for (const [index, { at, durationMs }] of observed.entries()) {
    assert.ok(durationMs >= 19, `${durationMs} ms`)
    const before = observed[index - 1]
    if (before !== undefined) assert.ok(at >= before.at + before.durationMs)
  }
})

for (const [random, part] of [
  [0, 0.9],
  [0.5, 1],
  [1 - Number.EPSILON, 1.1],
] as const) {
  test(`it waits ${part} of the period where the draw is ${random.toFixed(1)}`, async t => {
    const periodMs = 100
    const { prober, observed, seen } = await probe(t, { periodMs, random: () => random })
    await prober.start()
    await seen(4)
    const waits = observed.slice(1).map(({ at }, index) => {
      const before = observed[index]
      return before === undefined ? Number.NaN : at - before.at - before.durationMs
    })
    // A timer may be late, on a loaded machine much, and by its rounding early by one.
    assert.ok(Math.min(...waits) >= part * periodMs - 1, `${waits}`)
    assert.ok(Math.min(...waits) < (part + 0.09) * periodMs, `${waits}`)
  })
}

test('stopped while it waits, it ends at once and looks no more', { timeout: 10_000 }, async t => {
  const { prober, observed } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await prober.stop()
  assert.equal(observed.length, 1)
})

test('stopped, it looks no more', async t => {
  const { prober, metadata, observed, simulator, seen } = await probe(t, { periodMs: 1 })
  await prober.start()
  await seen(3)
  await prober.stop()
  const [observations, requests] = [observed.length, simulator.counters.byRoute[ROUTE] ?? 0]
  // Several periods long.
  for (let count = 0; count < 10; count += 1) await metadata.read()
  assert.equal(observed.length, observations)
  assert.equal(simulator.counters.byRoute[ROUTE], requests + 10)
})

test('stopped while it looks, it waits for the look and does not observe it', async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: 1, timeoutMs: 300 })
  await prober.start()
  await simulator.setFault(ROUTE, { kind: 'hang' })
  await asked(simulator.counters.total + 1)
  const [observations, isOver] = [observed.length, watch(metadata)]
  await prober.stop()
  assert.equal(isOver(), true)
  assert.equal(observed.length, observations)
})

test('stopped while it takes its first look, it waits for the look and does not observe it', async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: 1, timeoutMs: 300 })
  await simulator.setFault(ROUTE, { kind: 'hang' })
  const started = prober.start()
  await asked(1)
  const isOver = watch(metadata)
  await prober.stop()
  const waited = isOver()
  await started
  assert.deepEqual([observed.length, simulator.counters.total], [0, 1])
  assert.equal(waited, true)
})

/** Whether the look that is under way has ended, which joining it tells. */
function watch(metadata: MetadataReader): () => boolean {
  let over = false
  void metadata.read().then(() => {
    over = true
  })
  return () => over
}
