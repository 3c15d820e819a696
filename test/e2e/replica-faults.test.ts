import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { at, requireOrSkip, statusOf, until } from '../support/harness.js'
import { pause, resume } from '../support/paused.js'
import { type RedisServer, redisServer } from '../support/redis.js'
import {
  allAre,
  allKnow,
  BEGINS_AFTER_MS,
  type Installation,
  type InstallationOptions,
  joinedIs,
  joinsOf,
  PACE,
  proberOf,
  proberToken,
  type Replica,
  replicated,
  Truth,
  watchRamp,
} from '../support/replicated.js'

/** The effect of a fault on the replicas while it lasts. */
type Effect = {
  /** They do not serve. */
  readonly out?: readonly Replica[]
  /** They do not reach Redis, and report it. */
  readonly alone?: readonly Replica[]
  /** It was the prober, and another replica must take over. */
  readonly lostProber?: Replica
}

/** An installation that a fault acts on. */
type Scene = Installation & {
  /** The replicas that have not been killed. */
  readonly alive: Replica[]
  /** A client of Redis that does not use the replicas' connections. */
  readonly store: Redis
  /** The server that the replicas are connected to, and one that replicates it. */
  readonly servers: { leader: RedisServer; follower: RedisServer | undefined }
}

type Fault = {
  readonly what: string
  readonly options?: InstallationOptions
  /** The configuration of Redis. */
  readonly directives?: Parameters<typeof redisServer>[1]
  readonly hasFollower?: boolean
  /** Its minimum duration. */
  readonly lastsMs?: number
  readonly begin: (scene: Scene) => Promise<Effect>
  readonly end?: (scene: Scene, effect: Effect) => Promise<void>
}

/** The additional time if the replicas must first notice that they are alone. */
const NOTICED_AFTER_MS = 3500

const all = ({ alive }: Scene): Effect => ({ alone: [...alive] })

async function notProber({ alive, store }: Scene): Promise<Replica> {
  const prober = await proberOf(store, alive)
  const other = alive.find(replica => replica !== prober)
  assert.ok(other !== undefined)
  return other
}

const CLIENTS = 20

const SECRET = 'the-password-of-the-test'

const FAULTS: readonly Fault[] = [
  {
    what: 'the prober is killed',
    options: { count: 4 },
    begin: async ({ alive, store }) => {
      const prober = await proberOf(store, alive)
      process.kill(prober.pid, 'SIGKILL')
      alive.splice(alive.indexOf(prober), 1)
      return { lostProber: prober }
    },
  },
  {
    what: 'the prober is paused for 10 s',
    lastsMs: 10_000,
    begin: async ({ alive, store }) => {
      const prober = await proberOf(store, alive)
      pause(prober.pid)
      return { out: [prober], lostProber: prober }
    },
    end: async (_, { out = [] }) => {
      for (const { pid } of out) resume(pid)
    },
  },
  {
    what: 'a replica that does not probe is paused for 10 s',
    lastsMs: 10_000,
    begin: async scene => {
      const replica = await notProber(scene)
      pause(replica.pid)
      return { out: [replica] }
    },
    end: async (_, { out = [] }) => {
      for (const { pid } of out) resume(pid)
    },
  },
  {
    what: 'Redis is killed, and comes back empty',
    begin: async scene => {
      await scene.redis.kill()
      return all(scene)
    },
    end: ({ redis }) => redis.start(),
  },
  {
    what: 'Redis is paused, and resumes',
    begin: async scene => {
      scene.redis.pause()
      return all(scene)
    },
    end: async ({ redis }) => redis.resume(),
  },
  {
    what: 'Redis is restarted empty',
    begin: async ({ redis }) => {
      await redis.restartEmpty()
      return {}
    },
  },
  {
    what: 'Redis is flushed',
    begin: async ({ store }) => {
      await store.flushall()
      return {}
    },
  },
  {
    what: 'Redis is full',
    begin: async scene => {
      await scene.store.config('SET', 'maxmemory', '1mb')
      return all(scene)
    },
    end: async ({ store }) => {
      await store.config('SET', 'maxmemory', '0')
    },
  },
  {
    what: 'the password of Redis changes',
    directives: [['requirepass', SECRET]],
    options: { credentials: `:${SECRET}@` },
    begin: async scene => {
      await scene.store.config('SET', 'requirepass', 'another-password')
      await scene.store.call('CLIENT', 'KILL', 'TYPE', 'normal')
      return all(scene)
    },
    end: async ({ store }) => {
      await store.config('SET', 'requirepass', SECRET)
    },
  },
  {
    what: 'Redis fails over to its copy',
    hasFollower: true,
    begin: async ({ servers, replicas }) => {
      const { leader, follower } = servers
      assert.ok(follower !== undefined)
      await leader.kill()
      await follower.promote()
      for (const { redisProxy } of replicas) redisProxy.retarget(follower.port)
      await leader.start()
      servers.leader = follower
      servers.follower = leader
      return {}
    },
    end: async ({ servers }) => {
      await servers.follower?.follow(servers.leader)
    },
  },
  {
    what: 'the prober is cut off from Redis',
    begin: async ({ alive, store }) => {
      const prober = await proberOf(store, alive)
      prober.redisProxy.hold()
      return { alone: [prober], lostProber: prober }
    },
    end: async (_, { alone = [] }) => {
      for (const { redisProxy } of alone) redisProxy.heal()
    },
  },
  {
    what: 'a replica that does not probe is cut off from Redis',
    begin: async scene => {
      const replica = await notProber(scene)
      replica.redisProxy.hold()
      return { alone: [replica] }
    },
    end: async (_, { alone = [] }) => {
      for (const { redisProxy } of alone) redisProxy.heal()
    },
  },
  {
    what: 'Redis takes 400 ms to respond',
    begin: async ({ replicas }) => {
      for (const { redisProxy } of replicas) redisProxy.delayMs = 200
      return {}
    },
    end: async ({ replicas }) => {
      for (const { redisProxy } of replicas) redisProxy.delayMs = 0
    },
  },
  {
    what: 'the clocks of the replicas are 5 s apart',
    options: { clocks: ['+5s', undefined, '-5s'] },
    begin: async () => ({}),
  },
]

