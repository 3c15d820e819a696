import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { requireOrSkip, until } from '../support/harness.js'
import { type Directive, type RedisServer, redisServer } from '../support/redis.js'
import { agreed, joinedReplicas, Replica } from '../support/replica.js'
import { TcpProxy } from '../support/tcp-proxy.js'

const LOG = 'focus-breaker:1:{lab}:log'
const STATE = 'focus-breaker:1:{lab}:state'
const PROBER = 'focus-breaker:1:{lab}:prober'

async function redisOrSkip(
  t: TestContext,
  directives?: readonly Directive[],
): Promise<RedisServer | undefined> {
  return requireOrSkip(t, 'redis-server') ? redisServer(t, directives) : undefined
}

/** A network path to the server for one replica. */
async function pathTo(t: TestContext, { port }: RedisServer): Promise<TcpProxy> {
  const path = new TcpProxy(port)
  await path.listen()
  t.after(() => path.close())
  return path
}

test('a reading of one replica takes effect at all, at the same common time, whatever their own clocks show', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const { port } = server
  const replicas = [
    await new Replica(t, 'a', { port }).start(),
    await new Replica(t, 'ahead', { port, aheadMs: 5000 }).start(),
    await new Replica(t, 'behind', { port, aheadMs: -5000 }).start(),
  ]
  const [a, ahead, behind] = replicas
  assert.ok(a !== undefined && ahead !== undefined && behind !== undefined)
  ahead.sees('ready')
  await agreed(replicas, 'closed')
  behind.sees('waiting', 'configure')
  assert.equal(behind.circuit.state, 'open', 'it does not wait for the others')
  await agreed(replicas, 'open')
  ahead.sees('ready')
  await until(() => a.breaker.snapshot().streak === 1 && a.breaker.snapshot().reading?.kind === 'ready')
  a.sees('ready')
  await until(() => replicas.every(({ breaker }) => breaker.snapshot().reading?.kind === 'ready'))
  for (const { clock } of replicas) assert.ok(Math.abs(clock.now() - a.clock.now()) < 2000)
})

test('an override that is set at one replica is in force at all, and can be removed at another one', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b', 'c')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  const set = a.breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 600 }, '192.0.2.7')
  await until(() => replicas.every(({ breaker }) => breaker.snapshot().override !== null))
  for (const { breaker } of replicas) assert.deepEqual(breaker.snapshot().override, set)
  assert.equal(b.breaker.removeOverride('192.0.2.8'), true)
  await until(() => replicas.every(({ breaker }) => breaker.snapshot().override === null))
  for (const { breaker } of replicas) {
    assert.deepEqual(
      breaker.pastOverrides.map(({ reason, by, end, endedBy }) => ({ reason, by, end, endedBy })),
      [{ reason: 'fiber work', by: '192.0.2.7', end: 'removed', endedBy: '192.0.2.8' }],
    )
  }
})

test('a replica that joins later adopts the outage in progress with its start, and the override', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a] = await joinedReplicas(t, { port: server.port }, 'a')
  assert.ok(a !== undefined)
  a.sees('ready')
  await agreed([a], 'closed')
  a.sees('waiting', 'configure')
  a.breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, '192.0.2.7')
  await until(async () => (await server.client().xlen(LOG)) === 3)
  const [b] = await joinedReplicas(t, { port: server.port }, 'b')
  assert.ok(b !== undefined)
  assert.deepEqual(b.circuit, a.circuit)
  assert.deepEqual(b.breaker.snapshot().override, a.breaker.snapshot().override)
})

test('one replica probes, and when it leaves, another one does', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b', 'c')
  const probers = () => replicas.filter(({ replicas: { isProber } }) => isProber)
  assert.deepEqual(
    probers().map(({ name }) => name),
    ['a'],
  )
  await replicas[0]?.stop()
  await until(() => replicas.slice(1).some(({ replicas: { isProber } }) => isProber))
  assert.equal(replicas.slice(1).filter(({ replicas: { isProber } }) => isProber).length, 1)
})

test('a prober that cannot reach focus-server hands over, because only its own path may be affected', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  await until(() => a.replicas.members.length === 2)
  for (let count = 0; count < 3; count += 1) {
    assert.ok(a.replicas.isProber)
    const at = a.clock.now()
    a.breaker.observe({ at, source: 'probe', kind: 'unreachable', problem: 'ECONNREFUSED' })
  }
  assert.ok(!a.replicas.isProber)
  await until(() => b.replicas.isProber && b.wanted > 0)
  b.sees('ready', 'probe')
  b.sees('ready', 'probe')
  await agreed(replicas, 'half-open')
})

