import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { GroupNotices } from '../../src/notifications/group-notices.js'
import { NotificationFile } from '../../src/notifications/notification-file.js'
import type { Webhook } from '../../src/notifications/webhook.js'
import { OPERATOR } from '../support/breaker-set-up.js'
import { at, requireOrSkip, until } from '../support/harness.js'
import { HOUR_MS, notifying, RECOVERY } from '../support/notifying.js'
import { type RedisServer, redisServer } from '../support/redis.js'
import { hang, type Receiver, receiver } from '../support/webhook-receiver.js'

/** The validity of a claim that is not renewed, short enough for a test. */
const CLAIM_MS = 900

/** Enough time for several claims to expire, so that any duplicate would have arrived. */
const LONG_MS = 3 * CLAIM_MS

type Settings = Parameters<typeof notifying>[2]

/** How a test controls one replica. */
type Replica = ReturnType<typeof notifying> & {
  readonly redis: Redis
  /** Sets whether it reaches Redis from now on. */
  readonly reach: (isReached: boolean) => void
  readonly token: string
  /** Stops it without any message to the others, like SIGKILL. */
  readonly kill: () => void
}

let namespaces = 0

/** Replicas of one focus-server, each with its own breaker and connection, that report to the same webhooks. */
function replicas(
  t: TestContext,
  server: RedisServer,
  webhooks: readonly (string | Webhook)[],
  settings: Settings = {},
  count = 3,
): { readonly all: readonly Replica[]; readonly start: (more?: Settings) => Replica } {
  namespaces += 1
  const prefix = `focus-breaker:1:{test ${namespaces}}`
  const start = (more: Settings = {}) => {
    const redis = server.client()
    const token = crypto.randomUUID()
    let isReached = true
    const group = new GroupNotices({
      redis: () => (isReached && redis.status === 'ready' ? redis : undefined),
      hasOthers: () => true,
      key: suffix => `${prefix}:${suffix}`,
      token,
      claimMs: CLAIM_MS,
    })
    const replica = notifying(t, webhooks, { ...settings, ...more, group })
    return Object.assign(replica, {
      token,
      redis,
      reach: (reached: boolean) => {
        isReached = reached
      },
      kill: () => {
        // Nothing is released, because the connection is closed first.
        redis.disconnect()
        void replica.notifier.close()
      },
    })
  }
  return { all: Array.from({ length: count }, () => start()), start }
}

async function connected(all: readonly Replica[]): Promise<void> {
  await until(() => all.every(({ redis }) => redis.status === 'ready'))
}

/** The replica that is currently sending. */
async function claimerOf(all: readonly Replica[]): Promise<Replica> {
  return await until(async () => {
    for (const { redis } of all) {
      for (const key of (await redis.keys('*:notice:*')) ?? []) {
        const held = await redis.get(key)
        const claimer = all.find(({ token }) => held?.startsWith(`${token} `))
        if (claimer !== undefined) return claimer
      }
    }
    return undefined
  })
}

const see = (all: readonly Replica[], drawing: string) => {
  for (const each of all) each.see(drawing)
}

/** The received kinds, after enough time for duplicates to arrive. */
async function typesAfterAll(hook: Receiver): Promise<readonly unknown[]> {
  await delay(LONG_MS)
  return hook.types()
}

