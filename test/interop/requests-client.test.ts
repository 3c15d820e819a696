import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import {
  at,
  circuitIs,
  repositoryRoot,
  requireOrSkip,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { startIngress } from '../support/ingress.js'
import { assertFiberBody } from '../support/refusal-checks.js'
import { configuration, startFocusServer } from '../support/uvicorn-focus-server.js'

/** The team's sessions send a request once and retry it three times. */
const ATTEMPTS = 4
const RETRIES = ATTEMPTS - 1
/** What a loaded machine may add to the waiting time, in seconds. */
const LEEWAY_SECONDS = 2
const PREFIX = '/focus-server'

const configure = { method: 'POST', path: '/configure', json: configuration() }

const env = {
  FOCUS_BREAKER_BASE_PATH: PREFIX,
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  // urllib3 waits the full Retry-After three times for each refused call.
  FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: '1',
}

test('a session of the team’s suite gets the same through the proxy as without it', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'requests')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, { upstream: upstream.url, env })
  await circuitIs(proxy, 'closed')

  await t.test('from every endpoint, and for every error that it does not retry', async () => {
    const requests = [
      { method: 'GET', path: '/ack' },
      { method: 'GET', path: '/channels' },
      { method: 'GET', path: '/live_metadata' },
      configure,
      { method: 'GET', path: '/metadata/1-1' },
      { method: 'GET', path: '/metadata/no-such-job' },
      { method: 'POST', path: '/configure', json: {} },
      { method: 'POST', path: '/configure', json: configuration({ start_time: 1, end_time: 2 }) },
      { method: 'POST', path: '/recordings_in_time_range', json: { start_time: 1, end_time: 2 } },
      { method: 'GET', path: '/get_recordings_timeline' },
      { method: 'GET', path: '/openapi.json' },
      { method: 'GET', path: '/docs' },
      { method: 'POST', path: '/config/7' },
      { method: 'GET', path: '/sensors' },
      { method: 'DELETE', path: '/job/1-1' },
      { method: 'GET', path: '/health' },
      { method: 'GET', path: '/late/201' },
      { method: 'GET', path: '/late/204' },
      { method: 'GET', path: '/late/208' },
      { method: 'GET', path: '/late/304' },
    ]
    await upstream.reset()
    const direct = await asTeam(upstream.url, requests)
    await upstream.reset()
    const proxied = await asTeam(`${proxy.url}${PREFIX}`, requests)
    assert.deepEqual(statuses(proxied), [
      ...[200, 200, 200, 200, 200, 404, 422, 404, 200, 200, 200, 200],
      ...[404, 404, 404, 404, 201, 204, 208, 304],
    ])
    for (const [index, { method, path }] of requests.entries()) {
      assert.deepEqual(
        passed(at(proxied.answers, index)),
        passed(at(direct.answers, index)),
        `${method} ${path}`,
      )
    }
    assert.equal(proxied.wire.length, requests.length)
  })

  await t.test('for 200 requests at once, as many as its pool holds', async () => {
    const requests = Array.from({ length: 200 }, () => ({ method: 'GET', path: '/channels' }))
    const { answers } = await asTeam(`${proxy.url}${PREFIX}`, requests, ['--threads', '200'])
    const expected = await asTeam(upstream.url, [{ method: 'GET', path: '/channels' }])
    for (const answer of answers) assert.deepEqual(passed(answer), passed(expected.answers[0]))
  })

  await t.test('for a redirect, which it follows without leaving the proxy', async () => {
    const { answers, wire } = await asTeam(`${proxy.url}${PREFIX}`, [{ method: 'GET', path: '/channels/' }])
    assert.deepEqual(
      wire.map(answer => at(answer, 'status')),
      [307, 200],
    )
    assert.equal(at(answers, 0, 'url'), `${proxy.url}${PREFIX}/channels`)
  })

  await t.test('for a body that it sends, in one piece or in chunks', async () => {
    const bodies = [
      { json: { text: 'Süd', number: 1.0 } },
      { text: 'S\xfcd', headers: { 'Content-Type': 'text/plain; charset=iso-8859-1' } },
      { text: 'without a type' },
      { randomBytes: 3_000_000 },
      { randomBytes: 3_000_000, chunked: true },
      { text: 'a=1&b=2', chunked: true, headers: { 'Content-Type': 'application/x-www-form-urlencoded' } },
      {},
    ]
    const requests = bodies.map(body => ({ method: 'POST', path: '/echo?b=2&a=1', ...body }))
    const direct = await asTeam(upstream.url, requests)
    const proxied = await asTeam(`${proxy.url}${PREFIX}`, requests)
    for (const [index] of requests.entries()) {
      assert.deepEqual(arrived(at(proxied.answers, index)), arrived(at(direct.answers, index)))
    }
  })

  await t.test('for a server error that it would not retry', async () => {
    const wrong = { ...configure, json: configuration({ channels: { min: 9, max: 1 } }) }
    const direct = await asTeam(upstream.url, [wrong], ['--no-retries'])
    const proxied = await asTeam(`${proxy.url}${PREFIX}`, [wrong], ['--no-retries'])
    assert.deepEqual(statuses(proxied), [500])
    assert.deepEqual(passed(proxied.answers[0]), passed(direct.answers[0]))
  })
})