test('a probe request reaches only the prober', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a, b, c] = await joinedReplicas(t, { port: server.port }, 'a', 'b', 'c')
  assert.ok(a !== undefined && b !== undefined && c !== undefined)
  const before = [b.wanted, c.wanted]
  const { wanted } = a
  b.replicas.requestProbe()
  await until(() => a.wanted > wanted)
  assert.deepEqual([b.wanted, c.wanted], before)
})

test('a prober that was cut off probes on its own, and its old readings do not affect the others', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await pathTo(t, server)
  const old = await new Replica(t, 'old', { port: path.port }).start()
  const [b] = await joinedReplicas(t, { port: server.port }, 'b')
  assert.ok(b !== undefined)
  old.sees('ready', 'probe')
  await agreed([old, b], 'closed')
  path.hold()
  await until(() => b.replicas.isProber, { what: 'another one probes' })
  await until(() => !old.replicas.isJoined, { what: 'the former prober has noticed that it is cut off' })
  assert.equal(old.replicas.isProber, true)
  old.sees('waiting', 'probe')
  assert.equal(old.circuit.state, 'open')
  // Later readings of the others are newer. Their clocks may differ by as much as a message takes.
  const at = old.breaker.snapshot().reading?.at ?? 0
  await until(() => b.clock.common() > at + 500)
  b.sees('ready', 'probe')
  await until(() => b.breaker.snapshot().streak === 2)
  assert.equal(b.circuit.state, 'closed')
  path.heal()
  await old.joined()
  await agreed([old, b], 'closed')
})

test('the last reading of a replica that was alone counts once for all when it joins', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await pathTo(t, server)
  const [a] = await joinedReplicas(t, { port: server.port }, 'a')
  const cut = await new Replica(t, 'cut', { port: path.port }).start()
  assert.ok(a !== undefined)
  a.sees('ready', 'probe')
  await agreed([a, cut], 'closed')
  path.cut()
  await until(() => !cut.replicas.isJoined)
  cut.sees('waiting', 'probe')
  path.heal()
  await cut.joined()
  await agreed([a, cut], 'open')
  assert.equal(a.breaker.snapshot().streak, 1)
})

const DISTURBANCES: readonly {
  readonly name: string
  readonly disturb: (server: RedisServer) => Promise<unknown>
  readonly heal: (server: RedisServer) => Promise<unknown>
  /** Whether the server still responds to new connections. */
  readonly responds?: true
}[] = [
  { name: 'killed and started empty', disturb: server => server.kill(), heal: server => server.start() },
  {
    name: 'suspended for a while',
    disturb: async server => server.pause(),
    heal: async server => server.resume(),
  },
  {
    name: 'full',
    disturb: server => server.client().config('SET', 'maxmemory', '1'),
    heal: server => server.client().config('SET', 'maxmemory', '0'),
    responds: true,
  },
  {
    name: 'made read-only',
    disturb: server => server.client().replicaof('127.0.0.1', 1),
    heal: server => server.client().replicaof('NO', 'ONE'),
    responds: true,
  },
  {
    name: 'given another password',
    disturb: async server => {
      const redis = server.client()
      await redis.config('SET', 'requirepass', 'another')
      await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    },
    heal: server => server.client({ password: 'another' }).config('SET', 'requirepass', ''),
  },
]

/** Waits until the replicas have tried to connect a few more times. */
async function retried(server: RedisServer): Promise<void> {
  const redis = server.client()
  const connections = async () => Number(/connections_received:(\d+)/.exec(await redis.info('stats'))?.[1])
  const before = await connections()
  // Two for each attempt, and two replicas.
  await until(async () => (await connections()) >= before + 8, { what: 'two more attempts of each' })
}

for (const { name, disturb, heal, responds } of DISTURBANCES) {
  for (const missing of ['before', 'meanwhile', 'until then'] as const) {
    test(`while Redis is ${name}, each replica continues with its own readings, and joins again without flapping (fiber missing ${missing})`, async t => {
      const server = await redisOrSkip(t)
      if (server === undefined) return
      const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
      const [a, b] = replicas
      assert.ok(a !== undefined && b !== undefined)
      a.sees('ready')
      await agreed(replicas, 'closed')
      if (missing !== 'meanwhile') {
        a.sees('waiting', 'configure')
        await agreed(replicas, 'open')
      }
      const states = [...a.states]
      await disturb(server)
      await until(() => replicas.every(({ replicas: { isJoined } }) => !isJoined), {
        what: 'both replicas are alone',
      })
      for (const { replicas: group } of replicas) {
        assert.ok(group.isProber, 'each probes on its own')
        assert.match(group.problem ?? '', /./)
      }
      if (missing === 'meanwhile') {
        a.sees('waiting', 'configure')
        assert.equal(a.circuit.state, 'open', 'it acts at once')
        assert.equal(b.circuit.state, 'closed')
      }
      if (missing === 'until then') {
        for (const replica of replicas)
          for (let count = 0; count < 2; count += 1) replica.sees('ready', 'probe')
      }
      for (const replica of replicas) replica.events.length = 0
      if (responds === true) await retried(server)
      await heal(server)
      for (const replica of replicas) await replica.joined()
      await agreed(replicas, missing === 'until then' ? 'half-open' : 'open')
      for (const { events } of replicas)
        assert.equal(events.filter(each => each === 'joined').length, 1, events.join(', '))
      const change = { before: [], meanwhile: ['open'], 'until then': ['half-open'] }[missing]
      assert.deepEqual(a.states, [...states, ...change])
    })
  }
}

