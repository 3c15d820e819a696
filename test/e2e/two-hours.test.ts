import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { at, statusOf, until } from '../support/harness.js'
import { type Answer, ask, configure, MISSING } from '../support/http-client.js'
import { type PlayedProxy, playedProxy } from '../support/played-proxy.js'

const MINUTE_MS = 60_000
/** The play begins an hour before midnight: its counts belong to two days. */
const START = Date.parse('2026-03-10T23:00:00.000Z')
const TOKEN = 'a-token-of-the-operators'

/** The time of the play: minutes and seconds since its beginning. */
const atMinute = (minutes: number, seconds = 0) => START + minutes * MINUTE_MS + seconds * 1000
const iso = (instant: number) => new Date(instant).toISOString()

const PYTEST = { 'user-agent': 'Focus-Server-Automation/1.0.0', 'x-test-run': 'nightly-7' }
const DESKTOP = { 'user-agent': 'Desktop/4.2' }

/** focus-server, as far as the play needs it, and a receiver of webhooks. */
async function surroundings(t: TestContext) {
  const state = { fiber: 'present', configures: 0, told: [] as unknown[] }
  const server = createServer(async (request, response) => {
    const json = (status: number, body: unknown) => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    const body = await textOf(request)
    if (request.url === '/webhook') {
      state.told.push(JSON.parse(body))
      return json(200, {})
    }
    const isThere = state.fiber === 'present'
    if (request.url === '/live_metadata') {
      return json(
        200,
        isThere ? { prr: 2000, sw_version: '1.0' } : { prr: 0, sw_version: 'waiting for fiber' },
      )
    }
    state.configures += 1
    return isThere ? json(200, { job_id: '1' }) : json(503, { detail: MISSING })
  })
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return { state, url: `http://127.0.0.1:${address.port}` }
}

async function textOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

/** Two hours: a missing fiber, a server that dies meanwhile, overrides, a restart, a kill, a recovery that fails once. */
async function twoHours(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-play-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const { state, url } = await surroundings(t)
  const environment = {
    FOCUS_BREAKER_UPSTREAM_URL: url,
    FOCUS_BREAKER_PROBE_PERIOD_MS: '600000',
    FOCUS_BREAKER_HISTORY_FILE: join(directory, 'history.jsonl'),
    FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
    FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url: `${url}/webhook`, format: 'json' }]),
    FOCUS_BREAKER_NOTIFY_NAME: 'lab 3',
    FOCUS_BREAKER_LOG_LEVEL: 'error',
  }
  let proxy: PlayedProxy = await playedProxy(t, START, environment)
  const passTo = async (minutes: number, seconds = 0) => {
    await proxy.pass(atMinute(minutes, seconds) - proxy.now())
  }
  const send = async (headers: Readonly<Record<string, string>>): Promise<Answer> =>
    configure(proxy, { headers })
  /** Each minute two attempts of a test run and one of the desktop application. */
  const refuseFrom = async (first: number, last: number) => {
    for (let minute = first; minute <= last; minute += 1) {
      await passTo(minute, 30)
      for (const headers of [PYTEST, PYTEST, DESKTOP]) assert.equal((await send(headers)).statusCode, 503)
    }
  }
  const override = (method: 'PUT' | 'DELETE', body?: unknown) =>
    ask(`${proxy.url}/-/override`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
  const circuitBecomes = (expected: string) =>
    until(async () => at(await statusOf(proxy), 'circuit', 'state') === expected, { what: expected })

  await circuitBecomes('closed')
  for (let count = 0; count < 3; count += 1) assert.equal((await send(PYTEST)).statusCode, 200)

  await passTo(10)
  state.fiber = 'missing'
  await proxy.read('waiting')
  await refuseFrom(10, 24)

  await passTo(25)
  for (const seconds of [0, 2, 4]) {
    await passTo(25, seconds)
    await proxy.read('unreachable')
  }
  await passTo(25, 8)
  const atServerDeath = { status: await statusOf(proxy), refusal: (await send(DESKTOP)).json }
  await refuseFrom(26, 27)
  await passTo(28)
  await proxy.read('waiting')
  await refuseFrom(30, 34)

  await passTo(35)
  const set = { state: 'closed', reason: 'laser check', forSeconds: 600 }
  assert.equal((await override('PUT', set)).statusCode, 200)
  for (let count = 0; count < 2; count += 1) assert.equal((await send(DESKTOP)).statusCode, 503)
  const atLetThrough = await statusOf(proxy)
  await passTo(40)
  assert.equal((await override('DELETE')).statusCode, 204)
  await refuseFrom(41, 44)

  await passTo(45)
  await proxy.close()
  proxy = await playedProxy(t, atMinute(46), environment)
  await refuseFrom(47, 49)
  await passTo(50)
  await proxy.kill()
  proxy = await playedProxy(t, atMinute(50, 30), environment)
  await refuseFrom(52, 59)

  await passTo(60)
  state.fiber = 'present'
  await proxy.read('ready')
  await passTo(60, 2)
  await proxy.read('ready')
  assert.equal((await send(PYTEST)).statusCode, 200)
  await passTo(60, 5)
  state.fiber = 'missing'
  await proxy.read('waiting')
  await passTo(62)
  state.fiber = 'present'
  await proxy.read('ready')
  await passTo(62, 2)
  await proxy.read('ready')
  assert.equal((await send(DESKTOP)).statusCode, 200)
  await passTo(62, 12)
  await circuitBecomes('closed')

  await passTo(90)
  const planned = { state: 'open', reason: 'laser service', forSeconds: 300, silent: true }
  assert.equal((await override('PUT', planned)).statusCode, 200)
  assert.equal((await send(PYTEST)).statusCode, 503)
  await passTo(120)
  return { proxy, state, atServerDeath, atLetThrough }
}

