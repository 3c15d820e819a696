import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createServer, type RequestListener } from 'node:http'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, freePort, repositoryRoot, startProxy, until } from '../support/harness.js'
import { readLines } from '../support/lines.js'
import { PYTHON } from '../support/python.js'
import { selfSigned } from '../support/self-signed.js'
import { live, simulate } from '../support/simulate.js'

const LOCUST = '/usr/bin/locust'
const SCRIPTS = join(repositoryRoot, 'test/clients/scripts')
const USERS = 4
const PARKED = 77
/** Far longer than any of these runs, and shorter than the minute for which a master waits for its workers. */
const TIMEOUT_MS = 45_000

const headless = ['--headless', '--only-summary', '-u', String(USERS), '-r', '100']
/** The run ends, as it does when its time runs out, while all users wait. */
const parked = { QUIT_WHEN: 'parked' }
const stopTimeout = ['--stop-timeout', '3']

/** The ways in which a run, or a user, can end while the users wait. */
const ends: readonly {
  readonly name: string
  readonly args: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  readonly ends?: 'SIGTERM'
  /** How many configures of `on_stop` reach the proxy. */
  readonly sent?: number
  /** Locust's own exit code is 1, because the configures of `on_stop` are refused. */
  readonly code?: number
}[] = [
  { name: 'at the end of the run time', args: [], env: parked },
  { name: 'at the end of the run time, with --stop-timeout', args: stopTimeout, env: parked },
  { name: 'by a signal', args: [], ends: 'SIGTERM' },
  { name: 'by a signal, with --stop-timeout', args: stopTimeout, ends: 'SIGTERM' },
  { name: 'while on_start waits', args: [...stopTimeout], env: { WAY: 'on_start', ...parked } },
  {
    name: 'while greenlets of a task wait',
    args: [...stopTimeout],
    env: { WAY: 'greenlets of a task', ...parked },
  },
  {
    name: 'with greenlets of on_stop',
    args: [...stopTimeout],
    env: { WAY: 'greenlets of on_stop', ...parked },
    sent: 3 * USERS,
  },
  { name: 'for most users, while the run continues', args: [], env: { WAY: 'fewer users' } },
  {
    name: 'for most users, while the run continues, with --stop-timeout',
    args: stopTimeout,
    env: { WAY: 'fewer users' },
  },
  {
    name: 'for a user that stops itself',
    args: [...stopTimeout],
    env: { WAY: 'a user that stops', QUIT_WHEN: 'answered' },
    code: 1,
  },
]

describe('the end of a load test whose users wait for the fiber', { concurrency: 4 }, () => {
  for (const client of ['HttpUser', 'FastHttpUser'] as const) {
    for (const { name, args, env = {}, ends: signal, sent = USERS, code = PARKED } of ends) {
      // The clients differ in how they send. One kind of end is enough for the other client.
      if (client === 'FastHttpUser' && args !== stopTimeout) continue
      test(`${client}: when the end comes ${name}, on_stop can still configure`, async t => {
        if (!hasLocust(t)) return
        const proxy = await startLab(t, 'missing')
        const options = ['--host', proxy.url, ...headless, ...args]
        const locust = startLocust(t, options, {
          ...env,
          PARKED_EXIT_CODE: String(PARKED),
          FAST_CLIENT: client === 'FastHttpUser' ? '1' : '0',
        })
        if (signal !== undefined) {
          await until(() => locust.lines.some(line => line.includes('All users spawned')))
          await until(() => locust.lines.some(line => line.includes('focus-breaker refuses')))
          locust.signal(signal)
        }
        assert.equal(await locust.ended, code, locust.lines.join('\n'))
        const responses = responsesIn(locust.lines)
        assert.ok(responses.every(({ status }) => status === 503))
        const onStop = responses.filter(({ place }) => place === 'on_stop')
        assert.equal(onStop.length, sent, locust.lines.join('\n'))
        assert.doesNotMatch(locust.lines.join('\n'), /Traceback|Not all users finished/)
      })
    }
  }
})

