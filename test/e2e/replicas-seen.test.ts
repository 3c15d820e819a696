import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { openEvents, type StreamEvent } from '../support/event-stream.js'
import { startBalancer } from '../support/haproxy.js'
import {
  at,
  circuitIs,
  type RunningProxy,
  requireOrSkip,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { type RedisServer, redisServer } from '../support/redis.js'
import { simulate } from '../support/simulate.js'
import { hang, type Receiver, receiver } from '../support/webhook-receiver.js'

const TOKEN = 'a-token-of-the-test'
const LOST = 'cannot use Redis; this replica continues on its own'
/** After Redis was restarted, a replica may connect before it knows of the other one. */
const JOINED = /^(?:joined the other replicas|connected to Redis; this is the only replica)$/

/** Several replicas of one focus-server, all of which have joined. */
async function start(
  t: TestContext,
  {
    hook,
    env = {},
    names = ['r0', 'r1', 'r2'],
  }: {
    readonly hook?: Receiver
    readonly env?: Readonly<Record<string, string>>
    readonly names?: readonly string[]
  } = {},
) {
  const { simulator } = await simulate(t)
  const server = await redisServer(t)
  const startOne = async (name: string) => {
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: {
        FOCUS_BREAKER_PROBE_PERIOD_MS: '300',
        FOCUS_BREAKER_PROBE_TIMEOUT_MS: '8000',
        FOCUS_BREAKER_RECOVERY_RAMP_MS: '300',
        FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
        FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0',
        ...(hook && { FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url: hook.url, format: 'json' }]) }),
        FOCUS_BREAKER_REPLICAS_URL: server.url,
        FOCUS_BREAKER_REPLICAS_NAMESPACE: 'lab',
        FOCUS_BREAKER_REPLICAS_NAME: name,
        ...env,
      },
    })
    return { ...proxy, name }
  }
  const replicas = await Promise.all(names.map(startOne))
  await joined(replicas, true)
  for (const replica of replicas) await circuitIs(replica, 'closed')
  await until(async () => at(await statusOf(replicas[0] ?? fail()), 'replicas', 'count') === names.length)
  return { simulator, server, replicas, startOne }
}

function fail(): never {
  throw new Error('no such replica')
}

async function joined(replicas: readonly RunningProxy[], isJoined: boolean): Promise<void> {
  for (const replica of replicas) {
    await until(async () => at(await statusOf(replica), 'replicas', 'joined') === isJoined, {
      timeoutMs: 30_000,
    })
  }
}

async function states(replicas: readonly RunningProxy[], state: 'closed' | 'open'): Promise<void> {
  for (const replica of replicas) await circuitIs(replica, state)
}

async function membersAt(replica: RunningProxy): Promise<readonly unknown[]> {
  const members = at((await ask(`${replica.url}/-/replicas`)).json, 'replicas')
  assert.ok(Array.isArray(members))
  return members
}

const metricsOf = async (proxy: RunningProxy) => (await ask(`${proxy.url}/-/metrics`)).bytes.toString()

const metric = async (proxy: RunningProxy, name: string) =>
  new RegExp(`^focus_breaker_${name} (\\S+)$`, 'm').exec(await metricsOf(proxy))?.[1]

