import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { parse } from 'yaml'
import { Exposition } from '../support/exposition.js'
import { type GatewayRecipe, startGateway } from '../support/gateway.js'
import { at, circuitIs, requireOrSkip, startProxy, statusOf, until } from '../support/harness.js'
import { type Answer, ask, clientPool, configure } from '../support/http-client.js'
import { type KeptRequest, sendAll } from '../support/keep-alive.js'
import { rawClient } from '../support/raw.js'
import type { RawAnswer } from '../support/raw-request.js'
import { Page } from '../support/recipe-page.js'
import { seeded } from '../support/seeded.js'
import { live, simulate } from '../support/simulate.js'
import { spellings } from '../support/spellings.js'
import { startFocusServer } from '../support/uvicorn-focus-server.js'
import { Workshop } from '../support/workshop.js'

const TOKEN = 'a-token-of-the-operator'
const PREFIX = '/focus-server'
const LIVE = JSON.stringify(live)
const HISTORIC = JSON.stringify({ ...live, start_time: 1_764_957_600, end_time: 1_764_957_660 })
const MEGABYTE = 1_000_000
/** A valid job of a megabyte. */
const LARGE = LIVE.replace('{', `{${' '.repeat(MEGABYTE)}`)

const page = new Page('gateways.md')
const proxyConfiguration = page.take('focus-breaker.yaml')

/** A recipe, and what the table at the top of the page says about its method. */
type Recipe = GatewayRecipe & {
  readonly name: string
  /** The start of its row in the table. */
  readonly way: string
  /** Every configure goes through the proxy: it gives evidence, and the ramp counts it. */
  readonly sees: boolean
  /** A refused request is passed on to the proxy itself, which reads its body or lets it wait. */
  readonly handsOver: boolean
}

const ONLY = { way: '[only the guarded path]', sees: true, handsOver: true } as const
const RECIPES: readonly Recipe[] = [
  { name: 'nginx, only the guarded path', ...ONLY, gateway: 'nginx', configuration: page.take('nginx') },
  {
    name: 'HAProxy, only the guarded path',
    ...ONLY,
    gateway: 'haproxy',
    configuration: page.take('haproxy'),
  },
  {
    name: 'Caddy, only the guarded path',
    ...ONLY,
    gateway: 'caddy',
    configuration: page.take('caddyfile'),
  },
  {
    ...{ name: 'nginx asks', way: '[nginx asks]', gateway: 'nginx', sees: false, handsOver: true },
    configuration: page.take('nginx'),
  },
  {
    ...{ name: 'HAProxy asks, in Lua', way: '[HAProxy asks, in Lua]', gateway: 'haproxy' },
    ...{ sees: false, handsOver: true, lua: page.take('lua'), configuration: page.take('haproxy') },
  },
  {
    ...{ name: 'HAProxy checks the fiber', way: '[HAProxy checks the fiber]', gateway: 'haproxy' },
    ...{ sees: false, handsOver: true, configuration: page.take('haproxy') },
  },
  {
    ...{ name: 'Caddy asks', way: '[Caddy asks]', gateway: 'caddy', sees: false, handsOver: false },
    configuration: page.take('caddyfile'),
  },
]
const balancer = page.take('haproxy')
const traefik: unknown = parse(page.take('yaml'))
const envoy: unknown = parse(page.take('yaml'))

/** Headers with which a client may try to turn its request into another one. */
const LIES: readonly (readonly string[])[] = [
  ['X-Forwarded-Method: GET', `X-Forwarded-Uri: ${PREFIX}/ack`, 'X-Forwarded-Host: other.example'],
  ['X-Original-Method: GET', `X-Original-URI: ${PREFIX}/ack`, `X-Original-URL: ${PREFIX}/ack`],
  ['X-HTTP-Method-Override: GET', `X-Forwarded-Prefix: ${PREFIX}/x`, `X-Rewrite-URL: ${PREFIX}/ack`],
]

/** Spellings that lead to configure, for uvicorn or for a gateway in front of it. */
const SPELLINGS = [
  ...['/configure', '/%63onfigure', '/configure?again=1', '//configure', '/./configure', '/x/../configure'],
  ...['/configure%0a', '/configure/', '/configure%2f'],
]

