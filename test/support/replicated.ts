import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { Agent } from 'undici'
import type { Simulator } from '../../src/simulator/focus-server.js'
import type { Fiber } from '../../src/simulator/scenario.js'
import { Tally } from './accounting.js'
import { startBalancer } from './haproxy.js'
import { at, type RunningProxy, startProxy, statusOf, until } from './harness.js'
import { ask, configure, isMissingFiber } from './http-client.js'
import { resume } from './paused.js'
import { type RedisServer, redisServer } from './redis.js'
import { simulate } from './simulate.js'
import { type TcpProxy, tcpProxy } from './tcp-proxy.js'
import { type Receiver, receiver } from './webhook-receiver.js'

/** The admin token of each replica. */
export const TOKEN = 'a-token-of-the-test'

/** How fast the replicas probe and admit requests again, in the tests of several replicas. */
export const PACE = { periodMs: 500, readyThreshold: 2, rampMs: 2000, initial: 2, max: 30 } as const

/**
 * How long a recovery may take to start when all replicas are joined: another prober takes over first, and as many of
 * its readings are needed as with one replica.
 */
export const BEGINS_AFTER_MS = PACE.periodMs * (2 + PACE.readyThreshold + 1)

/** The outcome of a configure. */
type Outcome = {
  readonly sentAt: number
  readonly tookMs: number
  /** `served`, `missing` (focus-server's own response), `failed` (by the gateway), or the status of a refusal. */
  readonly kind: string
  /** The replica, by the gateway's name for it. */
  readonly replica: string
}

/** A guard against an endless loop: more than any test sends. */
const MAX_REQUESTS = 200_000

/**
 * Clients that send configures to the gateway, each one after the other, until they are stopped. They run in the
 * process of the simulator, so the requests in flight when the fiber is lost are known exactly.
 */
export class Load {
  /** Configures that have been sent and have no response yet. */
  pending = 0
  readonly outcomes: Outcome[] = []
  readonly #agent: Agent
  readonly #url: string
  readonly #running: Promise<unknown>
  #sent = 0
  #isStopped = false

  constructor(t: TestContext, url: string, options: { readonly clients: number; readonly pauseMs: number }) {
    this.#url = url
    this.#agent = new Agent({ connections: options.clients, headersTimeout: 60_000 })
    t.after(async () => {
      this.#isStopped = true
      await this.#agent.destroy()
    })
    this.#running = Promise.all(
      Array.from({ length: options.clients }, async (_, index) => {
        // Not all at the same moment.
        await delay((options.pauseMs * index) / options.clients)
        while (!this.#isStopped && this.#sent < MAX_REQUESTS) {
          await this.#one()
          await delay(options.pauseMs)
        }
      }),
    )
  }

  /** The number of outcomes of each kind between two indexes of `outcomes`. */
  tally(from = 0, to = this.outcomes.length): Tally {
    const tally = new Tally()
    for (const { kind } of this.outcomes.slice(from, to)) tally.add(kind)
    return tally
  }

  /** Waits until each of these replicas has responded to this many more configures. */
  async answeredBy(replicas: readonly string[], count = 3): Promise<void> {
    const from = this.outcomes.length
    await until(
      () => {
        const later = this.outcomes.slice(from)
        return replicas.every(name => later.filter(({ replica }) => replica === name).length >= count)
      },
      { what: `${replicas.join(', ')} have responded`, timeoutMs: 30_000 },
    )
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    await this.#running
  }

  async #one(): Promise<void> {
    this.#sent += 1
    this.pending += 1
    const sentAt = performance.now()
    const { kind, replica } = await configure({ url: this.#url }, { dispatcher: this.#agent }).then(
      answer => ({ kind: kindOf(answer), replica: String(answer.headers['x-replica'] ?? '') }),
      () => ({ kind: 'failed', replica: '' }),
    )
    this.pending -= 1
    this.outcomes.push({ sentAt, tookMs: performance.now() - sentAt, kind, replica })
  }
}

