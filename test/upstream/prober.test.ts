import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type TestContext, test } from 'node:test'
import { liveMetadata } from '../../src/simulator/samples.js'
import { steadyClock } from '../../src/upstream/clock.js'
import type { MetadataReader } from '../../src/upstream/metadata-reader.js'
import { Prober } from '../../src/upstream/prober.js'
import { portOf } from '../support/raw.js'
import { type Observed, readerOf } from '../support/read-metadata.js'
import { simulate, until } from '../support/simulate.js'

const ROUTE = 'GET /live_metadata'
const HOUR_MS = 3_600_000

/** Minimum time between the end of a probe and the start of a requested one. */
const SPACING_MS = 250

/** Tolerance, because a timer counts from the start of the event loop turn that sets it, and rounds. */
const EARLY_MS = 10

/** How late a timer and a request may be on a loaded machine. */
const LATE_MS = 200

/** Time from the end of each probe to the start of the next. */
const gaps = (observed: readonly Observed[]) =>
  observed.slice(1).map(({ at }, index) => {
    const before = observed[index]
    return before === undefined ? Number.NaN : at - before.at - before.durationMs
  })

/** Time from the start of each probe to the start of the next. */
const spans = (observed: readonly Observed[]) =>
  observed.slice(1).map(({ at }, index) => at - (observed[index]?.at ?? Number.NaN))

/** A prober for a simulator, and what it has observed. */
async function probe(
  t: TestContext,
  options: {
    readonly periodMs: number | (() => number)
    readonly timeoutMs?: number
    readonly random?: () => number
  },
) {
  const { simulator } = await simulate(t)
  const { periodMs, timeoutMs = 2000, random = () => 0.5 } = options
  const { reader: metadata, observed } = readerOf(t, simulator.url, { timeoutMs })
  const prober = new Prober({
    metadata,
    periodMs: typeof periodMs === 'number' ? () => periodMs : periodMs,
    clock: steadyClock,
    random,
  })
  t.after(() => prober.stop())
  /** Waits until this many requests have reached the simulator. */
  const asked = (count: number) =>
    until(
      () => simulator.counters.byRoute[ROUTE] ?? 0,
      requests => requests >= count,
    )
  /** Waits until this many readings have been observed. */
  const seen = (count: number) =>
    until(
      () => observed.length,
      length => length >= count,
    )
  return { simulator, metadata, prober, observed, asked, seen }
}

test('start resolves after the first reading was observed', async t => {
  const { prober, observed, simulator } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  assert.deepEqual(
    observed.map(({ kind, source }) => [kind, source]),
    [['ready', 'probe']],
  )
  assert.equal(simulator.counters.byRoute[ROUTE], 1)
})

test('it starts without a reachable upstream', async t => {
  const { prober, observed, simulator } = await probe(t, { periodMs: HOUR_MS })
  await simulator.setFault('*', { kind: 'refuse' })
  await prober.start()
  assert.deepEqual(
    observed.map(({ kind }) => kind),
    ['unreachable'],
  )
})

test('it keeps probing, whatever the readings are', async t => {
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

test('it takes one reading at a time, even if each takes longer than the period', async t => {
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
  test(`it probes again after ${part} of the period for the random number ${random.toFixed(1)}`, async t => {
    const periodMs = 200
    const { prober, observed, seen } = await probe(t, { periodMs, random: () => random })
    await prober.start()
    await seen(4)
    const periods = spans(observed)
    // A timer may be late, and very late on a loaded machine.
    assert.ok(Math.min(...periods) >= part * periodMs - EARLY_MS, `${periods}`)
    assert.ok(Math.min(...periods) < (part + 0.09) * periodMs, `${periods}`)
  })
}

test('the duration of a probe is part of the period', { timeout: 10_000 }, async t => {
  const periodMs = 300
  const { prober, observed, simulator, seen } = await probe(t, { periodMs })
  await prober.start()
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 150 })
  await seen(5)
  // From the second probe on, which are all slow.
  const periods = spans(observed).slice(1)
  assert.ok(Math.min(...periods) >= periodMs - EARLY_MS, `${periods}`)
  assert.ok(Math.min(...periods) < periodMs + 100, `${periods}`)
})

test('stopped while it waits, it ends at once and sends no more probes', { timeout: 10_000 }, async t => {
  const { prober, observed } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await prober.stop()
  assert.equal(observed.length, 1)
})

test('once stopped, it sends no more probes', async t => {
  const { prober, metadata, observed, simulator, seen } = await probe(t, { periodMs: 1 })
  await prober.start()
  await seen(3)
  await prober.stop()
  const probes = () => observed.filter(({ source }) => source === 'probe').length
  const [observations, requests] = [probes(), simulator.counters.byRoute[ROUTE] ?? 0]
  // Wait for several periods.
  for (let count = 0; count < 10; count += 1) await metadata.read('client')
  assert.equal(probes(), observations)
  assert.equal(simulator.counters.byRoute[ROUTE], requests + 10)
})

test('stopped during a probe, it waits for that probe, which is the last', async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: 1, timeoutMs: 300 })
  await prober.start()
  await simulator.setFault(ROUTE, { kind: 'hang' })
  await asked(simulator.counters.total + 1)
  const [observations, requests, isOver] = [observed.length, simulator.counters.total, watch(metadata)]
  await prober.stop()
  assert.equal(isOver(), true)
  // The reader observes it like any other.
  assert.deepEqual(
    observed.slice(observations).map(({ kind, source }) => [kind, source]),
    [['unreachable', 'probe']],
  )
  await simulator.setFault(ROUTE, null)
  await metadata.read('client')
  assert.deepEqual([observed.length, simulator.counters.total], [observations + 2, requests + 1])
})

