import assert from 'node:assert/strict'
import type { ServerResponse } from 'node:http'
import { type TestContext, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fastify from 'fastify'
import { Agent, request } from 'undici'
import type { Breaker } from '../../src/breaker/breaker.js'
import { EventRing } from '../../src/observability/event-ring.js'
import { events as eventsRoute } from '../../src/routes/events-route.js'
import { Connections } from '../../src/server/connection.js'
import { setUp } from '../support/breaker-set-up.js'
import { type EventStream, openEvents, type StreamEvent } from '../support/event-stream.js'
import { at, circuitIs, type RunningProxy, startProxy, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { portOf } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const TOKEN = 'a-token-of-the-test'

test('a played outage is streamed as it happens: transitions, readings, and refusals as a sum', async t => {
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_RECOVERY_RAMP_MS: '200', FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'closed')
  const stream = await openEvents(t, `${proxy.url}/-/events`)
  assert.equal(stream.statusCode, 200)
  assert.match(String(stream.headers['content-type']), /^text\/event-stream/)
  assert.equal(stream.headers['cache-control'], 'no-store')
  assert.equal(stream.headers['x-accel-buffering'], 'no')
  await until(() => stream.retryMs === 3000)

  await simulator.setFiber('missing')
  await stream.until(events => transitionsOf(events).length === 1)
  for (let count = 0; count < 30; count += 1) await configure(proxy)
  await stream.until(events => refusedOf(events) === 30)
  await simulator.setFiber('present')
  await stream.until(events => transitionsOf(events).length === 3)
  const headers = { authorization: `Bearer ${TOKEN}` }
  const body = JSON.stringify({ state: 'open', reason: 'fiber work', forSeconds: 60 })
  await ask(`${proxy.url}/-/override`, { method: 'PUT', headers, body })
  await stream.until(events => events.some(({ type }) => type === 'override'))

  const { events } = stream
  assert.deepEqual(transitionsOf(events), [
    'closed>open:waiting',
    'open>half-open:waiting',
    'half-open>closed:waiting',
  ])
  const opened = events.findIndex(({ type }) => type === 'transition')
  assert.equal(at(events[opened - 1], 'data', 'kind'), 'waiting', 'a transition follows its reading')
  assert.deepEqual(at(events[opened - 1], 'data', 'missing'), ['prr'])
  assert.equal(at(events[opened], 'data', 'source'), 'probe')
  for (const { data } of events) {
    if (at(data, 'at') !== undefined) assert.match(String(at(data, 'at')), /^\d{4}-.*\.\d{3}Z$/)
  }
  const word = events.find(({ type }) => type === 'override')
  assert.equal(at(word, 'data', 'reason'), 'fiber work')
  const numbers = numbersOf(events)
  assert.deepEqual(
    numbers,
    numbers.map((_, index) => (numbers[0] ?? 0) + index),
    'the ids increase by one',
  )
  assert.equal(new Set(events.map(({ id }) => id.split('-')[0])).size, 1)
})

test('a client that reconnects with its last id gets every event it missed, once and in order', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await circuitIs(proxy, 'closed')
  const witness = await openEvents(t, `${proxy.url}/-/events`)
  const leaver = await openEvents(t, `${proxy.url}/-/events`)
  await flap(proxy, simulator)
  await leaver.until(events => transitionsOf(events).length >= 2)
  leaver.close()
  await flap(proxy, simulator)
  const last = leaver.events.at(-1)?.id ?? ''
  const back = await openEvents(t, `${proxy.url}/-/events`, { 'last-event-id': last })
  await flap(proxy, simulator)
  await until(() => numbersOf(witness.events).at(-1) === numbersOf(back.events).at(-1))
  const seen = [...leaver.events, ...back.events].map(({ id }) => id)
  assert.equal(new Set(seen).size, seen.length, 'an event was sent twice')
  assert.deepEqual(
    seen,
    witness.events.slice(-seen.length).map(({ id }) => id),
  )
  assert.ok(transitionsOf(back.events).length >= 4)
})

test('an id of another process, an id of the future, or a missing or malformed id resumes nothing and does no harm', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await circuitIs(proxy, 'closed')
  const witness = await openEvents(t, `${proxy.url}/-/events`)
  await flap(proxy, simulator)
  const epoch = witness.events[0]?.id.split('-')[0]
  const odd = ['abc-1', '1', '-', `${epoch}-999999999`, `${epoch}-NaN`, 'x'.repeat(4000), `${epoch}-1e999`]
  const streams = await Promise.all(
    odd.map(id => openEvents(t, `${proxy.url}/-/events`, { 'last-event-id': id })),
  )
  const before = numbersOf(witness.events).at(-1) ?? 0
  await flap(proxy, simulator)
  for (const [index, stream] of streams.entries()) {
    await stream.until(events => transitionsOf(events).length >= 2)
    assert.ok(
      numbersOf(stream.events).every(number => number > before - 3),
      `${odd[index]} got past events`,
    )
  }
})