function kindOf(answer: Awaited<ReturnType<typeof configure>>): string {
  if (answer.statusCode === 200) return 'served'
  if (isMissingFiber(answer)) return 'missing'
  // A response of the gateway or of a replica that is not a decision about the fiber has no such status.
  return at(answer.json, 'forwarded') === false ? String(at(answer.json, 'status')) : 'failed'
}

/** The wrong outcomes since the fiber was lost. */
export type Admitted = {
  /** Configures that reached focus-server while the fiber was missing. */
  readonly arrived: number
  /** Configures in flight when it was lost, over all replicas. */
  readonly inFlight: number
  /** Arrivals beyond that. */
  readonly wronglyAdmitted: number
}

/** The refusals because of a missing fiber or unreadable metadata, for requests sent since the fiber came back. */
export type Refused = {
  readonly refused: number
  /** Those sent later than the recovery may take to start. */
  readonly late: number
  /** Those sent after all replicas admitted again. */
  readonly afterwards: number
}

/**
 * How long a process may wait for a processor in total and still cannot have been late for what it does every second.
 */
const QUIET_MS = 700

/**
 * How long processes have waited for a processor since the last check. On a busy machine the replicas are late, and
 * correctly continue alone or take themselves for suspended.
 */
class Starvation {
  readonly #pids: readonly number[]
  #before: readonly number[]

  constructor(pids: readonly number[]) {
    this.#pids = pids
    this.#before = pids.map(waitedMs)
  }

  /** The longest total wait of any of them. */
  get worstMs(): number {
    return Math.max(0, ...this.#pids.map((pid, index) => waitedMs(pid) - (this.#before[index] ?? 0)))
  }

  reset(): void {
    this.#before = this.#pids.map(waitedMs)
  }
}

/** 0 if the kernel does not report it, and for a process that has ended. */
function waitedMs(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[1]) / 1e6
  } catch {
    return 0
  }
}

/** Removes the fiber and brings it back, and compares admissions and refusals with that. */
export class Truth {
  readonly #simulator: Simulator
  readonly #load: Load
  readonly #starvation: Starvation
  #changedAt = performance.now()
  #recoveredAt = Number.POSITIVE_INFINITY
  #inFlight = 0
  #machineDelayMs = 0
  /** When each probe since the last change arrived, or slightly later. */
  #probedAt: number[] = []

  constructor(t: TestContext, { simulator, replicas, redis }: Installation, load: Load) {
    this.#simulator = simulator
    this.#load = load
    this.#starvation = new Starvation([process.pid, redis.pid, ...replicas.map(({ pid }) => pid)])
    simulator.resetCounters()
    const everyMs = 20
    let last = performance.now()
    const timer = setInterval(() => {
      const now = performance.now()
      this.#machineDelayMs = Math.max(this.#machineDelayMs, now - last - everyMs)
      last = now
      while (this.#probedAt.length < (simulator.counters.byRoute['GET /live_metadata'] ?? 0)) {
        this.#probedAt.push(now)
      }
    }, everyMs)
    t.after(() => clearInterval(timer))
  }