test('the page has a row for each recipe, and its columns show the measured results', () => {
  for (const { way, name, sees, handsOver } of RECIPES) {
    const line = page.text.split('\n').find(each => each.startsWith(`| ${way}`)) ?? ''
    const cells = line.split('|').map(cell => cell.trim())
    const words = [sees, sees, handsOver, handsOver].map(has => (has ? 'yes' : 'no'))
    assert.deepEqual(cells.slice(2, 6), words, name)
  }
  page.assertAllTaken()
})

for (const recipe of RECIPES) {
  test(`${recipe.name}: a whole outage`, async t => {
    if (!requireOrSkip(t, recipe.gateway)) return
    const lab = await startLab(t, recipe)
    await t.test('while the fiber is connected, each configure reaches focus-server once', () => passes(lab))
    await t.test('while it is missing, none does, however it is sent', () => refuses(t, lab))
    await t.test('when it is back, they pass again, and none arrives twice', () => recovers(lab))
    await t.test('while the state changes, clients get as many 200s as jobs have started', () =>
      agrees(t, lab),
    )
    await t.test('while the proxy is down, configure fails or passes, as configured', () =>
      assertWithoutProxy(lab),
    )
  })
}

test('no spelling gets past a recipe to the configure route of a real uvicorn while the fiber is missing', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'nginx', 'haproxy', 'caddy')) return
  const upstream = await startFocusServer(t)
  await upstream.setFiber('missing')
  const proxy = await startSeenProxy(t, upstream.url)
  await circuitIs(proxy, 'open')
  const made = spellings(seeded(15), 80).filter(target => target.startsWith('/'))
  const targets = [...SPELLINGS, ...made, '/con/../configure', '/;/configure', '/configure;a', '/CONFIGURE']
  const wishes = targets.flatMap(target => [post(PREFIX + target), post(target)])
  for (const recipe of RECIPES) {
    const url = await startGateway(t, recipe, { proxy: proxy.url, upstream: upstream.url })
    await gatewayRefuses(url)
    await upstream.reset()
    await sendAll(url, wishes)
    assert.equal(await upstream.handled('configure'), 0, recipe.name)
    // A configure that reached focus-server would have been counted.
    await proxy.override('closed')
    await until(async () => /Cannot proceed/.test(await textOfConfigure(url)), { what: recipe.name })
    assert.notEqual(await upstream.handled('configure'), 0, recipe.name)
    await proxy.override(null)
  }
})

test('no client can make a fail-open gateway take the proxy for unreachable', async t => {
  if (!requireOrSkip(t, 'nginx', 'haproxy', 'caddy')) return
  const { simulator } = await simulate(t, { fiber: 'missing' })
  // Less than the gateways and focus-server accept.
  const proxy = await startSeenProxy(t, simulator.url, { FOCUS_BREAKER_SERVER_MAX_HEADER_BYTES: '4096' })
  await circuitIs(proxy, 'open')
  const broken = [
    ['Content-Length: 0', `X-Large: ${'x'.repeat(6000)}`, '', ''],
    ['Transfer-Encoding: chunked', '', 'no length', ''],
    ['Content-Length: 1000', '', 'the beginning'],
  ]
  for (const recipe of RECIPES) {
    const url = await startGateway(t, recipe, { proxy: proxy.url, upstream: simulator.url, isOpen: true })
    await gatewayRefuses(url)
    simulator.resetCounters()
    const { host, port } = new URL(url)
    for (const rest of broken) {
      // Often enough for a gateway that counts a failure only if the client leaves before the refusal.
      for (let count = 0; count < 5; count += 1) {
        const client = await rawClient(t, Number(port))
        client.send([`POST ${PREFIX}/configure HTTP/1.1`, `Host: ${host}`, ...rest].join('\r\n'))
        if (rest.length > 3) await client.until(/\r\n\r\n/)
        client.socket.destroy()
        assertRefusal(rawOf(await configure({ url: url + PREFIX })), `${recipe.name}: another client`)
      }
    }
    assert.equal(simulator.counters.byRoute['POST /configure'] ?? 0, 0, recipe.name)
  }
})

