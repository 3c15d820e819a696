import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import fastify from 'fastify'
import { Breaker } from '../../src/breaker/breaker.js'
import { WaitingRoom } from '../../src/breaker/waiting-room.js'
import { MAX_WAITING, wait } from '../../src/routes/wait-route.js'
import { Connections } from '../../src/server/connection.js'
import { at, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { type Answer, ask, aWhile, configure, FAST, NO_PROBES } from '../support/http-client.js'
import { portOf, rawClient, rawUpstream, response } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const waitFor = (proxy: { readonly url: string }, timeout?: string) =>
  ask(`${proxy.url}/-/wait${timeout === undefined ? '' : `?timeout=${encodeURIComponent(timeout)}`}`)

/** A client that waits, and whether it has its response. */
function waiting(proxy: { readonly url: string }, timeout = '60s') {
  const client = { isAnswered: false, answer: waitFor(proxy, timeout) }
  const answered = () => {
    client.isAnswered = true
  }
  client.answer.then(answered, answered)
  return client
}

/** The members of a response that do not change from one to the next. */
function factsOf({ statusCode, headers, json }: Answer) {
  const members = ['error', 'message', 'status', 'reason', 'details', 'forwarded', 'circuit', 'admits']
  const fields = ['content-type', 'cache-control', 'proxy-status', 'link']
  return [statusCode, ...fields.map(name => headers[name]), ...members.map(name => at(json, name))]
}

test('a client that waits for the fiber is queued, and released when the circuit admits', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const env = { ...FAST, FOCUS_BREAKER_BASE_PATH: '/focus-server' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const clients = [
    waiting(proxy),
    waiting({ url: `${proxy.url}/focus-server` }, '10m'),
    // Without a timeout parameter.
    { isAnswered: false, answer: waitFor(proxy) },
  ]
  const inText = ask(`${proxy.url}/-/wait`, { headers: { accept: 'text/plain' } })
  await aWhile()
  assert.deepEqual(
    clients.map(({ isAnswered }) => isAnswered),
    [false, false, false],
  )
  await simulator.setFiber('present')
  for (const { answer } of clients) {
    const { statusCode, json, headers } = await answer
    assert.equal(statusCode, 200)
    assert.equal(at(json, 'admits'), true)
    assert.equal(at(json, 'circuit', 'state'), 'closed')
    assert.match(String(at(json, 'message')), /^admitted: circuit closed for /)
    assert.equal(headers['cache-control'], 'no-store')
  }
  assert.match((await inText).bytes.toString(), /^admitted: circuit closed for \d+ m?s\n$/)
  // Nothing but the metadata was requested from focus-server.
  assert.deepEqual(Object.keys(simulator.counters.byRoute), ['GET /live_metadata'])
  assert.equal((await waitFor(proxy, '1h')).statusCode, 200)
})

describe('while the fiber is missing', { concurrency: true }, () => {
  async function withoutFiber(t: TestContext, env: Readonly<Record<string, string>> = {}) {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    return startProxy(t, { upstream: simulator.url, env: { ...NO_PROBES, ...env } })
  }

  test('a wait that times out gets the response of /-/fiber, not earlier', async t => {
    const proxy = await withoutFiber(t)
    for (const [timeout, ms] of [
      ['1', 1000],
      ['300ms', 300],
      ['0', 0],
    ] as const) {
      const startedAt = performance.now()
      const answer = await waitFor(proxy, timeout)
      const tookMs = performance.now() - startedAt
      // The proxy's clock and ours may round differently.
      assert.ok(tookMs > ms - 5, `${timeout} ended after ${tookMs.toFixed(1)} ms`)
      assert.equal(answer.statusCode, 503)
      assert.match(String(answer.headers['retry-after']), /^[1-5]$/)
      assert.equal(at(answer.json, 'status'), 'waiting_for_fiber')
      assert.deepEqual(factsOf(answer), factsOf(await ask(`${proxy.url}/-/fiber`)))
    }
    // The request was not for a job.
    assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 0)
  })

  test('an invalid timeout, or one of more than an hour, is a 400 that says what was expected', async t => {
    const proxy = await withoutFiber(t)
    for (const timeout of ['', 'soon', '-1', '60S', '1d', '61m', '3601', '9'.repeat(1000)]) {
      const { statusCode, json } = await waitFor(proxy, timeout)
      assert.equal(statusCode, 400, timeout)
      const message = String(at(json, 'message'))
      assert.match(message, /^timeout: expected a duration of at most 1 h, like 60s or 10m; given /)
      assert.ok(message.includes(`given ${timeout.slice(0, 64)}.`) && message.length < 200, message)
    }
  })

  test('a manual override releases as well', async t => {
    const token = 'a-token-of-the-test'
    const proxy = await withoutFiber(t, { FOCUS_BREAKER_ADMIN_TOKEN: token })
    const client = waiting(proxy)
    await aWhile()
    assert.equal(client.isAnswered, false)
    const put = await ask(`${proxy.url}/-/override`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${token}` },
      body: JSON.stringify({ state: 'closed', reason: 'a test', forSeconds: 60 }),
    })
    assert.equal(put.statusCode, 200)
    assert.equal((await client.answer).statusCode, 200)
  })

  test('a shutdown responds to all waiting clients at once', async t => {
    const proxy = await withoutFiber(t, { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '60000' })
    const port = Number(new URL(proxy.url).port)
    const head = (path: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`
    const clients = await Promise.all(
      Array.from({ length: 200 }, async () => {
        const client = await rawClient(t, port)
        // When the first response has arrived, the second request, in the same packet, has been read as well.
        await client.send(head('/-/live') + head('/-/wait?timeout=10m')).until(/^HTTP\/1\.1 200 /)
        return client
      }),
    )
    await aWhile()
    assert.deepEqual(
      clients.filter(({ text }) => /HTTP\/1\.1 503/.test(text)),
      [],
    )
    // `stop` gives up long before the drain timeout.
    const [code] = await Promise.all([
      proxy.stop(),
      ...clients.map(client => client.until(/HTTP\/1\.1 503 (.|\s)*"status":"waiting_for_fiber"/)),
    ])
    assert.equal(code, 0)
  })
})

test('while a half-open circuit is full no client is released; when there are free slots again, all are', async t => {
  const fiber = { there: false }
  const upstream = await rawUpstream(t, () => undefined, fiber)
  const env = {
    FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
    FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY: '1',
    FOCUS_BREAKER_RECOVERY_MAX_CONCURRENCY: '1',
    FOCUS_BREAKER_RECOVERY_RAMP_MS: '600000',
  }
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env })
  // Admitted with the transition itself, it takes the one slot before any client waiting for the fiber is checked.
  const job = configure(proxy, { headers: { prefer: 'wait=60' } })
  await until(async () => at(await statusOf(proxy), 'waiting') === 1)
  const clients = [waiting(proxy), waiting(proxy), waiting(proxy)]
  await aWhile()
  fiber.there = true
  await until(() => upstream.received.length === 1, { what: 'the job is admitted' })
  await aWhile()
  assert.equal(at(await statusOf(proxy), 'refusal'), 'recovering')
  assert.deepEqual(
    clients.map(({ isAnswered }) => isAnswered),
    [false, false, false],
  )
  assert.equal(at((await waitFor(proxy, '100ms')).json, 'status'), 'recovering')
  upstream.received[0]?.socket.write(response('200 OK', '{}'))
  assert.equal((await job).statusCode, 200)
  for (const { answer } of clients) {
    const { statusCode, json } = await answer
    assert.equal(statusCode, 200)
    assert.equal(at(json, 'circuit', 'state'), 'half-open')
  }
})

