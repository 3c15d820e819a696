import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import {
  type Answer,
  ask,
  clientPool,
  configure,
  FAST,
  NO_PROBES,
  runClients,
} from '../support/http-client.js'
import { rawClient, rawUpstream, response } from '../support/raw.js'
import { live, simulate } from '../support/simulate.js'

const body = JSON.stringify(live)
const portOf = (proxy: RunningProxy) => Number(new URL(proxy.url).port)
const waitFor = (proxy: RunningProxy, seconds: number | string) =>
  configure(proxy, { headers: { prefer: `wait=${seconds}` } })

const waitingAre = (proxy: RunningProxy, count: number) =>
  until(async () => at(await statusOf(proxy), 'waiting') === count, {
    what: `${count} clients wait`,
    timeoutMs: 30_000,
  })

test('1,000 of 3,000 clients that ask to wait are queued; the ramp admits them, and all of them are served', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing', maxJobs: 1_000_000, jobDurationMs: 1 })
  await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 20 })
  const ramp = { initial: 2, max: 30, ms: 2000 }
  const env = {
    FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
    FOCUS_BREAKER_GUARD_MAX_WAITING: '1000',
    FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY: String(ramp.initial),
    FOCUS_BREAKER_RECOVERY_MAX_CONCURRENCY: String(ramp.max),
    FOCUS_BREAKER_RECOVERY_RAMP_MS: String(ramp.ms),
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'open')
  const dispatcher = clientPool(t, 3000)
  let refused = 0
  let served = 0
  const coming = runClients(3000, async () => {
    const answer = await configure(proxy, { dispatcher, headers: { prefer: 'wait=60' } })
    if (answer.statusCode === 200) {
      assert.equal(answer.headers['preference-applied'], 'wait=60')
      served += 1
    } else {
      assert.equal(at(answer.json, 'status'), 'waiting_for_fiber')
      assert.equal(answer.headers['preference-applied'], undefined)
      refused += 1
    }
  })
  // None of the waits can have timed out at that time.
  const startedAt = performance.now()
  await until(() => refused === 2000, { what: 'all beyond the limit are refused at once', timeoutMs: 30_000 })
  const refusedMs = Math.round(performance.now() - startedAt)
  await waitingAre(proxy, 1000)
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)

  await simulator.setFiber('present')
  await circuitIs(proxy, 'half-open')
  const since = Date.parse(String(at(await statusOf(proxy), 'circuit', 'since')))
  let isOver = false
  const watching = (async () => {
    while (!isOver) {
      const { maxInFlight } = simulator.counters
      // The clocks of two processes may differ by some milliseconds.
      const part = Math.min(1, (Date.now() + 100 - since) / ramp.ms)
      const allowed = ramp.initial + Math.floor((ramp.max - ramp.initial) * part)
      assert.ok(maxInFlight <= allowed, `${maxInFlight} were in flight, the ramp allows ${allowed}`)
      await delay(10)
    }
  })()
  await Promise.all([
    coming.finally(() => {
      isOver = true
    }),
    watching,
  ])
  t.diagnostic(
    `2000 of 3000 were refused within ${refusedMs} ms; the last of 1000 was served ` +
      `${((Date.now() - since) / 1000).toFixed(1)} s after the start of the recovery, at most ` +
      `${simulator.counters.maxInFlight} of ${ramp.max} in flight`,
  )
  assert.equal(served, 1000)
  assert.equal(simulator.counters.byRoute['POST /configure'], 1000)
  assert.ok(simulator.counters.maxInFlight <= ramp.max)
  assert.equal(at(await statusOf(proxy), 'waiting'), 0)
})