type Lab = Awaited<ReturnType<typeof startLab>>

/**
 * A simulated focus-server, the proxy as the page configures it, and the recipe's gateway, fail-closed and fail-open.
 */
async function startLab(t: TestContext, recipe: Recipe) {
  const { simulator } = await simulate(t, {
    ...{ jobDurationMs: 1, maxJobs: 1_000_000, historicWithoutFiber: true },
  })
  const proxy = await startSeenProxy(t, simulator.url)
  const site = { proxy: proxy.url, upstream: simulator.url }
  const url = await startGateway(t, recipe, site)
  const openUrl = await startGateway(t, recipe, { ...site, isOpen: true })
  await circuitIs(proxy, 'closed')
  return {
    ...{ recipe, simulator, proxy, url, openUrl },
    /** How many configures have reached focus-server since the last call. */
    configured: () => {
      const count = simulator.counters.byRoute['POST /configure'] ?? 0
      simulator.resetCounters()
      return count
    },
    /** How many of them the proxy has forwarded in total. */
    forwarded: async () => {
      const { bytes } = await ask(`${proxy.url}/-/metrics`)
      const series = 'focus_breaker_forwarded_requests_total'
      return new Exposition(bytes.toString()).sum(series, { guarded: 'true' })
    },
  }
}

/** The proxy as the page configures it, and fast enough for a test. */
async function startSeenProxy(t: TestContext, upstream: string, more: Readonly<Record<string, string>> = {}) {
  const { directory } = new Workshop(t, {})
  const file = join(directory, 'focus-breaker.yaml')
  const write = (more: string) =>
    writeFileSync(
      file,
      proxyConfiguration.replace('http://focus-server:5000', upstream).replace('192.0.2.10', '127.0.0.1') +
        more,
    )
  write('')
  const env = {
    FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
    FOCUS_BREAKER_RECOVERY_RAMP_MS: '300',
    FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: '1',
    FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
    ...more,
  }
  const proxy = await startProxy(t, { upstream, env, args: ['--config', file] })
  const headers = { authorization: `Bearer ${TOKEN}` }
  return {
    ...proxy,
    setScope: async (scope: 'all' | 'live') => {
      write(`guard:\n  scope: ${scope}\n`)
      const { statusCode } = await ask(`${proxy.url}/-/reload`, { method: 'POST', headers })
      assert.equal(statusCode, 200)
    },
    override: async (state: 'open' | 'closed' | null) => {
      const body = JSON.stringify({ state, reason: 'a test', forSeconds: 60 })
      const options = state === null ? { method: 'DELETE' as const } : { method: 'PUT' as const, body }
      const { statusCode } = await ask(`${proxy.url}/-/override`, { ...options, headers })
      assert.ok(statusCode < 300)
    },
  }
}

async function passes({ recipe, proxy, url, openUrl, configured, forwarded }: Lab): Promise<void> {
  configured()
  const before = await forwarded()
  const bodies = [LIVE, LARGE, HISTORIC]
  for (const at of [url, openUrl]) {
    for (const body of bodies) assertJob(await configure({ url: at + PREFIX }, { body }))
    for (const lie of LIES) assertJob(await configure({ url: at + PREFIX }, { headers: headersOf(lie) }))
    assert.equal((await ask(`${at}${PREFIX}/channels`)).statusCode, 200)
  }
  const count = 2 * (bodies.length + LIES.length)
  assert.equal(configured(), count)
  assert.equal((await forwarded()) - before, recipe.sees ? count : 0, 'requests that the proxy sees')
  if (!recipe.sees) return
  // A redirect of focus-server leads to the address that the client used, and does not bypass the gateway.
  const [moved] = await sendAll(url, [post(`${PREFIX}/configure/`)])
  assert.equal(moved?.status, 307)
  assert.equal(new URL(moved.headers.location ?? '', url).href, `${url}${PREFIX}/configure`)
  const { json } = await ask(`${proxy.url}/-/status`)
  assert.equal(at(json, 'circuit', 'state'), 'closed')
}