describe('the exit code of a load test', { concurrency: 4 }, () => {
  test('is the one set in the locustfile only if all users waited at the end', async t => {
    if (!hasLocust(t)) return
    const proxy = await startLab(t, 'present')
    const locust = startLocust(t, ['--host', proxy.url, ...headless], {
      PARKED_EXIT_CODE: String(PARKED),
      QUIT_WHEN: 'answered',
    })
    assert.equal(await locust.ended, 0, locust.lines.join('\n'))
    assert.ok(responsesIn(locust.lines).every(({ status }) => status === 200))
  })

  test("is Locust's own if the locustfile sets none", async t => {
    if (!hasLocust(t)) return
    const proxy = await startLab(t, 'missing')
    const locust = startLocust(t, ['--host', proxy.url, ...headless], parked)
    assert.equal(await locust.ended, 1, locust.lines.join('\n'))
    assert.ok(
      locust.lines.some(line => line.includes(`all ${USERS} users that need the fiber were waiting for it`)),
    )
  })

  for (const [fiber, code] of [
    ['missing', PARKED],
    ['present', 0],
  ] as const) {
    test(`is that of the master when workers run the users, with the fiber ${fiber}`, async t => {
      if (!hasLocust(t)) return
      const proxy = await startLab(t, fiber)
      const port = String(await freePort())
      const env = { PARKED_EXIT_CODE: String(PARKED) }
      const workers = [1, 2].map(() =>
        startLocust(
          t,
          ['--worker', '--master-host', '127.0.0.1', '--master-port', port, '--only-summary'],
          env,
        ),
      )
      const master = startLocust(
        t,
        [
          ...['--master', '--master-bind-host', '127.0.0.1', '--master-bind-port', port],
          ...['--expect-workers', '2', '--host', proxy.url, ...headless, ...stopTimeout],
        ],
        { ...env, QUIT_WHEN: fiber === 'missing' ? 'parked' : 'answered' },
      )
      assert.equal(await master.ended, code, master.lines.join('\n'))
      for (const worker of workers) {
        assert.notEqual(await worker.ended, null, worker.lines.join('\n'))
        const responses = responsesIn(worker.lines)
        const [onStop, others] = [true, false].map(is =>
          responses.filter(({ place }) => (place === 'on_stop') === is),
        )
        assert.equal(onStop?.length, USERS / 2, worker.lines.join('\n'))
        // A user has at most one request in flight when the first refusal arrives.
        if (fiber === 'missing') assert.equal(others?.length, 0, worker.lines.join('\n'))
        else assert.ok(others?.every(({ status }) => status === 200))
      }
    })
  }
})

describe('the address of focus-breaker in a load test', { concurrency: 4 }, () => {
  const named = (lines: readonly string[]) =>
    lines.some(line => line.includes('focus-breaker refuses (waiting for fiber)'))

  test('is not that of a host that has a page for every path: the log says so, and the users continue', async t => {
    if (!hasLocust(t)) return
    const door = await startDoor(t, await startLab(t, 'missing'))
    const locust = startLocust(t, ['--host', door.url, ...headless], { QUIT_WHEN: 'answered' })
    assert.equal(await locust.ended, 1)
    const warning =
      'does not return the state of the circuit (status 200, unexpected body): users continue without'
    assert.ok(
      locust.lines.some(line => line.includes(warning) && line.includes('set focus_breaker_url')),
      locust.lines.join('\n'),
    )
    assert.ok(responsesIn(locust.lines).some(({ place }) => place === 'task'))
  })

  for (const [name, envOf] of [
    ['the attribute of the user class', (url: string) => ({ NAMED_PROXY: url })],
    [
      'the attribute, as the address of the status page, with credentials for a gateway',
      (url: string) => ({ NAMED_PROXY: `${url.replace('http://', 'HTTP://user:secret@')}/-/` }),
    ],
    [
      'the environment variable, which overrides the attribute',
      (url: string) => ({ NAMED_PROXY: 'http://127.0.0.1:9', FOCUS_BREAKER_URL: ` ${url}/ ` }),
    ],
  ] as const) {
    test(`is set by ${name}`, async t => {
      if (!hasLocust(t)) return
      const proxy = await startLab(t, 'missing')
      const door = await startDoor(t, proxy)
      const locust = startLocust(t, ['--host', door.url, ...headless], {
        ...envOf(proxy.url),
        ...parked,
      })
      assert.equal(await locust.ended, 1)
      assert.ok(named(locust.lines), locust.lines.join('\n'))
      assert.deepEqual(new Set(door.asked), new Set(['POST /configure']))
      assert.ok(responsesIn(locust.lines).every(({ place }) => place === 'on_stop'))
    })
  }

  test('may be one that cannot be reached: the users continue', async t => {
    if (!hasLocust(t)) return
    const drips = await startServer(t, (_, response) => {
      const timer = setInterval(() => response.write(' '), 100)
      response.once('close', () => clearInterval(timer))
    })
    const proxy = await startLab(t, 'present')
    await Promise.all(
      [
        drips.url,
        'focus-breaker:8080',
        'http://[',
        'http://a..b',
        'http://127.0.0.1:9',
        'http://user:secret@127.0.0.1:9',
        'user:secret@',
      ].map(async url => {
        const locust = startLocust(t, ['--host', proxy.url, ...headless], {
          QUIT_WHEN: 'answered',
          NAMED_PROXY: url,
          REQUEST_SECONDS: '0.5',
        })
        assert.equal(await locust.ended, 0, locust.lines.join('\n'))
        assert.ok(
          responsesIn(locust.lines).some(({ place, status }) => place === 'task' && status === 200),
          `${url}\n${locust.lines.join('\n')}`,
        )
        const expected = [
          'does not return the state of the circuit',
          'the URL of focus-breaker: expected an http or https URL',
        ]
        assert.ok(
          locust.lines.some(line => expected.some(words => line.includes(words))),
          url,
        )
        assert.ok(!locust.lines.some(line => line.includes('secret')), url)
      }),
    )
  })
})

