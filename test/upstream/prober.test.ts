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

/** The least from the end of a probe to the beginning of one that was asked for. */
const SPACING_MS = 250

/** A timer counts from the beginning of the turn of the loop that sets it, and rounds. */
const EARLY_MS = 10

/** How late a timer and a request may be on a loaded machine. */
const LATE_MS = 200

/** From the end of each look to the beginning of the next. */
const gaps = (observed: readonly Observed[]) =>
  observed.slice(1).map(({ at }, index) => {
    const before = observed[index]
    return before === undefined ? Number.NaN : at - before.at - before.durationMs
  })

/** From the beginning of each look to the beginning of the next. */
const spans = (observed: readonly Observed[]) =>
  observed.slice(1).map(({ at }, index) => at - (observed[index]?.at ?? Number.NaN))

/** A prober in front of a simulator, and what it has observed. */
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
  test(`it looks again after ${part} of the period where the draw is ${random.toFixed(1)}`, async t => {
    const periodMs = 200
    const { prober, observed, seen } = await probe(t, { periodMs, random: () => random })
    await prober.start()
    await seen(4)
    const periods = spans(observed)
    // A timer may be late, on a loaded machine much.
    assert.ok(Math.min(...periods) >= part * periodMs - EARLY_MS, `${periods}`)
    assert.ok(Math.min(...periods) < (part + 0.09) * periodMs, `${periods}`)
  })
}

test('the time that a look takes is part of the period', { timeout: 10_000 }, async t => {
  const periodMs = 300
  const { prober, observed, simulator, seen } = await probe(t, { periodMs })
  await prober.start()
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 150 })
  await seen(5)
  // From the second look on, each of which was slow.
  const periods = spans(observed).slice(1)
  assert.ok(Math.min(...periods) >= periodMs - EARLY_MS, `${periods}`)
  assert.ok(Math.min(...periods) < periodMs + 100, `${periods}`)
})

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
  const probes = () => observed.filter(({ source }) => source === 'probe').length
  const [observations, requests] = [probes(), simulator.counters.byRoute[ROUTE] ?? 0]
  // Several periods long.
  for (let count = 0; count < 10; count += 1) await metadata.read('client')
  assert.equal(probes(), observations)
  assert.equal(simulator.counters.byRoute[ROUTE], requests + 10)
})

test('stopped while it looks, it waits for the look, which is its last', async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: 1, timeoutMs: 300 })
  await prober.start()
  await simulator.setFault(ROUTE, { kind: 'hang' })
  await asked(simulator.counters.total + 1)
  const [observations, requests, isOver] = [observed.length, simulator.counters.total, watch(metadata)]
  await prober.stop()
  assert.equal(isOver(), true)
  // Observed by the reader, as any look is.
  assert.deepEqual(
    observed.slice(observations).map(({ kind, source }) => [kind, source]),
    [['unreachable', 'probe']],
  )
  await simulator.setFault(ROUTE, null)
  await metadata.read('client')
  assert.deepEqual([observed.length, simulator.counters.total], [observations + 2, requests + 1])
})

test('stopped while it takes its first look, it waits for the look, which is its last', async t => {
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

/** Until so much time has passed since the last look ended. */
const quiet = (observed: readonly Observed[], ms: number) =>
  until(steadyClock, now => now - (observed.at(-1)?.at ?? 0) - (observed.at(-1)?.durationMs ?? 0) >= ms)

test('asked for a probe, it looks at once', { timeout: 10_000 }, async t => {
  const { prober, observed, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await quiet(observed, SPACING_MS + 50)
  const askedAt = steadyClock()
  prober.probeNow()
  await seen(2)
  const at = observed[1]?.at ?? Number.NaN
  assert.ok(at >= askedAt && at < askedAt + LATE_MS, `it came ${at - askedAt} ms after`)
  assert.equal(observed[1]?.source, 'probe')
})

test('asked a thousand times, it looks once', { timeout: 10_000 }, async t => {
  const { prober, observed, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await quiet(observed, SPACING_MS + 50)
  for (let count = 0; count < 1000; count += 1) prober.probeNow()
  await seen(2)
  await quiet(observed, SPACING_MS + 100)
  assert.equal(observed.length, 2)
})

test('asked right after a probe, it looks a quarter of a second after it', { timeout: 10_000 }, async t => {
  const { prober, observed, seen } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  prober.probeNow()
  await seen(2)
  const [gap = Number.NaN] = gaps(observed)
  assert.ok(gap >= SPACING_MS - EARLY_MS && gap < SPACING_MS + LATE_MS, `${gap} ms`)
})

test('asked without pause, it looks four times a second at most', { timeout: 10_000 }, async t => {
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

test('asked while a probe is under way, it looks once more after it', { timeout: 10_000 }, async t => {
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

test('asked while it takes its first look, it looks once more after it', { timeout: 10_000 }, async t => {
  const { prober, simulator, asked, seen } = await probe(t, { periodMs: HOUR_MS, timeoutMs: 200 })
  await simulator.setFault(ROUTE, { kind: 'hang' })
  const started = prober.start()
  await asked(1)
  prober.probeNow()
  await started
  await seen(2)
})

test("asked while a client's look is under way, it looks once more: that one may have begun too early", {
  timeout: 10_000,
}, async t => {
  const { prober, metadata, observed, simulator, asked } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  await quiet(observed, SPACING_MS + 50)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 100 })
  const look = metadata.read('client')
  await asked(2)
  const askedAt = steadyClock()
  prober.probeNow()
  await look
  await quiet(observed, 2 * SPACING_MS)
  const last = observed.at(-1)?.at ?? Number.NaN
  assert.ok(last > askedAt, `the newest look began ${askedAt - last} ms before it was asked for`)
})

test('after a probe that was asked for, the next one comes a whole period later', {
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

test('where the period is shorter than that, asking changes nothing', { timeout: 10_000 }, async t => {
  const periodMs = 100
  const { prober, observed, seen } = await probe(t, { periodMs })
  await prober.start()
  prober.probeNow()
  await seen(4)
  for (const span of spans(observed)) assert.ok(span >= periodMs - EARLY_MS, `${spans(observed)}`)
  assert.ok(Math.min(...spans(observed)) < SPACING_MS - 50, `${spans(observed)}`)
})

test('a period that is changed while running holds from the next wait on', { timeout: 10_000 }, async t => {
  let periodMs = 5
  const { prober, observed, seen } = await probe(t, { periodMs: () => periodMs })
  await prober.start()
  await seen(3)
  periodMs = HOUR_MS
  const before = observed.length
  await quiet(observed, 150)
  assert.ok(observed.length <= before + 2, `${observed.length - before} looks more`)
})

test('stopped, it looks no more, also when it is asked to', { timeout: 10_000 }, async t => {
  const { prober, observed, simulator } = await probe(t, { periodMs: HOUR_MS })
  await prober.start()
  prober.probeNow()
  await prober.stop()
  prober.probeNow()
  await quiet(observed, SPACING_MS + 100)
  assert.deepEqual([observed.length, simulator.counters.total], [1, 1])
})

/** Whether the look that is under way has ended, which joining it tells. */
function watch(metadata: MetadataReader): () => boolean {
  let over = false
  void metadata.read('client').then(() => {
    over = true
  })
  return () => over
}

/** A prober in front of a server that answers 429 with this `Retry-After`, until it is told to answer with the metadata. */
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

test('429 with Retry-After slows the probes, also those that are asked for, and says so', async t => {
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

test('no upstream can stop the probes for more than a minute', async t => {
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