test('a refused session of the team’s suite', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'requests')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, { upstream: upstream.url, env })
  await circuitIs(proxy, 'closed')
  await upstream.setFiber('missing')
  await circuitIs(proxy, 'open')
  await upstream.reset()

  await t.test(
    'tries four times, waits exactly as long as Retry-After says, and raises RetryError',
    async () => {
      const refusedBefore = await refusedBy(proxy)
      const { answers, wire } = await asTeam(`${proxy.url}${PREFIX}`, [configure])
      assertWaitedAsRequested(answers[0], wire)
      assert.equal((await refusedBy(proxy)) - refusedBefore, ATTEMPTS)
      assert.equal(await upstream.handled('configure'), 0)
    },
  )

  await t.test('still uses the read-only endpoints, without a retry', async () => {
    const requests = ['/ack', '/channels', '/live_metadata'].map(path => ({ method: 'GET', path }))
    const proxied = await asTeam(`${proxy.url}${PREFIX}`, requests)
    assert.deepEqual(statuses(proxied), [200, 200, 200])
    assert.equal(proxied.wire.length, requests.length)
  })

  await t.test('without retries sees a JSON object that says what is missing', async () => {
    const { answers, wire } = await asTeam(`${proxy.url}${PREFIX}`, [configure], ['--no-retries'])
    assert.equal(wire.length, 1)
    assert.equal(at(answers, 0, 'status'), 503)
    const body: unknown = JSON.parse(String(at(answers, 0, 'text')))
    assert.match(String(at(body, 'error')), /waiting for fiber/)
    assertFiberBody(body)
    assert.match(String(header(answers[0], 'content-type')), /^application\/json/)
    assert.equal(await upstream.handled('configure'), 0)
  })

  await t.test('succeeds after all when the fiber comes back before its last attempt', async () => {
    await upstream.reset()
    const refusedBefore = await refusedBy(proxy)
    const report = asTeam(`${proxy.url}${PREFIX}`, [configure])
    await until(async () => (await refusedBy(proxy)) > refusedBefore, {
      what: 'its first attempt is refused',
    })
    await upstream.setFiber('present')
    const { answers } = await report
    assert.equal(at(answers, 0, 'status'), 200, JSON.stringify(answers))
    assert.equal(await upstream.handled('configure'), 1)
  })
})

test('the same session is refused in the same way behind an ingress with its own certificate', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'requests', 'nginx', 'openssl')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, {
    upstream: upstream.url,
    env: { ...env, FOCUS_BREAKER_BASE_PATH: '' },
  })
  const ingress = await startIngress(t, { upstream: proxy.url, tls: true })
  await circuitIs(proxy, 'closed')

  await upstream.reset()
  const direct = await asTeam(upstream.url, [configure])
  await upstream.reset()
  const admitted = await asTeam(`${ingress.url}${PREFIX}`, [configure])
  assert.equal(at(admitted.answers, 0, 'status'), 200)
  assert.equal(at(admitted.answers, 0, 'sha256'), at(direct.answers, 0, 'sha256'))

  await upstream.setFiber('missing')
  await circuitIs(proxy, 'open')
  await upstream.reset()
  const { answers, wire } = await asTeam(`${ingress.url}${PREFIX}`, [configure])
  assertWaitedAsRequested(answers[0], wire)
  const plain = await asTeam(`${ingress.url}${PREFIX}`, [configure], ['--no-retries'])
  assertFiberBody(JSON.parse(String(at(plain.answers, 0, 'text'))))
  assert.equal(await upstream.handled('configure'), 0)
})

