import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { startSimulator } from '../../src/simulator/focus-server.js'
import { parseScenario, type Scenario } from '../../src/simulator/scenario.js'
import { live, simulate, until } from '../support/simulate.js'

function drawn(text: string, stepMs: number): Scenario {
  const parsed = parseScenario(text, stepMs)
  assert.ok(parsed.ok)
  return parsed.scenario
}

test('requests are counted by route, and the counters can be reset', async t => {
  const { simulator, send, configure } = await simulate(t)
  for (const path of ['/ack', '/ack?x=1', '/metadata/1', '/metadata/2', '/sensors?x=1'])
    await send('GET', path)
  await configure(live)
  assert.equal(simulator.counters.total, 6)
  assert.deepEqual(simulator.counters.byRoute, {
    'GET /ack': 2,
    'GET /metadata/:job_id': 2,
    'GET /sensors': 1,
    'POST /configure': 1,
  })
  assert.equal(simulator.counters.maxInFlight, 1)
  await until(
    () => simulator.counters.inFlight,
    count => count === 0,
  )
  simulator.resetCounters()
  const none = { total: 0, byRoute: {}, inFlight: 0, maxInFlight: 0, rejectedForFiber: 0, aborted: 0 }
  assert.deepEqual(simulator.counters, none)
})

test('the maximum number of concurrent configures is counted', async t => {
  const { simulator, configure } = await simulate(t)
  await simulator.setFault('POST /configure', { kind: 'hang' })
  const hanging = [configure(live), configure(live), configure(live)].map(answer =>
    answer.catch(() => 'ended'),
  )
  await until(
    () => simulator.counters.inFlight,
    count => count === 3,
  )
  await simulator.close()
  assert.deepEqual(await Promise.all(hanging), ['ended', 'ended', 'ended'])
  assert.equal(simulator.counters.maxInFlight, 3)
  await until(
    () => simulator.counters.inFlight,
    count => count === 0,
  )
  assert.equal(simulator.counters.aborted, 3)
})

test('a scenario changes the fiber, and stops and restarts the server', async t => {
  const { send } = await simulate(t, { scenario: drawn('-x+', 15) })
  const ask = () =>
    send('GET', '/live_metadata').then(
      answer => answer.text(),
      () => 'no server',
    )
  for (const seen of ['waiting for fiber', 'no server', '11.17', 'no server', 'waiting for fiber']) {
    await until(ask, answer => answer.includes(seen))
  }
})

test('a server that is absent in its scenario refuses connections until setFiber is called', async t => {
  const { simulator, send } = await simulate(t, { scenario: drawn('x.', 1000) })
  await assert.rejects(send('GET', '/ack'))
  await simulator.setFiber('partial')
  assert.match(
    await (await send('GET', '/live_metadata')).text(),
    /"prr":2000\.0,.*"sw_version":"waiting for fiber"/,
  )
})

test('setFiber ends the scenario', async t => {
  const { simulator, send } = await simulate(t, { scenario: drawn('-', 1) })
  await simulator.setFiber('present')
  await new Promise(resolve => setTimeout(resolve, 10))
  assert.match(await (await send('GET', '/live_metadata')).text(), /11\.17/)
})

test('closing ends jobs and open connections, including idle ones', async t => {
  const { simulator, configure } = await simulate(t, { scenario: drawn('+', 10) })
  await configure(live)
  const silent = connect(simulator.port, '127.0.0.1')
  await once(silent, 'connect')
  await simulator.close()
  assert.deepEqual(simulator.jobs, [])
  silent.resume()
  await once(silent, 'close')
  await simulator.close()
})

test('a port in use is reported to the caller', async t => {
  const { simulator } = await simulate(t)
  await assert.rejects(startSimulator({ port: simulator.port }), { code: 'EADDRINUSE' })
})
