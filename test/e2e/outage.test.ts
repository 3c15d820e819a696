import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Agent, request } from 'undici'
import { at, circuitIs, startProxy, statusOf } from '../support/harness.js'
import { live, simulate } from '../support/simulate.js'

/** Probes and a recovery as fast as a test needs; everything else has its default. */
const FAST = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '200' }

const body = JSON.stringify(live)
const headers = { 'content-type': 'application/json' }

test('during an outage the proxy refuses jobs, spares focus-server and leaves everything else alone', async t => {
  const { simulator } = await simulate(t, { jobDurationMs: 1 })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const agent = new Agent({ connections: 50 })
  t.after(() => agent.destroy())
  const configure = () =>
    request(`${proxy.url}/configure`, { method: 'POST', headers, body, dispatcher: agent })

  await circuitIs(proxy, 'closed')
  const before = await configure()
  assert.equal(before.statusCode, 200)
  assert.equal(at(await before.body.json(), 'status'), '')

  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  simulator.resetCounters()
  const retryAfters = new Set<number>()
  const refusals = Array.from({ length: 1000 }, async () => {
    const refused = await configure()
    const text = await refused.body.text()
    assert.equal(refused.statusCode, 503)
    const retryAfter = String(refused.headers['retry-after'])
    assert.match(retryAfter, /^[1-5]$/)
    retryAfters.add(Number(retryAfter))
    assert.equal(refused.headers['cache-control'], 'no-store')
    assert.equal(refused.headers['content-type'], 'application/json')
    assert.equal(refused.headers.link, '</-/status>; rel="status"')
    assert.equal(
      refused.headers['proxy-status'],
      'focus-breaker; error=destination_unavailable; details="waiting for fiber"',
    )
    const { circuit, observedAt, lastReadyAt, requestId, retryAfterSeconds, ...rest } = JSON.parse(text)
    assert.deepEqual(rest, {
      error: 'Cannot configure job: waiting for fiber',
      message:
        'System is waiting for fiber connection. Please ensure fiber is connected and metadata is available.',
      status: 'waiting_for_fiber',
      reason: 'Missing required fiber metadata fields: prr',
      details: { prr: 0, sw_version: 'waiting for fiber', fiber_description: 'waiting for fiber' },
      forwarded: false,
    })
    assert.equal(circuit.state, 'open')
    for (const time of [circuit.since, observedAt, lastReadyAt]) assert.match(time, /^\d{4}-.*\.\d{3}Z$/)
    assert.match(requestId, /^[0-9a-f-]{36}$/)
    assert.equal(retryAfterSeconds, Number(retryAfter))
  })
  await Promise.all(refusals)
  assert.ok(retryAfters.size > 1, 'every refusal had the same Retry-After')

  const reads = [
    await request(`${proxy.url}/channels`),
    await request(`${proxy.url}/live_metadata`),
    await request(`${proxy.url}/ack`),
    await request(`${proxy.url}/recordings_in_time_range`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ start_time: 1764946703, end_time: 1764953903 }),
    }),
  ]
  assert.deepEqual(
    reads.map(read => read.statusCode),
    [200, 200, 200, 200],
  )
  assert.equal(at(await reads[1]?.body.json(), 'sw_version'), 'waiting for fiber')
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  assert.equal(simulator.counters.byRoute['GET /channels'], 1)
  assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 1000)

  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  const after = await configure()
  assert.equal(after.statusCode, 200)
  await after.body.dump()
  assert.equal(await proxy.stop(), 0)
  const transitions = proxy.logs().filter(line => typeof line.to === 'string')
  assert.deepEqual(
    transitions.map(line => `${line.from}>${line.to}:${line.cause}`),
    ['closed>open:waiting', 'open>half-open:waiting', 'half-open>closed:waiting'],
  )
  const summed = proxy.logs().filter(line => line.msg === 'guarded requests were refused')
  assert.equal(
    summed.reduce((sum, line) => sum + Number(line.refused), 0),
    1000,
  )
  assert.ok(summed.every(line => line.clients === 1))
})

test('a client that accepts problem details gets a refusal with the members of RFC 9457', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url })
  const refused = await request(`${proxy.url}/configure`, {
    method: 'POST',
    headers: { ...headers, accept: 'application/problem+json' },
    body,
  })
  assert.equal(refused.headers['content-type'], 'application/problem+json')
  const problem: unknown = await refused.body.json()
  assert.equal(at(problem, 'status'), 503)
  assert.equal(at(problem, 'code'), 'waiting_for_fiber')
  assert.equal(at(problem, 'title'), 'Cannot configure job: waiting for fiber')
  assert.equal(at(problem, 'type'), 'urn:problem-type:focus-breaker:waiting_for_fiber')
  assert.match(String(at(problem, 'instance')), /^urn:uuid:/)
  assert.equal(at(problem, 'reason'), 'Missing required fiber metadata fields: prr')
})

test('the status of a refusal and the bounds of its Retry-After are options', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const env = {
    FOCUS_BREAKER_GUARD_STATUS_CODE: '424',
    FOCUS_BREAKER_RETRY_AFTER_MIN_SECONDS: '7',
    FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: '7',
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const refused = await request(`${proxy.url}/configure`, { method: 'POST', body })
  assert.equal(refused.statusCode, 424)
  assert.equal(refused.headers['retry-after'], '7')
  const gate = await request(`${proxy.url}/-/fiber`)
  assert.equal(gate.statusCode, 424)
})

test('in observe mode everything is forwarded, and what would have been refused is marked and counted', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: { FOCUS_BREAKER_GUARD_MODE: 'observe' } })
  const answer = await request(`${proxy.url}/configure`, { method: 'POST', headers, body })
  assert.equal(answer.statusCode, 503)
  assert.equal(
    at(await answer.body.json(), 'detail'),
    'Cannot proceed: Missing required fiber metadata fields: prr',
  )
  assert.equal(answer.headers['focus-breaker'], 'would-refuse')
  assert.equal(simulator.counters.byRoute['POST /configure'], 1)
  assert.deepEqual(at(await statusOf(proxy), 'totals', 'wouldRefuse'), 1)
})

test('focus-server never has more guarded requests at a time than the recovery allows', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing', maxJobs: 100_000 })
  const env = {
    FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
    FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY: '2',
    FOCUS_BREAKER_RECOVERY_MAX_CONCURRENCY: '2',
    // Longer than the test takes on a busy machine: a closed circuit has no limit.
    FOCUS_BREAKER_RECOVERY_RAMP_MS: '60000',
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 20 })
  await simulator.setFiber('present')
  await circuitIs(proxy, 'half-open')
  const seen = new Set<unknown>()
  const clients = Array.from({ length: 20 }, async () => {
    for (let attempt = 0; attempt < 5; attempt++) {
      const answer = await request(`${proxy.url}/configure`, { method: 'POST', headers, body })
      const text: unknown = await answer.body.json()
      if (answer.statusCode === 503) seen.add(at(text, 'status'))
    }
  })
  await Promise.all(clients)
  assert.deepEqual([...seen], ['recovering'])
  assert.ok(simulator.counters.maxInFlight <= 2, `${simulator.counters.maxInFlight} were in flight`)
  assert.ok((simulator.counters.byRoute['POST /configure'] ?? 0) > 0)
})
