import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import {
  at,
  circuitIs,
  type Program,
  repositoryRoot,
  startProgram,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { live, simulate } from '../support/simulate.js'

const LOCUST = '/usr/bin/locust'
const PREFIX = '/focus-server'
const USERS = 20
const OUTAGE_MS = 8000

/** The results of a run of 20 users through an outage. */
type Run = {
  readonly refused: number
  readonly perSecond: number
  /** From the first user's first configure after the outage to the last user's. */
  readonly returnMs: number
  readonly mostIn100Ms: number
  readonly refusedOnReturn: number
  /** Until every user has been served. */
  readonly servedMs: number
  readonly maxInFlight: number
}

describe('load tests under real Locust', { concurrency: 3 }, () => {
  test('users with the mixin wait while the fiber is missing, and resume one by one', async t => {
    if (!hasLocust(t)) return
    const [without, withMixin] = await Promise.all([throughAnOutage(t, false), throughAnOutage(t, true)])
    for (const [name, run] of [
      ['without the mixin', without],
      ['with the mixin', withMixin],
    ] as const) {
      t.diagnostic(
        `${name}: ${run.perSecond.toFixed(1)} configures a second reached the proxy (${run.refused} in ` +
          `${OUTAGE_MS / 1000} s); then ${USERS} users came back over ${Math.round(run.returnMs)} ms, ` +
          `at most ${run.mostIn100Ms} in any 100 ms and ${run.maxInFlight} at focus-server at a time, ` +
          `${run.refusedOnReturn} were refused in the meantime, and the last was served after ${Math.round(run.servedMs)} ms`,
      )
    }
    // A user has at most one request in flight when the first refusal arrives.
    assert.ok(withMixin.refused <= USERS, `${withMixin.refused} were refused`)
    assert.ok(without.refused >= 3 * USERS, `${without.refused} were refused`)
    assert.ok(withMixin.returnMs >= 300, `all came back within ${withMixin.returnMs} ms`)
  })

  test('they check before they start, work without /-/wait, and can be stopped while they wait', async t => {
    if (!hasLocust(t)) return
    const proxy = await startOldProxy(t)
    const locust = await startLocust(t, proxy.url, { FIBER_AWARE: '1', FAST_CLIENT: '1' }, [
      ...['--stop-timeout', '60'],
    ])
    await until(() => proxy.asked.length >= 4, { what: 'the state of the fiber is requested' })
    assert.deepEqual(proxy.asked.slice(0, 4), [
      'GET /-/fiber',
      'GET /-/wait?timeout=30s',
      'GET /-/fiber',
      'GET /-/fiber',
    ])
    proxy.admit(true)
    await until(() => new Set(answers(locust).map(({ user }) => user)).size === USERS, {
      what: 'every user has configured',
    })
    assert.ok(answers(locust).every(({ status }) => status === 200))
    const questions = proxy.asked.filter(what => what === 'GET /-/fiber').length
    assert.ok(questions < USERS, `${questions} requests: more than one user checked the fiber`)

    proxy.admit(false)
    await until(() =>
      locust.logLines.some(line => line.includes('focus-breaker refuses (waiting for fiber)')),
    )
    await until(() => proxy.asked.at(-1) === 'GET /-/fiber', { what: 'the users wait again' })
    assert.notEqual(await locust.stop(), null, 'waiting users kept Locust from exiting')
    assert.equal(locust.logLines.filter(line => line.includes('focus-breaker refuses')).length, 2)
    assert.equal(locust.logLines.filter(line => line.includes('focus-breaker admits again')).length, 1)
  })

  test('if there is no focus-breaker, or it does not respond, they continue', async t => {
    if (!hasLocust(t)) return
    const { simulator } = await simulate(t, { jobDurationMs: 1 })
    const broken = await startOldProxy(t, 502)
    const [locust, amongBroken] = await Promise.all(
      [simulator.url, broken.url].map(url => startLocust(t, url, { FIBER_AWARE: '1' })),
    )
    assert.ok(locust !== undefined && amongBroken !== undefined)
    for (const one of [locust, amongBroken]) {
      await until(() => answers(one).length >= USERS, {
        what: 'all users have configured',
        timeoutMs: 20_000,
      })
    }
    assert.deepEqual(broken.asked.slice(0, 4), [...Array(3).fill('GET /-/fiber'), 'POST /configure'])
    assert.ok(
      amongBroken.logLines.some(line =>
        line.includes('does not return the state of the circuit (status 502)'),
      ),
    )
    assert.ok(answers(locust).every(({ status }) => status === 200))
    assert.equal(simulator.counters.byRoute['GET /-/fiber'], 1)
    assert.ok(
      locust.logLines.some(line =>
        line.includes('GET /-/fiber does not return the state of the circuit (status 404)'),
      ),
    )
  })
})

/** Users that configure while the fiber is lost for some seconds and comes back. */
async function throughAnOutage(t: TestContext, fiberAware: boolean): Promise<Run> {
  const { simulator } = await simulate(t, { jobDurationMs: 1 })
  await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 300 })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: { FOCUS_BREAKER_BASE_PATH: PREFIX, FOCUS_BREAKER_PROBE_PERIOD_MS: '100' },
  })
  await circuitIs(proxy, 'closed')
  const refused = async () => Number(at(await statusOf(proxy), 'totals', 'refused'))
  const locust = await startLocust(t, proxy.url + PREFIX, fiberAware ? { FIBER_AWARE: '1' } : {})
  const servedSince = (sinceMs: number) =>
    firstOfEach(answers(locust).filter(({ status, sentMs }) => status === 200 && sentMs >= sinceMs))
  await until(() => servedSince(0).length === USERS, { what: 'every user has configured', timeoutMs: 20_000 })

  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  const from = performance.now()
  await delay(OUTAGE_MS)
  const refusedInOutage = await refused()
  const seconds = (performance.now() - from) / 1000

  simulator.resetCounters()
  const backAt = Date.now()
  await simulator.setFiber('present')
  await until(() => servedSince(backAt).length === USERS, { what: 'every user is back', timeoutMs: 30_000 })
  const refusedOnReturn = (await refused()) - refusedInOutage
  const { maxInFlight } = simulator.counters
  await locust.stop()

  const counted: unknown = JSON.parse(locust.lines().at(-1) ?? '')
  const all = answers(locust)
  assert.equal(at(counted, 'requests'), all.length, 'a wait was counted as a request')
  assert.equal(at(counted, 'failures'), all.filter(({ status }) => status !== 200).length)
  if (fiberAware) {
    assert.ok(locust.logLines.some(line => line.includes('focus-breaker refuses (waiting for fiber)')))
    assert.ok(
      locust.logLines.some(line =>
        /focus-breaker admits again after \d+ s: 20 waiting users resume/.test(line),
      ),
    )
  }
  const times = firstOfEach(all.filter(({ sentMs }) => sentMs >= backAt))
  return {
    refused: refusedInOutage,
    perSecond: refusedInOutage / seconds,
    returnMs: (times.at(-1) ?? 0) - (times[0] ?? 0),
    mostIn100Ms: Math.max(
      ...times.map(start => times.filter(time => time >= start && time < start + 100).length),
    ),
    refusedOnReturn,
    servedMs: (servedSince(backAt).at(-1) ?? 0) - backAt,
    maxInFlight,
  }
}