describe('Prefer: wait', { concurrency: 6 }, () => {
  test('a request is queued with its body unread, and forwarded when the fiber is back', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    await circuitIs(proxy, 'open')
    const client = await rawClient(t, portOf(proxy))
    client.send(
      'POST /configure HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
        `Prefer: respond-async, wait=30\r\nExpect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n`,
    )
    await waitingAre(proxy, 1)
    const others = [waitFor(proxy, 30), waitFor(proxy, 45), waitFor(proxy, 3600)]
    await waitingAre(proxy, 4)
    await delay(200)
    assert.equal(client.text, '', 'the body was requested before the request was admitted')
    assert.equal(simulator.counters.byRoute['POST /configure'], undefined)

    await simulator.setFiber('present')
    assert.equal(await client.until(/\r\n\r\n/), 'HTTP/1.1 100 Continue\r\n\r\n')
    client.send(body)
    const answer = await client.until(/"job_id"/)
    assert.match(answer, /HTTP\/1\.1 200 /)
    assert.match(answer, /^preference-applied: wait=30\r$/im)
    const applied = (await Promise.all(others)).map(({ statusCode, headers }) => [
      statusCode,
      headers['preference-applied'],
    ])
    assert.deepEqual(applied, [
      [200, 'wait=30'],
      [200, 'wait=45'],
      [200, 'wait=60'],
    ])
    assert.equal(simulator.counters.byRoute['POST /configure'], 4)
    assert.equal(at(await statusOf(proxy), 'waiting'), 0)
    assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 0)
  })

  test('a request is refused when its wait times out', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const startedAt = performance.now()
    const refused = await waitFor(proxy, 1)
    const tookMs = performance.now() - startedAt
    assert.ok(tookMs > 950, `refused after ${Math.round(tookMs)} ms`)
    assert.equal(refused.statusCode, 503)
    assert.equal(at(refused.json, 'status'), 'waiting_for_fiber')
    assert.match(String(refused.headers['retry-after']), /^[1-5]$/)
    assert.equal(refused.headers['preference-applied'], undefined)
    assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
    const status = await statusOf(proxy)
    assert.equal(at(status, 'waiting'), 0)
    assert.equal(at(status, 'totals', 'refused'), 1)
  })

  test('a request that does not ask to wait is refused at once', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    for (const prefer of ['wait=0', 'wait=soon', 'wait=-5', 'wait', 'respond-async', 'await=30', '']) {
      const refused = await configure(proxy, { headers: { prefer } })
      assert.equal(refused.statusCode, 503, prefer)
    }
    // Another route is not queued.
    assert.equal((await ask(`${proxy.url}/channels`, { headers: { prefer: 'wait=30' } })).statusCode, 200)
  })

  test('a request that can be admitted at once does not wait', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    await circuitIs(proxy, 'closed')
    assert.equal((await waitFor(proxy, 60)).statusCode, 200)
  })

  test('with a queue of size 0 every request is refused at once', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const env = { ...FAST, FOCUS_BREAKER_GUARD_MAX_WAITING: '0' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    assert.equal((await waitFor(proxy, 60)).statusCode, 503)
  })

  test('requests are admitted in the order of their arrival, one after the other if the limit is one', async t => {
    const fiber = { there: false }
    let inside = 0
    const upstream = await rawUpstream(
      t,
      async ({ socket }) => {
        inside += 1
        const isAlone = inside === 1
        await delay(20)
        inside -= 1
        socket.write(response('200 OK', isAlone ? 'alone' : 'not alone'))
      },
      fiber,
    )
    const env = {
      FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
      FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY: '1',
      FOCUS_BREAKER_RECOVERY_MAX_CONCURRENCY: '1',
    }
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env })
    const waiting: Promise<Answer>[] = []
    for (let number = 1; number <= 8; number += 1) {
      waiting.push(configure(proxy, { headers: { prefer: 'wait=60', 'x-number': String(number) } }))
      await waitingAre(proxy, number)
    }
    fiber.there = true
    const answers = await Promise.all(waiting)
    assert.deepEqual([...new Set(answers.map(answer => answer.bytes.toString()))], ['alone'])
    const order = upstream.received.map(({ head }) => /^x-number: (\d)/im.exec(head)?.[1])
    assert.deepEqual(order.join(), '1,2,3,4,5,6,7,8')
  })

  test('a manual override admits waiting requests, and so does its removal', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const token = 'a-token-of-the-test'
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: token },
    })
    const headers = { authorization: `Bearer ${token}` }
    const override = `${proxy.url}/-/override`
    const put = (state: string) =>
      ask(override, { method: 'PUT', headers, body: JSON.stringify({ state, reason: 'x', forSeconds: 60 }) })
    const waiting = waitFor(proxy, 30)
    await waitingAre(proxy, 1)
    await put('closed')
    // Admitted, and the response is focus-server's own.
    assert.equal(at((await waiting).json, 'detail') === undefined, false)

    await put('open')
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    const again = waitFor(proxy, 30)
    await waitingAre(proxy, 1)
    await ask(override, { method: 'DELETE', headers })
    assert.equal((await again).statusCode, 200)
  })

  test('a client that leaves is removed from the queue', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const stays = waitFor(proxy, 60)
    await waitingAre(proxy, 1)
    const leaves = await rawClient(t, portOf(proxy))
    leaves.send(
      'POST /configure HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n' +
        `Content-Length: ${body.length}\r\n\r\n${body}`,
    )
    await waitingAre(proxy, 2)
    leaves.socket.destroy()
    await waitingAre(proxy, 1)
    await simulator.setFiber('present')
    assert.equal((await stays).statusCode, 200)
    await circuitIs(proxy, 'closed')
    assert.equal(simulator.counters.byRoute['POST /configure'], 1)
  })

  test('a client that leaves is removed from the queue even if its body came in chunks, and more than is read ahead', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const stays = waitFor(proxy, 60)
    await waitingAre(proxy, 1)
    const leaves = await rawClient(t, portOf(proxy))
    const large = body.padEnd(200_000)
    leaves.send(
      'POST /configure HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n' +
        `Transfer-Encoding: chunked\r\n\r\n${large.length.toString(16)}\r\n${large}\r\n0\r\n\r\n`,
    )
    // Queued or refused: both are fine, but no job may start for a client that has left.
    await until(async () => /^HTTP/.test(leaves.text) || at(await statusOf(proxy), 'waiting') === 2)
    leaves.socket.destroy()
    await until(async () => at(await statusOf(proxy), 'waiting') === 1, {
      what: 'the client that left is removed',
      timeoutMs: 5000,
    })
    await simulator.setFiber('present')
    assert.equal((await stays).statusCode, 200)
    await circuitIs(proxy, 'closed')
    assert.equal(simulator.counters.byRoute['POST /configure'], 1)
  })

  test('a request whose body cannot be read ahead completely is not queued, as a disconnect would go unnoticed', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const sends = await rawClient(t, portOf(proxy))
    sends.send(
      'POST /configure HTTP/1.1\r\nHost: x\r\nPrefer: wait=60\r\nContent-Length: 200000\r\n\r\n' +
        'x'.repeat(1000),
    )
    assert.match(await sends.until(/\}$/), /^HTTP\/1\.1 503 /)
  })

  test('a shutdown refuses the waiting requests', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const env = { ...NO_PROBES, FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '60000' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const dispatcher = clientPool(t, 20)
    const waiting = runClients(20, async () => {
      const refused = await configure(proxy, { dispatcher, headers: { prefer: 'wait=60' } })
      assert.equal(refused.statusCode, 503)
      assert.equal(at(refused.json, 'status'), 'waiting_for_fiber')
    })
    await waitingAre(proxy, 20)
    // `stop` gives up long before the drain timeout.
    const [code] = await Promise.all([proxy.stop(), waiting])
    assert.equal(code, 0)
    assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  })
})