/** Only the route, with a breaker that a call moves; `answered` counts its responses. */
async function route(t: TestContext) {
  const settings = {
    thresholds: { waiting: 1, unreachable: 3, ready: 2 },
    recovery: { initialConcurrency: 2, maxConcurrency: 30, rampMs: 0 },
    probePeriodMs: 2000,
    maxConcurrency: 0,
    mode: 'enforce',
  } as const
  let now = 1_000_000
  const breaker = new Breaker(
    () => settings,
    () => now,
  )
  t.after(() => breaker.shutdown())
  const app = fastify()
  t.after(() => app.close())
  const answered: unknown[] = []
  const room = new WaitingRoom({
    breaker,
    clock: () => now,
    capacity: () => MAX_WAITING,
    policy: { kind: 'at-random', random: Math.random },
  })
  wait(app, {
    breaker,
    room,
    connections: new Connections({
      maxRequestsPerConnection: 0,
      responsePauseTimeoutMs: 0,
      bodyTimeoutMs: 0,
    }),
    addressOf: request => request.ip,
    answer: (request, reply) => {
      answered.push(request.headers['x-name'])
      reply.send()
    },
  })
  const held: unknown[] = []
  app.addHook('preHandler', (request, _reply, done) => {
    held.push(request.headers['x-name'])
    done()
  })
  return {
    app,
    answered,
    held,
    admit: () => breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, 'a test'),
    pass: (ms: number) => {
      now += ms
    },
  }
}