describe('replicas that reach Redis', { concurrency: 20 }, () => {
  test('report an outage once, and its end once, under one id each', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    see(all, RECOVERY)
    await hook.nth(2)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.closed'])
    assert.match(String(hook.received[0]?.headers['webhook-id']), /^msg_[0-9a-f-]{36}$/)
    assert.deepEqual(
      all.flatMap(({ failures }) => failures),
      [],
    )
    const keys = (await all[0]?.redis.keys('*')) ?? []
    assert.ok(keys.length > 0)
    for (const key of keys) assert.ok(((await all[0]?.redis.pttl(key)) ?? -1) > 0, `${key} does not expire`)
  })

  test('report one outage although each noticed its start and end at different times, and page with one key', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const webhook = { url: hook.url, format: 'pagerduty', routingKey: 'k'.repeat(32) } as const
    const { all } = replicas(t, server, [webhook])
    const [first, second, third] = all
    assert.ok(first !== undefined && second !== undefined && third !== undefined)
    await connected(all)
    second.see('+++-')
    await hook.nth(1)
    first.see('+-')
    third.see('++-')
    await delay(LONG_MS)
    third.see(RECOVERY)
    await hook.nth(2)
    see([first, second], RECOVERY)
    await delay(LONG_MS)
    const events = hook.received.map(({ body }) => [at(body, 'event_action'), at(body, 'dedup_key')])
    const key = 'focus-breaker focus-server:5000 1970-01-01T00:00:04.000Z'
    assert.deepEqual(events, [
      ['trigger', key],
      ['resolve', key],
    ])
  })

  test('report an outage that lasts once, however late one of them joined', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all, start } = replicas(t, server, [hook.url], { lastingAfterMs: 3000 })
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    const late = start()
    await connected([late])
    late.see('--')
    see(all, '----')
    await hook.nth(2)
    late.see('----')
    see([...all, late], RECOVERY)
    await hook.nth(3)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.lasting', 'outage.closed'])
  })

  test('keep one cooldown, also for a replica that has just started', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all, start } = replicas(t, server, [hook.url], { cooldownMs: 60_000 })
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    see(all, RECOVERY)
    await hook.nth(2)
    see(all, '-')
    const late = start()
    await connected([late])
    late.see('++++++++-')
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.closed'], 'within the cooldown')
    see([...all, late], RECOVERY)
    await delay(200)
    for (const each of [...all, late]) each.pass(60_000)
    see([...all, late], '+-')
    const third = await hook.nth(3)
    assert.equal(at(third.body, 'data', 'untoldOutages'), 1)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.closed', 'outage.opened'])
  })

  test('an outage counts as found at the start only if no replica noticed its start', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all, start } = replicas(t, server, [hook.url], { cooldownMs: 5000 })
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    const late = start()
    await connected([late])
    late.see('--')
    late.pass(10_000)
    late.see('-')
    await delay(300)
    see([...all, late], RECOVERY)
    const closed = await hook.nth(2)
    assert.equal(at(closed.body, 'data', 'foundAtStart'), undefined)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.closed'])

    const other = await receiver(t)
    const found = replicas(t, server, [other.url], { cooldownMs: 5000 })
    await connected(found.all)
    see(found.all, '--')
    await delay(LONG_MS)
    assert.deepEqual(other.types(), [], 'another process may just have reported it')
    for (const each of found.all) each.pass(10_000)
    see(found.all, '-')
    assert.equal(at((await other.nth(1)).body, 'data', 'foundAtStart'), true)
    assert.deepEqual(await typesAfterAll(other), ['outage.opened'])
  })

  test('report an override and its end once', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all } = replicas(t, server, [hook.url], { overrides: true })
    await connected(all)
    see(all, '+')
    for (const { breaker } of all) {
      breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 600 }, OPERATOR)
    }
    await hook.nth(1)
    for (const { breaker } of all) breaker.removeOverride(OPERATOR)
    await hook.nth(2)
    assert.deepEqual(await typesAfterAll(hook), ['override.set', 'override.removed'])
    for (const { breaker } of all) breaker.shutdown()
  })

  test('each webhook gets everything once, even while one of them is unavailable', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const [hook, away] = [await receiver(t), await receiver(t, index => (index < 2 ? 503 : 200))]
    const { all } = replicas(t, server, [hook.url, away.url])
    await connected(all)
    see(all, '+-')
    await away.nth(3)
    see(all, RECOVERY)
    await away.nth(4)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.closed'])
    assert.equal(away.received.length, 4)
    const ids = away.received.map(({ headers }) => headers['webhook-id'])
    assert.deepEqual([new Set(ids.slice(0, 3)).size, ids[3] === ids[0]], [1, false])
  })

  test('a replica that cannot deliver keeps its claim while it retries, and gives up for all', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const refusing = await receiver(t, () => 410)
    const away = await receiver(t, index => (index === 0 ? 503 : 200))
    const { all } = replicas(t, server, [refusing.url, away.url], { retryForMs: HOUR_MS })
    await connected(all)
    see(all, '+-')
    await away.nth(2)
    await delay(LONG_MS)
    assert.equal(refusing.received.length, 1, 'a notification that one gives up is not retried by the others')
    assert.equal(away.received.length, 2)
    assert.equal(
      all.reduce((sum, { failures }) => sum + failures.length, 0),
      1,
    )
  })

  test('the end is not reported if the start was not', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    see(all, '+')
    for (const { breaker } of all) {
      breaker.setOverride({ state: 'open', reason: 'laser', forSeconds: 600, silent: true }, OPERATOR)
    }
    see(all, `-${RECOVERY}`)
    assert.deepEqual(await typesAfterAll(hook), [])
    for (const { breaker } of all) breaker.shutdown()
  })
})