test('when everything in Redis is deleted, the replicas start again with what they know, and a new one adopts it', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  a.sees('ready')
  await agreed(replicas, 'closed')
  const { since } = a.circuit
  await server.client().flushall()
  await until(() => replicas.every(({ events }) => events.some(each => each.startsWith('alone'))))
  for (const replica of replicas) await replica.joined()
  const [c] = await joinedReplicas(t, { port: server.port }, 'c')
  assert.ok(c !== undefined)
  await agreed([a, b, c], 'closed')
  assert.equal(c.circuit.since, since)
})

test('a new replica that reaches an empty Redis first does not open the circuit of the others', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const path = await pathTo(t, server)
  const a = await new Replica(t, 'a', { port: path.port }).start()
  a.sees('ready')
  await agreed([a], 'closed')
  path.cut()
  await until(() => !a.replicas.isJoined)
  await server.client().flushall()
  const [fresh] = await joinedReplicas(t, { port: server.port }, 'fresh')
  assert.ok(fresh !== undefined)
  path.heal()
  await a.joined()
  await agreed([a, fresh], 'closed')
  assert.deepEqual(a.states, ['closed'])
})

test('the state of replicas that have all been gone for a long time is not trusted', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a] = await joinedReplicas(t, { port: server.port }, 'a')
  assert.ok(a !== undefined)
  a.sees('ready')
  await agreed([a], 'closed')
  a.breaker.setOverride({ state: 'closed', reason: 'fiber work', forSeconds: 600 }, '192.0.2.7')
  await until(async () => (await server.client().xlen(LOG)) === 2)
  await a.stop()
  const redis = server.client()
  // The same entries, with the oldest possible ids.
  const entries = await redis.xrange(LOG, '-', '+')
  await redis.del(LOG, PROBER)
  for (const [index, [, fields]] of entries.entries()) await redis.xadd(LOG, `1-${index + 1}`, ...fields)
  await redis.hset(STATE, 'seeded', '1', 'id', '0-0')
  const [b, c] = await joinedReplicas(t, { port: server.port }, 'b', 'c')
  assert.ok(b !== undefined && c !== undefined)
  await agreed([b, c], 'open')
  assert.equal(c.circuit.state === 'open' && c.circuit.cause, 'starting')
  // The override has its own end, and stays in force.
  assert.equal(b.breaker.snapshot().override?.reason, 'fiber work')
})

test('a reading from the future is rejected, because later readings would look old', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  a.sees('ready')
  await agreed(replicas, 'closed')
  const at = a.clock.now() + 60_000
  a.breaker.observe({ at, source: 'client', kind: 'waiting', metadata: {}, missing: ['prr'] })
  await until(() => a.events.some(each => each.startsWith('alone')), { what: 'the reading is rejected' })
  await a.joined()
  await agreed(replicas, 'closed')
  b.sees('waiting', 'configure')
  await agreed(replicas, 'open')
})

test('entries that are malformed or of another version are skipped and counted', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const replicas = await joinedReplicas(t, { port: server.port }, 'a', 'b')
  const [a, b] = replicas
  assert.ok(a !== undefined && b !== undefined)
  a.sees('ready')
  await agreed(replicas, 'closed')
  const redis = server.client()
  const reading = { at: a.clock.now() + 1, source: 'probe', kind: 'waiting', metadata: {}, missing: ['prr'] }
  const message = JSON.stringify({ kind: 'reading', reading, isCounted: true })
  const whole = ['o', 'someone', 's', '1', 'm', message]
  const entries = [
    ['v', '0', ...whole],
    ['v', '2', ...whole],
    ['v', '1', 'o', 'someone', 's', '1'],
    ['v', '1', 'o', 'someone', 's', '-1', 'm', message],
    ['v', '1', 'o', 'someone', 's', '1', 'm', message.slice(0, -1)],
    ['v', '1', 'o', 'someone', 's', '1', 'm', JSON.stringify({ kind: 'order' })],
    ['v', '1', 'o', 'x'.repeat(200), 's', '1', 'm', message],
    ['v', '1', 'o', 'someone', 's', '1', 'm', `"${'x'.repeat(100_000)}"`],
    ['nonsense', ''],
  ]
  for (const entry of entries) await redis.xadd(LOG, '*', ...entry)
  await until(() => replicas.every(({ replicas: { skippedEntries } }) => skippedEntries === entries.length))
  for (const { circuit } of replicas) assert.equal(circuit.state, 'closed')
  // The same entry, well-formed.
  await redis.xadd(LOG, '*', 'v', '1', ...whole)
  await agreed(replicas, 'open')
})