type Answer = { readonly user: unknown; readonly status: unknown; readonly sentMs: number }

/** When each user sent the first of these, in order. */
function firstOfEach(answers: readonly Answer[]): readonly number[] {
  const first = new Map<unknown, number>()
  for (const { user, sentMs } of answers) first.set(user, Math.min(sentMs, first.get(user) ?? sentMs))
  return [...first.values()].toSorted((a, b) => a - b)
}

/** The responses that the users have received so far. */
function answers(locust: { lines(): readonly string[] }): readonly Answer[] {
  return locust
    .lines()
    .map((line): unknown => JSON.parse(line))
    .filter(line => at(line, 'user') !== undefined)
    .map(line => ({ user: at(line, 'user'), status: at(line, 'status'), sentMs: Number(at(line, 'sentMs')) }))
}

/** Locust without its web page, until it is stopped; `logLines` is its log. */
async function startLocust(
  t: TestContext,
  host: string,
  env: Readonly<Record<string, string>>,
  args: readonly string[] = [],
): Promise<Program<true> & { readonly logLines: readonly string[] }> {
  const logLines: string[] = []
  const program = await startProgram(t, {
    command: LOCUST,
    args: [
      ...['-f', join(repositoryRoot, 'test/clients/scripts/locustfile.py'), '--headless', '--only-summary'],
      ...['-u', String(USERS), '-r', String(USERS), '--host', host, ...args],
    ],
    env: {
      ...process.env,
      PYTHONPATH: join(repositoryRoot, 'clients/python/src'),
      CONFIGURE_BODY: JSON.stringify(live),
      ...env,
    },
    readyWhen: line => {
      logLines.push(line)
      return line.includes('All users spawned') ? true : undefined
    },
  })
  return { ...program, logLines }
}

/**
 * A proxy from before /-/wait, which refuses until the test changes that, and records the requests; with `brokenStatus`
 * it responds to everything with that status.
 */
async function startOldProxy(t: TestContext, brokenStatus?: number) {
  const asked: string[] = []
  let admits = false
  const server = createServer((request, response) => {
    const what = `${request.method} ${request.url}`
    asked.push(what)
    request.resume()
    if (brokenStatus !== undefined) response.statusCode = brokenStatus
    else if (what !== 'POST /configure' && what !== 'GET /-/fiber') response.statusCode = 404
    else if (!admits) {
      response.statusCode = 503
      response.setHeader(
        'proxy-status',
        'focus-breaker; error=destination_unavailable; details="waiting for fiber"',
      )
    }
    response.end('{"circuit":{}}')
  })
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${at(server.address(), 'port')}`
  return { url, asked, admit: (value: boolean) => (admits = value) }
}

function hasLocust(t: TestContext): boolean {
  if (spawnSync(LOCUST, ['--version'], { stdio: 'ignore' }).status === 0) return true
  const reason = `not installed here: ${LOCUST} of Debian's python3-locust`
  assert.notEqual(process.env.REQUIRE_INTEROP, '1', reason)
  t.skip(reason)
  return false
}
