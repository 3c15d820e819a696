import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { HistoryFile } from '../../src/outages/file.js'
import { HistoryLock } from '../../src/outages/history-lock.js'
import { requireOrSkip, until } from '../support/harness.js'
import { historyPath } from '../support/kept-buckets.js'
import { readings } from '../support/play.js'
import { exchangingReplica, recordKey } from '../support/record-link.js'
import { shown } from '../support/recorded-replica.js'
import { type RedisServer, redisServer } from '../support/redis.js'

const START = Date.parse('2026-01-31T08:00:00.000Z')

type Replica = ReturnType<typeof exchangingReplica>

test('each replica knows the counts of all, also one that joins later, and also those of one that died', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, clock } = made
  const [a, b] = [replica('a'), replica('b')]
  see('+-', a, b)
  for (let index = 0; index < 3; index += 1) a.ask({ request: `POST /configure ${index}`, run: 'nightly' })
  b.ask({ address: '192.0.2.8' })
  await same(4, a, b)
  b.ask({ address: '192.0.2.8', request: 'another' })
  await same(5, a, b)
  assert.deepEqual(shown(a.all(), clock()), shown(b.all(), clock()))
  await b.exchange.stop()
  const c = replica('c')
  await same(5, a, c)
  assert.deepEqual(c.all().replicas, ['a', 'b', 'c'])
  see('-', a, c)
  c.ask()
  await same(6, a, c)
})

test('a process that continues with a history file is not counted twice', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, clock } = made
  const path = historyPath(t)
  const open = () => new HistoryFile({ file: path, clock, onFault: error => assert.equal(error, undefined) })
  const a = replica('a')
  const file = open()
  const b = replica('b', { base: file })
  see('+-', a, b)
  a.ask()
  b.ask()
  b.ask()
  await same(3, a, b)
  await b.exchange.stop()
  file.close()
  const again = replica('b', { base: open() })
  await same(3, a, again)
  again.ask()
  await same(4, a, again)
  assert.equal(a.exchange.sets.length, 2)
})

test('a process that waits for a history file publishes once it has the file, under the id in the file', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, clock } = made
  const path = historyPath(t)
  const open = (host: string) =>
    new HistoryFile({
      ...{ file: path, clock, onFault: () => undefined },
      lock: new HistoryLock({ file: path, clock, host }),
    })
  const a = replica('a')
  const file = open('one')
  const b = replica('b', { base: file })
  see('+-', a, b)
  b.ask()
  await same(1, a, b)
  file.write()
  const next = open('two')
  assert.equal(next.isInUse, true)
  const c = replica('c', { base: next })
  see('-', a, b, c)
  c.ask()
  a.ask()
  await same(2, a, b)
  // It shows its own record, which started as a copy of the other's.
  assert.deepEqual([c.exchange.sets.length, c.all().totals.counts().refused], [1, 2])
  await b.exchange.stop()
  file.close()
  // It checks the file periodically, and once more on closing.
  next.close()
  await same(3, a, c)
  assert.deepEqual(a.all().replicas, ['a', 'c'])
})

test('after Redis has lost everything, everything is published again', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, server } = made
  const [a, b] = [replica('a'), replica('b')]
  see('+-', a, b)
  a.ask()
  b.ask()
  await same(2, a, b)
  for (const each of [a, b]) each.exchange.alone()
  assert.equal(a.all().totals.counts().refused, 1)
  await server.client().flushall()
  a.ask()
  for (const each of [a, b]) each.exchange.joined()
  await same(3, a, b)
})

test('a set that Redis has evicted, or with a missed batch, is restored', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, server } = made
  const [a, b] = [replica('a'), replica('b')]
  see('+-', a, b)
  a.ask()
  await same(1, a, b)
  const redis = server.client()
  const key = recordKey(`records:${a.store.own.id}`)
  await redis.del(key)
  a.ask()
  await until(async () => (await redis.hlen(key)) > 5, { what: 'the set is complete again' })
  // A batch whose entry was lost.
  const meta = JSON.parse((await redis.hget(key, '.')) ?? '')
  await redis.hset(key, '.', JSON.stringify({ ...meta, count: meta.count + 1 }))
  await redis.hset(key, 'totals totals', JSON.stringify({ ...TOTALS, refused: 50 }))
  await redis.xadd(
    recordKey('records'),
    '*',
    'v',
    1,
    's',
    a.store.own.id,
    'o',
    meta.origin,
    'n',
    meta.count + 2,
    'b',
    '{}',
  )
  await until(() => b.all().totals.counts().refused === 50, { what: 'the set was read again' })
})

