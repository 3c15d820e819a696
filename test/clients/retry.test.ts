import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, type TestContext, test } from 'node:test'
import { Agent, RetryAgent, request } from 'undici'
import {
  at,
  circuitIs,
  repositoryRoot,
  requireOrSkip,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { requireOrSkip as requirePackages, runPython } from '../support/python.js'
import { live, simulate } from '../support/simulate.js'

const PAGE = join(repositoryRoot, 'docs/explanation/client-cost.md')
const BEGIN = '<!-- measured by test/clients/retry.test.ts -->'
const END = '<!-- end -->'

const RETRY_AFTER_SECONDS = 2
const PREFIX = '/focus-server'
const env = {
  FOCUS_BREAKER_BASE_PATH: PREFIX,
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  // Without jitter, so that each measurement gives the same result.
  FOCUS_BREAKER_RETRY_AFTER_MIN_SECONDS: String(RETRY_AFTER_SECONDS),
  FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: String(RETRY_AFTER_SECONDS),
}

const UNCHANGED = 'test/interop/client.py'
const WITH_OUR_RETRY = 'test/clients/scripts/session.py'
const configure = { method: 'POST', path: '/configure', json: live }

/** A row of the page. */
type Measured = {
  readonly client: string
  readonly status: number
  readonly wire: number
  /** How many of those were refused configures. */
  readonly configures: number
  readonly blockedSeconds: number
  readonly sees: string
}

test('the cost of a refused configure for a client, and what the page says about it', async t => {
  if (!requirePackages(t, 'requests', 'pytest', 'pip', 'setuptools', 'wheel', 'httpx', 'aiohttp')) return
  const measurements: readonly (() => Promise<Measured>)[] = [
    () => measure(t, 'unchanged', 503, url => run(UNCHANGED, url, [configure])),
    () => measure(t, 'with `RefusalAwareRetry`', 503, url => run(WITH_OUR_RETRY, url, [configure])),
    () => measurePlugin(t),
    () => measure(t, 'unchanged', 409, url => run(UNCHANGED, url, [configure])),
    () => measure(t, 'unchanged', 424, url => run(UNCHANGED, url, [configure])),
    ...pythonLibraries.map(
      ({ name, client }) =>
        () =>
          measureOther(t, name, url => sendBy(client, url)),
    ),
    () => measureOther(t, '`fetch` of Node, or of a browser', sendByFetch),
    () => measureOther(t, "undici's `RetryAgent`, with POST among its `methods`", sendByRetryAgent),
    () => measureOther(t, "undici's `RetryAgent` that knows a refusal", sendByPatientAgent),
  ]
  const rows = await someAtATime(3, measurements)
  const table = tableOf(rows)
  for (const line of table.split('\n')) t.diagnostic(line)
  const page = readFileSync(PAGE, 'utf8')
  const [before, rest] = page.split(BEGIN)
  const after = rest?.split(END)[1]
  assert.ok(before !== undefined && after !== undefined, `${PAGE} has no marks for the table`)
  const fresh = `${before}${BEGIN}\n${table}\n${END}${after}`
  if (process.env.UPDATE_DOCS === '1') writeFileSync(PAGE, fresh)
  else assert.equal(page, fresh, 'stale: run with UPDATE_DOCS=1 to update it')
})

describe('RefusalAwareRetry', { concurrency: 3 }, () => {
  test('shows the refusal, and still retries a 503 of focus-server, in one session', async t => {
    if (!requireOrSkip(t, 'requests')) return
    const { simulator, url } = await outage(t, 503)
    await simulator.setFault('GET /channels', { kind: 'status', code: 503 })
    const requests = [configure, { method: 'GET', path: '/channels' }, configure, configure]
    const { answers, wire } = await run(WITH_OUR_RETRY, url, requests, ['--quick'])
    assert.deepEqual(
      answers.map(answer => at(answer, 'status') ?? at(answer, 'error')),
      [503, 'RetryError', 503, 503],
    )
    assert.match(String(at(answers[1], 'message')), /too many 503 error responses/)
    assert.equal(wire.length, 1 + 4 + 1 + 1)
    assert.equal(simulator.counters.byRoute['GET /channels'], 4)
    for (const index of [0, 2, 3]) assertRefusal(answers[index])
  })

  test('is one object that all threads of a session can share', async t => {
    if (!requireOrSkip(t, 'requests')) return
    const { simulator, url } = await outage(t, 503)
    await simulator.setFault('GET /channels', { kind: 'status', code: 503 })
    const requests = Array.from({ length: 40 }, (_, index) =>
      index % 2 === 0 ? configure : { method: 'GET', path: '/channels' },
    )
    const { answers, wire } = await run(WITH_OUR_RETRY, url, requests, ['--threads', '20', '--quick'])
    for (const [index, answer] of answers.entries()) {
      if (index % 2 === 0) assertRefusal(answer)
      else assert.equal(at(answer, 'error'), 'RetryError')
    }
    assert.equal(wire.length, 20 + 20 * 4)
  })

  test('recognises the refusal only by its Proxy-Status', async t => {
    if (!requireOrSkip(t, 'requests')) return
    const refused = 'focus-breaker; error=destination_unavailable'
    const cases: readonly (readonly [string | null, string | null, number | null])[] = [
      // The value, the refusal found in it, and how many of three retries are left.
      [`${refused}; details="waiting for fiber"`, 'waiting for fiber', null],
      [`focus-breaker;details="a, b; \\"c\\"";error=destination_unavailable`, 'a, b; "c"', null],
      [refused, '', null],
      [
        `${refused}; details="refused by an operator", ingress.example; received-status=503`,
        'refused by an operator',
        null,
      ],
      [
        `cdn.example; details="x, focus-breaker; y", ${refused}; details="waiting for fiber"`,
        'waiting for fiber',
        null,
      ],
      [`${refused}; details="recovering"`, 'recovering', 2],
      [`${refused}; details="overloaded"`, 'overloaded', 2],
      [null, null, 2],
      ['', null, 2],
      ['focus-breaker; error=connection_limit_reached', null, 2],
      ['focus-breaker; error=connection_refused', null, 2],
      ['other; error=destination_unavailable', null, 2],
      ['my-focus-breaker; error=destination_unavailable', null, 2],
      ['focus-breaker, other; error=destination_unavailable', null, 2],
      [`other; details="${refused}"`, null, 2],
      [`other; details=", ${refused}`, null, 2],
      [',;,"', null, 2],
    ]
    const input = JSON.stringify(cases.map(([value]) => value))
    const judged: unknown = JSON.parse(await python('test/clients/scripts/judge.py', [], input))
    assert.ok(Array.isArray(judged))
    for (const [index, [value, refusal, retries]] of cases.entries()) {
      assert.deepEqual(judged[index], { refusal, retries }, String(value))
    }
  })
})

/** The outcome of one attempt to configure while the fiber is missing. */
async function measure(
  t: TestContext,
  client: string,
  status: number,
  attempt: (url: string) => Promise<Report>,
): Promise<Measured> {
  const { simulator, url, refused } = await outage(t, status)
  const { answers, wire } = await attempt(url)
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  for (const one of wire) assert.equal(at(one, 'retryAfter'), String(RETRY_AFTER_SECONDS))
  // urllib3 waits after every response but the last.
  const blockedSeconds = wire.slice(1).length * RETRY_AFTER_SECONDS
  assert.ok(Number(at(answers[0], 'elapsedSeconds')) >= blockedSeconds - 0.1)
  const configures = await refused()
  return { client, status, wire: wire.length, configures, blockedSeconds, sees: seenBy(answers[0], status) }
}

/** The same with the plugin: a pytest session with one test, which would configure with an unchanged client. */
async function measurePlugin(t: TestContext): Promise<Measured> {
  const { simulator, url, refused, asked } = await outage(t, 503)
  const cwd = mkdtempSync(join(tmpdir(), 'focus-breaker-suite-'))
  t.after(() => rmSync(cwd, { recursive: true }))
  writeFileSync(
    join(cwd, 'test_one.py'),
    `import pytest, requests\n\n@pytest.mark.needs_fiber\ndef test_configure():\n    requests.post("${url}/configure")\n`,
  )
  const pytest = [
    '-m',
    'pytest',
    '-p',
    'focus_breaker',
    '-q',
    '-rs',
    '-p',
    'no:cacheprovider',
    `--focus-breaker-url=${url}`,
  ]
  const { code, stdout } = await runPython(pytest, { cwd })
  assert.equal(code, 0, stdout)
  assert.match(stdout, /1 skipped/)
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  const reason = /SKIPPED .*(waiting for fiber)/.exec(stdout)?.[1]
  return {
    client: 'unchanged, in pytest with the plugin',
    status: 503,
    wire: asked(),
    configures: await refused(),
    blockedSeconds: 0,
    sees: `skipped, with the reason: ${reason}`,
  }
}

/** The clients of `test/clients/scripts/http_library.py`, and their names on the page. */
const pythonLibraries = [
  { name: 'httpx, unchanged', client: 'httpx unchanged' },
  { name: 'httpx with `RefusalAwareTransport`', client: 'httpx' },
  { name: 'httpx with `AsyncRefusalAwareTransport`', client: 'httpx, asyncio' },
  { name: 'aiohttp, unchanged', client: 'aiohttp unchanged' },
  { name: 'aiohttp with `RefusalAwareSession`', client: 'aiohttp, session' },
] as const

/** The same with a client whose requests only the proxy can count. */
async function measureOther(
  t: TestContext,
  client: string,
  send: (url: string) => Promise<unknown>,
): Promise<Measured> {
  const { simulator, url, refused, asked } = await outage(t, 503)
  const startedAt = performance.now()
  const answer = await send(`${url}/configure`)
  const elapsedSeconds = (performance.now() - startedAt) / 1000
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  const configures = await refused()
  // The log of the proxy arrives later.
  await until(() => asked() >= configures)
  const blockedSeconds = (asked() - 1) * RETRY_AFTER_SECONDS
  assert.ok(elapsedSeconds >= blockedSeconds - 0.1, client)
  return {
    client,
    status: 503,
    wire: asked(),
    configures,
    blockedSeconds,
    sees: seenBy(answer, 503),
  }
}

async function sendBy(client: string, url: string): Promise<unknown> {
  const request = { method: 'POST', url, body: JSON.stringify(live), everyMethod: true }
  const output = await python('test/clients/scripts/http_library.py', [client], JSON.stringify([request]))
  return at(JSON.parse(output), 0)
}

const json = { 'content-type': 'application/json' }
const post = { method: 'POST', headers: json, body: JSON.stringify(live) } as const

async function sendByFetch(url: string): Promise<unknown> {
  const response = await fetch(url, post)
  return { status: response.status, text: await response.text() }
}

async function sendByRetryAgent(url: string): Promise<unknown> {
  return await sendThrough(new RetryAgent(new Agent(), { methods: ['POST'], maxRetries: 3 }), url)
}

/** As in docs/how-to/javascript.md, which test/recipes runs. */
async function sendByPatientAgent(url: string): Promise<unknown> {
  const agent = new RetryAgent(new Agent(), {
    throwOnError: false,
    retry: (error, _, done) => {
      const field = String(at(error, 'headers', 'proxy-status') ?? '')
      const isRefused = field.startsWith('focus-breaker; error=destination_unavailable')
      if (isRefused) done(error)
      else setTimeout(done, 1000, null)
      return null
    },
  })
  return await sendThrough(agent, url)
}

async function sendThrough(agent: RetryAgent, url: string): Promise<unknown> {
  try {
    const response = await request(url, { ...post, dispatcher: agent })
    return { status: response.statusCode, text: await response.body.text() }
  } catch (error) {
    // Like the error of a Python HTTP client, which may or may not have a response.
    return { error: at(error, 'name'), hasResponse: at(error, 'body') !== undefined }
  } finally {
    await agent.close()
  }
}

function seenBy(answer: unknown, status: number): string {
  const error = at(answer, 'error')
  if (error !== undefined) {
    assert.equal(at(answer, 'hasResponse'), false)
    return `\`${error}\`, without status or body`
  }
  assert.equal(at(answer, 'status'), status)
  const body: unknown = JSON.parse(String(at(answer, 'text')))
  return `${status}, \`"status":"${at(body, 'status')}"\``
}

function assertRefusal(answer: unknown): void {
  assert.equal(at(answer, 'status'), 503)
  assert.equal(at(JSON.parse(String(at(answer, 'text'))), 'status'), 'waiting_for_fiber')
}

/** Each of them has its own proxy, and all at once would be too many for a small machine. */
async function someAtATime<T>(most: number, tasks: readonly (() => Promise<T>)[]): Promise<readonly T[]> {
  const results: T[] = []
  for (let index = 0; index < tasks.length; index += most)
    results.push(...(await Promise.all(tasks.slice(index, index + most).map(async task => await task()))))
  return results
}

function tableOf(rows: readonly Measured[]): string {
  return [
    '| Client | `guard.statusCode` | Requests on the wire | of these configures | Seconds blocked | What the test sees |',
    '| --- | --- | --- | --- | --- | --- |',
    ...rows.map(
      ({ client, status, wire, configures, blockedSeconds, sees }) =>
        `| ${client} | ${status} | ${wire} | ${configures} | ${blockedSeconds} | ${sees} |`,
    ),
  ].join('\n')
}

/** The proxy in front of a focus-server without a fiber, and how many requests it has refused. */
async function outage(t: TestContext, status: number) {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: { ...env, FOCUS_BREAKER_GUARD_STATUS_CODE: String(status), FOCUS_BREAKER_LOG_LEVEL: 'debug' },
  })
  await circuitIs(proxy, 'open')
  const refused = async () => Number(at(await statusOf(proxy), 'totals', 'refused'))
  /** Requests that got a response, except those of this test itself. */
  const asked = () =>
    proxy.logs().filter(({ msg, path }) => msg === 'request completed' && path !== '/-/status').length
  return { simulator, url: `${proxy.url}${PREFIX}`, refused, asked }
}

/** The responses that a session got, and everything that was on the wire. */
type Report = { readonly answers: readonly unknown[]; readonly wire: readonly unknown[] }

async function run(
  script: string,
  url: string,
  requests: readonly object[],
  options: readonly string[] = [],
): Promise<Report> {
  const report: unknown = JSON.parse(await python(script, [url, ...options], JSON.stringify(requests)))
  const answers: unknown = at(report, 'answers')
  const wire: unknown = at(report, 'wire')
  assert.ok(Array.isArray(answers) && Array.isArray(wire))
  return { answers, wire }
}

async function python(script: string, args: readonly string[], input: string): Promise<string> {
  const child = spawn('/usr/bin/python3', [join(repositoryRoot, script), ...args], {
    env: { ...process.env, PYTHONPATH: join(repositoryRoot, 'clients/python/src') },
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: 60_000,
  })
  child.stdin.end(input)
  return await text(child.stdout)
}