test('a malformed state in Redis is reported as the problem, and the replica continues alone', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a] = await joinedReplicas(t, { port: server.port }, 'a')
  assert.ok(a !== undefined)
  await server.client().hset(STATE, 'shared', '{"version":1}')
  const b = new Replica(t, 'b', { port: server.port })
  void b.replicas.start(100)
  await until(() => b.events.length > 0)
  assert.deepEqual(b.events, ['alone: the state in Redis is malformed'])
})

test('the common time does not go back with the clock of Redis', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a] = await joinedReplicas(t, { port: server.port }, 'a')
  assert.ok(a !== undefined)
  const redis = server.client()
  // As if the clock of the first server were a minute ahead of that of the second.
  await redis.hset(STATE, 'shift', '60000')
  await until(() => a.clock.now() - Date.now() > 50_000, { what: 'the replica follows' })
  await server.restartEmpty()
  await a.joined()
  const [b] = await joinedReplicas(t, { port: server.port }, 'b')
  assert.ok(b !== undefined)
  assert.ok(b.clock.now() - Date.now() > 50_000)
})

for (const { right, problem } of [
  { right: '-xadd', problem: /NOPERM.*'xadd'/ },
  { right: '-xread', problem: /NOPERM.*'xread'/ },
  { right: '-eval', problem: /NOPERM.*'eval'/ },
  { right: '-select', problem: /NOPERM.*'select'/ },
]) {
  test(`a Redis user without a permission (${right}) does not join, and the problem names the permission`, async t => {
    const server = await redisOrSkip(t)
    if (server === undefined) return
    await server.client().call('ACL', 'SETUSER', 'limited', 'on', '>secret', '~*', '+@all', right)
    const { port } = server
    const limited = { host: '127.0.0.1', port, db: 3, username: 'limited', password: 'secret' }
    const replica = new Replica(t, 'a', { port, server: () => limited })
    void replica.replicas.start(100)
    await until(() => replica.events.some(each => each.startsWith('alone')))
    assert.match(replica.replicas.problem ?? '', problem)
    if (right !== '-xread') assert.ok(!replica.events.includes('joined'), replica.events.join(', '))
  })
}

test('replicas use the database of the URL', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const { port } = server
  const replica = new Replica(t, 'a', { port, server: () => ({ host: '127.0.0.1', port, db: 3 }) })
  await replica.replicas.start(10_000)
  const redis = server.client()
  assert.deepEqual(await redis.keys('*'), [])
  await redis.select(3)
  assert.ok((await redis.keys('*')).includes(STATE))
})

test('the same names in another namespace are different replicas', async t => {
  const server = await redisOrSkip(t)
  if (server === undefined) return
  const [a] = await joinedReplicas(t, { port: server.port, namespace: 'one' }, 'a')
  const [b] = await joinedReplicas(t, { port: server.port, namespace: 'two' }, 'b')
  assert.ok(a !== undefined && b !== undefined)
  assert.ok(a.replicas.isProber && b.replicas.isProber)
  assert.equal(a.replicas.members.length, 1)
  assert.equal(b.replicas.members.length, 1)
})

test('everything in Redis expires, and contains no password and no admin token', async t => {
  const server = await redisOrSkip(t, [['requirepass', 'very secret']])
  if (server === undefined) return
  const [a] = await joinedReplicas(t, { port: server.port, password: 'very secret' }, 'a')
  assert.ok(a !== undefined)
  a.sees('ready')
  await until(() => a.replicas.members.length === 1)
  const redis = server.client({ password: 'very secret' })
  const keys = await redis.keys('*')
  assert.ok(keys.includes(LOG) && keys.includes(STATE))
  for (const key of keys) assert.ok((await redis.pttl(key)) > 0, `${key} does not expire`)
  const values = [await redis.hgetall(STATE), await redis.xrange(LOG, '-', '+')]
  assert.ok(!JSON.stringify(values).includes('very secret'))
})
