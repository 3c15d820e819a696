import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { type TestContext, test } from 'node:test'
import { type Simulator, startSimulator } from '../../src/simulator/focus-server.js'

async function simulate(t: TestContext): Promise<Simulator> {
  const simulator = await startSimulator()
  t.after(() => simulator.close())
  return simulator
}

/** The network error code of a failed fetch. */
async function failure(answer: Promise<Response>): Promise<unknown> {
  const error = await answer.then(
    () => assert.fail('it got a response'),
    (error: unknown) => error,
  )
  const cause = error instanceof Error ? error.cause : undefined
  return cause instanceof Error && 'code' in cause ? cause.code : undefined
}

test('a status fault returns that status, on its route only', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /live_metadata', { kind: 'status', code: 404 })
  const answer = await fetch(`${simulator.url}/live_metadata`)
  assert.equal(answer.status, 404)
  assert.deepEqual(await answer.json(), { detail: 'Not Found' })
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
  await simulator.setFault('GET /live_metadata', null)
  assert.equal((await fetch(`${simulator.url}/live_metadata`)).status, 200)
})

test('a status that has no body gets none', async t => {
  const simulator = await simulate(t)
  for (const code of [204, 304]) {
    await simulator.setFault('GET /ack', { kind: 'status', code })
    const answer = await fetch(`${simulator.url}/ack`)
    assert.equal(answer.status, code)
    assert.equal(await answer.text(), '')
  }
})

test('a fault of all routes applies to unknown paths too, and a route’s own fault takes precedence', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('*', { kind: 'status', code: 500 })
  await simulator.setFault('GET /ack', { kind: 'status', code: 418 })
  assert.equal((await fetch(`${simulator.url}/sensors`)).status, 500)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 418)
})

test('a parametrised route and an unknown path can be given a fault', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /metadata/:job_id', { kind: 'status', code: 208 })
  await simulator.setFault('GET /sensors', { kind: 'status', code: 201 })
  assert.equal((await fetch(`${simulator.url}/metadata/1-1`)).status, 208)
  assert.equal((await fetch(`${simulator.url}/sensors`)).status, 201)
})

test('an html fault returns 200 with a page', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /live_metadata', { kind: 'html' })
  const answer = await fetch(`${simulator.url}/live_metadata`)
  assert.equal(answer.status, 200)
  assert.equal(answer.headers.get('content-type'), 'text/html')
  assert.match(await answer.text(), /<html>/)
})

test('a hanging route accepts the request and does not respond until the simulator closes', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('POST /configure', { kind: 'hang' })
  const ended = failure(fetch(`${simulator.url}/configure`, { method: 'POST', body: '{}' }))
  while (simulator.counters.inFlight === 0) await new Promise(setImmediate)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
  assert.equal(simulator.counters.inFlight, 1)
  await simulator.close()
  assert.equal(await ended, 'UND_ERR_SOCKET')
})

test('a huge response is valid JSON of at least that size that says ready', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /live_metadata', { kind: 'huge', bytes: 3_000_001 })
  const body = await (await fetch(`${simulator.url}/live_metadata`)).text()
  const { prr, padding } = JSON.parse(body)
  assert.equal(prr, 2000)
  assert.equal(padding.length, 3_000_001)
})

test('an endless response waits for its reader and ends when the reader disconnects', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /live_metadata', { kind: 'huge' })
  const abort = new AbortController()
  const answer = await fetch(`${simulator.url}/live_metadata`, { signal: abort.signal })
  const reader = answer.body?.getReader()
  let received = 0
  while (received < 1_000_000) received += (await reader?.read())?.value?.length ?? 0
  // A producer that ignores its reader would block all other requests.
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
  abort.abort()
  while (simulator.counters.aborted === 0) await new Promise(setImmediate)
})

test('a refusing server closes its port and open connections, and comes back on the same port', async t => {
  const simulator = await simulate(t)
  const open = connect(simulator.port, '127.0.0.1')
  open.on('error', () => undefined)
  await once(open, 'connect')
  const gone = once(open, 'close')
  open.resume()
  await simulator.setFault('*', { kind: 'refuse' })
  await gone
  assert.equal(await failure(fetch(`${simulator.url}/ack`)), 'ECONNREFUSED')
  await simulator.setFault('*', null)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
})

test('a refusal with a duration ends automatically', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /ack', { kind: 'refuse', forMs: 30 })
  assert.equal(await failure(fetch(`${simulator.url}/ack`)), 'ECONNREFUSED')
  while (
    !(await fetch(`${simulator.url}/ack`).then(
      answer => answer.ok,
      () => false,
    ))
  )
    await new Promise(setImmediate)
})

test('after a refusal is set and removed at once, the last setting applies', async t => {
  const simulator = await simulate(t)
  for (let round = 0; round < 20; round += 1) {
    void simulator.setFault('*', { kind: 'refuse' })
    void simulator.setFault('*', null)
  }
  await simulator.setFault('*', { kind: 'refuse' })
  assert.equal(await failure(fetch(`${simulator.url}/ack`)), 'ECONNREFUSED')
  void simulator.setFault('*', null)
  void simulator.setFault('*', { kind: 'refuse' })
  await simulator.setFault('*', null)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
})

test('a refusing server can be closed', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('*', { kind: 'refuse', forMs: 1e6 })
  await simulator.close()
  assert.equal(await failure(fetch(`${simulator.url}/ack`)), 'ECONNREFUSED')
})

test('a reset closes the connection instead of responding', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('POST /configure', { kind: 'reset' })
  assert.equal(
    await failure(fetch(`${simulator.url}/configure`, { method: 'POST', body: '{}' })),
    'ECONNRESET',
  )
  assert.equal(simulator.counters.byRoute['POST /configure'], 1)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
})

test('a body fault returns exactly the given bytes', async t => {
  const simulator = await simulate(t)
  const bytes = Uint8Array.of(0x7b, 0xff, 0x00, 0x7d)
  await simulator.setFault('GET /live_metadata', {
    kind: 'body',
    status: 203,
    contentType: 'application/json',
    body: bytes,
  })
  const answer = await fetch(`${simulator.url}/live_metadata`)
  assert.equal(answer.status, 203)
  assert.equal(answer.headers.get('content-type'), 'application/json')
  assert.deepEqual(new Uint8Array(await answer.arrayBuffer()), bytes)
  await simulator.setFault('GET /live_metadata', {
    kind: 'body',
    status: 200,
    contentType: 'text/plain',
    body: '{"prr":NaN}',
  })
  assert.equal(await (await fetch(`${simulator.url}/live_metadata`)).text(), '{"prr":NaN}')
})

test('a slow route responds as usual, after later requests', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('GET /channels', { kind: 'slow', delayMs: 50 })
  const order: string[] = []
  const slow = fetch(`${simulator.url}/channels`).then(answer => order.push(`channels ${answer.status}`))
  while (simulator.counters.total === 0) await new Promise(setImmediate)
  await fetch(`${simulator.url}/ack`).then(() => order.push('ack'))
  await slow
  assert.deepEqual(order, ['ack', 'channels 200'])
})

test('closing does not wait for a slow response', async t => {
  const simulator = await simulate(t)
  await simulator.setFault('*', { kind: 'slow', delayMs: 2 ** 31 - 1 })
  const ended = failure(fetch(`${simulator.url}/ack`))
  while (simulator.counters.total === 0) await new Promise(setImmediate)
  await simulator.close()
  assert.equal(await ended, 'UND_ERR_SOCKET')
})
