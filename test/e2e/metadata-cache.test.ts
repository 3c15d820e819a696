import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Simulator } from '../../src/simulator/focus-server.js'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import { type Ask, ask, clientPool, configure, NO_PROBES, runClients } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

/** A maximum age that no reading exceeds during a test. */
const LONG = { ...NO_PROBES, FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '3600000' }

/** A maximum age that every reading exceeds. */
const SHORT = { ...NO_PROBES, FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '1' }

const HIT = 'focus-breaker; hit'

const metadataRequests = (simulator: Simulator) => simulator.counters.byRoute['GET /live_metadata'] ?? 0
const read = (proxy: { readonly url: string }, options: Ask = {}, query = '') =>
  ask(`${proxy.url}/live_metadata${query}`, options)

/** The same headers, except those that a cache adds and the time of day. */
const lasting = (headers: Readonly<Record<string, unknown>>) => {
  const { age, 'cache-status': _, date, connection, 'keep-alive': __, ...rest } = headers
  return rest
}

describe('the metadata cache', { concurrency: 6 }, () => {
  test('serves a recent reading byte for byte, with its age', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: LONG })
    const direct = await ask(`${simulator.url}/live_metadata`)
    const through = await read(proxy, { headers: { 'cache-control': 'no-cache' } })
    const before = metadataRequests(simulator)
    for (let count = 0; count < 20; count += 1) {
      const hit = await read(proxy)
      assert.equal(hit.statusCode, 200)
      assert.equal(hit.headers['cache-status'], HIT)
      assert.match(String(hit.headers.age), /^\d+$/)
      assert.deepEqual(hit.bytes, direct.bytes)
      assert.match(hit.bytes.toString(), /"prr":2000\.0,/)
      assert.deepEqual(lasting(hit.headers), lasting(through.headers))
    }
    assert.equal(metadataRequests(simulator), before)
    await until(async () => Number((await read(proxy)).headers.age) >= 1, {
      what: 'the response is a second old',
    })
    assert.equal(metadataRequests(simulator), before)
  })

  test('responds to HEAD with the headers of GET and without its body', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: LONG })
    const get = await read(proxy)
    const head = await read(proxy, { method: 'HEAD' })
    assert.equal(head.statusCode, 200)
    assert.equal(head.bytes.length, 0)
    assert.equal(head.headers['cache-status'], HIT)
    assert.equal(head.headers['content-length'], String(get.bytes.length))
    assert.deepEqual(lasting(head.headers), lasting(get.headers))
    assert.equal(metadataRequests(simulator), 1)
    const other = await read(proxy, { method: 'POST' })
    assert.equal(other.statusCode, 405)
    assert.equal(other.headers['cache-status'], undefined)
  })

  test('turns 50 simultaneous misses into one request to focus-server and one reading', async t => {
    const { simulator } = await simulate(t)
    const env = { ...SHORT, FOCUS_BREAKER_PROBE_TIMEOUT_MS: '20000' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const direct = await ask(`${simulator.url}/live_metadata`)
    await simulator.setFault('GET /live_metadata', { kind: 'slow', delayMs: 1500 })
    const before = metadataRequests(simulator)
    const dispatcher = clientPool(t, 50)
    let alone = 0
    await runClients(50, async index => {
      const method = index % 10 === 9 ? 'HEAD' : 'GET'
      const miss = await read(proxy, { dispatcher, method })
      assert.equal(miss.statusCode, 200)
      const [cacheStatus, collapsed] = String(miss.headers['cache-status']).split(/(; collapsed)$/)
      assert.equal(cacheStatus, 'focus-breaker; fwd=stale; fwd-status=200')
      if (collapsed === undefined) alone += 1
      if (method === 'GET') assert.deepEqual(miss.bytes, direct.bytes)
    })
    assert.equal(metadataRequests(simulator), before + 1)
    assert.equal(alone, 1, 'one request was sent, and 49 joined it')
    const status = await statusOf(proxy)
    assert.equal(at(status, 'reading', 'source'), 'client')
    assert.equal(at(status, 'reading', 'kind'), 'ready')
    // One of the initial probe, one for all of them.
    assert.equal(at(status, 'reading', 'streak'), 2)
    assert.equal(at(status, 'totals', 'probes'), 1)
  })

  test('uses the metadata that clients read as evidence, which opens the circuit and starts the recovery', async t => {
    const { simulator } = await simulate(t)
    const env = { ...SHORT, FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await circuitIs(proxy, 'closed')
    await simulator.setFiber('missing')
    assert.equal(at((await read(proxy)).json, 'sw_version'), 'waiting for fiber')
    await circuitIs(proxy, 'open')
    const reading = at(await statusOf(proxy), 'reading')
    assert.equal(at(reading, 'source'), 'client')
    assert.equal(at((await configure(proxy)).json, 'status'), 'waiting_for_fiber')
    await simulator.setFiber('present')
    await until(async () => {
      await read(proxy)
      return at(await statusOf(proxy), 'circuit', 'state') === 'closed'
    })
    assert.equal((await configure(proxy)).statusCode, 200)
  })

  test('forwards a request that a cached response cannot satisfy, and its response is a reading too', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: LONG })
    const direct = await ask(`${simulator.url}/live_metadata`)
    const asking: [headers: Record<string, string>, query?: string][] = [
      [{ 'cache-control': 'no-cache' }],
      [{ 'cache-control': 'max-age=0' }],
      [{ 'cache-control': 'private, No-Store' }],
      [{ pragma: 'no-cache' }],
      [{ authorization: 'Basic dTpw' }],
      [{ range: 'bytes=0-9' }],
      [{ 'if-none-match': '"x"' }],
      [{ 'if-modified-since': 'Mon, 01 Dec 2025 00:00:00 GMT' }],
      [{}, '?fresh=1'],
    ]
    for (const [headers, query] of asking) {
      const what = `${JSON.stringify(headers)} ${query ?? ''}`
      const before = metadataRequests(simulator)
      const answer = await read(proxy, { headers }, query)
      assert.equal(answer.statusCode, 200, what)
      assert.deepEqual(answer.bytes, direct.bytes, what)
      assert.doesNotMatch(String(answer.headers['cache-status']), /hit/, what)
      assert.equal(answer.headers.age, undefined, what)
      assert.equal(metadataRequests(simulator), before + 1, what)
    }
    assert.equal(at(await statusOf(proxy), 'reading', 'source'), 'client')
    assert.equal((await read(proxy)).headers['cache-status'], HIT)
  })

  test('with a maximum age of 0, forwards every request to focus-server', async t => {
    const { simulator } = await simulate(t)
    const env = { ...NO_PROBES, FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '0' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const before = metadataRequests(simulator)
    for (let count = 0; count < 10; count += 1) {
      const answer = await read(proxy)
      assert.equal(answer.statusCode, 200)
      assert.equal(answer.headers['cache-status'], undefined)
      assert.equal(answer.headers.age, undefined)
    }
    assert.equal(metadataRequests(simulator), before + 10)
    const status = await statusOf(proxy)
    assert.equal(at(status, 'reading', 'source'), 'client')
    assert.equal(at(status, 'reading', 'streak'), 11)
  })

  test('serves the last reading, if recent enough, while a probe is in flight', async t => {
    const { simulator } = await simulate(t)
    const env = { ...LONG, FOCUS_BREAKER_PROBE_TIMEOUT_MS: '20000' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    assert.equal((await read(proxy)).headers['cache-status'], HIT)
    const before = metadataRequests(simulator)
    await simulator.setFault('GET /live_metadata', { kind: 'slow', delayMs: 3000 })
    await simulator.setFault('POST /configure', { kind: 'status', code: 503 })
    await configure(proxy)
    await until(() => metadataRequests(simulator) === before + 1, {
      what: 'the failure has requested a probe',
    })
    const answer = await read(proxy)
    assert.equal(answer.statusCode, 200)
    assert.equal(answer.headers['cache-status'], HIT)
  })

  const FAILURES = [
    { what: 'an error', fault: { kind: 'status', code: 500 }, statusCode: 500 },
    { what: 'a page that is not metadata', fault: { kind: 'html' }, statusCode: 200 },
    { what: 'silence', fault: { kind: 'hang' }, statusCode: 504 },
    { what: 'a reset', fault: { kind: 'reset' }, statusCode: 502 },
    { what: 'a refused connection', fault: { kind: 'refuse' }, statusCode: 502 },
  ] as const

  test('never hides a failure of focus-server behind an old response', async t => {
    const { simulator } = await simulate(t)
    const times = { FOCUS_BREAKER_PROBE_TIMEOUT_MS: '200', FOCUS_BREAKER_UPSTREAM_HEADERS_TIMEOUT_MS: '300' }
    // One proxy that only clients query, and one whose probes notice the failure.
    const asked = await startProxy(t, { upstream: simulator.url, env: { ...SHORT, ...times } })
    const probing = await startProxy(t, {
      upstream: simulator.url,
      env: { ...LONG, ...times, FOCUS_BREAKER_PROBE_PERIOD_MS: '100' },
    })
    assert.equal((await read(probing)).headers['cache-status'], HIT)
    const good = (await read(asked)).bytes
    for (const { what, fault, statusCode } of FAILURES) {
      // A `refuse` is in effect on return, and settles only at its end.
      void simulator.setFault('*', fault)
      await until(async () => at(await statusOf(probing), 'reading', 'kind') === 'unreachable', { what })
      for (const proxy of [asked, probing]) {
        const answer = await read(proxy)
        assert.equal(answer.statusCode, statusCode, what)
        assert.notDeepEqual(answer.bytes, good, what)
        assert.doesNotMatch(String(answer.headers['cache-status']), /hit/, what)
      }
      await simulator.setFault('*', null)
      await until(async () => (await read(probing)).headers['cache-status'] === HIT, { what })
      assert.deepEqual((await read(asked)).bytes, good)
    }
  })
})