/** What client.py reports. */
interface Report {
  /** One for each request, in order: a response or an error. */
  readonly answers: readonly unknown[]
  /** Status and Retry-After of every response on the wire. */
  readonly wire: readonly unknown[]
}

/** Sends the requests with the team's session; the base URL has the prefix and no trailing slash. */
async function asTeam(
  baseUrl: string,
  requests: readonly object[],
  options: readonly string[] = [],
): Promise<Report> {
  const script = join(repositoryRoot, 'test/interop/client.py')
  const client = spawn('/usr/bin/python3', [script, baseUrl, ...options], {
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: 60_000,
  })
  client.stdin.end(JSON.stringify(requests))
  const report: unknown = JSON.parse(await text(client.stdout))
  const answers = at(report, 'answers')
  const wire = at(report, 'wire')
  assert.ok(Array.isArray(answers) && Array.isArray(wire))
  return { answers, wire }
}

function assertWaitedAsRequested(answer: unknown, wire: readonly unknown[]): void {
  assert.equal(at(answer, 'error'), 'RetryError')
  assert.deepEqual(
    wire.map(one => at(one, 'status')),
    Array.from({ length: ATTEMPTS }, () => 503),
  )
  const values = wire.map(one => String(at(one, 'retryAfter')))
  for (const value of values) assert.match(value, /^[1-9]\d*$/)
  const seconds = values.map(Number)
  const elapsed = Number(at(answer, 'elapsedSeconds'))
  // urllib3 does not wait after the last response.
  const slept = seconds.slice(0, RETRIES).reduce((sum, one) => sum + one, 0)
  assert.ok(elapsed >= slept - 0.1, `blocked ${elapsed} s, Retry-After was ${slept} s in total`)
  const most = RETRIES * Math.max(...seconds) + LEEWAY_SECONDS
  assert.ok(elapsed <= most, `blocked ${elapsed} s, expected at most ${most} s`)
}

function statuses({ answers }: Report): readonly unknown[] {
  return answers.map(answer => at(answer, 'status') ?? at(answer, 'error'))
}

/** The parts of a response that must pass through a gateway unchanged. */
function passed(answer: unknown) {
  const notForwarded = ['age', 'cache-status', 'connection', 'date', 'keep-alive', 'via']
  return {
    status: at(answer, 'status'),
    sha256: at(answer, 'sha256'),
    headers: headersOf(answer).filter(([name]) => !notForwarded.includes(name)),
  }
}

/** What arrived at `/echo`, without what a gateway must change. */
function arrived(answer: unknown) {
  const echo: unknown = JSON.parse(String(at(answer, 'text')))
  const pairs = at(echo, 'headers')
  assert.ok(Array.isArray(pairs))
  // The framing of a body belongs to one connection too; its length and digest are compared instead.
  const changed = /^(connection|content-length|host|transfer-encoding|via|x-forwarded-(for|host|proto))$/
  return {
    method: at(echo, 'method'),
    target: at(echo, 'target'),
    length: at(echo, 'length'),
    sha256: at(echo, 'sha256'),
    headers: pairs
      .map((pair: unknown) => `${at(pair, 0)}: ${at(pair, 1)}`)
      .filter(field => !changed.test(field.replace(/:.*/, '')))
      .toSorted(),
  }
}

function headersOf(answer: unknown): readonly (readonly [string, string])[] {
  const pairs = at(answer, 'headers')
  assert.ok(Array.isArray(pairs), JSON.stringify(answer))
  return pairs.map((pair: unknown) => [String(at(pair, 0)), String(at(pair, 1))] as const)
}

function header(answer: unknown, name: string): string | undefined {
  return headersOf(answer).find(([field]) => field === name)?.[1]
}

async function refusedBy(proxy: { readonly url: string }): Promise<number> {
  return Number(at(await statusOf(proxy), 'totals', 'refused'))
}