// Each started program listens for the end of this process.
process.setMaxListeners(0)

describe('several replicas', { concurrency: Number(process.env.AT_A_TIME ?? 2) }, () => {
  for (const fault of FAULTS) {
    test(`${fault.what}: the counts of wrong admissions and wrong refusals are within bounds`, {
      timeout: 180_000,
    }, async t => {
      if (!requireOrSkip(t, 'redis-server', 'haproxy', 'faketime')) return
      await suffer(t, fault)
    })
  }
})

/** The fiber is lost during the fault; then the fault comes again, and the fiber comes back during it. */
async function suffer(t: TestContext, fault: Fault): Promise<void> {
  const leader = await redisServer(t, fault.directives)
  const follower = fault.hasFollower ? await redisServer(t) : undefined
  await follower?.follow(leader)
  const installation = await replicated(t, { ...fault.options, redis: leader })
  const alive = [...installation.replicas]
  const store = leader.client(fault.directives === undefined ? {} : { password: SECRET })
  const scene: Scene = { ...installation, alive, store, servers: { leader, follower } }
  const { simulator } = installation
  const load = installation.load({ clients: CLIENTS })
  const truth = new Truth(t, installation, load)
  const namesOf = (replicas: readonly Replica[]) => replicas.map(({ name }) => name)
  await load.answeredBy(namesOf(alive))

  let effect = await begun(t, scene, fault, truth)
  const began = performance.now()
  await joinedIs(effect.alone ?? [], false)
  await delay(500)
  const refusedBefore = truth.refusedWhileClosed()
  const wasQuiet = truth.isQuiet
  await until(() => simulator.counters.inFlight >= 4, { everyMs: 1, what: 'four configures are in flight' })
  truth.change('missing')
  const serving = alive.filter(replica => !effect.out?.includes(replica))
  await allAre(serving, 'open')
  await load.answeredBy(namesOf(serving))
  await delay((fault.lastsMs ?? 0) - (performance.now() - began))
  const during = truth.sinceLoss()
  await fault.end?.(scene, effect)
  await allKnow(alive)
  await allAre(alive, 'open')
  await load.answeredBy(namesOf(alive), 5)
  const { arrived, inFlight, wronglyAdmitted } = truth.sinceLoss()

  // Those that were in flight at the loss would count as admitted by the recovery.
  await until(() => simulator.counters.inFlight === 0, {
    what: 'the configures from before the loss have ended',
    timeoutMs: 30_000,
  })
  const joinsBefore = joined(alive)
  effect = await begun(t, scene, fault, truth)
  const beganAgain = performance.now()
  truth.change('present')
  const servingAgain = alive.filter(replica => !effect.out?.includes(replica))
  const ramp = await watchRamp(simulator, servingAgain)
  await allAre(servingAgain, 'closed')
  truth.recovered()
  await load.answeredBy(namesOf(servingAgain))
  await delay((fault.lastsMs ?? 0) - (performance.now() - beganAgain))
  await fault.end?.(scene, effect)
  await allKnow(alive)
  await allAre(alive, 'closed')
  await load.answeredBy(namesOf(alive), 5)
  const beginsAfterMs = BEGINS_AFTER_MS + (effect.alone === undefined ? 0 : NOTICED_AFTER_MS)
  const { refused, late, afterwards } = truth.sinceReturn(beginsAfterMs, 1 + (effect.alone?.length ?? 0))
  const delayMs = Math.round(truth.machineDelayMs)

  t.diagnostic(
    `WRONGLY ADMITTED ${wronglyAdmitted}: ${arrived} reached focus-server after the loss, ${during.arrived} of them during the fault; ${inFlight} were in flight`,
  )
  t.diagnostic(
    `WRONGLY REFUSED ${refusedBefore} with the circuit closed; ${late} later than ${beginsAfterMs} ms after the fiber came back, of ${refused} in total; ${afterwards} after the recovery (the machine was late by ${delayMs} ms${truth.isQuiet ? '' : ', and the replicas were short of time'}); ${load.tally().of('failed')} failed at the gateway`,
  )
  const joins = alive.map(joinsOf)
  // Each replica that was alone for a moment rounded its share up.
  const wereAlone = Math.max(effect.alone?.length ?? 0, Math.min(alive.length, joined(alive) - joinsBefore))
  t.diagnostic(`times that each joined, including the start: ${joins.join(', ')}`)
  t.diagnostic(`webhooks: ${installation.hook.types().join(', ')}`)
  t.diagnostic(`in flight beyond the ramp of one replica: ${ramp.excess} (${ramp.samples.join(', ')})`)
  assert.equal(wronglyAdmitted, 0, 'wrongly admitted')
  // A process that is late by seconds has no recent reading, and refuses.
  if (wasQuiet) assert.equal(refusedBefore, 0, 'wrongly refused with the circuit closed')
  // A replica that was stopped refuses until it has read the log: at most one request of each client.
  assert.ok(
    afterwards <= (effect.out === undefined ? 0 : CLIENTS),
    `${afterwards} refused after the recovery`,
  )
  if (truth.isQuiet) assert.ok(late <= afterwards, `${late} refused too late`)
  assert.ok(ramp.excess <= wereAlone, `${ramp.excess} beyond the ramp of one replica`)
  await agree(alive)
}