async function refuses(t: TestContext, lab: Lab): Promise<void> {
  const { recipe, simulator, proxy, url, openUrl, configured } = lab
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  for (const each of [url, openUrl]) await gatewayRefuses(each)
  configured()
  for (const each of [url, openUrl]) {
    const sent = SPELLINGS.flatMap(spelling => [[], ...LIES].map(lie => post(PREFIX + spelling, lie)))
    const answers = await sendAll(each, sent)
    for (const [index, answer] of answers.entries()) assertRefusal(answer, JSON.stringify(sent[index]))
    assertRefusal((await sendAll(each, [{ ...post(`${PREFIX}/configure`), body: LARGE }]))[0], 'a megabyte')
    for (const fields of [
      ['Transfer-Encoding: chunked'],
      [`Content-Length: ${MEGABYTE}`, 'Expect: 100-continue'],
    ]) {
      const client = await rawClient(t, Number(new URL(each).port))
      const head = [`POST ${PREFIX}/configure HTTP/1.1`, `Host: ${new URL(each).host}`, ...fields, '', '']
      client.send(head.join('\r\n'))
      if (fields.length === 1) client.send(`${MEGABYTE.toString(16)}\r\n${'x'.repeat(MEGABYTE)}\r\n0\r\n\r\n`)
      // A gateway that reads the body first asks the client for it.
      else if (/^HTTP\/1\.1 100/.test(await client.until(/\r\n\r\n/))) client.send('x'.repeat(MEGABYTE))
      assert.match(
        await client.until(/HTTP\/1\.1 [2-5]\d\d [\s\S]*\r\n\r\n[\s\S]*\}/),
        /HTTP\/1\.1 503 [\s\S]*waiting_for_fiber/,
      )
      client.socket.destroy()
    }
    assert.equal((await ask(`${each}${PREFIX}/channels`)).statusCode, 200)
  }
  assert.equal(configured(), 0)
  const problem = await configure({ url: url + PREFIX }, { headers: { accept: 'application/problem+json' } })
  assert.deepEqual([problem.statusCode, at(problem.json, 'status')], [503, 503])

  await proxy.setScope('live')
  const historic = await configure({ url: url + PREFIX }, { body: HISTORIC })
  assert.equal(historic.statusCode, recipe.handsOver ? 200 : 503)
  assertRefusal(rawOf(await configure({ url: url + PREFIX })), 'a live job')
  await proxy.setScope('all')
  assert.equal(configured(), recipe.handsOver ? 1 : 0)
}

async function recovers({ recipe, simulator, proxy, url, configured }: Lab): Promise<void> {
  const parked = configure({ url: url + PREFIX }, { headers: { prefer: 'wait=30' } })
  if (recipe.handsOver) {
    await until(async () => at(await statusOf(proxy), 'waiting') === 1, { what: 'the request waits' })
  } else assertRefusal(rawOf(await parked), 'the request cannot wait')
  await simulator.setFiber('present')
  let jobs = 0
  if (recipe.handsOver) {
    const held = await parked
    assertJob(held)
    assert.equal(held.headers['preference-applied'], 'wait=30')
    jobs += 1
  }
  // A client that retries until the circuit is closed.
  for (let state: unknown = 'open'; state !== 'closed'; ) {
    const answer = await configure({ url: url + PREFIX })
    if (answer.statusCode === 200) {
      assertJob(answer)
      jobs += 1
    } else assertRefusal(rawOf(answer), 'during the recovery')
    state = at(await statusOf(proxy), 'circuit', 'state')
  }
  assert.equal(configured(), jobs)
}