test('a client that leaves is no longer queued and gets no response', async t => {
  const { app, answered, held, admit } = await route(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const names = ['a', 'leaves', 'b', 'leaves too', 'c']
  const clients = new Map(
    await Promise.all(names.map(async name => [name, await rawClient(t, portOf(app.server))] as const)),
  )
  for (const [name, client] of clients)
    client.send(`GET /-/wait HTTP/1.1\r\nHost: x\r\nX-Name: ${name}\r\n\r\n`)
  await until(() => held.length === 5)
  for (const name of ['leaves', 'leaves too']) clients.get(name)?.socket.destroy()
  const connections = () =>
    new Promise<number>((resolve, reject) =>
      app.server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
    )
  await until(async () => (await connections()) === 3, { what: 'two clients have left' })
  admit()
  for (const name of ['a', 'b', 'c']) await clients.get(name)?.until(/^HTTP\/1\.1 200 /)
  assert.deepEqual(answered.toSorted(), ['a', 'b', 'c'])
})

test('the release rate depends on how many clients wait when the circuit admits, not on how many waited earlier', async t => {
  const ticks: (() => void)[] = []
  t.mock.method(globalThis, 'setInterval', (tick: () => void) => {
    ticks.push(tick)
    return setTimeout(() => undefined, 0)
  })
  const { app, answered, held, admit, pass } = await route(t)
  const tick = () => ticks.at(-1)?.()
  const come = (count: number, timeout: string) => {
    for (let index = 0; index < count; index += 1) void app.inject(`/-/wait?timeout=${timeout}`)
  }
  come(3000, '1s')
  come(20, '60s')
  await until(() => held.length === 3020)
  tick()
  pass(1000)
  // Not all at once, which would delay all other requests.
  for (const most of [200, 400, 600]) {
    tick()
    assert.equal(answered.length, most)
  }
  for (let count = 3; count < 15; count += 1) tick()
  assert.equal(answered.length, 3000)
  admit()
  // 20 ms for each, checked every 50 ms.
  const gone: number[] = []
  for (let count = 0; count < 8; count += 1) {
    tick()
    gone.push(answered.length - 3000)
  }
  assert.deepEqual(gone, [3, 6, 9, 12, 15, 18, 20, 20])
})

/** How many descriptors a process may open here; each client needs one on either side. */
function descriptorLimit(): number {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 1000)
  } catch {
    return 1000
  }
}

/** The resident memory of the process, in MiB; undefined if the system does not report it. */
function residentMiB(pid: number): number | undefined {
  try {
    const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return kib === undefined ? undefined : Number(kib) / 1024
  } catch {
    return undefined
  }
}

/** A client with a single socket: when its response started to arrive, and its headers. */
async function bareWait(port: number): Promise<{ readonly atMs: number; readonly head: string }> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  socket.write('GET /-/wait?timeout=10m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  let atMs = 0
  let head = ''
  socket.on('data', chunk => {
    if (head === '') atMs = performance.now()
    head += chunk.toString('latin1')
  })
  await new Promise(resolve => socket.once('close', resolve))
  return { atMs, head }
}

