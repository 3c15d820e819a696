import type { TestContext } from 'node:test'
import { Breaker } from '../../src/breaker/breaker.js'
import type { Reading } from '../../src/domain/reading.js'
import { CommonClock } from '../../src/replicas/common-clock.js'
import type { RedisServer } from '../../src/replicas/redis-server.js'
import { Replicas } from '../../src/replicas/replicas.js'
import { steadyClock } from '../../src/upstream/clock.js'
import { until } from './harness.js'

/** What differs from the default replica. */
type ReplicaOptions = {
  readonly port: number
  readonly password?: string
  /** The address of Redis, in place of `port` and `password`. */
  readonly server?: () => RedisServer
  readonly namespace?: string
  readonly probePeriodMs?: number
  readonly maxConcurrency?: number
  /** How far the clock of its process is ahead. */
  readonly aheadMs?: number
}

/** A breaker that is one of several, and its link to the others, in this process. */
export class Replica {
  readonly name: string
  readonly clock: CommonClock
  readonly replicas: Replicas
  readonly breaker: Breaker
  /** What it reported about itself: joined, alone, prober. */
  readonly events: string[] = []
  /** The states of its circuit, one for each change. */
  readonly states: string[] = []
  /** How often a probe was requested from it. */
  wanted = 0

  constructor(t: TestContext, name: string, options: ReplicaOptions) {
    const {
      port,
      password,
      namespace = 'lab',
      probePeriodMs = 1000,
      maxConcurrency = 0,
      aheadMs = 0,
    } = options
    this.name = name
    this.clock = new CommonClock(() => steadyClock() + aheadMs)
    const settings = {
      thresholds: { waiting: 1, unreachable: 3, ready: 2 },
      recovery: { initialConcurrency: 2, maxConcurrency: 6, rampMs: 600_000 },
      mode: 'enforce',
      ...{ probePeriodMs, maxConcurrency },
    } as const
    this.replicas = new Replicas({
      server:
        options.server ??
        (() => ({ host: '127.0.0.1', port, db: 0, ...(password !== undefined && { password }) })),
      ...{ namespace, name, version: '1.2.3', clock: this.clock },
      rules: () => settings,
      probePeriodMs: () => probePeriodMs,
    })
    this.breaker = new Breaker(() => settings, this.clock.now, {}, this.replicas)
    this.replicas.attach(this.breaker)
    this.replicas.on('joined', () => this.events.push('joined'))
    this.replicas.on('alone', problem => this.events.push(`alone: ${problem}`))
    this.replicas.on('prober', isProber => this.events.push(isProber ? 'prober' : 'not prober'))
    this.replicas.on('probe', () => {
      this.wanted += 1
    })
    this.breaker.on('transition', ({ to }) => this.states.push(to))
    t.after(() => this.stop())
  }

  get circuit() {
    return this.breaker.snapshot().circuit
  }

  /** Starts it, and waits until it has joined. */
  async start(): Promise<this> {
    await this.replicas.start(10_000)
    return this
  }

  async stop(): Promise<void> {
    await this.replicas.stop()
    this.breaker.shutdown()
  }

  async joined(): Promise<void> {
    await until(() => this.replicas.isJoined, { what: `${this.name} has joined` })
  }

  /** Observes that the fiber is connected, or that it is missing. */
  sees(kind: 'ready' | 'waiting', source: Reading['source'] = 'client'): void {
    const at = this.clock.now()
    if (kind === 'ready') this.breaker.observe({ at, source, kind, metadata: {} })
    else this.breaker.observe({ at, source, kind, metadata: {}, missing: ['prr'] })
  }
}

/** Replicas that have joined, one after the other. */
export async function joinedReplicas(
  t: TestContext,
  options: ReplicaOptions,
  ...names: readonly string[]
): Promise<readonly Replica[]> {
  const replicas: Replica[] = []
  for (const name of names) replicas.push(await new Replica(t, name, options).start())
  return replicas
}

/** Waits until all have the same state of the circuit, since the same moment. */
export async function agreed(replicas: readonly Replica[], state: string): Promise<void> {
  await until(
    () => {
      const [first, ...others] = replicas.map(({ circuit }) => JSON.stringify(circuit))
      return (
        replicas.every(({ circuit }) => circuit.state === state) && others.every(other => other === first)
      )
    },
    { what: `${replicas.map(({ name }) => name).join(', ')} agree that the circuit is ${state}` },
  )
}
