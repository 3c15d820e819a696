import assert from 'node:assert/strict'
import { test } from 'node:test'
import { at, circuitIs, startProxy, statusOf } from '../support/harness.js'
import { clientPool, configure, FAST, isMissingFiber, runClients } from '../support/http-client.js'
import { live, simulate } from '../support/simulate.js'

test('in observe mode nothing is refused: would-be refusals are marked, counted and summed in the log', async t => {
  const { simulator } = await simulate(t, { maxJobs: 100_000 })
  const env = {
    ...FAST,
    FOCUS_BREAKER_GUARD_MODE: 'observe',
    FOCUS_BREAKER_ADMIN_TOKEN: 'a-token-of-the-test',
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  assert.equal(at(await statusOf(proxy), 'mode'), 'observe')
  const dispatcher = clientPool(t, 10)

  await circuitIs(proxy, 'closed')
  const before = await configure(proxy)
  assert.equal(before.statusCode, 200)
  assert.equal(before.headers['focus-breaker'], undefined)

  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  simulator.resetCounters()
  await runClients(10, async () => {
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const answer = await configure(proxy, { dispatcher, body: JSON.stringify(live) })
      assert.ok(isMissingFiber(answer), `not focus-server's own response: ${answer.bytes}`)
      assert.equal(answer.headers['focus-breaker'], 'would-refuse')
      assert.equal(answer.headers['retry-after'], undefined)
    }
  })
  // In this mode every request is admitted, so there is nothing to wait for.
  const waiting = await configure(proxy, { headers: { prefer: 'wait=30' } })
  assert.equal(waiting.headers['focus-breaker'], 'would-refuse')
  assert.equal(waiting.headers['preference-applied'], undefined)
  assert.equal(simulator.counters.byRoute['POST /configure'], 51)
  const status = await statusOf(proxy)
  assert.equal(at(status, 'totals', 'wouldRefuse'), 51)
  assert.equal(at(status, 'totals', 'refused'), 0)
  assert.equal(at(status, 'circuit', 'state'), 'open')
  assert.equal(at(status, 'admits'), false)

  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  const after = await configure(proxy)
  assert.equal(after.statusCode, 200)
  assert.equal(after.headers['focus-breaker'], undefined)

  assert.equal(await proxy.stop(), 0)
  const summed = proxy.logs().filter(line => line.msg === 'guarded requests would have been refused')
  assert.equal(
    summed.reduce((sum, line) => sum + Number(line.wouldRefuse), 0),
    51,
  )
  assert.ok(summed.every(line => line.clients === 1))
  assert.ok(proxy.logs().every(line => line.msg !== 'guarded requests were refused'))
})

test('in observe mode an override to open only marks requests', async t => {
  const { simulator } = await simulate(t)
  const token = 'a-token-of-the-test'
  const env = { FOCUS_BREAKER_GUARD_MODE: 'observe', FOCUS_BREAKER_ADMIN_TOKEN: token }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const put = await fetch(`${proxy.url}/-/override`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${token}` },
    body: JSON.stringify({ state: 'open', reason: 'a rehearsal', forSeconds: 60 }),
  })
  assert.equal(put.status, 200)
  const answer = await configure(proxy)
  assert.equal(answer.statusCode, 200)
  assert.equal(answer.headers['focus-breaker'], 'would-refuse')
})
