import assert from 'node:assert/strict'
import { test } from 'node:test'
import { request } from 'undici'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import { live, simulate } from '../support/simulate.js'

const configure = (url: string) =>
  request(`${url}/configure`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(live),
  })

test('an upstream that is absent at the start, comes, goes and comes back needs no action on the proxy', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault('*', { kind: 'refuse' })
  const env = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })

  const absent = async () => {
    const status = await statusOf(proxy)
    assert.equal(at(status, 'circuit', 'cause'), 'unreachable')
    assert.equal(at(status, 'reading', 'kind'), 'unreachable')
    assert.equal(at(status, 'reading', 'problem'), 'connection refused')
    assert.equal(at(status, 'upstream', 'reachable'), false)
    const refused = await configure(proxy.url)
    assert.equal(refused.statusCode, 503)
    const refusal: unknown = await refused.body.json()
    assert.equal(at(refusal, 'status'), 'metadata_unavailable')
    assert.doesNotMatch(JSON.stringify(refusal), /waiting for fiber/i)
    const read = await request(`${proxy.url}/channels`)
    assert.equal(read.statusCode, 502)
    assert.equal(read.headers['proxy-status'], 'focus-breaker; error=connection_refused')
    const failure: unknown = await read.body.json()
    assert.equal(at(failure, 'error'), 'Bad Gateway')
    assert.doesNotMatch(JSON.stringify(failure), /127\.0\.0\.1|ECONN/)
    const ready = await request(`${proxy.url}/-/ready`)
    assert.equal(ready.statusCode, 200)
    await ready.body.dump()
  }
  const present = async () => {
    await circuitIs(proxy, 'closed')
    for (const answer of [await configure(proxy.url), await request(`${proxy.url}/channels`)]) {
      assert.equal(answer.statusCode, 200)
      await answer.body.dump()
    }
  }

  await absent()
  await simulator.setFault('*', null)
  await present()
  await simulator.setFault('*', { kind: 'refuse' })
  await until(async () => at(await statusOf(proxy), 'circuit', 'state') === 'open')
  await absent()
  await simulator.setFault('*', null)
  await present()
  assert.equal(await proxy.stop(), 0)
})

test('a first reading that hangs delays the port by at most the timeout of a probe', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault('GET /live_metadata', { kind: 'hang' })
  const env = { FOCUS_BREAKER_PROBE_TIMEOUT_MS: '200', FOCUS_BREAKER_PROBE_PERIOD_MS: '60000' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const status = await statusOf(proxy)
  assert.equal(at(status, 'reading', 'problem'), 'no complete response within 200 ms')
  assert.equal(simulator.counters.byRoute['GET /live_metadata'], 1)
})

test('one slow or failed probe does not stop the traffic', async t => {
  const { simulator } = await simulate(t)
  const env = {
    FOCUS_BREAKER_PROBE_TIMEOUT_MS: '100',
    FOCUS_BREAKER_PROBE_PERIOD_MS: '50',
    FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1000',
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await simulator.setFault('GET /live_metadata', { kind: 'status', code: 500 })
  await until(async () => at(await statusOf(proxy), 'reading', 'kind') === 'unreachable')
  const answer = await configure(proxy.url)
  assert.equal(answer.statusCode, 200)
  await answer.body.dump()
  assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
})
