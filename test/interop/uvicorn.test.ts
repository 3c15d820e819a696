import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { Pool } from 'undici'
import { at, circuitIs, requireOrSkip, startProxy, statusOf, until } from '../support/harness.js'
import { rawRequest } from '../support/raw-request.js'
import { type Answer, assertRefusedForFiber } from '../support/refusal-checks.js'
import {
  configuration,
  type FocusServer,
  liveConfigure,
  type Received,
  startFocusServer,
} from '../support/uvicorn-focus-server.js'

const CONNECTIONS = 20
const STORM = 300

const quickEnough = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  FOCUS_BREAKER_RECOVERY_RAMP_MS: '300',
}

test('an outage of the fiber in front of uvicorn', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, { upstream: upstream.url, env: quickEnough })
  const client = clientOf(t, proxy.url)
  const direct = clientOf(t, upstream.url)

  await t.test('before it, configure calls pass and their responses are unchanged', async () => {
    await circuitIs(proxy, 'closed')
    const expected = await configure(direct)
    await upstream.reset()
    const answer = await configure(client)
    assert.equal(answer.status, 200)
    assert.equal(answer.body, expected.body)
    assert.equal(answer.headers['content-type'], expected.headers['content-type'])
    assert.equal(answer.headers['content-length'], expected.headers['content-length'])
  })

  await t.test('focus-server’s own validation errors are forwarded', async () => {
    const wrong = [
      { status: 422, body: '{"channels":{}}' },
      { status: 422, body: 'not JSON' },
      { status: 404, body: JSON.stringify(configuration({ start_time: 1, end_time: 2 })) },
      { status: 500, body: JSON.stringify(configuration({ channels: { min: 9, max: 1 } })) },
    ]
    for (const { status, body } of wrong) {
      const expected = await configure(direct, body)
      const answer = await configure(client, body)
      assert.equal(expected.status, status)
      assert.deepEqual(comparable(answer), comparable(expected))
    }
    assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
  })

  await t.test(`during it, ${STORM} configure calls are refused and none reaches uvicorn`, async () => {
    await upstream.setFiber('missing')
    await circuitIs(proxy, 'open')
    await upstream.reset()
    const answers = await Promise.all(Array.from({ length: STORM }, () => configure(client)))
    for (const answer of answers) assertRefusedForFiber(answer)
    assert.equal(await upstream.handled('configure'), 0)
    assert.deepEqual(await upstream.received(), [])
  })

  await t.test('during it, everything else keeps working', async () => {
    await readOnlyKeepsWorking(client, direct)
  })

  await t.test('a fiber that is still reconnecting counts as missing', async () => {
    await upstream.setFiber('partial')
    await until(async () => at(await statusOf(proxy), 'reading', 'metadata', 'prr') === 2000, {
      what: 'the proxy has read the partial metadata',
    })
    // A few more equal readings must not be taken for a recovery.
    const read = await upstream.handled('live_metadata')
    await until(async () => (await upstream.handled('live_metadata')) >= read + 4, {
      what: 'four more probes have succeeded',
    })
    const answer = await configure(client)
    assert.equal(answer.status, 503)
    assert.equal(at(JSON.parse(answer.body), 'status'), 'waiting_for_fiber')
    assert.equal(at(JSON.parse(answer.body), 'details', 'sw_version'), 'waiting for fiber')
    assert.deepEqual(await configuresAt(upstream), [])
  })

  await t.test('after it, configure calls pass again', async () => {
    await upstream.setFiber('present')
    await circuitIs(proxy, 'closed')
    await upstream.reset()
    const answers = await Promise.all(Array.from({ length: CONNECTIONS }, () => configure(client)))
    for (const answer of answers) assert.equal(answer.status, 200, answer.body)
    assert.equal(await upstream.handled('configure'), CONNECTIONS)
  })

  await t.test('the proxy has counted its refusals, and exits cleanly', async () => {
    const totals = at(await statusOf(proxy), 'totals')
    assert.equal(at(totals, 'refused'), STORM + 1)
    assert.equal(await proxy.stop(), 0)
  })
})

