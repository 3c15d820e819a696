import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { describe, type TestContext, test } from 'node:test'
import { Exposition } from '../support/exposition.js'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure, MISSING, readThroughProxy } from '../support/http-client.js'
import { portOf } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const READY = '{"prr":2000.0,"sw_version":"11.17.10513"}'
const WAITING = '{"prr":0.0,"sw_version":"waiting for fiber"}'
const JSON_TYPE = { contentType: 'application/json' }
const TOKEN = 'a-token-of-the-test-of-probes'

async function metricsOf(proxy: RunningProxy): Promise<Exposition> {
  return new Exposition((await ask(`${proxy.url}/-/metrics`)).bytes.toString())
}

/** An upstream with metadata set by hand: each metadata request waits until the test responds. */
async function metadataByHand(t: TestContext) {
  const asked: ServerResponse[] = []
  const server = createServer((_request, response) => asked.push(response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${portOf(server)}`,
    /** The next metadata request without a response. */
    next: () => until(() => asked.shift(), { what: 'the metadata is requested' }),
  }
}

describe('overtaken probes', { concurrency: 4 }, () => {
  for (const [that, env] of [
    ['observe mode', { FOCUS_BREAKER_GUARD_MODE: 'observe' }],
    ['an override to close', { FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }],
  ] as const) {
    test(`under ${that} each probe is counted and shown, however many configures fail in the meantime`, async t => {
      const { simulator } = await simulate(t)
      const proxy = await startProxy(t, {
        upstream: simulator.url,
        env: { ...env, FOCUS_BREAKER_PROBE_PERIOD_MS: '50' },
      })
      await circuitIs(proxy, 'closed')
      if (that === 'an override to close') {
        const put = await ask(`${proxy.url}/-/override`, {
          method: 'PUT',
          headers: { authorization: `Bearer ${TOKEN}` },
          body: JSON.stringify({ state: 'closed', reason: 'a test', forSeconds: 60 }),
        })
        assert.equal(put.statusCode, 200)
      }
      const body = JSON.stringify({ detail: MISSING })
      await simulator.setFault('POST /configure', { kind: 'body', status: 503, ...JSON_TYPE, body })
      // So slow that a configure fails during each of them.
      await simulator.setFault('GET /live_metadata', { kind: 'slow', delayMs: 150 })
      let isOver = false
      const hammering = Promise.all(
        Array.from({ length: 2 }, async () => {
          while (!isOver) await configure(proxy)
        }),
      )
      const sample = async () => {
        const [metrics, status] = [await metricsOf(proxy), await statusOf(proxy)]
        return {
          counted: metrics.sum('focus_breaker_readings_total', { source: 'probe' }),
          taken: metrics.value('focus_breaker_probe_duration_seconds_count'),
          disagrees: at(status, 'disagreement') !== null,
          state: at(status, 'circuit', 'state'),
        }
      }
      await until(async () => (await sample()).state === 'open', {
        what: 'the evidence has opened the circuit',
      })
      const before = await sample()
      await until(async () => (await sample()).taken >= before.taken + 5, { what: 'five more probes' })
      const after = await sample()
      isOver = true
      await hammering
      assert.equal(after.counted, after.taken, 'each probe is counted as a reading')
      assert.equal(
        after.state,
        'open',
        'a probe does not close the circuit, because configure has failed since',
      )
      assert.equal(after.disagrees, true, 'metadata and configure disagree')
    })
  }

  test('a probe that returns after a newer reading from a client overturns nothing', async t => {
    const upstream = await metadataByHand(t)
    const starting = startProxy(t, {
      upstream: upstream.url,
      env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_PROBE_TIMEOUT_MS: '20000' },
    })
    const json = { 'content-type': 'application/json' }
    ;(await upstream.next()).writeHead(200, json).end(READY)
    const proxy = await starting
    await circuitIs(proxy, 'closed')
    const probe = await upstream.next()
    const read = readThroughProxy(proxy)
    ;(await upstream.next()).writeHead(200, json).end(READY)
    await read
    probe.writeHead(200, json).end(WAITING)
    await until(
      async () => (await metricsOf(proxy)).sum('focus_breaker_readings_total', { source: 'probe' }) === 2,
    )
    const status = await statusOf(proxy)
    assert.deepEqual(
      [at(status, 'circuit', 'state'), at(status, 'reading', 'kind'), at(status, 'reading', 'source')],
      ['closed', 'ready', 'client'],
    )
  })

  for (const scope of ['all', 'live'] as const) {
    test(`the success of a live job ends a disagreement, that of a historic one does not (scope ${scope})`, async t => {
      const { simulator } = await simulate(t)
      const proxy = await startProxy(t, {
        upstream: simulator.url,
        env: { FOCUS_BREAKER_GUARD_SCOPE: scope, FOCUS_BREAKER_PROBE_PERIOD_MS: '100' },
      })
      await circuitIs(proxy, 'closed')
      const body = JSON.stringify({ detail: MISSING })
      await simulator.setFault('POST /configure', { kind: 'body', status: 503, ...JSON_TYPE, body })
      await configure(proxy)
      await simulator.setFault('POST /configure', null)
      await until(async () => at(await statusOf(proxy), 'disagreement') !== null, {
        what: 'metadata and configure disagree',
      })
      await until(async () => at(await statusOf(proxy), 'circuit', 'state') !== 'open', {
        what: 'the circuit recovers',
      })
      const historic = JSON.stringify({
        channels: { min: 1, max: 5 },
        start_time: 1764946703,
        end_time: 1764953903,
      })
      await simulator.setFault('POST /configure', {
        kind: 'body',
        status: 200,
        ...JSON_TYPE,
        body: '{"job_id":"1"}',
      })
      const replayed = await configure(proxy, { body: historic })
      assert.equal(replayed.statusCode, 200)
      assert.notEqual(at(await statusOf(proxy), 'disagreement'), null)
      assert.equal((await configure(proxy)).statusCode, 200)
      assert.equal(at(await statusOf(proxy), 'disagreement'), null)
    })
  }
})