  /**
   * The longest delay of this machine since the last change, in milliseconds: of a timer here, or of a refusal, for
   * which a replica waits for nothing. It is the control for everything measured in milliseconds.
   */
  get machineDelayMs(): number {
    const refusals = this.#since().filter(({ kind }) => REFUSALS_FOR_FIBER.includes(kind))
    return refusals.reduce((worst, { tookMs }) => Math.max(worst, tookMs), this.#machineDelayMs)
  }

  /**
   * Whether the machine has given all processes the time they need since the last change, so that times are conclusive.
   */
  get isQuiet(): boolean {
    return this.#starvation.worstMs < QUIET_MS
  }

  /** Changes the fiber at one moment for clients and simulator, which run in this process. */
  change(fiber: Fiber): void {
    this.#inFlight = this.#load.pending
    this.#changedAt = performance.now()
    this.#recoveredAt = Number.POSITIVE_INFINITY
    this.#machineDelayMs = 0
    this.#starvation.reset()
    this.#probedAt = []
    this.#simulator.resetCounters()
    void this.#simulator.setFiber(fiber)
  }

  /** What has happened since the fiber was lost. */
  sinceLoss(): Admitted {
    const arrived = this.#simulator.counters.byRoute['POST /configure'] ?? 0
    return { arrived, inFlight: this.#inFlight, wronglyAdmitted: Math.max(0, arrived - this.#inFlight) }
  }

  /** Records that all replicas admit again: from now on every refusal is wrong. */
  recovered(): void {
    this.#recoveredAt = performance.now()
  }

  /** How many were refused while the circuit was closed and the fiber connected: all of them wrongly. */
  refusedWhileClosed(): number {
    return this.#refusedSince(this.#changedAt)
  }

  /**
   * The refusals since the fiber came back.
   *
   * @param beginsAfterMs how long a recovery may take to start on an idle machine.
   * @param judges how many replicas judge by their own probes: each needs as many as a single replica.
   */
  sinceReturn(beginsAfterMs: number, judges = 1): Refused {
    const probed = this.#probedAt[judges * (PACE.readyThreshold + 1) - 1] ?? Number.POSITIVE_INFINITY
    // The machine may be late at each step.
    const latest = Math.max(this.#changedAt + beginsAfterMs, probed) + 4 * this.machineDelayMs
    return {
      refused: this.#refusedSince(this.#changedAt),
      late: this.#refusedSince(latest),
      afterwards: this.#refusedSince(this.#recoveredAt),
    }
  }

  #since(): readonly Outcome[] {
    return this.#load.outcomes.filter(({ sentAt }) => sentAt > this.#changedAt)
  }

  #refusedSince(from: number): number {
    return this.#since().filter(({ sentAt, kind }) => sentAt > from && REFUSALS_FOR_FIBER.includes(kind))
      .length
  }
}

const REFUSALS_FOR_FIBER: readonly string[] = ['waiting_for_fiber', 'metadata_unavailable']

/** One of several replicas. */
export type Replica = RunningProxy & {
  /** Its name for the gateway and the other replicas. */
  readonly name: string
  /** Its connection to Redis. */
  readonly redisProxy: TcpProxy
}

/** Several replicas behind HAProxy, with a simulator, a Redis, and a webhook receiver. */
export type Installation = {
  readonly simulator: Simulator
  readonly redis: RedisServer
  readonly hook: Receiver
  readonly replicas: readonly Replica[]
  /** The URL of the gateway. */
  readonly url: string
  /** Starts clients at the gateway, until the end of the test. */
  readonly load: (options?: { readonly clients?: number; readonly pauseMs?: number }) => Load
}

/** What differs from a default installation. */
export type InstallationOptions = {
  readonly count?: number
  readonly redis?: RedisServer
  /** What precedes the host in the URL of Redis, such as `user:password@`. */
  readonly credentials?: string
  readonly env?: Readonly<Record<string, string>>
  /** The clock offset of each replica, such as `+5s`. */
  readonly clocks?: readonly (string | undefined)[]
}

/** Starts all of it, with the fiber connected and the replicas joined, until the test ends. */
export async function replicated(t: TestContext, options: InstallationOptions = {}): Promise<Installation> {
  const { count = 3, credentials = '', clocks = [] } = options
  const { simulator } = await simulate(t, { latency: 'realistic', maxJobs: 1_000_000, jobDurationMs: 1 })
  const redis = options.redis ?? (await redisServer(t))
  const hook = await receiver(t)
  const started: RunningProxy[] = []
  // Before the hooks that end them.
  t.after(() => {
    for (const { pid } of started) resume(pid)
  })
  const replicas = await Promise.all(
    Array.from({ length: count }, async (_, index): Promise<Replica> => {
      const redisProxy = await tcpProxy(t, redis.port)
      const name = `r${index}`
      const proxy = await startReplica(t, {
        simulator,
        hook,
        redisProxy,
        name,
        credentials,
        env: options.env ?? {},
        clock: clocks[index],
      })
      started.push(proxy)
      return { ...proxy, name, redisProxy }
    }),
  )
  const url = `http://127.0.0.1:${await startBalancer(
    t,
    replicas.map(replica => Number(new URL(replica.url).port)),
  )}`
  await allKnow(replicas)
  await allAre(replicas, 'closed')
  return {
    ...{ simulator, redis, hook, replicas, url },
    load: ({ clients = 20, pauseMs = 100 } = {}) => new Load(t, url, { clients, pauseMs }),
  }
}

/** The states of the circuit, one for each replica. */
export function statesOf(replicas: readonly Replica[]): Promise<readonly unknown[]> {
  return Promise.all(replicas.map(async replica => at(await statusOf(replica), 'circuit', 'state')))
}

/** Waits until the circuit is in this state at each of them. */
export async function allAre(
  replicas: readonly Replica[],
  state: 'closed' | 'half-open' | 'open',
  timeoutMs = 30_000,
): Promise<void> {
  const areSo = async () => (await statesOf(replicas)).every(each => each === state)
  await until(areSo, { timeoutMs }).catch(async error => {
    throw new Error(`not all are ${state}:\n${await viewsOf(replicas)}`, { cause: error })
  })
}

/** The state on which each of them acts, for an assertion message. */
async function viewsOf(replicas: readonly Replica[]): Promise<string> {
  const views = replicas.map(async replica => {
    const status = await statusOf(replica)
    const [circuit, reading, group] = ['circuit', 'reading', 'replicas'].map(name => at(status, name))
    const changes = replica
      .logs()
      .slice(-5)
      .map(({ time, msg }) => `${time} ${msg}`)
    return [replica.name, ...[circuit, reading, group].map(each => JSON.stringify(each)), ...changes].join(
      '\n  ',
    )
  })
  return (await Promise.all(views)).join('\n')
}

/** Waits until each of them reaches the log, or until none of them does. */
export async function joinedIs(replicas: readonly Replica[], isJoined: boolean): Promise<void> {
  let seen: readonly unknown[] = []
  const check = async () => {
    seen = await Promise.all(replicas.map(async replica => at(await statusOf(replica), 'replicas', 'joined')))
    return seen.every(each => each === isJoined)
  }
  await until(check, { timeoutMs: 30_000 }).catch(error => {
    throw new Error(`joined, according to each: ${seen.join(', ')}; expected ${isJoined}`, { cause: error })
  })
}

/** Waits until each of them reaches the log, and knows that the others do. */
export async function allKnow(replicas: readonly Replica[]): Promise<void> {
  await joinedIs(replicas, true)
  const names = replicas.map(({ name }) => name).sort()
  for (const replica of replicas) {
    await until(
      async () => {
        const members = at((await ask(`${replica.url}/-/replicas`)).json, 'replicas')
        assert.ok(Array.isArray(members))
        const present = members.filter(member => at(member, 'present') === true)
        assert.deepEqual(present.map(member => at(member, 'name')).sort(), names)
        return true
      },
      { what: `${replica.name} knows ${names.join(', ')}`, timeoutMs: 30_000 },
    )
  }
}

/** The replica that probes, according to its own report. */
export async function proberOf(redis: Redis, replicas: readonly Replica[]): Promise<Replica> {
  return await until(
    async () => {
      const [key = ''] = await redis.keys('focus-breaker:*:members')
      const members = Object.values(await redis.hgetall(key))
      const probing = replicas.filter(({ name }) =>
        members.some(text => text.includes(`"name":"${name}"`) && text.includes('"isProber":true')),
      )
      const [prober] = probing
      return probing.length === 1 ? prober : undefined
    },
    { what: 'exactly one replica probes', timeoutMs: 20_000 },
  )
}

/** The lease token of the prober; null while there is none. */
export async function proberToken(redis: Redis): Promise<string | null> {
  const [key = 'none'] = await redis.keys('focus-breaker:*:prober')
  return await redis.get(key)
}

function startReplica(
  t: TestContext,
  options: Omit<InstallationOptions, 'clocks' | 'count'> & {
    readonly simulator: Simulator
    readonly hook: Receiver
    readonly redisProxy: TcpProxy
    readonly name: string
    readonly clock: string | undefined
  },
): Promise<RunningProxy> {
  const { simulator, hook, redisProxy, name, credentials = '', clock } = options
  return startProxy(t, {
    upstream: simulator.url,
    ...(clock !== undefined && { clock }),
    env: {
      FOCUS_BREAKER_PROBE_PERIOD_MS: String(PACE.periodMs),
      // A slow simulator on a busy machine is not a second outage.
      FOCUS_BREAKER_PROBE_TIMEOUT_MS: '8000',
      FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '20',
      FOCUS_BREAKER_RECOVERY_RAMP_MS: String(PACE.rampMs),
      FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
      FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url: hook.url, format: 'json' }]),
      FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0',
      FOCUS_BREAKER_REPLICAS_URL: `redis://${credentials}127.0.0.1:${redisProxy.port}`,
      FOCUS_BREAKER_REPLICAS_NAME: name,
      ...options.env,
    },
  })
}

