import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Value } from 'typebox/value'
import { buildApp } from '../../src/app.js'
import { load } from '../../src/config/load.js'
import { createLogger } from '../../src/observability/logger.js'
import { at, until } from '../support/harness.js'
import { portOf } from '../support/raw.js'
import { live, simulate } from '../support/simulate.js'

const TOKEN = 'a-token-of-our-own'
const BASE = '/focus-server'

/** The routes of the public interface, and those that were added to it. */
const ROUTES = [
  ...['GET /-/', 'GET /-/clients', 'GET /-/decision', 'GET /-/events', 'GET /-/fiber', 'GET /-/history'],
  ...[
    'GET /-/live',
    'GET /-/metrics',
    'GET /-/openapi.json',
    'GET /-/outages',
    'GET /-/outages/{id}',
    'GET /-/report',
    'DELETE /-/override',
  ],
  ...[
    'GET /-/override',
    'PUT /-/override',
    'GET /-/page/{file}',
    'GET /-/ready',
    'GET /-/replicas',
    'GET /-/runs/{id}',
    'GET /-/status',
  ],
  ...['GET /-/wait', 'POST /-/reload', 'GET /-/decision/{target}'],
]

type Json = Readonly<Record<string, unknown>>

/** One operation of the description. */
type Operation = { readonly route: string; readonly method: string; readonly path: string; readonly it: Json }

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const entries = (value: unknown): readonly (readonly [string, unknown])[] =>
  isObject(value) ? Object.entries(value) : []

function operationsOf(description: unknown): readonly Operation[] {
  return entries(at(description, 'paths')).flatMap(([path, methods]) =>
    entries(methods).map(([method, it]) => {
      assert.ok(isObject(it))
      return { route: `${method.toUpperCase()} ${path}`, method: method.toUpperCase(), path, it }
    }),
  )
}

/** The schema of a response in the description, by its status and media type. */
function schemaOf({ it }: Operation, status: number, mediaType: string): Json {
  const responses = at(it, 'responses')
  const answer = at(responses, String(status)) ?? at(responses, 'default')
  const schema = at(answer, 'content', mediaType, 'schema')
  assert.ok(isObject(schema), `${status} as ${mediaType} is not described`)
  return schema
}