test('stopped during its first probe, it waits for that probe, which is the last', async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: 1, timeoutMs: 300 })
  await simulator.setFault(ROUTE, { kind: 'hang' })
  const started = prober.start()
  await asked(1)
  const isOver = watch(metadata)
  await prober.stop()
  const waited = isOver()
  await started
  assert.deepEqual([observed.length, simulator.counters.total], [1, 1])
  assert.equal(waited, true)
})

/** Waits until this much time has passed since the last probe ended. */
const quiet = (observed: readonly Observed[], ms: number) =>
  until(steadyClock, now => now - (observed.at(-1)?.at ?? 0) - (observed.at(-1)?.durationMs ?? 0) >= ms)

test('a requested probe is sent at once', { timeout: 10_000 }, async t => {
  const { prober, observed, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await quiet(observed, SPACING_MS + 50)
  const askedAt = steadyClock()
  prober.probeNow()
  await seen(2)
  const at = observed[1]?.at ?? Number.NaN
  assert.ok(at >= askedAt && at < askedAt + LATE_MS, `it was sent ${at - askedAt} ms later`)
  assert.equal(observed[1]?.source, 'probe')
})

test('a thousand probe requests lead to one probe', { timeout: 10_000 }, async t => {
  const { prober, observed, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await quiet(observed, SPACING_MS + 50)
  for (let count = 0; count < 1000; count += 1) prober.probeNow()
  await seen(2)
  await quiet(observed, SPACING_MS + 100)
  assert.equal(observed.length, 2)
})

test('a probe requested right after another one is sent a quarter of a second later', {
  timeout: 10_000,
}, async t => {
  const { prober, observed, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  prober.probeNow()
  await seen(2)
  const [gap = Number.NaN] = gaps(observed)
  assert.ok(gap >= SPACING_MS - EARLY_MS && gap < SPACING_MS + LATE_MS, `${gap} ms`)
})

test('continuous probe requests lead to at most four probes a second', { timeout: 10_000 }, async t => {
  const { prober, observed } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await until(
    () => {
      prober.probeNow()
      return observed.length
    },
    length => length >= 5,
  )
  for (const gap of gaps(observed)) {
    assert.ok(gap >= SPACING_MS - EARLY_MS && gap < SPACING_MS + LATE_MS, `${gaps(observed)}`)
  }
})

test('a probe requested during another one is sent after it', { timeout: 10_000 }, async t => {
  const { prober, observed, simulator, asked, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 100 })
  prober.probeNow()
  await asked(2)
  assert.equal(observed.length, 1)
  const askedAt = steadyClock()
  for (let count = 0; count < 10; count += 1) prober.probeNow()
  await seen(3)
  assert.ok((observed[2]?.at ?? 0) > askedAt)
  const [, gap = Number.NaN] = gaps(observed)
  assert.ok(gap >= SPACING_MS - EARLY_MS && gap < SPACING_MS + LATE_MS, `${gap} ms`)
  await quiet(observed, SPACING_MS + 100)
  assert.equal(observed.length, 3)
})

test('a probe requested during the first one is sent after it', { timeout: 10_000 }, async t => {
  const { prober, simulator, asked, seen } = await probe(t, { periodMs: HOUR_MS, timeoutMs: 200 })
  await simulator.setFault(ROUTE, { kind: 'hang' })
  const started = prober.start()
  await asked(1)
  prober.probeNow()
  await started
  await seen(2)
})

test("a probe requested during a client's request is sent after it, because that request may have started too early", {
  timeout: 10_000,
}, async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await quiet(observed, SPACING_MS + 50)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 100 })
  const clientRead = metadata.read('client')
  await asked(2)
  const askedAt = steadyClock()
  prober.probeNow()
  await clientRead
  await quiet(observed, 2 * SPACING_MS)
  const last = observed.at(-1)?.at ?? Number.NaN
  assert.ok(last > askedAt, `the newest probe started ${askedAt - last} ms before it was requested`)
})