test('malformed data and data of another version is skipped and counted', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, server } = made
  const a = replica('a')
  see('+-', a)
  await until(async () => (await server.client().exists(recordKey('records:sets'))) === 1)
  const redis = server.client()
  const entries: readonly (readonly string[])[] = [
    ['v', '2', 's', 'x', 'o', 'x', 'n', '1', 'b', '{}'],
    ['v', '1', 's', 'x', 'o', 'x', 'n', 'many', 'b', '{}'],
    ['v', '1', 's', 'x', 'o', 'x', 'n', '1', 'b', '[]'],
    ['v', '1', 's', 'x', 'o', 'x', 'n', '1', 'b', '{'],
    ['nothing', ''],
  ]
  for (const entry of entries) await redis.xadd(recordKey('records'), '*', ...entry)
  await until(() => a.skipped() === entries.length, { what: 'the entries were skipped' })
  // A set with a few valid records among others.
  await redis.hset(recordKey('records:x'), {
    '.': JSON.stringify({ v: 1, replica: 'x', origin: 'x', count: 1 }),
    'totals totals': JSON.stringify({ ...TOTALS, refused: 7 }),
    'run nightly': '{"forwarded":-1}',
    'outage 2026-12-31T23:59:60Z': '{',
    'lot of': '{}',
    'minute m': '{"minute":"2016-12-31T23:59:60Z","refused":1,"wouldRefuse":0}',
  })
  await redis.hset(recordKey('records:y'), '.', '{"v":2}', 'totals totals', '{}')
  for (const id of ['x', 'y']) {
    await redis.zadd(recordKey('records:sets'), START, id)
    await redis.xadd(recordKey('records'), '*', 'v', '1', 's', id, 'o', id, 'n', '1')
  }
  await same(7, a)
  await until(() => a.skipped() === entries.length + 6, { what: 'the records were skipped' })
  assert.deepEqual(a.all().replicas, ['a', 'x'])
})

test('forecasts are based on the outages of all replicas', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, pass } = made
  const a = replica('a')
  see('-', a)
  pass(60_000)
  see('++', a)
  pass(10_000)
  see('+-', a)
  a.ask()
  const [outage] = a.own.outageLog.outages().filter(({ endedAt }) => endedAt !== null)
  assert.ok(outage !== undefined && outage.endedAt !== null)
  const b = replica('b')
  see('-', a, b)
  await same(1, a, b)
  const lengthMs = outage.endedAt - outage.startedAt
  await until(() => b.pastMs() !== undefined, { what: 'the outage was received' })
  assert.deepEqual(b.pastMs(), [lengthMs])
  // Both observe the end of the next one, which also counts once for forecasts.
  pass(30_000)
  see('++', a, b)
  pass(10_000)
  see('+', a, b)
  // Each first knows only its own view of the end, until it receives the other's.
  await until(() => {
    assert.equal(a.pastMs()?.length, 2)
    assert.deepEqual(a.pastMs(), b.pastMs())
    return true
  })
})

test('every key expires, and the stored size is limited', async t => {
  const made = await world(t)
  if (made === undefined) return
  const { replica, see, same, server } = made
  const redis = server.client()
  await redis.zadd(
    recordKey('records:sets'),
    ...Array.from({ length: 150 }, (_, index) => [START - index, `old${index}`]).flat(),
  )
  await redis.hset(recordKey('records:old149'), '.', '{}')
  const [a, b] = [replica('a'), replica('b')]
  see('-', a)
  for (let index = 0; index < 3000; index += 1) {
    a.ask({ address: `192.0.2.${index}`, userAgent: 'x'.repeat(200), request: String(index) })
  }
  await same(3000, b)
  assert.ok((await redis.zcard(recordKey('records:sets'))) <= 34)
  assert.equal(await redis.exists(recordKey('records:old149')), 0)
  for (const key of await redis.keys('*')) {
    const ttl = await redis.pttl(key)
    assert.ok(ttl > 600_000_000 && ttl <= 604_800_000, `${key} expires in ${ttl} ms`)
  }
  // All 1000 remembered addresses would take more.
  const clients = (await redis.hgetall(recordKey(`records:${a.store.own.id}`))) ?? {}
  const length = Object.entries(clients)
    .filter(([field]) => field.startsWith('client '))
    .reduce((sum, [, text]) => sum + text.length, 0)
  assert.ok(length > 131_072 && length <= 262_144, `${length} characters`)
})

const TOTALS = { forwarded: 0, refused: 0, wouldRefuse: 0, probes: 0, overloaded: 0 }

/** A Redis, a clock that all processes share, and readings that all of them get. */
async function world(t: TestContext): Promise<
  | {
      readonly server: RedisServer
      readonly clock: () => number
      readonly pass: (ms: number) => void
      readonly replica: (name: string, options?: Parameters<typeof exchangingReplica>[4]) => Replica
      readonly see: (drawing: string, ...all: readonly Replica[]) => void
      readonly same: (refused: number, ...all: readonly Replica[]) => Promise<void>
    }
  | undefined
> {
  if (!requireOrSkip(t, 'redis-server')) return undefined
  const server = await redisServer(t)
  let now = START
  const clock = () => now
  return {
    server,
    clock,
    pass: ms => {
      now += ms
    },
    replica: (name, options) => exchangingReplica(t, server, name, clock, options),
    see(drawing, ...all) {
      for (const reading of readings(drawing, now)) {
        now = reading.at
        for (const each of all) each.breaker.observe(reading)
      }
    },
    /** Waits until all of them know this number of refusals. */
    async same(refused, ...all) {
      await until(() => all.every(each => each.all().totals.counts().refused === refused), {
        what: `all know of ${refused} refusals`,
        timeoutMs: 20_000,
      }).catch(error => {
        throw new Error(`they know of ${all.map(each => each.all().totals.counts().refused)}`, {
          cause: error,
        })
      })
    },
  }
}
