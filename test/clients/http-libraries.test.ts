import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, repositoryRoot, startProxy, statusOf } from '../support/harness.js'
import { debianLibraries, type Libraries, missingModules, newerLibraries } from '../support/python.js'
import { live, simulate } from '../support/simulate.js'

const REFUSED = 'focus-breaker; error=destination_unavailable'
const OUTAGE = `${REFUSED}; details="waiting for fiber"`
const OVERLOADED = `${REFUSED}; details="overloaded"`

/** Every client that recognises a refusal, and what it needs. */
const clients = [
  { name: 'httpx', needs: ['httpx'] },
  { name: 'httpx, asyncio', needs: ['httpx'] },
  { name: 'httpx, trio', needs: ['httpx', 'trio'] },
  { name: 'aiohttp, session', needs: ['aiohttp'] },
  { name: 'aiohttp, middleware', needs: ['aiohttp.client_middlewares'] },
] as const

/** A feature that aiohttp 3.8 of Debian 12 does not have. */
const NOT_OF_DEBIAN = ['aiohttp.client_middlewares']

/** The responses of a server, one after the other; the last one is repeated. */
interface Response {
  readonly status: number
  readonly proxyStatus?: string | readonly string[]
  readonly retryAfter?: string
}

/** A request, the responses to it, and the expected outcome. */
interface Case {
  readonly name: string
  readonly responses: readonly Response[]
  readonly request: {
    readonly method: string
    readonly body?: string
    readonly generator?: boolean
    readonly raises?: boolean
    readonly everyMethod?: boolean
  }
  /** How often the server receives it. */
  readonly sent: number
  readonly status: number
  readonly refusal?: string
}

const post = { method: 'POST', body: '{"a":1}' }
const get = { method: 'GET' }
const ok: Response = { status: 200 }

const cases: readonly Case[] = [
  ...[503, 409, 429].map(status => ({
    name: `a refusal with ${status}`,
    responses: [{ status, proxyStatus: OUTAGE, retryAfter: '1' }],
    request: post,
    sent: 1,
    status,
    refusal: 'waiting for fiber',
  })),
  {
    name: 'a refusal of a GET, which could be retried',
    responses: [{ status: 503, proxyStatus: OUTAGE, retryAfter: '1' }],
    request: get,
    sent: 1,
    status: 503,
    refusal: 'waiting for fiber',
  },
  {
    name: 'a refusal in a second header of that name',
    responses: [{ status: 503, proxyStatus: ['ingress.example', OUTAGE] }],
    request: { ...post, everyMethod: true },
    sent: 1,
    status: 503,
    refusal: 'waiting for fiber',
  },
  ...['overloaded', 'recovering'].map(details => ({
    name: `a short refusal: ${details}`,
    responses: [{ status: 503, proxyStatus: `${REFUSED}; details="${details}"`, retryAfter: '0' }, ok],
    request: post,
    sent: 2,
    status: 200,
  })),
  {
    name: 'a short refusal that does not end',
    responses: [{ status: 503, proxyStatus: OVERLOADED, retryAfter: '0' }],
    request: post,
    sent: 4,
    status: 503,
    refusal: 'overloaded',
  },
  {
    name: 'a short refusal that becomes an outage',
    responses: [
      { status: 503, proxyStatus: OVERLOADED },
      { status: 503, proxyStatus: OUTAGE },
    ],
    request: post,
    sent: 2,
    status: 503,
    refusal: 'waiting for fiber',
  },
  {
    name: 'a short refusal of a body that cannot be sent twice',
    responses: [{ status: 503, proxyStatus: OVERLOADED }, ok],
    request: { ...post, generator: true },
    sent: 1,
    status: 503,
    refusal: 'overloaded',
  },
  ...[429, 502, 503, 504].map(status => ({
    name: `a ${status} of another server, to a GET`,
    responses: [{ status }, { status, proxyStatus: 'other; error=destination_unavailable' }, ok],
    request: get,
    sent: 3,
    status: 200,
  })),
  {
    name: 'a 503 of another server, to a POST',
    responses: [{ status: 503 }],
    request: post,
    sent: 1,
    status: 503,
  },
  {
    name: 'a 503 of another server, to a POST that may be retried',
    responses: [{ status: 503 }],
    request: { ...post, everyMethod: true },
    sent: 4,
    status: 503,
  },
  { name: 'a 500', responses: [{ status: 500 }], request: get, sent: 1, status: 500 },
  { name: 'a 404', responses: [{ status: 404 }], request: get, sent: 1, status: 404 },
  { name: 'a success', responses: [ok], request: post, sent: 1, status: 200 },
  {
    name: 'a delay that is too long',
    responses: [{ status: 503, retryAfter: '3600' }],
    request: get,
    sent: 1,
    status: 503,
  },
  {
    name: 'a refusal, with raise_for_status',
    responses: [{ status: 503, proxyStatus: OUTAGE }],
    request: { ...post, raises: true },
    sent: 1,
    status: 0,
    refusal: 'waiting for fiber',
  },
  {
    name: 'a short refusal, with raise_for_status',
    responses: [{ status: 503, proxyStatus: OVERLOADED, retryAfter: '0' }, ok],
    request: { ...post, raises: true },
    sent: 2,
    status: 200,
  },
  {
    name: 'a 503 of another server, with raise_for_status',
    responses: [{ status: 503 }],
    request: { ...get, raises: true },
    sent: 4,
    status: 0,
  },
]