test('a program that imports the mixin before Locust can use TLS', async t => {
  if (!hasLocust(t)) return
  const { certFile, keyFile } = selfSigned(t)
  const proxy = await startLab(t, 'present', {
    FOCUS_BREAKER_SERVER_TLS_CERT_FILE: certFile,
    FOCUS_BREAKER_SERVER_TLS_KEY_FILE: keyFile,
  })
  const url = proxy.url
    .replace(/^http:\/\/127\.0\.0\.1/, 'https://localhost')
    .replace('127.0.0.1', 'localhost')
  const program = start(t, PYTHON, [join(SCRIPTS, 'locust_library.py'), url, certFile])
  assert.equal(await program.ended, 0, program.lines.join('\n'))
  assert.ok(program.lines.includes('{"failures": 0}'), program.lines.join('\n'))
})

/** The proxy in front of a focus-server with or without a fiber. */
async function startLab(
  t: TestContext,
  fiber: 'present' | 'missing',
  env: Readonly<Record<string, string>> = {},
) {
  const { simulator } = await simulate(t, { fiber, jobDurationMs: 1 })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    // A slow probe on a busy machine must not cause another kind of outage.
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '100', ...env },
  })
  if (env.FOCUS_BREAKER_SERVER_TLS_CERT_FILE === undefined)
    await circuitIs(proxy, fiber === 'missing' ? 'open' : 'closed')
  return proxy
}

/** A gateway that routes only configures to the proxy, and has a page for every other path. */
async function startDoor(t: TestContext, proxy: { readonly url: string }) {
  const asked: string[] = []
  const server = await startServer(t, async (request, response) => {
    asked.push(`${request.method} ${request.url}`)
    if (request.method !== 'POST') {
      response.setHeader('content-type', 'text/html').end('<!doctype html><title>focus</title>')
      return
    }
    const answer = await fetch(`${proxy.url}${request.url}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(live),
    })
    response.setHeader('proxy-status', answer.headers.get('proxy-status') ?? '')
    response.statusCode = answer.status
    response.end(await answer.text())
  })
  return { url: server.url, asked }
}

async function startServer(t: TestContext, answer: RequestListener) {
  const server = createServer(answer)
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${at(server.address(), 'port')}` }
}

interface Running {
  /** What it has printed so far, on both outputs. */
  readonly lines: readonly string[]
  /** The exit code; null if a signal ended it. */
  readonly ended: Promise<number | null>
  signal(name: NodeJS.Signals): void
}

function startLocust(
  t: TestContext,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Running {
  return start(t, LOCUST, ['-f', join(SCRIPTS, 'parked.py'), ...args], env)
}

function start(
  t: TestContext,
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Running {
  const steers = /^(FOCUS_BREAKER_|LOCUST_|PYTHON)/
  const shell = Object.entries(process.env).filter(([name]) => !steers.test(name))
  const child = spawn(command, args, {
    env: {
      ...Object.fromEntries(shell),
      PYTHONPATH: join(repositoryRoot, 'clients/python/src'),
      PYTHONDONTWRITEBYTECODE: '1',
      CONFIGURE_BODY: JSON.stringify(live),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  t.after(() => child.kill('SIGKILL'))
  const lines: string[] = []
  for (const stream of [child.stdout, child.stderr]) readLines(stream, line => lines.push(line))
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  return { lines, ended, signal: name => child.kill(name) }
}

function responsesIn(
  lines: readonly string[],
): readonly { readonly place: unknown; readonly status: unknown }[] {
  return lines
    .filter(line => line.startsWith('{"place"'))
    .map((line): unknown => JSON.parse(line))
    .map(line => ({ place: at(line, 'place'), status: at(line, 'status') }))
}

function hasLocust(t: TestContext): boolean {
  if (spawnSync(LOCUST, ['--version'], { stdio: 'ignore' }).status === 0) return true
  const reason = `not installed here: ${LOCUST} of Debian's python3-locust`
  assert.notEqual(process.env.REQUIRE_INTEROP, '1', reason)
  t.skip(reason)
  return false
}