describe('when a replica or Redis is gone', { concurrency: 20 }, () => {
  test('another replica sends the notifications of one that is killed while sending', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t, index => (index === 0 ? hang : 200))
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    const claimer = await claimerOf(all)
    const rest = all.filter(each => each !== claimer)
    assert.equal(rest.length, 2)
    claimer.kill()
    await hook.nth(2)
    see(rest, RECOVERY)
    await hook.nth(3)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.opened', 'outage.closed'])
    const ids = hook.received.map(({ headers }) => headers['webhook-id'])
    assert.equal(ids[0], ids[1], 'a receiver can recognise the duplicate')
  })

  test('another replica immediately sends the notifications of one that is stopped', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t, index => (index === 0 ? 503 : 200))
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    const claimer = await claimerOf(all)
    await claimer.notifier.close()
    await hook.nth(2)
    assert.deepEqual(claimer.failures, [], 'it is not given up')
    assert.equal((await typesAfterAll(hook)).length, 2)
  })

  test('a notification that is kept across a restart is sent once, by the next process or another replica', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-notices-'))
    t.after(() => rmSync(directory, { recursive: true, force: true }))
    const history = join(directory, 'history.jsonl')
    const file = () => new NotificationFile(history, error => assert.equal(error, undefined))
    const hook = await receiver(t, index => (index === 0 ? hang : 200))
    const { all, start } = replicas(t, server, [hook.url], {}, 0)
    const first = start({ file: file() })
    await connected([...all, first])
    first.see('+-')
    await hook.nth(1)
    await first.notifier.close()
    const kept = file().load(first.clock(), 2000).pending
    assert.deepEqual(
      kept.map(({ claim, message }) => [claim?.split(':')[0], 'key' in message && message.key]),
      [['outage.opened', 2000]],
    )
    const [next, other] = [start({ file: file() }), start()]
    await connected([next, other])
    see([next, other], '+-')
    await hook.nth(2)
    await delay(LONG_MS)
    assert.equal(hook.received.length, 2)
    const [one, again] = hook.received
    assert.equal(one?.headers['webhook-id'], again?.headers['webhook-id'])
  })

  test('without Redis, each replica immediately reports what it observes', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    await server.kill()
    see(all, '+-')
    await hook.nth(3)
    see(all, RECOVERY)
    await hook.nth(6)
    assert.deepEqual(hook.types().toSorted(), [
      ...['outage.closed', 'outage.closed', 'outage.closed'],
      ...['outage.opened', 'outage.opened', 'outage.opened'],
    ])
  })

  test('a Redis that is killed after the start was reported, and starts empty, causes no duplicates', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t)
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    await delay(LONG_MS)
    await server.restartEmpty()
    await connected(all)
    see(all, '--')
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened'])
    see(all, RECOVERY)
    await hook.nth(2)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.closed'])
  })

  test('when Redis is killed while one replica sends, the others wait for its claim, and no notification is lost', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const hook = await receiver(t, index => (index === 0 ? hang : 200))
    const { all } = replicas(t, server, [hook.url])
    await connected(all)
    see(all, '+-')
    await hook.nth(1)
    await claimerOf(all)
    await server.kill()
    for (const each of all) each.pass(2 * CLAIM_MS)
    await hook.nth(3)
    assert.ok(hook.types().every(type => type === 'outage.opened'))
  })

  test('a replica that was cut off at the start resolves its own incident, and sends nothing else twice', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    const [hook, pager] = [await receiver(t), await receiver(t)]
    const paging = { url: pager.url, format: 'pagerduty', routingKey: 'k'.repeat(32) } as const
    const { all } = replicas(t, server, [hook.url, paging])
    const [first, second, cut] = all
    assert.ok(first !== undefined && second !== undefined && cut !== undefined)
    await connected(all)
    cut.reach(false)
    see([first, second], '+-')
    await hook.nth(1)
    await pager.nth(1)
    cut.see('++-')
    await hook.nth(2)
    await pager.nth(2)
    cut.reach(true)
    see(all, '--')
    await delay(LONG_MS)
    see(all, RECOVERY)
    await hook.nth(3)
    await pager.nth(4)
    assert.deepEqual(await typesAfterAll(hook), ['outage.opened', 'outage.opened', 'outage.closed'])
    const events = pager.received.map(({ body }) => `${at(body, 'event_action')} ${at(body, 'dedup_key')}`)
    const keys = ['1970-01-01T00:00:02.000Z', '1970-01-01T00:00:03.000Z']
    assert.deepEqual(
      events.toSorted(),
      ['resolve', 'trigger'].flatMap(action =>
        keys.map(key => `${action} focus-breaker focus-server:5000 ${key}`),
      ),
    )
  })

  test('foreign data under the key is replaced and does no harm', async t => {
    if (!requireOrSkip(t, 'redis-server')) return
    const server = await redisServer(t)
    for (const text of ['{}', '[1]', '[{"key":"x"}]', '\u0000', 'x'.repeat(100_000)]) {
      const hook = await receiver(t)
      const { all } = replicas(t, server, [hook.url], {}, 2)
      await connected(all)
      await all[0]?.redis.set(`focus-breaker:1:{test ${namespaces}}:notices`, text)
      see(all, '+-')
      await hook.nth(1)
      await delay(CLAIM_MS)
      assert.equal(hook.received.length, 1, text.slice(0, 20))
    }
  })
})