describe('httpx and aiohttp clients that recognise a refusal', { concurrency: 2 }, () => {
  for (const libraries of [debianLibraries, newerLibraries()]) {
    for (const { name: client, needs } of clients) {
      const title = `${client}, ${libraries?.name ?? 'newer libraries'}`
      test(`${title}: retry only what may end in a moment`, async t => {
        if (!hasModules(t, libraries, needs)) return
        const server = await startServer(t)
        const wanted = cases.map(({ request }, index) => ({ ...request, url: `${server.url}/${index}` }))
        const answers = await send(libraries, client, wanted)
        for (const [index, expected] of cases.entries()) {
          const answer = answers[index]
          const what = `${title}, ${expected.name}: ${JSON.stringify(answer)}`
          const bodies = server.bodies[index] ?? []
          assert.equal(bodies.length, expected.sent, what)
          for (const body of bodies) assert.equal(body, expected.request.body ?? '', what)
          assert.equal(at(answer, 'refusal') ?? undefined, expected.refusal, what)
          if (expected.status === 0) assert.notEqual(at(answer, 'error'), undefined, what)
          else assert.equal(at(answer, 'status'), expected.status, what)
        }
      })

      test(`${title}: show the refusal, and continue when the fiber is back`, async t => {
        if (!hasModules(t, libraries, needs)) return
        const { simulator } = await simulate(t, { fiber: 'missing', jobDurationMs: 1 })
        const proxy = await startProxy(t, {
          upstream: simulator.url,
          env: {
            FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
            FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
            // A slow probe on a busy machine must not cause another kind of outage.
            FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '100',
          },
        })
        await circuitIs(proxy, 'open')
        const configure = { method: 'POST', url: `${proxy.url}/configure`, body: JSON.stringify(live) }
        const [refused] = await send(libraries, client, [configure])
        assert.equal(at(refused, 'status'), 503)
        assert.equal(at(refused, 'refusal'), 'waiting for fiber')
        assert.match(String(at(refused, 'text')), /"status":"waiting_for_fiber"/)
        assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 1)
        await simulator.setFiber('present')
        await circuitIs(proxy, 'closed')
        const [served] = await send(libraries, client, [configure])
        assert.equal(at(served, 'status'), 200, JSON.stringify(served))
      })
    }
  }
})

/** Responds to each path with its own case, and keeps the received bodies. */
async function startServer(t: TestContext) {
  const bodies: string[][] = []
  const server = createServer(async (request, response) => {
    const index = Number(request.url?.slice(1))
    const body = await text(request)
    const seen = bodies[index] ?? []
    bodies[index] = seen
    const script = cases[index]?.responses ?? []
    const { status, proxyStatus, retryAfter } = script[Math.min(seen.length, script.length - 1)] ?? ok
    seen.push(body)
    response.statusCode = status
    if (proxyStatus !== undefined) response.setHeader('proxy-status', proxyStatus)
    if (retryAfter !== undefined) response.setHeader('retry-after', retryAfter)
    response.end('{}')
  })
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${at(server.address(), 'port')}`, bodies }
}

async function send(
  libraries: Libraries,
  client: string,
  wanted: readonly object[],
): Promise<readonly unknown[]> {
  const child = spawn(
    libraries.python,
    [join(repositoryRoot, 'test/clients/scripts/http_library.py'), client],
    {
      env: {
        ...process.env,
        PYTHONPATH: join(repositoryRoot, 'clients/python/src'),
        PYTHONDONTWRITEBYTECODE: '1',
        // A proxy from the environment is not used, because the client has its own transport or session.
        HTTP_PROXY: 'http://127.0.0.1:9',
      },
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: 60_000,
    },
  )
  child.stdin.end(JSON.stringify(wanted))
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  assert.notEqual(stdout, '', stderr)
  const answers: unknown = JSON.parse(stdout)
  assert.ok(Array.isArray(answers))
  assert.doesNotMatch(stderr, /Unclosed|ResourceWarning|never awaited/)
  return answers
}

function hasModules(
  t: TestContext,
  libraries: Libraries | undefined,
  needs: readonly string[],
): libraries is Libraries {
  if (libraries === undefined) {
    t.skip('no python3 on the path has pytest 8 or newer')
    return false
  }
  // Without the folders of the matrix, which hold older libraries.
  const missing = missingModules({ ...libraries, path: [] }, needs)
  if (missing.length === 0) return true
  const reason = `not installed for ${libraries.python}: ${missing.join(', ')}`
  const isOfDebian = libraries === debianLibraries && missing.some(name => !NOT_OF_DEBIAN.includes(name))
  assert.ok(!isOfDebian || process.env.REQUIRE_INTEROP !== '1', reason)
  t.skip(reason)
  return false
}