test('the last thousand events are kept for clients that reconnect', async t => {
  const { url, emit } = await eventServer(t)
  const first = await openEvents(t, url)
  await emit(1)
  await first.until(events => events.length >= 1)
  const { id } = first.events[0] ?? { id: '' }
  await emit(3000)
  const back = await openEvents(t, url, { 'last-event-id': id })
  await emit(1)
  await back.until(events => events.length >= 1001)
  const numbers = numbersOf(back.events)
  assert.equal(numbers.length, 1001)
  assert.equal((numbers.at(-1) ?? 0) - (numbers[0] ?? 0), 1000)
})

test('a stream without events sends a sign of life', async t => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const { url } = await eventServer(t)
  const stream = await openEvents(t, url)
  await until(() => stream.retryMs !== undefined)
  assert.deepEqual(stream.comments, [])
  for (const beats of [1, 2, 3]) {
    t.mock.timers.tick(15_000)
    await until(() => stream.comments.length === beats)
  }
  assert.deepEqual(stream.events, [])
})

test('an unchanged reading is sent at most once a second, a changed one at once', async t => {
  const { url, breaker, clock, pass } = await eventServer(t)
  const stream = await openEvents(t, url)
  const observeReading = (kind: 'ready' | 'waiting') => observe(breaker, clock(), kind)
  observeReading('ready')
  for (let count = 0; count < 10; count += 1) {
    pass(99)
    observeReading('ready')
  }
  pass(10)
  observeReading('ready')
  observeReading('waiting')
  observeReading('ready')
  await stream.until(events => events.filter(({ type }) => type === 'reading').length >= 4)
  assert.deepEqual(
    stream.events.filter(({ type }) => type === 'reading').map(({ data }) => at(data, 'kind')),
    ['ready', 'ready', 'waiting', 'ready'],
  )
})

test('a client that does not read is dropped, with little buffered for it; the others get everything', async t => {
  const { url, emit, responses } = await eventServer(t)
  const stuck = await openEvents(t, url)
  stuck.pause()
  const live = await Promise.all(Array.from({ length: 5 }, () => openEvents(t, url)))
  const [ofStuck] = responses
  assert.ok(ofStuck !== undefined)
  let sent = 0
  let largest = 0
  while (!ofStuck.destroyed && sent < 200_000) {
    await emit(100)
    sent += 100
    largest = Math.max(largest, ofStuck.writableLength)
  }
  t.diagnostic(`dropped after ${sent} events, of which at most ${largest} bytes were buffered for it`)
  assert.ok(ofStuck.destroyed, `after ${sent} events the client is not dropped`)
  // The limit, plus the size of a hundred events.
  assert.ok(largest < 262_144 + 100_000, `${largest} bytes`)
  await emit(100)
  sent += 100
  for (const stream of live) {
    await stream.until(events => events.length === sent)
    assert.equal(stream.over, undefined)
  }
  stuck.resume()
  await until(() => stuck.over === 'cut')
  assert.ok(stuck.events.length < sent)
  // It can reconnect, and resume if possible.
  const back = await openEvents(t, url, { 'last-event-id': stuck.events.at(-1)?.id ?? '' })
  // What it missed can arrive in several chunks.
  await back.until(events => numbersOf(events).at(-1) === sent)
})

test('a client that does not read does not delay a shutdown', { timeout: 20_000 }, async t => {
  const { url, emit, responses, app } = await eventServer(t)
  const stuck = await openEvents(t, url)
  stuck.pause()
  const [ofStuck] = responses
  assert.ok(ofStuck !== undefined)
  while (ofStuck.writableLength === 0) await emit(10)
  assert.equal(ofStuck.destroyed, false)
  // If it were waited for, the test would not end.
  await app.close()
  stuck.resume()
  await until(() => stuck.over !== undefined)
})

test('a shutdown ends every stream regularly, not as an error', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const streams = await Promise.all(Array.from({ length: 20 }, () => openEvents(t, `${proxy.url}/-/events`)))
  const startedAt = performance.now()
  assert.equal(await proxy.stop(), 0)
  // The drain takes ten seconds if something delays it.
  assert.ok(performance.now() - startedAt < 8000, 'the clients delayed the shutdown')
  for (const stream of streams) await until(() => stream.over === 'end')
})

test('a thousand clients may listen at a time; the next one gets a 503 with Retry-After, and no other does', async t => {
  const { url } = await eventServer(t)
  const streams: EventStream[] = []
  while (streams.length < 1000) {
    streams.push(...(await Promise.all(Array.from({ length: 50 }, () => openEvents(t, url)))))
  }
  assert.ok(streams.every(({ statusCode }) => statusCode === 200))
  const refused = await ask(url)
  assert.equal(refused.statusCode, 503)
  assert.equal(refused.headers['retry-after'], '5')
  streams[0]?.close()
  await until(async () => {
    const stream = await openEvents(t, url)
    return stream.statusCode === 200
  })
})

test('HEAD has the headers of GET, and ends', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url })
  const head = await ask(`${proxy.url}/-/events`, { method: 'HEAD' })
  assert.equal(head.statusCode, 200)
  assert.match(String(head.headers['content-type']), /^text\/event-stream/)
})