/** The proxy in this process, with an admin token and a base path, and functions that change its state. */
async function proxy(t: TestContext) {
  const { simulator } = await simulate(t)
  const options = {
    'upstream.url': simulator.url,
    'admin.token': TOKEN,
    basePath: BASE,
    'probe.periodMs': '50',
    'recovery.rampMs': '0',
    'server.drainTimeoutMs': '100',
  }
  const flags = new Map(Object.entries(options).map(([name, value]) => [name, { flag: name, value }]))
  const loaded = load({ environment: {}, flags })
  assert.ok(loaded.ok)
  const { app, retire } = buildApp(loaded.config, createLogger({ level: 'silent', format: 'json' }), 'test')
  t.after(() => app.close())
  await app.listen({ host: '127.0.0.1', port: 0 })
  const port = portOf(app.server)
  const url = `http://127.0.0.1:${port}`
  const authorization = `Bearer ${TOKEN}`
  const override = (method: 'PUT' | 'DELETE', body?: object) =>
    fetch(`${url}/-/override`, {
      method,
      headers: { authorization },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
  const is = (state: string) =>
    until(async () => at(await (await fetch(`${url}/-/status`)).json(), 'circuit', 'state') === state)
  const configure = () =>
    fetch(`${url}/configure`, {
      method: 'POST',
      headers: { 'x-test-run': 'the-run' },
      body: JSON.stringify(live),
    })
  return { simulator, url, override, is, configure, retire }
}

async function description(url: string): Promise<unknown> {
  const answer = await fetch(`${url}/-/openapi.json`)
  assert.equal(answer.status, 200)
  assert.match(String(answer.headers.get('content-type')), /^application\/json\b/)
  return await answer.json()
}

test('every own route is described, and no other', async t => {
  const { url } = await proxy(t)
  const described = await description(url)
  assert.equal(at(described, 'openapi'), '3.1.0')
  assert.equal(at(described, 'info', 'title'), 'focus-breaker')
  assert.equal(at(described, 'info', 'version'), 'test')
  const operations = operationsOf(described)
  assert.deepEqual(operations.map(({ route }) => route).sort(), [...ROUTES].sort())
  for (const { route, it } of operations) {
    assert.match(String(it.summary), /^[A-Z].*\.$/, `${route} has a sentence`)
    assert.ok(entries(it.responses).length >= 2, `${route} has an answer and errors`)
    const needsToken = /^(PUT|DELETE|POST) /.test(route)
    assert.deepEqual(it.security, needsToken ? [{ token: [] }] : undefined, route)
  }
})

test('below the base path the description is the same, and its server is relative to its own URL', async t => {
  const { url } = await proxy(t)
  const described = await description(url)
  assert.deepEqual(await description(url + BASE), described)
  const servers = at(described, 'servers', 0, 'url')
  assert.equal(new URL(String(servers), `${url}/-/openapi.json`).href, `${url}/`)
  assert.equal(new URL(String(servers), `${url}${BASE}/-/openapi.json`).href, `${url}${BASE}/`)
})

test('every response of the proxy matches the description', async t => {
  const { simulator, url, override, is, configure, retire } = await proxy(t)
  const operations = operationsOf(await description(url))
  const checked = new Set<string>()
  const check = async (expected: number, method: string, path: string, init: RequestInit = {}) => {
    const [bare = ''] = path.split('?')
    const operation = operations.find(
      each => each.method === method && new RegExp(`^${each.path.replace(/\{\w+\}/g, '[^/]+')}$`).test(bare),
    )
    assert.ok(operation !== undefined, `${method} ${bare} is described`)
    const answer = await fetch(url + path, { method, ...init })
    const what = `${method} ${path}: ${answer.status}`
    assert.equal(answer.status, expected, what)
    checked.add(operation.route)
    const text = await answer.text()
    if (answer.status === 204) return assert.equal(text, '')
    const [mediaType = ''] = (answer.headers.get('content-type') ?? '').split(';')
    if (text === '') return assert.equal(at(operation.it, 'responses', '200', 'content'), undefined, what)
    const schema = schemaOf(operation, answer.status, mediaType)
    if (!mediaType.endsWith('json')) return
    const value: unknown = JSON.parse(text)
    const isDescription = path === '/-/openapi.json'
    assert.ok(
      Value.Check(schema, value),
      `${what}: ${JSON.stringify(Value.Errors(schema, value))} of ${text}`,
    )
    // A schema that allows everything describes nothing.
    assert.ok(isDescription || !Value.Check(schema, 'no answer'), what)
  }
  const get = (status: number, ...paths: readonly string[]) =>
    Promise.all(paths.map(path => check(status, 'GET', path)))
  const always = [
    '/-/report',
    '/-/report?days=1',
    '/-/status',
    '/-/live',
    '/-/ready',
    '/-/clients',
    '/-/outages',
    '/-/history',
    '/-/override',
    '/-/replicas',
    '/-/decision/channels',
  ]
  const byFiber = ['/-/fiber', '/-/wait?timeout=0s', '/-/decision']

  await is('closed')
  await configure()
  await get(200, ...always, ...byFiber, '/-/metrics', '/-/', '/-/page/style.css', '/-/openapi.json')
  await simulator.setFiber('missing')
  await is('open')
  await configure()
  await get(200, ...always, '/-/runs/the-run')
  await get(503, ...byFiber)
  await check(503, 'GET', '/-/fiber', { headers: { accept: 'application/problem+json' } })
  await check(503, 'GET', '/-/fiber', { headers: { accept: 'text/plain' } })
  const ledger = await (await fetch(`${url}/-/outages`)).json()
  const opened = `/-/outages/${at(ledger, 'outages', 0, 'id')}`
  await get(200, opened)
  for (const path of ['/-/outages', opened, '/-/report', '/-/report?table=clients', '/-/report?table=runs']) {
    await check(200, 'GET', path, { headers: { accept: 'text/csv' } })
  }
  await simulator.setFault('GET /live_metadata', { kind: 'status', code: 500 })
  await until(
    async () => at(await (await fetch(`${url}/-/status`)).json(), 'reading', 'kind') === 'unreachable',
  )
  await get(200, ...always)
  await get(503, ...byFiber)
  await simulator.setFault('GET /live_metadata', null)
  await simulator.setFiber('present')
  await is('closed')
  await get(200, ...always, ...byFiber)

  const word = { state: 'open', reason: 'maintenance', forSeconds: 600 }
  const setting = operations.find(({ route }) => route === 'PUT /-/override')
  const taken = at(setting?.it, 'requestBody', 'content', 'application/json', 'schema')
  assert.ok(isObject(taken) && Value.Check(taken, word))
  for (const wrong of [{}, { ...word, more: 1 }, { ...word, forSeconds: 0 }])
    assert.ok(!Value.Check(taken, wrong))
  const authorized = { headers: { authorization: `Bearer ${TOKEN}` } }
  await check(200, 'PUT', '/-/override', { ...authorized, body: JSON.stringify(word) })
  await get(200, ...always)
  await get(503, ...byFiber)
  await check(400, 'PUT', '/-/override', { ...authorized, body: '{}' })
  await check(401, 'PUT', '/-/override', { body: JSON.stringify(word) })
  await check(401, 'DELETE', '/-/override')
  await check(204, 'DELETE', '/-/override', authorized)
  await check(200, 'POST', '/-/reload', authorized)
  await check(401, 'POST', '/-/reload')
  await override('PUT', { ...word, state: 'closed' })
  await get(200, ...always, ...byFiber)
  await get(200, opened)
  await check(200, 'GET', '/-/report', { headers: { accept: 'text/html' } })
  await get(404, '/-/outages/20200101T000000000Z')
  await get(400, '/-/outages?format=xml', '/-/report?days=0', '/-/report?table=none', '/-/report?format=x')
  await get(400, '/-/outages?limit=0', '/-/wait?timeout=never', '/-/decision?status=200')
  retire()
  await get(503, '/-/ready')

  const events = await fetch(`${url}/-/events`)
  assert.match(String(events.headers.get('content-type')), /^text\/event-stream/)
  checked.add('GET /-/events')
  await events.body?.cancel()
  assert.deepEqual([...checked].sort(), [...ROUTES].sort())
})