test('after a requested probe, the next one follows a whole period later', {
  timeout: 10_000,
}, async t => {
  const periodMs = 600
  const { prober, observed, seen } = await probe(t, { periodMs })
  await prober.start()
  prober.probeNow()
  await seen(3)
  const [first = Number.NaN, second = Number.NaN] = spans(observed)
  assert.ok(first < SPACING_MS + LATE_MS, `${first} ms`)
  assert.ok(second >= periodMs - 2 * EARLY_MS && second < periodMs + LATE_MS, `${second} ms`)
})

test('with a period shorter than the minimum spacing, a probe request has no effect', {
  timeout: 10_000,
}, async t => {
  const periodMs = 100
  const { prober, observed, seen } = await probe(t, { periodMs })
  await prober.start()
  prober.probeNow()
  await seen(4)
  for (const span of spans(observed)) assert.ok(span >= periodMs - EARLY_MS, `${spans(observed)}`)
  assert.ok(Math.min(...spans(observed)) < SPACING_MS - 50, `${spans(observed)}`)
})

test('a period that changes while running applies from the next wait on', { timeout: 10_000 }, async t => {
  let periodMs = 5
  const { prober, observed, seen } = await probe(t, { periodMs: () => periodMs })
  await prober.start()
  await seen(3)
  periodMs = HOUR_MS
  const before = observed.length
  await quiet(observed, 150)
  assert.ok(observed.length <= before + 2, `${observed.length - before} more probes`)
})

test('once stopped, it sends no more probes, even if they are requested', { timeout: 10_000 }, async t => {
  const { prober, observed, simulator } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  prober.probeNow()
  await prober.stop()
  prober.probeNow()
  await quiet(observed, SPACING_MS + 100)
  assert.deepEqual([observed.length, simulator.counters.total], [1, 1])
})

/** Joins the request in flight to find out whether it has ended. */
function watch(metadata: MetadataReader): () => boolean {
  let over = false
  void metadata.read('client').then(() => {
    over = true
  })
  return () => over
}

/** A prober for a server that returns 429 with this `Retry-After`, until it is switched to the metadata. */
async function limited(t: TestContext, retryAfter: string) {
  let isLimited = true
  const server = createServer((_, response) => {
    if (isLimited) response.writeHead(429, { 'retry-after': retryAfter }).end()
    else response.end(liveMetadata.present)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { reader: metadata, observed } = readerOf(t, `http://127.0.0.1:${portOf(server)}`)
  const slowed: (number | undefined)[] = []
  const prober = new Prober({
    metadata,
    periodMs: () => 20,
    clock: steadyClock,
    random: () => 0.5,
    onSlowed: limit => slowed.push(limit),
  })
  t.after(() => prober.stop())
  const lift = () => {
    isLimited = false
  }
  return { prober, observed, slowed, lift }
}

test('429 with Retry-After slows all probes, including requested ones, and is reported', async t => {
  const { prober, observed, slowed, lift } = await limited(t, '1')
  await prober.start()
  prober.probeNow()
  await until(
    () => observed.length,
    length => length >= 2,
  )
  for (const span of spans(observed)) assert.ok(span >= 1000 - EARLY_MS, `${span} ms`)
  assert.equal(slowed.length, 1)
  assert.ok(prober.slowedUntil !== undefined)
  lift()
  await until(
    () => observed.length,
    length => length >= 5,
  )
  assert.deepEqual([slowed.length, slowed.at(-1), prober.slowedUntil], [2, undefined, undefined])
})

test('an upstream cannot pause the probes for more than a minute', async t => {
  const { prober, observed } = await limited(t, '86400')
  await prober.start()
  await until(
    () => prober.slowedUntil,
    limit => limit !== undefined,
  )
  const [first] = observed
  assert.ok(first !== undefined)
  const pauseMs = (prober.slowedUntil ?? 0) - first.at - first.durationMs
  assert.ok(pauseMs > 59_000 && pauseMs <= 60_000 + 1, `${pauseMs} ms`)
})
