import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { REPORT } from '../../src/replicas/scripts.js'
import { requireOrSkip, until } from '../support/harness.js'
import { type RedisServer, redisServer } from '../support/redis.js'
import { agreed, joinedReplicas, Replica } from '../support/replica.js'
import { tcpProxy } from '../support/tcp-proxy.js'

const LOG = 'focus-breaker:1:{lab}:log'
const STATE = 'focus-breaker:1:{lab}:state'

async function redisOrSkip(t: TestContext): Promise<RedisServer | undefined> {
  return requireOrSkip(t, 'redis-server') ? redisServer(t) : undefined
}

/** The fraction of the next seconds in which the condition is true. */
async function partOfTime(isSo: () => boolean): Promise<number> {
  const end = performance.now() + 4000
  let samples = 0
  let found = 0
  await until(() => {
    samples += 1
    if (isSo()) found += 1
    return performance.now() > end
  })
  return found / samples
}

test('shares of a larger limit end when the limit falls: at the start of a recovery, all replicas together have one ramp', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port, maxConcurrency: 30 }, 'a', 'b', 'c')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  a.sees('ready')
  await agreed(replicas, 'closed')
  a.sees('waiting', 'configure')
  await agreed(replicas, 'open')
  await until(() => replicas.every(({ breaker }) => (breaker.snapshot().share ?? 0) >= 2))
  let admitted = 0
  const take = ({ breaker }: Replica) => {
    for (let count = 0; count < 5; count += 1) if (breaker.admit().admitted) admitted += 1
  }
  for (const replica of replicas) {
    replica.breaker.on('transition', ({ to }) => {
      if (to === 'half-open') take(replica)
    })
  }
  a.sees('ready', 'probe')
  a.sees('ready', 'probe')
  await agreed(replicas, 'half-open')
  await until(() => {
    for (const replica of replicas) take(replica)
    return admitted >= 2
  })
  for (const replica of replicas) take(replica)
  assert.equal(admitted, 2)
})

test('replicas with slow reports never have more in flight together than the limit', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const redis = server.client()
  await redis.hset('state', 'epoch', 'e', 'shift', '0')
  let run = 0
  const anyStep = fc.record({
    who: fc.nat(),
    what: fc.constantFrom<string>('report', 'response', 'ask', 'ask', 'end'),
  })
  const property = fc.asyncProperty(
    fc.integer({ min: 2, max: 4 }),
    fc.integer({ min: 1, max: 9 }),
    fc.array(anyStep, { maxLength: 60 }),
    async (count, limit, steps) => {
      run += 1
      const all = Array.from({ length: count }, (_, index) => ({
        ...{ origin: `replica ${index}`, inFlight: 0, share: 0, lacks: false, next: -1 },
      }))
      for (const { who, what } of steps) {
        const each = all[who % count]
        assert.ok(each !== undefined)
        const { origin, inFlight, share, lacks } = each
        if (what === 'report' && each.next < 0) {
          const given = ['e', origin, inFlight, lacks ? '1' : '0', limit, 600_000, '{}', share]
          const reply: unknown = await redis.eval(REPORT, 2, `members ${run}`, 'state', ...given)
          assert.ok(Array.isArray(reply))
          each.next = Number(reply[0])
          each.lacks = false
        } else if (what === 'response' && each.next >= 0) {
          each.share = each.next
          each.next = -1
        } else if (what === 'end') each.inFlight = Math.max(0, inFlight - 1)
        else if (what === 'ask' && inFlight < share) each.inFlight += 1
        else if (what === 'ask') each.lacks = true
        assert.ok(all.reduce((sum, one) => sum + one.inFlight, 0) <= limit)
      }
    },
  )
  // Both have their share, the second one needs more, and the first one admits while it does not know about that.
  const words =
    'a report,a response,b report,b response,a report,a response,b report,b response,b ask,b ask,b ask,b report,b response,a report,b ask,b report,b response,b ask,b ask,a ask,a ask'
  const steps = words.split(',').map(word => {
    const [who, what = ''] = word.split(' ')
    return { who: who === 'a' ? 0 : 1, what }
  })
  await fc.assert(property, { numRuns: 300, examples: [[2, 4, steps]] })
})

test('a storm of probe requests is a few entries in the log', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a, b] = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  assert.ok(a !== undefined && b !== undefined)
  const { wanted } = a
  for (let count = 0; count < 1000; count += 1) b.replicas.requestProbe()
  await until(() => a.wanted >= wanted + 2, { what: 'the last request has arrived too' })
  assert.equal(await server.client().xlen(LOG), 2)
})

test('readings still count after the clock of Redis has gone back', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const redis = server.client()
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  await redis.hset(STATE, 'shift', '60000')
  await until(() => replicas.every(({ clock }) => clock.now() - Date.now() > 50_000))
  a.sees('ready')
  await agreed(replicas, 'closed')
  // As if the clock went back by a minute.
  await redis.hset(STATE, 'shift', '0')
  await until(async () => Number(await redis.hget(STATE, 'shift')) > 50_000, {
    what: 'a replica has noticed that the clock went back',
  })
  for (const replica of replicas) await replica.joined()
  a.sees('waiting', 'configure')
  await agreed(replicas, 'open')
})

test('a replica stays current while Redis responds slowly', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await tcpProxy(t, server.port)
  const a = await new Replica(t, 'a', { port: path.port }).start()
  path.delayMs = 250
  a.sees('ready')
  await agreed([a], 'closed')
  assert.ok((await partOfTime(() => a.replicas.isCurrent)) > 0.9)
})

test('a replica notices that the connection on which it waits for entries is dead, even if it has nothing to write', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await tcpProxy(t, server.port)
  const [a, b] = [
    await new Replica(t, 'a', { port: server.port }).start(),
    await new Replica(t, 'b', { port: path.port }).start(),
  ]
  a.sees('ready')
  await agreed([a, b], 'closed')
  path.stopWith('xread')
  await until(() => !b.replicas.isJoined, { what: 'it has noticed without having anything to write' })
  a.sees('waiting', 'configure')
  path.heal()
  await b.joined()
  await agreed([a, b], 'open')
})

test('one replica probes even if Redis takes longer to respond than the normal lease lasts', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await tcpProxy(t, server.port)
  const a = await new Replica(t, 'a', { port: path.port, probePeriodMs: 300 }).start()
  path.delayMs = 320
  await until(() => !a.replicas.isProber, { what: 'the first lease has expired' })
  await until(() => a.replicas.isProber)
  assert.ok((await partOfTime(() => a.replicas.isProber)) > 0.5)
})

test('an override can be removed at another replica, even if its clock is behind', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  a.clock.correct(a.clock.common() + 1000)
  a.breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 600 }, '192.0.2.7')
  await until(() => b.breaker.snapshot().override !== null)
  assert.equal(b.breaker.removeOverride('192.0.2.7'), true)
  await until(() => replicas.every(({ breaker }) => breaker.snapshot().override === null))
})

test('joining repeatedly does not make the common time drift', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await tcpProxy(t, server.port)
  const a = await new Replica(t, 'a', { port: path.port }).start()
  for (let count = 0; count < 3; count += 1) {
    a.clock.correct(a.clock.common() + 100)
    path.reset()
    await until(() => !a.replicas.isJoined)
    await a.joined()
  }
  assert.equal(await server.client().hget(STATE, 'shift'), '0.000')
})