test('an upstream that loses its fiber between two probes sees one configure call, not a storm', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, {
    upstream: upstream.url,
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '1000', FOCUS_BREAKER_PROBE_TIMEOUT_MS: '900' },
  })
  const client = clientOf(t, proxy.url)
  await circuitIs(proxy, 'closed')
  await upstream.setFiber('missing')
  const first = await configure(client)
  const second = await configure(client)
  const reached = await upstream.handled('configure')
  assert.ok(reached <= 1, `${reached} configure calls reached uvicorn; the second got: ${second.body}`)
  // A probe may have been faster than the first call; otherwise its response is focus-server's own.
  if (reached === 1) {
    assert.equal(first.status, 503)
    assert.deepEqual(JSON.parse(first.body), {
      detail: 'Cannot proceed: Missing required fiber metadata fields: prr',
    })
  }
  assert.equal(second.status, 503)
  assert.equal(at(JSON.parse(second.body), 'status'), 'waiting_for_fiber')
  assert.equal(at(JSON.parse(second.body), 'forwarded'), false)
})

test('a proxy that starts while the fiber is missing refuses the first request already', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const upstream = await startFocusServer(t)
  await upstream.setFiber('missing')
  const proxy = await startProxy(t, { upstream: upstream.url })
  const answer = await configure(clientOf(t, proxy.url))
  assert.equal(answer.status, 503)
  assert.equal(at(JSON.parse(answer.body), 'status'), 'waiting_for_fiber')
  assert.deepEqual(await configuresAt(upstream), [])
})

test('requests and responses are changed only where a gateway must change them', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, { upstream: upstream.url, env: quickEnough })
  const client = clientOf(t, proxy.url)
  const direct = clientOf(t, upstream.url)

  for (const code of [200, 201, 204, 208, 302, 304, 418, 500, 503]) {
    await t.test(`status ${code} is forwarded with its headers and body, and requested once`, async () => {
      // Over a raw socket: the undici client takes the length of a 304 for that of a body.
      const late = { method: 'GET', target: `/late/${code}` }
      const expected = await rawRequest(upstream.url, late)
      await upstream.reset()
      const answer = await rawRequest(proxy.url, late)
      assert.equal(answer.status, code)
      assert.deepEqual(comparable(answer), comparable(expected))
      // A careless gateway repeats a GET that gets a 503, ten times.
      assert.deepEqual(await upstream.received(), [late])
    })
  }

  for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    await t.test(`${method} arrives as ${method}`, async () => {
      const answer = await ask(client, method, '/echo?b=2&a=%20%2F&b=1')
      assert.equal(answer.status, 200)
      if (method === 'HEAD') assert.equal(answer.body, '')
      else assert.equal(at(JSON.parse(answer.body), 'method'), method)
      assert.deepEqual((await upstream.received()).at(-1), { method, target: '/echo?b=2&a=%20%2F&b=1' })
    })
  }

  const bodies = [
    { what: 'latin-1 text', type: 'text/plain; charset=iso-8859-1', bytes: Buffer.from('S\xfcd', 'latin1') },
    { what: 'an empty JSON body', type: 'application/json', bytes: Buffer.alloc(0) },
    { what: 'broken JSON', type: 'application/json', bytes: Buffer.from('{"a": 1,, }') },
    { what: 'JSON with spaces', type: 'application/json', bytes: Buffer.from('{ "a" : 1.0 }\n') },
    { what: 'a form', type: 'application/x-www-form-urlencoded', bytes: Buffer.from('a=1&b=%20') },
    { what: '8 MiB of bytes', type: 'application/octet-stream', bytes: Buffer.alloc(8 << 20, 'fiber') },
    { what: '3 MiB of text', type: 'text/plain', bytes: Buffer.alloc(3 << 20, 'x') },
    { what: 'an invalid type', type: 'nonsense', bytes: Buffer.from([0, 255, 254]) },
  ]
  for (const { what, type, bytes } of bodies) {
    await t.test(`${what} arrives byte for byte with its type`, async () => {
      const answer = await ask(client, 'POST', '/echo', { body: bytes, headers: { 'content-type': type } })
      assert.equal(answer.status, 200, answer.body)
      const echo: unknown = JSON.parse(answer.body)
      assert.equal(at(echo, 'length'), bytes.length)
      assert.equal(at(echo, 'sha256'), createHash('sha256').update(bytes).digest('hex'))
      assert.deepEqual(
        headersIn(echo).filter(([name]) => name === 'content-type'),
        [['content-type', type]],
      )
    })
  }

  await t.test('the headers that arrive are the client’s, plus those of a gateway', async () => {
    const headers = {
      'user-agent': 'Focus-Server-Automation/1.0.0',
      accept: '*/*',
      'x-request-id': 'abc',
      cookie: 'a=1; b=2',
      authorization: 'Basic dTpw',
    }
    const seen = headersIn(JSON.parse((await ask(client, 'GET', '/echo', { headers })).body))
    const seenDirect = headersIn(JSON.parse((await ask(direct, 'GET', '/echo', { headers })).body))
    const added = ['via', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto']
    const names = seen.map(([name]) => name)
    assert.deepEqual(names.filter(name => added.includes(name)).toSorted(), added)
    assert.deepEqual(without(seen, [...added, 'connection']), without(seenDirect, ['connection']))
    const byName = new Map(seen)
    assert.match(byName.get('via') ?? '', /^1\.1 /)
    assert.equal(byName.get('x-forwarded-for'), '127.0.0.1')
    assert.equal(byName.get('x-forwarded-proto'), 'http')
    assert.equal(byName.get('x-forwarded-host'), new URL(proxy.url).host)
    assert.equal(byName.get('host'), new URL(upstream.url).host)
  })

  await t.test('uvicorn’s redirect to itself comes back under the address the client used', async () => {
    const expected = await ask(direct, 'GET', '/channels/')
    assert.equal(expected.headers.location, `${upstream.url}/channels`)
    const answer = await ask(client, 'GET', '/channels/')
    assert.equal(answer.status, 307)
    assert.equal(new URL(String(answer.headers.location), proxy.url).href, `${proxy.url}/channels`)
  })

  await t.test('paths that only look like the proxy’s own belong to focus-server', async () => {
    for (const path of ['/health', '/metrics', '/status', '/ready', '/live', '/openapi.json', '/docs']) {
      assert.deepEqual(
        comparable(await ask(client, 'GET', path)),
        comparable(await ask(direct, 'GET', path)),
        path,
      )
    }
  })
})