test('two hours of play: what every route, count, report, metric and webhook says is what was played', async t => {
  const { proxy, state, atServerDeath, atLetThrough } = await twoHours(t)
  const read = async (route: string) => (await ask(`${proxy.url}/-/${route}`)).json
  assert.equal(state.configures, 7, 'three before, two let through, two of the recoveries')

  const circuit = {
    state: 'open',
    since: iso(atMinute(25)),
    cause: 'unreachable',
    outageStartedAt: iso(atMinute(10)),
  }
  assert.deepEqual(at(atServerDeath.status, 'circuit'), {
    ...circuit,
    forMs: 8000,
    outageForMs: 908_000,
  })
  assert.deepEqual(at(atServerDeath.refusal, 'circuit'), circuit)
  assert.equal(at(atServerDeath.status, 'outage', 'forMs'), 908_000)
  assert.equal(at(atLetThrough, 'admits'), true)
  assert.equal(at(atLetThrough, 'override', 'state'), 'closed')

  const status = await read('status')
  assert.equal(at(status, 'name'), 'lab 3')
  assert.deepEqual(at(status, 'circuit'), {
    state: 'closed',
    since: iso(atMinute(62, 12)),
    forMs: atMinute(120) - atMinute(62, 12),
    cause: null,
    outageStartedAt: null,
    outageForMs: null,
  })
  // 37 minutes with three attempts, one at the server's death, and one in the maintenance.
  const totals = at(status, 'totals')
  assert.deepEqual(
    ['forwarded', 'refused', 'wouldRefuse', 'since', 'kept'].map(name => at(totals, name)),
    [7, 113, 0, iso(START), true],
  )

  const history = await read('history')
  assert.deepEqual(
    listOf(history, 'states').flatMap((entry, index, all) => {
      const [from, next] = [at(entry, 'from'), at(all[index + 1], 'from')]
      return from === next ? [] : [[from, at(entry, 'phase')]]
    }),
    PHASES_PLAYED.map(([minutes, seconds, phase]) => [iso(atMinute(minutes, seconds)), phase]),
  )
  assert.equal(sumOf(listOf(history, 'refused'), 'count'), 113)

  const [client, another, ...noMore] = listOf(await read('clients'), 'clients')
  assert.deepEqual(noMore, [])
  assert.deepEqual([at(client, 'attempts'), at(another, 'attempts')], [75, 38])
  assert.deepEqual([at(client, 'first'), at(client, 'last')], [iso(atMinute(10, 30)), iso(atMinute(90))])
  const run = await read('runs/nightly-7')
  assert.deepEqual([at(run, 'forwarded'), at(run, 'refused')], [4, 75])

  assert.deepEqual(
    listOf(await read('override'), 'history').map(each =>
      ['reason', 'since', 'endedAt', 'end', 'endedBy'].map(name => at(each, name)),
    ),
    [
      ['laser service', iso(atMinute(90)), iso(atMinute(95)), 'expired', null],
      ['laser check', iso(atMinute(35)), iso(atMinute(40)), 'removed', '127.0.0.1'],
    ],
  )

  const [outage, ...others] = listOf(await read('outages'), 'outages')
  assert.deepEqual(others, [])
  assert.equal(at(outage, 'startedAt'), iso(atMinute(10)))
  assert.equal(at(outage, 'endedAt'), iso(atMinute(62, 12)))
  assert.equal(at(outage, 'restarts'), 2)
  // The maintenance is no part of it; what was refused while the server was dead did not spare it anything.
  assert.deepEqual([at(outage, 'refused'), at(outage, 'spared')], [112, 105])
  assert.deepEqual(at(outage, 'causes'), CAUSES_PLAYED)

  const detail = await read(`outages/${String(at(outage, 'id'))}`)
  for (const name of ['refused', 'spared', 'causes', 'startedAt', 'endedAt']) {
    assert.deepEqual(at(detail, name), at(outage, name), name)
  }
  assert.deepEqual(
    listOf(detail, 'overrides').map(each => [at(each, 'reason'), at(each, 'endedAt')]),
    [['laser check', iso(atMinute(40))]],
  )
  assert.deepEqual(
    listOf(detail, 'clients').map(each => [at(each, 'userAgent'), at(each, 'refused')]),
    [
      [PYTEST['user-agent'], 74],
      [DESKTOP['user-agent'], 38],
    ],
  )
  assert.deepEqual(
    listOf(detail, 'runs').map(each => [at(each, 'run'), at(each, 'refused')]),
    [['nightly-7', 74]],
  )
  assert.deepEqual(
    listOf(detail, 'letIn').map(each => [at(each, 'at'), at(each, 'userAgent')]),
    [
      [iso(atMinute(60, 2)), PYTEST['user-agent']],
      [iso(atMinute(62, 2)), DESKTOP['user-agent']],
    ],
  )

  const report = await read('report?days=1')
  const seconds = at(report, 'availability', 'secondsBy')
  for (const [phase, expected] of Object.entries(SECONDS_PLAYED)) {
    assert.equal(at(seconds, phase), expected, phase)
  }
  assert.equal(at(report, 'outages', 'count'), 1)
  assert.equal(at(report, 'outages', 'longest', 'id'), at(outage, 'id'))
  assert.deepEqual(
    ['count', 'seconds', 'longestSeconds'].map(name => at(report, 'absences', name)),
    [1, 180, 180],
  )
  assert.deepEqual(
    ['refused', 'wouldRefuse', 'spared'].map(name => at(report, 'attempts', name)),
    [113, 0, 105],
  )

  // Metrics are those of the process: what came after the kill.
  const metrics = (await ask(`${proxy.url}/-/metrics`)).bytes.toString()
  const metric = (series: string) =>
    Number(
      metrics
        .split('\n')
        .find(line => line.startsWith(`focus_breaker_${series} `))
        ?.split(' ')
        .at(-1),
    )
  assert.equal(metric('refused_requests_total{status="waiting_for_fiber"}'), 24)
  assert.equal(metric('refused_requests_total{status="forced_open"}'), 1)
  assert.equal(metric('circuit_state{state="closed"}'), 1)
  assert.equal(metric('history_writable'), 1)

  // The kill and the restart are no reason to say anything twice.
  assert.deepEqual(
    state.told.map(each => ['type', 'timestamp'].map(name => at(each, name))),
    [
      ['outage.opened', iso(atMinute(10))],
      ['outage.lasting', iso(atMinute(25))],
      ['outage.closed', iso(atMinute(62, 12))],
    ],
  )
  const closedMessage = String(at(state.told[2], 'data', 'message'))
  assert.match(closedMessage, /52 min 12 s/)
  assert.match(closedMessage, /112/)
})