describe('replicas as clients see them', { concurrency: 2 }, () => {
  test('each replica lists all of them, one of them probes, and skipped entries are counted', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const { replicas, server } = await start(t)
    for (const replica of replicas) {
      await until(
        async () => (await membersAt(replica)).filter(each => at(each, 'prober') === true).length === 1,
      )
      const { json } = await ask(`${replica.url}/-/replicas`)
      assert.deepEqual(
        [at(json, 'enabled'), at(json, 'namespace'), at(json, 'joined'), at(json, 'problem')],
        [true, 'lab', true, null],
      )
      const members = await membersAt(replica)
      assert.deepEqual(
        members.map(each => [at(each, 'name'), at(each, 'present'), at(each, 'self')]),
        ['r0', 'r1', 'r2'].map(name => [name, true, name === replica.name]),
      )
      for (const member of members) {
        assert.ok(Date.parse(String(at(member, 'since'))) <= Date.parse(String(at(member, 'lastHeardAt'))))
        assert.equal(at(member, 'inFlight'), 0)
      }
      const status = at(await statusOf(replica), 'replicas')
      assert.deepEqual(
        [at(status, 'name'), at(status, 'count'), at(status, 'problem')],
        [replica.name, 3, null],
      )
    }
    const probers = await Promise.all(replicas.map(each => metric(each, 'replicas_prober')))
    assert.equal(probers.filter(value => value === '1').length, 1)
    for (const replica of replicas) {
      assert.equal(await metric(replica, 'replicas'), '3')
      assert.equal(await metric(replica, 'replicas_joined'), '1')
      assert.equal(await metric(replica, 'replicas_skipped_entries_total'), '0')
    }
    await server.client().xadd('focus-breaker:1:{lab}:log', '*', 'v', '99', 'm', '{}')
    for (const replica of replicas) {
      await until(async () => (await metric(replica, 'replicas_skipped_entries_total')) === '1')
    }
  })

  test('a replica without Redis says so everywhere, in one log line, and joins again', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const { replicas, server } = await start(t, { names: ['r0', 'r1'] })
    const [replica = fail()] = replicas
    const linesWith = (message: string | RegExp) =>
      replica.logs().filter(({ msg }) => new RegExp(message).test(String(msg)))
    // On a busy machine its first attempt may have failed.
    const [lostBefore, joinedBefore] = [linesWith(LOST).length, linesWith(JOINED).length]
    await server.kill()
    await joined(replicas, false)
    const status = at(await statusOf(replica), 'replicas')
    assert.equal(at(status, 'count'), 1)
    assert.match(String(at(status, 'problem')), /\w/)
    const members = await membersAt(replica)
    assert.deepEqual(
      members.map(each => [at(each, 'name'), at(each, 'present'), at(each, 'prober')]),
      [
        ['r0', true, true],
        ['r1', false, false],
      ],
    )
    assert.equal(await metric(replica, 'replicas'), '1')
    assert.equal(await metric(replica, 'replicas_joined'), '0')
    await delay(3000)
    assert.equal(linesWith(LOST).length, lostBefore + 1, 'one line per attempt')
    assert.match(String(at(linesWith(LOST).at(-1), 'problem')), /\w/)
    assert.equal(at(linesWith(LOST).at(-1), 'redis'), `127.0.0.1:${server.port}`)
    await server.start()
    await joined(replicas, true)
    await until(() => linesWith(JOINED).length > joinedBefore)
  })

  test('refusals and events name the replica if there are several', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const { replicas, simulator } = await start(t, { names: ['r0', 'r1'] })
    // A replica learns of one that joined after it with its next report.
    for (const replica of replicas) {
      await until(async () => at(await statusOf(replica), 'replicas', 'count') === 2)
    }
    const streams = await Promise.all(replicas.map(({ url }) => openEvents(t, `${url}/-/events`)))
    void simulator.setFiber('missing')
    await states(replicas, 'open')
    for (const [index, replica] of replicas.entries()) {
      const refusal = await configure(replica)
      assert.equal(refusal.statusCode, 503)
      assert.equal(at(refusal.json, 'replica'), replica.name)
      const stream = streams[index]
      await stream?.until(events => transitionsOf(events).length === 1)
      for (const { data } of stream?.events ?? []) assert.equal(at(data, 'replica'), replica.name)
    }
  })

  test('a single replica names itself only in /-/replicas', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const { replicas, simulator } = await start(t, { names: ['r0'] })
    const [replica = fail()] = replicas
    const stream = await openEvents(t, `${replica.url}/-/events`)
    void simulator.setFiber('missing')
    await states(replicas, 'open')
    assert.equal(at((await configure(replica)).json, 'replica'), undefined)
    await stream.until(events => transitionsOf(events).length === 1)
    for (const { data } of stream.events) assert.equal(at(data, 'replica'), undefined)
    assert.equal(at(await statusOf(replica), 'replicas', 'count'), 1)
  })

  test('without replicas they appear nowhere, and /-/replicas lists the proxy that responds', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: { FOCUS_BREAKER_REPLICAS_NAME: 'only' },
    })
    await circuitIs(proxy, 'closed')
    assert.equal(at(await statusOf(proxy), 'replicas'), undefined)
    assert.doesNotMatch(await metricsOf(proxy), /replicas/)
    const { json } = await ask(`${proxy.url}/-/replicas`)
    assert.deepEqual([at(json, 'enabled'), at(json, 'joined'), at(json, 'namespace')], [false, false, null])
    const [member, ...others] = await membersAt(proxy)
    assert.deepEqual(others, [])
    assert.deepEqual(
      ['name', 'present', 'share', 'inFlight', 'prober', 'self'].map(name => at(member, name)),
      ['only', true, null, 0, true, true],
    )
  })
})