/** The circuit opens and closes repeatedly, also between a gateway's decision request and the request itself. */
async function agrees(t: TestContext, { proxy, url, configured }: Lab): Promise<void> {
  await until(async () => (await configure({ url: url + PREFIX })).statusCode === 200)
  configured()
  const dispatcher = clientPool(t, 20)
  const jobs = new Set<unknown>()
  let admitted = 0
  let refused = 0
  let isOver = false
  const switching = (async () => {
    for (let state: 'open' | 'closed' = 'open'; !isOver; state = state === 'open' ? 'closed' : 'open') {
      await proxy.override(state)
      await delay(30)
    }
    await proxy.override(null)
  })()
  const isEnough = () => admitted >= 100 && refused >= 100 && admitted + refused >= 600
  const client = async () => {
    for (let count = 0; count < 400 && !isEnough(); count += 1) {
      const answer = await configure({ url: url + PREFIX }, { dispatcher })
      if (answer.statusCode === 200) {
        admitted += 1
        jobs.add(assertJob(answer))
      } else {
        refused += 1
        assertRefusal(rawOf(answer), 'in a race', 'forced_open')
      }
    }
  }
  await Promise.all(Array.from({ length: 20 }, client)).finally(() => {
    isOver = true
  })
  await switching
  assert.ok(isEnough(), `${admitted} admitted, ${refused} refused`)
  assert.equal(jobs.size, admitted)
  assert.equal(configured(), admitted)
}

async function assertWithoutProxy({ proxy, url, openUrl, configured }: Lab): Promise<void> {
  await proxy.stop()
  const status = async (at: string) => (await configure({ url: at + PREFIX })).statusCode
  // A health check of HAProxy may not have noticed it yet.
  await until(async () => (await status(url)) >= 500, {
    what: 'the gateway has noticed that the proxy is down',
  })
  await until(async () => (await status(openUrl)) === 200, {
    what: 'the fail-open gateway has noticed that the proxy is down',
  })
  configured()
  for (const lie of LIES.slice(0, 1)) {
    const headers = headersOf(lie)
    assert.ok((await configure({ url: url + PREFIX }, { headers })).statusCode >= 500)
    assert.equal(configured(), 0)
    assertJob(await configure({ url: openUrl + PREFIX }, { headers }))
    assert.equal(configured(), 1)
  }
  for (const each of [url, openUrl]) assert.equal((await ask(`${each}${PREFIX}/channels`)).statusCode, 200)
}

test('HAProxy in front of two replicas uses both, and continues with one when the other stops', async t => {
  if (!requireOrSkip(t, 'haproxy')) return
  const { simulator } = await simulate(t, { jobDurationMs: 1, maxJobs: 1_000_000 })
  const replicas = [await startSeenProxy(t, simulator.url), await startSeenProxy(t, simulator.url)]
  const [first, second] = replicas
  assert.ok(first !== undefined && second !== undefined)
  const configuration = balancer
    .replace('focus-breaker-a:8080', new URL(first.url).host)
    .replace('focus-breaker-b:8080', new URL(second.url).host)
  const site = { proxy: first.url, upstream: simulator.url }
  const url = await startGateway(t, { gateway: 'haproxy', configuration }, site)
  for (const replica of replicas) await circuitIs(replica, 'closed')
  const forwarded = async (replica: { readonly url: string }) =>
    Number(at((await ask(`${replica.url}/-/status`)).json, 'totals', 'forwarded'))
  await until(async () => {
    assertJob(await configure({ url: url + PREFIX }))
    return (await forwarded(first)) > 0 && (await forwarded(second)) > 0
  })
  await second.stop()
  simulator.resetCounters()
  for (let count = 0; count < 10; count += 1) assertJob(await configure({ url: url + PREFIX }))
  assert.equal(simulator.counters.byRoute['POST /configure'], 10)
})

test('Traefik, as its documentation describes it, gets a refusal that it can return', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startSeenProxy(t, simulator.url)
  await circuitIs(proxy, 'open')
  const { address } = forwardAuthOf(traefik)
  const question = (method: string, uri: string) =>
    ask(address.replace('http://focus-breaker:8080', proxy.url), {
      headers: { 'x-forwarded-method': method, 'x-forwarded-uri': uri, 'x-original-uri': '/ack' },
    })
  const answer = await question('POST', `${PREFIX}/configure`)
  assertRefusal(rawOf(answer), 'configure')
  assert.equal(answer.headers.link, `<${PREFIX}/-/status>; rel="status"`)
  assert.equal((await question('GET', `${PREFIX}/configure`)).statusCode, 200)
  assert.equal((await question('POST', `${PREFIX}/configured`)).statusCode, 200)
})