/** How many requests a phase sends, how many at a time, and how often the two kinds of phases alternate. */
const PHASE_REQUESTS = 1500
const AT_A_TIME = 10
const TURNS = 4

test('a stuck client and 200 live ones do not slow the requests through the proxy', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await circuitIs(proxy, 'closed')
  const agent = new Agent({ connections: AT_A_TIME })
  t.after(() => agent.destroy())
  const url = `${proxy.url}/-/events`
  const phase = () => latenciesOf(`${proxy.url}/channels`, agent)
  await phase()
  const without: number[] = []
  const withReaders: number[] = []
  let sent = 0
  for (let index = 0; index < TURNS; index += 1) {
    without.push(...(await phase()))
    const stuck = await openEvents(t, url)
    stuck.pause()
    const live = await Promise.all(Array.from({ length: 200 }, () => openEvents(t, url)))
    const [latencies] = await Promise.all([phase(), flap(proxy, simulator)])
    withReaders.push(...latencies)
    for (const stream of live) {
      await stream.until(events => transitionsOf(events).length >= 2)
      sent += stream.events.length
    }
    for (const stream of [stuck, ...live]) stream.close()
  }
  const figures = [0.5, 0.99].map(part => [quantile(without, part), quantile(withReaders, part)] as const)
  const shown = figures.map(([before, during]) => `${before.toFixed(2)} and ${during.toFixed(2)} ms`)
  const [[before, during] = [1, 1]] = figures
  t.diagnostic(`GET /channels without and with readers: median ${shown[0]}, 99 % ${shown[1]}`)
  t.diagnostic(
    `ratio of the medians ${(during / before).toFixed(2)}; ${sent} events reached the live clients`,
  )
  assert.ok(during / before < 2, `${(during / before).toFixed(2)} times as slow`)
})

/** Only the stream, in front of a breaker that is fed by hand. */
async function eventServer(t: TestContext) {
  const all = setUp()
  const app = fastify()
  const ring = new EventRing({ clock: all.clock, startedAt: 0 })
  ring.attach(all.breaker)
  const connections = new Connections({
    maxRequestsPerConnection: 0,
    responsePauseTimeoutMs: 0,
    bodyTimeoutMs: 0,
  })
  eventsRoute(app, ring, { connections, addressOf: request => request.ip })
  const responses: ServerResponse[] = []
  app.server.on('request', (_request, response) => responses.push(response))
  await app.listen({ host: '127.0.0.1', port: 0 })
  t.after(() => app.close())
  let next = 0
  return {
    ...all,
    app,
    url: `http://127.0.0.1:${portOf(app.server)}/-/events`,
    /** The server's ends of the streams, in order. */
    responses,
    /** Sends this many events, and lets the clients read them; the circuit does not change. */
    emit: async (count: number) => {
      for (let sent = 0; sent < count; sent += 1) {
        all.pass(1)
        next += 1
        observe(all.breaker, all.clock(), next % 2 === 0 ? 'waiting' : 'ready', false)
        if (sent % 100 === 99) await turn()
      }
      await turn()
    },
  }
}

function observe(breaker: Breaker, now: number, kind: 'ready' | 'waiting', isCounted = true): void {
  const metadata = { prr: kind === 'ready' ? 2000 : 0, fiber_description: 'd'.repeat(200) }
  const known = { at: now, source: 'probe', metadata } as const
  breaker.observe(kind === 'ready' ? { ...known, kind } : { ...known, kind, missing: ['prr'] }, isCounted)
}

/** The fiber is lost and comes back. */
async function flap(
  proxy: RunningProxy,
  simulator: { setFiber(state: 'missing' | 'present'): Promise<void> },
): Promise<void> {
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
}

/** The duration of each request of a phase, in milliseconds. */
async function latenciesOf(url: string, dispatcher: Agent): Promise<readonly number[]> {
  const latencies: number[] = []
  await Promise.all(
    Array.from({ length: AT_A_TIME }, async () => {
      for (let sent = 0; sent < PHASE_REQUESTS / AT_A_TIME; sent += 1) {
        const startedAt = performance.now()
        const { statusCode, body } = await request(url, { dispatcher })
        await body.dump()
        assert.equal(statusCode, 200)
        latencies.push(performance.now() - startedAt)
      }
    }),
  )
  return latencies
}

function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(part * (sorted.length - 1))] ?? Number.NaN
}

function transitionsOf(events: readonly StreamEvent[]): readonly string[] {
  return events
    .filter(({ type }) => type === 'transition')
    .map(({ data }) => `${at(data, 'from')}>${at(data, 'to')}:${at(data, 'cause')}`)
}

function refusedOf(events: readonly StreamEvent[]): number {
  return events
    .filter(({ type }) => type === 'refused')
    .reduce((sum, { data }) => sum + Number(at(data, 'count')), 0)
}

function numbersOf(events: readonly StreamEvent[]): readonly number[] {
  return events.map(({ id }) => Number(id.split('-')[1]))
}