describe('events through a gateway', () => {
  test('a client that reconnects to another replica misses no transition and no override, and sees none twice', async t => {
    if (!requireOrSkip(t, 'redis-server', 'haproxy')) return
    const { replicas, simulator } = await start(t)
    const port = await startBalancer(
      t,
      replicas.map(({ url }) => Number(new URL(url).port)),
    )
    const [first = fail()] = replicas
    const witness = await openEvents(t, `${first.url}/-/events`)
    const seen: StreamEvent[] = []
    const visited = new Set<unknown>()
    let last = ''
    for (let round = 0; round < 6; round += 1) {
      const stream = await openEvents(
        t,
        `http://127.0.0.1:${port}/-/events`,
        last === '' ? {} : { 'last-event-id': last },
      )
      await stream.until(events => events.length > 0)
      await simulator.setFiber(round % 2 === 0 ? 'missing' : 'present')
      if (round === 3) await override(first, 'open')
      if (round === 4) await override(first, null)
      // Not everything is waited for: events during its absence must be sent later.
      await stream.until(events => events.length > 1)
      stream.close()
      seen.push(...stream.events)
      last = stream.events.at(-1)?.id ?? last
      visited.add(last.split('-')[0])
      await states(replicas, round % 2 === 0 ? 'open' : 'closed')
    }
    const end = await openEvents(t, `http://127.0.0.1:${port}/-/events`, { 'last-event-id': last })
    await until(() => sharedOf(witness.events).length <= sharedOf([...seen, ...end.events]).length)
    await end.until(events => events.some(({ type }) => type === 'reading'))
    assert.ok(visited.size > 1, 'the gateway used only one replica')
    const from = sharedOf(witness.events).indexOf(sharedOf(seen)[0] ?? '')
    assert.ok(from >= 0)
    assert.deepEqual(sharedOf([...seen, ...end.events]), sharedOf(witness.events).slice(from))
  })
})

describe('webhooks with several replicas', { concurrency: 2 }, () => {
  test('one replica reports an outage and its end, once each', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const hook = await receiver(t)
    const { replicas, simulator } = await start(t, { hook })
    await simulator.setFiber('missing')
    await states(replicas, 'open')
    await hook.nth(1)
    await simulator.setFiber('present')
    await states(replicas, 'closed')
    await hook.nth(2)
    await delay(3000)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
  })

  test('another replica reports it with the same id when the reporting one is killed midway', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const hook = await receiver(t, index => (index === 0 ? hang : 200))
    const { replicas, simulator, server } = await start(t, { hook })
    await simulator.setFiber('missing')
    await hook.nth(1)
    const claimer = await claimerOf(server, replicas)
    process.kill(claimer.pid, 'SIGKILL')
    const rest = replicas.filter(each => each !== claimer)
    await states(rest, 'open')
    await hook.nth(2)
    await simulator.setFiber('present')
    await states(rest, 'closed')
    await hook.nth(3)
    await delay(3000)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.opened', 'outage.closed'])
    assert.equal(hook.received[0]?.headers['webhook-id'], hook.received[1]?.headers['webhook-id'])
  })

  for (const what of ['killed', 'paused'] as const) {
    test(`each replica reports what it sees when Redis was ${what}`, async t => {
      if (!requireOrSkip(t, 'redis-server')) return
      const hook = await receiver(t)
      const { replicas, simulator, server } = await start(t, { hook, names: ['r0', 'r1'] })
      if (what === 'killed') await server.kill()
      else server.pause()
      await simulator.setFiber('missing')
      await hook.nth(2)
      assert.deepEqual(new Set(hook.types()), new Set(['outage.opened']))
      await joined(replicas, false)
    })
  }
})

/** The replica whose connection has claimed the deliveries at the moment: the others wait for it. */
async function claimerOf(
  server: RedisServer,
  replicas: readonly (RunningProxy & { readonly name: string })[],
): Promise<RunningProxy> {
  const redis = server.client()
  return await until(async () => {
    const [key] = await redis.keys('focus-breaker:1:{lab}:notice:*')
    const [origin = ''] = ((key === undefined ? null : await redis.get(key)) ?? '').split(' ')
    if (origin === '' || origin === 'done') return undefined
    const name = at(
      JSON.parse(/\{.*/.exec((await redis.hget('focus-breaker:1:{lab}:members', origin)) ?? '')?.[0] ?? '{}'),
      'name',
    )
    return replicas.find(each => each.name === name)
  })
}

async function override(replica: RunningProxy, state: 'open' | null): Promise<void> {
  await ask(`${replica.url}/-/override`, {
    method: state === null ? 'DELETE' : 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    ...(state !== null && { body: JSON.stringify({ state, reason: 'a test', forSeconds: 600 }) }),
  })
}

/** What is the same at every replica: each transition and override, with its time. */
function sharedOf(events: readonly StreamEvent[]): readonly string[] {
  return events.flatMap(({ type, data }) => {
    if (type === 'transition') return [`${at(data, 'from')} to ${at(data, 'to')} at ${at(data, 'at')}`]
    return type === 'override' ? [`override ${at(data, 'kind')} ${at(data, 'since')}`] : []
  })
}

function transitionsOf(events: readonly StreamEvent[]): readonly StreamEvent[] {
  return events.filter(({ type }) => type === 'transition')
}