test('Envoy, as its documentation describes it, gets a refusal that it does not take for an error', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startSeenProxy(t, simulator.url)
  await circuitIs(proxy, 'open')
  const prefix = String(at(envoy, 'typed_config', 'http_service', 'path_prefix'))
  assert.match(prefix, /^\//)
  // The client's method, and its path behind the prefix. A client's query has no effect.
  for (const [method, target, status] of [
    ...SPELLINGS.map(spelling => ['POST', PREFIX + spelling, 429] as const),
    ['POST', `${PREFIX}/configure?status=503`, 429],
    ['POST', `${PREFIX}/configure?uri=/channels&status=200`, 429],
    ['GET', `${PREFIX}/channels?status=anything`, 200],
    ['DELETE', `${PREFIX}/job/7`, 200],
    ['OPTIONS', `${PREFIX}/configure`, 200],
  ] as const) {
    const lie = ['X-Forwarded-Method: GET', 'X-Forwarded-Uri: /channels', 'X-Original-URI: /channels']
    for (const fields of [[], lie]) {
      const [answer] = await sendAll(proxy.url, [{ method, target: prefix + target, fields }])
      assert.equal(answer?.status, status, `${method} ${target}`)
      if (status === 429) assert.match(answer.body, /"status":"waiting_for_fiber"/)
    }
  }
})

function forwardAuthOf(configuration: unknown): { readonly address: string } {
  const options = at(configuration, 'http', 'middlewares', 'focus-breaker', 'forwardAuth')
  assert.equal(at(options, 'trustForwardHeader'), false)
  // The decision request is sent before the prefix is removed.
  const middlewares = at(configuration, 'http', 'routers', 'configure', 'middlewares')
  assert.deepEqual(middlewares, ['focus-breaker', 'without-prefix'])
  return { address: String(at(options, 'address')) }
}

const post = (target: string, fields: readonly string[] = []): KeptRequest => ({
  ...{ method: 'POST', target, fields, body: LIVE },
})

const headersOf = (fields: readonly string[]): Readonly<Record<string, string>> =>
  Object.fromEntries(fields.map(field => field.split(': ')))

const rawOf = ({ statusCode, headers, bytes }: Answer): RawAnswer => ({
  status: statusCode,
  headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)])),
  body: bytes.toString(),
})

/** Waits until a gateway that checks the fiber periodically has noticed that it is missing. */
async function gatewayRefuses(url: string): Promise<void> {
  const what = 'the gateway has noticed the outage'
  await until(async () => /waiting_for_fiber/.test(await textOfConfigure(url)), { what })
}

async function textOfConfigure(url: string): Promise<string> {
  return (await configure({ url: url + PREFIX })).bytes.toString()
}

/** The id of a job that focus-server has started. */
function assertJob({ statusCode, json, bytes }: Answer): string {
  assert.equal(statusCode, 200, bytes.toString().slice(0, 300))
  const id = at(json, 'job_id')
  assert.ok(typeof id === 'string', `a 200 without a job: ${bytes.toString().slice(0, 300)}`)
  return id
}

/** The proxy's whole refusal, as a client gets it from the proxy itself. */
function assertRefusal(answer: RawAnswer | undefined, what: string, code = ''): void {
  assert.ok(answer !== undefined, what)
  const { status, headers, body } = answer
  assert.equal(status, 503, `${what}: ${body.slice(0, 300)}`)
  const json: unknown = JSON.parse(body)
  assert.equal(at(json, 'forwarded'), false, what)
  if (code !== '') assert.equal(at(json, 'status'), code, what)
  assert.match(headers['retry-after'] ?? '', /^[1-9]\d*$/, what)
  assert.match(headers['proxy-status'] ?? '', /^focus-breaker; error=/, what)
  assert.match(headers['content-type'] ?? '', /^application\/json/, what)
}