/** Sets an override at a replica, or removes it with null. */
export async function override(
  replica: Replica,
  state: 'open' | 'closed' | null,
  reason = 'a test',
): Promise<void> {
  const { statusCode } = await ask(`${replica.url}/-/override`, {
    method: state === null ? 'DELETE' : 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    ...(state !== null && { body: JSON.stringify({ state, reason, forSeconds: 600 }) }),
  })
  assert.equal(statusCode, state === null ? 204 : 200)
}

/** How a recovery of several replicas compares with the ramp of one. */
export type Ramp = {
  /**
   * How many more were in flight at focus-server than one replica allows at that moment; 0 or less if the limit held.
   */
  readonly excess: number
  /** For an assertion message: the maximum in flight and the limit of one replica's ramp, per quarter of a second. */
  readonly samples: readonly string[]
}

/**
 * Watches a recovery from before its start until the first circuit closes.
 *
 * The limit of one replica is computed from the first one that recovers; the clocks of two processes may differ a
 * little.
 */
export async function watchRamp(simulator: Simulator, replicas: readonly Replica[]): Promise<Ramp> {
  const samples: string[] = []
  let since = Number.POSITIVE_INFINITY
  let excess = Number.NEGATIVE_INFINITY
  const deadline = performance.now() + 60_000
  while (performance.now() < deadline) {
    const { maxInFlight } = simulator.counters
    const now = Date.now() + 100
    const circuits = await Promise.all(replicas.map(async replica => at(await statusOf(replica), 'circuit')))
    if (circuits.some(circuit => at(circuit, 'state') === 'closed')) return { excess, samples }
    for (const circuit of circuits) {
      if (at(circuit, 'state') === 'half-open')
        since = Math.min(since, Date.parse(String(at(circuit, 'since'))))
    }
    if (now >= since) {
      const part = Math.min(1, (now - since) / PACE.rampMs)
      const allowed = PACE.initial + Math.floor((PACE.max - PACE.initial) * part)
      excess = Math.max(excess, maxInFlight - allowed)
      if (samples.length < (now - since) / 250) samples.push(`${maxInFlight}/${allowed}`)
    }
    await delay(10)
  }
  throw new Error('no circuit has closed within a minute')
}

/** How often a replica has joined so far, according to its log. It may be the only one at that time. */
export function joinsOf(replica: Replica): number {
  return replica.logs().filter(({ msg }) => JOINED.test(String(msg))).length
}

const JOINED = /^(?:joined the other replicas|connected to Redis; this is the only replica)$/
