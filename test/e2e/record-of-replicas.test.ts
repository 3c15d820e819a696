import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { at, circuitIs, type RunningProxy, requireOrSkip, startProxy, until } from '../support/harness.js'
import { historyPath } from '../support/kept-buckets.js'
import { type RedisServer, redisServer } from '../support/redis.js'
import { live, simulate } from '../support/simulate.js'

test('three replicas share one record, which survives a killed replica, a restart with a history file, and the loss of Redis', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await redisServer(t)
  const { simulator } = await simulate(t, { fiber: 'present', latency: 'none' })
  const history = historyPath(t)
  const start = (name: string, env: Readonly<Record<string, string>> = {}) =>
    startReplica(t, simulator.url, redis, name, env)
  const [a, b, c] = await Promise.all([
    start('a'),
    start('b', { FOCUS_BREAKER_HISTORY_FILE: history }),
    start('c'),
  ])
  const all = [a, b, c]
  for (const each of all) await circuitIs(each, 'closed')
  // A replica that does not know the others yet considers itself the only one, and the outage names no replica.
  for (const each of all) {
    await until(async () => {
      const members = at(await json(each, 'replicas'), 'replicas')
      return Array.isArray(members) && members.filter(member => at(member, 'present') === true).length === 3
    })
  }
  await configure(a, 1)
  await simulator.setFiber('missing')
  for (const each of all) await circuitIs(each, 'open')
  await configure(a, 1, 2)
  await configure(b, 3, 4, 5)
  await configure(c, 6)

  await t.test('each replica shows the counts and clients of all', async () => {
    for (const each of all) await refusedAt(each, 6, ['a', 'b', 'c'])
    for (const each of all) {
      assert.equal(at(await json(each, 'status'), 'totals', 'forwarded'), 1)
      assert.equal(at(await json(each, 'status'), 'outage', 'refused'), 6)
      const run = await json(each, 'runs/nightly')
      assert.deepEqual([at(run, 'refused'), at(run, 'forwarded')], [6, 1])
      assert.deepEqual(at(run, 'replicas'), ['a', 'b', 'c'])
      const clients = await json(each, 'clients')
      assert.deepEqual([at(clients, 'total'), at(clients, 'clients', 0, 'refused')], [1, 6])
      const { attempts, replicas } = Object(await json(each, 'report?days=1'))
      assert.deepEqual([at(attempts, 'refused'), replicas], [6, ['a', 'b', 'c']])
      const minutes = at(await json(each, 'history'), 'refused')
      assert.ok(Array.isArray(minutes))
      assert.equal(
        minutes.reduce((sum, minute) => sum + Number(at(minute, 'count')), 0),
        6,
      )
    }
  })

  await t.test('the outage history has one outage, which names the replica that saw it start', async () => {
    for (const each of all) {
      const { outages, replicas } = Object(await json(each, 'outages'))
      assert.deepEqual(replicas, ['a', 'b', 'c'])
      assert.equal(outages.length, 1)
      assert.ok(['a', 'b', 'c'].includes(String(at(outages, 0, 'replica'))), `${at(outages, 0, 'replica')}`)
      const detail = await json(each, `outages/${at(outages, 0, 'id')}`)
      assert.equal(at(detail, 'refused'), 6)
      assert.deepEqual(at(detail, 'clients', 0, 'refused'), 6)
      assert.equal(at(detail, 'changes', 'length'), 1)
      const csv = await fetch(`${each.url}/-/outages?format=csv`)
      assert.match(await csv.text(), /^started_at,.*,replica\r?\n.*,[abc]\r?\n$/)
    }
    const report = await json(a, 'report?days=1')
    assert.equal(at(report, 'outages', 'count'), 1)
  })

  await t.test('the counts of a killed replica remain', async () => {
    process.kill(c.pid, 'SIGKILL')
    await configure(a, 7)
    for (const each of [a, b]) await refusedAt(each, 7, ['a', 'b', 'c'])
  })

  await t.test('nothing is counted twice when a replica is restarted with its history file', async () => {
    await b.stop()
    const restarted = await start('b', { FOCUS_BREAKER_HISTORY_FILE: history })
    await refusedAt(restarted, 7, ['a', 'b', 'c'])
    await configure(restarted, 8)
    for (const each of [a, restarted]) await refusedAt(each, 8, ['a', 'b', 'c'])
    assert.equal(at(await json(a, 'outages'), 'outages', 'length'), 1)
    await restarted.stop()
  })

  await t.test(
    'without Redis a replica shows its own counts, and those of all again afterwards',
    async () => {
      const next = await start('b', { FOCUS_BREAKER_HISTORY_FILE: history })
      await redis.kill()
      await refusedAt(a, 3, ['a'])
      await refusedAt(next, 4, ['b'])
      await configure(a, 9)
      await refusedAt(a, 4, ['a'])
      await redis.start()
      // The killed replica is gone with the data of Redis.
      for (const each of [a, next]) await refusedAt(each, 8, ['a', 'b'])
    },
  )

  await t.test('all replicas show the end of the outage, which is still a single one', async () => {
    await simulator.setFiber('present')
    await circuitIs(a, 'closed')
    await until(async () => {
      const outages = await json(a, 'outages')
      return at(outages, 'outages', 'length') === 1 && at(outages, 'outages', 0, 'endedAt') !== null
    })
  })
})

test('a proxy without replicas names no replica', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing', latency: 'none' })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '200' },
  })
  await configure(proxy, 1)
  for (const path of ['status', 'outages', 'clients', 'runs/nightly', 'report', 'history']) {
    const body = JSON.stringify(await json(proxy, path))
    assert.ok(!body.includes('replica'), `${path}: ${body}`)
  }
})

function startReplica(
  t: TestContext,
  upstream: string,
  redis: RedisServer,
  name: string,
  env: Readonly<Record<string, string>>,
): Promise<RunningProxy> {
  return startProxy(t, {
    upstream,
    env: {
      FOCUS_BREAKER_PROBE_PERIOD_MS: '300',
      FOCUS_BREAKER_RECOVERY_RAMP_MS: '500',
      FOCUS_BREAKER_REPLICAS_URL: redis.url,
      FOCUS_BREAKER_REPLICAS_NAME: name,
      ...env,
    },
  })
}

/** Sends jobs of a test run, each with a different body. */
async function configure(proxy: RunningProxy, ...numbers: readonly number[]): Promise<void> {
  for (const number of numbers) {
    const response = await fetch(`${proxy.url}/configure`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-test-run': 'nightly' },
      body: JSON.stringify({ ...live, number: '1'.repeat(number) }),
    })
    await response.arrayBuffer()
  }
}

async function json(proxy: RunningProxy, path: string): Promise<unknown> {
  return (await fetch(`${proxy.url}/-/${path}`)).json()
}

/** Waits until the proxy shows this many refusals, counted by these replicas. */
async function refusedAt(proxy: RunningProxy, refused: number, replicas: readonly string[]): Promise<void> {
  let last: unknown
  await until(
    async () => {
      last = at(await json(proxy, 'status'), 'totals')
      return (
        at(last, 'refused') === refused && JSON.stringify(at(last, 'replicas')) === JSON.stringify(replicas)
      )
    },
    { timeoutMs: 30_000 },
  ).catch(() => assert.fail(`waited for ${refused} by ${replicas}, found ${JSON.stringify(last)}`))
}