/** What was in force from when on. */
const PHASES_PLAYED: readonly (readonly [minutes: number, seconds: number, phase: string])[] = [
  [0, 0, 'ready'],
  [10, 0, 'waiting'],
  [25, 0, 'unreachable'],
  [28, 0, 'waiting'],
  [35, 0, 'let-through'],
  [40, 0, 'waiting'],
  [45, 0, 'not-running'],
  [46, 0, 'waiting'],
  [50, 0, 'not-running'],
  [50, 30, 'waiting'],
  [60, 2, 'recovering'],
  [60, 5, 'waiting'],
  [62, 2, 'recovering'],
  [62, 12, 'ready'],
  [90, 0, 'maintenance'],
  [95, 0, 'ready'],
]

const SECONDS_PLAYED: Readonly<Record<string, number>> = Object.fromEntries(
  [...new Set(PHASES_PLAYED.map(([, , phase]) => phase))].map(phase => [
    phase,
    PHASES_PLAYED.reduce((sum, [minutes, seconds, each], index) => {
      const [nextMinutes, nextSeconds] = PHASES_PLAYED[index + 1] ?? [120, 0]
      return each === phase
        ? sum + (atMinute(nextMinutes, nextSeconds) - atMinute(minutes, seconds)) / 1000
        : sum
    }, 0),
  ]),
)

const CAUSES_PLAYED = [
  { cause: 'waiting', from: iso(atMinute(10)), to: iso(atMinute(25)) },
  { cause: 'unreachable', from: iso(atMinute(25)), to: iso(atMinute(28)) },
  { cause: 'waiting', from: iso(atMinute(28)), to: iso(atMinute(62, 12)) },
]

function sumOf(list: readonly unknown[], name: string): number {
  return list.reduce<number>((sum, each) => sum + Number(at(each, name)), 0)
}

function listOf(value: unknown, name: string): readonly unknown[] {
  const list = at(value, name)
  assert.ok(Array.isArray(list), name)
  return list
}