/** Other requests, one after the other, until `isOver` says so; returns their 99th percentile. */
async function others(proxy: RunningProxy, isOver: () => boolean): Promise<string> {
  const tookMs: number[] = []
  while (!isOver()) {
    const startedAt = performance.now()
    const { statusCode } = await ask(`${proxy.url}/channels`)
    tookMs.push(performance.now() - startedAt)
    assert.equal(statusCode, 200)
    await delay(2)
  }
  tookMs.sort((a, b) => a - b)
  const p99 = tookMs[Math.ceil(tookMs.length * 0.99) - 1] ?? Number.NaN
  return `${p99.toFixed(1)} ms (${tookMs.length} requests)`
}

function times(count: number): () => boolean {
  let left = count
  return () => {
    left -= 1
    return left < 0
  }
}

/** The largest share of the moments within any window of this length. */
function largestShare(momentsMs: readonly number[], windowMs: number): number {
  const sorted = momentsMs.toSorted((a, b) => a - b)
  let from = 0
  let most = 0
  for (const [index, moment] of sorted.entries()) {
    while (moment - (sorted[from] ?? moment) > windowMs) from += 1
    most = Math.max(most, index - from + 1)
  }
  return most / sorted.length
}

const CLIENTS = Math.max(100, Math.min(5000, descriptorLimit() - 500))

test(`${CLIENTS} waiting clients are all released within seconds of the recovery, spread out`, async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const port = Number(new URL(proxy.url).port)
  const memory = [residentMiB(proxy.pid)]
  const p99 = [await others(proxy, times(300))]
  const clients: Promise<Awaited<ReturnType<typeof bareWait>>>[] = []
  let answered = 0
  for (let count = 0; count < CLIENTS; count += 1) {
    const client = bareWait(port)
    void client.then(() => {
      answered += 1
    })
    clients.push(client)
    // No more at once than a listening socket queues.
    if (count % 200 === 199) await statusOf(proxy)
  }
  p99.push(await others(proxy, times(300)))
  memory.push(residentMiB(proxy.pid))
  assert.equal(answered, 0)

  const recoveredAt = performance.now()
  await simulator.setFiber('present')
  p99.push(await others(proxy, () => answered === CLIENTS))
  const answers = await Promise.all(clients)
  memory.push(residentMiB(proxy.pid))
  const lastMs = Math.max(...answers.map(({ atMs }) => atMs)) - recoveredAt

  assert.equal(answers.filter(({ head }) => head.startsWith('HTTP/1.1 200 ')).length, CLIENTS)
  // By our own clock, which may have paused for a while on a busy machine.
  const share = largestShare(
    answers.map(({ atMs }) => atMs),
    100,
  )
  assert.ok(share < 0.25, `${(share * 100).toFixed(1)} % were released within 100 ms`)
  // By the proxy's clock.
  const bySecond = new Map<string, number>()
  for (const { head } of answers) {
    const second = /^date: (.*)\r$/im.exec(head)?.[1] ?? ''
    bySecond.set(second, (bySecond.get(second) ?? 0) + 1)
  }
  const fullest = Math.max(...bySecond.values()) / CLIENTS
  assert.ok(fullest < 0.45, `${(fullest * 100).toFixed(1)} % were released within one second`)
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  const mib = memory.map(value => (value === undefined ? 'unknown' : `${value.toFixed(0)} MiB`))
  t.diagnostic(
    `${CLIENTS} were released within ${(lastMs / 1000).toFixed(1)} s of the fiber coming back, ` +
      `at most ${(share * 100).toFixed(1)} % within 100 ms and ${(fullest * 100).toFixed(0)} % within a second`,
  )
  t.diagnostic(`resident memory before, with and after the clients: ${mib.join(', ')}`)
  t.diagnostic(`p99 of other requests before, with and during the release: ${p99.join(', ')}`)
})
