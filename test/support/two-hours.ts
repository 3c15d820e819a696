import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { at, statusOf, until } from './harness.js'
import { type Answer, ask, configure, MISSING } from './http-client.js'
import { type PlayedProxy, playedProxy } from './played-proxy.js'

const MINUTE_MS = 60_000
/** The play starts an hour before midnight, so its counts belong to two days. */
export const START = Date.parse('2026-03-10T23:00:00.000Z')
const TOKEN = 'a-token-of-the-operators'

/** The time of the play: minutes and seconds since its start. */
export const atMinute = (minutes: number, seconds = 0) => START + minutes * MINUTE_MS + seconds * 1000
export const iso = (instant: number) => new Date(instant).toISOString()

export const PYTEST = { 'user-agent': 'Focus-Server-Automation/1.0.0', 'x-test-run': 'nightly-7' }
export const DESKTOP = { 'user-agent': 'Desktop/4.2' }

/** The parts of focus-server that the scenario needs, and a webhook receiver. */
async function surroundings(t: TestContext) {
  const state = { fiber: 'present', configures: 0, notifications: [] as unknown[] }
  const server = createServer(async (request, response) => {
    const json = (status: number, body: unknown) => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    const body = await textOf(request)
    if (request.url === '/webhook') {
      state.notifications.push(JSON.parse(body))
      return json(200, {})
    }
    const isConnected = state.fiber === 'present'
    if (request.url === '/live_metadata') {
      return json(
        200,
        isConnected ? { prr: 2000, sw_version: '1.0' } : { prr: 0, sw_version: 'waiting for fiber' },
      )
    }
    state.configures += 1
    return isConnected ? json(200, { job_id: '1' }) : json(503, { detail: MISSING })
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

/** The moments at which a play can be inspected. */
export type Moment = 'the server is dead' | 'let through' | 'recovering' | 'maintenance' | 'the end'

/**
 * Two hours: a missing fiber, a server that dies during it, overrides, a restart, a kill, a recovery that fails once.
 */
export async function twoHours(
  t: TestContext,
  inspect: (moment: Moment, proxy: PlayedProxy) => Promise<void> = async () => {},
) {
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
  /** Each minute two attempts by a test run and one by the desktop application. */
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
  await inspect('the server is dead', proxy)
  await refuseFrom(26, 27)
  await passTo(28)
  await proxy.read('waiting')
  await refuseFrom(30, 34)

  await passTo(35)
  const set = { state: 'closed', reason: 'laser check', forSeconds: 600 }
  assert.equal((await override('PUT', set)).statusCode, 200)
  for (let count = 0; count < 2; count += 1) assert.equal((await send(DESKTOP)).statusCode, 503)
  const atLetThrough = await statusOf(proxy)
  await inspect('let through', proxy)
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
  await inspect('recovering', proxy)
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
  await inspect('maintenance', proxy)
  await passTo(120)
  await inspect('the end', proxy)
  return { proxy, state, atServerDeath, atLetThrough }
}

/** Which state was in force, and since when. */
export const PHASES_PLAYED: readonly (readonly [minutes: number, seconds: number, phase: string])[] = [
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

export const SECONDS_PLAYED: Readonly<Record<string, number>> = Object.fromEntries(
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

export const CAUSES_PLAYED = [
  { cause: 'waiting', from: iso(atMinute(10)), to: iso(atMinute(25)) },
  { cause: 'unreachable', from: iso(atMinute(25)), to: iso(atMinute(28)) },
  { cause: 'waiting', from: iso(atMinute(28)), to: iso(atMinute(62, 12)) },
]
