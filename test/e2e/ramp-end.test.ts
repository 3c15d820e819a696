import assert from 'node:assert/strict'
import { test } from 'node:test'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import { NO_PROBES, readThroughProxy } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

test('a recovery ends with its ramp, however long the probe period is', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: {
      ...NO_PROBES,
      FOCUS_BREAKER_RECOVERY_RAMP_MS: '700',
      FOCUS_BREAKER_CIRCUIT_READY_THRESHOLD: '1',
    },
  })
  await circuitIs(proxy, 'open')
  await simulator.setFiber('present')
  // No probe comes for a minute: what a client reads starts the recovery.
  await until(async () => {
    await readThroughProxy(proxy)
    return at(await statusOf(proxy), 'circuit', 'state') !== 'open'
  })
  const probes = Number(at(await statusOf(proxy), 'totals', 'probes'))
  await circuitIs(proxy, 'closed')
  const status = await statusOf(proxy)
  assert.equal(at(status, 'reading', 'source'), 'probe')
  assert.ok(Number(at(status, 'totals', 'probes')) <= probes + 1, 'one probe is enough')
})