/** Starts a fault, and measures how long it takes until there is another prober. */
async function begun(t: TestContext, scene: Scene, fault: Fault, truth: Truth): Promise<Effect> {
  const token = await proberToken(scene.store)
  const startedAt = performance.now()
  const effect = await fault.begin(scene)
  if (effect.lostProber !== undefined) {
    await until(
      async () => {
        const next = await proberToken(scene.store)
        return next !== null && next !== token
      },
      { everyMs: 5, what: 'another replica probes', timeoutMs: 60_000 },
    )
    const tookMs = performance.now() - startedAt
    t.diagnostic(
      `another replica probes after ${Math.round(tookMs)} ms; two periods are ${2 * PACE.periodMs} ms`,
    )
    // The machine may delay the expiry of the lease, the next request for it, and each command.
    const boundMs = 2 * PACE.periodMs + 4 * Math.max(100, truth.machineDelayMs)
    if (truth.isQuiet) assert.ok(tookMs <= boundMs, `${tookMs} ms, the limit is ${boundMs}`)
  }
  return effect
}

/** The total number of times that these replicas have joined. */
function joined(replicas: readonly Replica[]): number {
  return replicas.reduce((sum, replica) => sum + joinsOf(replica), 0)
}

/** Waits until all of them have the same circuit. */
async function agree(replicas: readonly Replica[]): Promise<void> {
  await until(async () => {
    const circuits = await Promise.all(
      replicas.map(async replica => {
        const circuit = at(await statusOf(replica), 'circuit')
        return ['state', 'since', 'cause'].map(name => at(circuit, name))
      }),
    )
    for (const circuit of circuits) assert.deepEqual(circuit, circuits[0])
    return true
  })
}