async function readOnlyKeepsWorking(client: Pool, direct: Pool): Promise<void> {
  const range = {
    body: '{"start_time":1764946703,"end_time":1764953903}',
    headers: { 'content-type': 'application/json' },
  }
  for (const [method, path, message] of [
    ['GET', '/ack', undefined],
    ['GET', '/channels', undefined],
    ['GET', '/live_metadata', undefined],
    ['GET', '/get_recordings_timeline', undefined],
    ['GET', '/metadata/1-1603', undefined],
    ['GET', '/configure', undefined],
    ['POST', '/recordings_in_time_range', range],
  ] as const) {
    const answer = await ask(client, method, path, message)
    assert.deepEqual(comparable(answer), comparable(await ask(direct, method, path, message)), path)
    if (path === '/ack') {
      assert.equal(answer.headers['content-length'], '0')
      assert.equal(answer.headers['content-type'], undefined)
    }
  }
}

interface Message {
  readonly body?: string | Buffer
  readonly headers?: Readonly<Record<string, string>>
}

async function ask(client: Pool, method: string, path: string, message: Message = {}): Promise<Answer> {
  const { statusCode, headers, body } = await client.request({
    method,
    path,
    body: message.body ?? null,
    headers: { ...message.headers },
  })
  return { status: statusCode, headers, body: await body.text() }
}

function configure(client: Pool, body = liveConfigure): Promise<Answer> {
  return ask(client, 'POST', '/configure', { body, headers: { 'content-type': 'application/json' } })
}

async function configuresAt(upstream: FocusServer): Promise<readonly Received[]> {
  return (await upstream.received()).filter(
    ({ method, target }) => method === 'POST' && target.includes('configure'),
  )
}

/** A response without the headers that belong to one connection or one moment. */
function comparable(answer: Answer): Answer {
  const hopByHop = ['connection', 'keep-alive', 'transfer-encoding']
  const passing = Object.entries(answer.headers).filter(
    // A cache reports that it served the response (RFC 9111, RFC 9211).
    ([name]) => !['age', 'cache-status', 'date', 'via', ...hopByHop].includes(name),
  )
  return { ...answer, headers: Object.fromEntries(passing) }
}

/** The headers that arrived, according to the response of `/echo`, by name. */
function headersIn(echo: unknown): readonly (readonly [string, string])[] {
  const pairs = at(echo, 'headers')
  assert.ok(Array.isArray(pairs))
  return pairs
    .map((pair: unknown) => [String(at(pair, 0)), String(at(pair, 1))] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
}

function without(headers: readonly (readonly [string, string])[], names: readonly string[]) {
  return headers.filter(([name]) => !names.includes(name) && name !== 'host')
}

function clientOf(t: TestContext, url: string): Pool {
  const pool = new Pool(url, { connections: CONNECTIONS })
  t.after(() => pool.destroy())
  return pool
}
