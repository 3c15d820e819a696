import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { startSimulator } from '../../src/simulator/focus-server.js'

async function simulate(t: TestContext) {
  const simulator = await startSimulator()
  t.after(() => simulator.close())
  const control = (method: string, name: string, body?: unknown) =>
    fetch(`${simulator.url}/_simulator/${name}`, {
      method,
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
  return { simulator, control }
}

test('the fiber can be set over HTTP', async t => {
  const { simulator, control } = await simulate(t)
  assert.equal((await control('PUT', 'fiber', { state: 'missing' })).status, 204)
  assert.match(await (await fetch(`${simulator.url}/live_metadata`)).text(), /"prr":0\.0/)
})

test('the counters can be read and reset over HTTP, and do not count these requests', async t => {
  const { simulator, control } = await simulate(t)
  const none = { total: 0, byRoute: {}, inFlight: 0, maxInFlight: 0, rejectedForFiber: 0, aborted: 0 }
  await fetch(`${simulator.url}/ack`)
  const read = async () => (await control('GET', 'counters')).json()
  assert.deepEqual(await read(), { ...none, total: 1, byRoute: { 'GET /ack': 1 } })
  assert.equal((await control('POST', 'reset')).status, 204)
  assert.deepEqual(await read(), none)
})

test('a fault can be set and removed over HTTP, and does not affect the control routes', async t => {
  const { simulator, control } = await simulate(t)
  const set = (fault: unknown) => control('PUT', 'fault', { route: '*', fault })
  const faults = [
    { kind: 'status', code: 500 },
    { kind: 'html' },
    { kind: 'hang' },
    { kind: 'huge' },
    { kind: 'huge', bytes: 5 },
    { kind: 'reset' },
    { kind: 'body', status: 200, contentType: 'text/plain', body: 'x' },
    { kind: 'slow', delayMs: 5 },
    { kind: 'status', code: 418 },
  ]
  for (const fault of faults) assert.equal((await set(fault)).status, 204, fault.kind)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 418)
  assert.equal((await set(null)).status, 204)
  assert.equal((await fetch(`${simulator.url}/ack`)).status, 200)
})

test('a refusal set over HTTP is acknowledged first and ends after its duration', async t => {
  const { simulator, control } = await simulate(t)
  assert.equal(
    (await control('PUT', 'fault', { route: '*', fault: { kind: 'refuse', forMs: 30 } })).status,
    204,
  )
  const ask = () =>
    fetch(`${simulator.url}/ack`).then(
      answer => answer.ok,
      () => false,
    )
  while (await ask()) await new Promise(setImmediate)
  while (!(await ask())) await new Promise(setImmediate)
})

test('invalid input gets a 400 that states the expected and the given value', async t => {
  const { control } = await simulate(t)
  const cases: [name: string, body: unknown, error: string][] = [
    ['fiber', '{', 'body: expected JSON, given "{"'],
    ['fiber', '', 'body: expected JSON, given ""'],
    ['fiber', [], 'body: expected a JSON object, given []'],
    ['fiber', {}, 'state: expected "present", "missing" or "partial", given nothing'],
    ['fiber', { state: 'x' }, 'state: expected "present", "missing" or "partial", given "x"'],
    [
      'fault',
      { route: 'configure', fault: null },
      'route: expected "*" or a method and a path like "POST /configure", given "configure"',
    ],
    ['fault', { route: '*' }, 'fault: expected an object or null, given nothing'],
    [
      'fault',
      { route: '*', fault: {} },
      'fault.kind: expected "status", "html", "hang", "huge", "refuse", "reset", "body" or "slow", given nothing',
    ],
    [
      'fault',
      { route: '*', fault: { kind: 'status', code: 99 } },
      'fault.code: expected a status from 200 to 599, given 99',
    ],
    [
      'fault',
      { route: '*', fault: { kind: 'huge', bytes: -1 } },
      'fault.bytes: expected a number of 0 or more, given -1',
    ],
    [
      'fault',
      { route: '*', fault: { kind: 'refuse', forMs: 2 ** 31 } },
      'fault.forMs: expected milliseconds from 0 to 2147483647, given 2147483648',
    ],
    [
      'fault',
      { route: '*', fault: { kind: 'slow' } },
      'fault.delayMs: expected milliseconds from 0 to 2147483647, given nothing',
    ],
    [
      'fault',
      { route: '*', fault: { kind: 'body', status: 200, contentType: 'text/plain', body: 7 } },
      'fault.body: expected text, given 7',
    ],
  ]
  for (const [name, body, error] of cases) {
    const answer = await control('PUT', name, body)
    assert.equal(answer.status, 400, error)
    assert.deepEqual(await answer.json(), { error })
  }
})
