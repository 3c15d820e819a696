/**
 * Measures the cost of replicas that agree through Redis, for `docs/explanation/performance.md`.
 *
 * `npm run bench:replicas` builds and runs it, on Linux with `redis-server`. It takes about three minutes, on loopback,
 * with each server in its own process, and prints Markdown.
 *
 * - CPU: a request to one of three replicas compared with the same request to a process without replicas, in the cases
 * of
 *   `bench.ts`. Ratios compare figures of the same round, as there.
 * - Redis: the commands per second of three replicas, at rest and while one of them, or each, refuses requests.
 * - Growth: the commands at rest with more replicas, and how long an override set at one replica takes to reach all
 * others.
 *
 * Environment:
 *
 * - `REPLICAS_SECONDS`: the length of each stretch of rest and of steady load (10).
 * - `REPLICAS_GROWTH`: the numbers of replicas, as in `1,3,10,30`.
 * - `BENCH_CASES`, `BENCH_ROUNDS`, `BENCH_SECONDS`, `BENCH_CONNECTIONS`: as for `bench.ts`.
 *
 * Exit codes: 0 measured; 1 a server did not start or sent a wrong response; 2 a variable has an invalid value.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { createServer } from 'node:net'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { ask, jsonAt } from './ask.js'
import { type BenchCase, casesOf } from './cases.js'
import { Children, type Peer, type Server } from './children.js'
import { cpuMs } from './cpu-time.js'
import { pace } from './paced-load.js'
import { markdown, rowsOf } from './report.js'
import { bytesOf, CONFIGURE } from './requests.js'
import { durationsOf, runRounds } from './rounds.js'
import type { Servers } from './servers.js'
import { type Settings, settingsFrom } from './settings.js'

const REFUSALS_PER_SECOND = 1000

/** How many overrides are set to measure how long one takes to reach all replicas. */
const OVERRIDES = 11

const START_TIMEOUT_MS = 60_000

const TOKEN = 'a-token-of-the-bench'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const upstreamFile = fileURLToPath(new URL('./upstream.js', import.meta.url))

async function run(environment: NodeJS.ProcessEnv): Promise<number> {
  const settings = settingsFrom({ BENCH_SECONDS: '60', ...environment })
  const seconds = Number(environment.REPLICAS_SECONDS ?? 10)
  const growth = (environment.REPLICAS_GROWTH ?? '1,3,10,30').split(',').map(Number)
  const faults = [
    ...(typeof settings === 'string' ? [settings] : []),
    ...(seconds >= 1 && seconds <= 60 ? [] : ['REPLICAS_SECONDS: expected seconds from 1 to 60']),
    ...(growth.every(count => Number.isInteger(count) && count >= 1 && count <= 100)
      ? []
      : ['REPLICAS_GROWTH: expected whole numbers from 1 to 100']),
  ]
  if (typeof settings === 'string' || faults.length > 0) {
    process.stderr.write(`${faults.join('\n')}\n`)
    return 2
  }
  const bench = new ReplicasBench()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => process.exit(signal === 'SIGINT' ? 130 : 143))
  }
  try {
    print(`Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}`)
    print(
      '',
      await bench.cpu(settings),
      '',
      await bench.redisLoad(seconds),
      '',
      await bench.growth(growth, seconds),
    )
    return 0
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  } finally {
    await bench.stop()
  }
}

/** A group of replicas, and the Redis server through which they agree. */
type Group = { readonly members: readonly Server[]; readonly redis: RedisCounts; readonly children: Children }

class ReplicasBench {
  readonly #directory = mkdtempSync(join(tmpdir(), 'focus-breaker-replicas-'))
  readonly #all: Children[] = []

  constructor() {
    process.once('exit', () => rmSync(this.#directory, { recursive: true, force: true }))
  }

  /** The tables of processor time with replicas on and off. */
  async cpu(settings: Settings): Promise<string> {
    const missing = await this.#group(3, 'missing')
    const present = await this.#group(3, 'present')
    const compared = async ({ children, members }: Group, upstream: Server): Promise<Servers> => {
      const [first] = members
      if (first === undefined) throw new Error('there is no replica')
      const off = await this.#proxy(children, upstream, {})
      const subject: Peer = { name: 'one of three replicas', server: first }
      return {
        subject,
        before: undefined,
        others: [{ name: 'no replicas', server: off }],
        upstream,
        leftOut: [],
      }
    }
    const cases: readonly BenchCase[] = casesOf(
      settings,
      await compared(missing, missing.upstream),
      await compared(present, present.upstream),
    )
    const tracks = await runRounds(cases, settings, durationsOf(cases, settings))
    await this.#end(missing)
    await this.#end(present)
    return markdown(cases, rowsOf(tracks))
  }

  /** The commands of three replicas at rest, while one refuses requests, and while all do. */
  async redisLoad(seconds: number): Promise<string> {
    const group = await this.#group(3, 'missing')
    const mix = [{ bytes: bytesOf(CONFIGURE), status: 503 }]
    const refuse = (replicas: readonly Server[], rate: number) =>
      Promise.all(replicas.map(replica => pace(replica, mix, rate, seconds * 1000)))
    const rows = [
      ['at rest', await group.redis.during(() => delay(seconds * 1000))],
      [
        `one refuses ${REFUSALS_PER_SECOND}/s`,
        await group.redis.during(() => refuse(group.members.slice(0, 1), REFUSALS_PER_SECOND)),
      ],
      [
        `together they refuse ${REFUSALS_PER_SECOND}/s`,
        await group.redis.during(() => refuse(group.members, REFUSALS_PER_SECOND / 3)),
      ],
    ] as const
    await this.#end(group)
    return [
      '| Three replicas | Commands/s | of these | CPU of Redis, ms/s |',
      '|---|---:|---|---:|',
      ...rows.map(
        ([what, used]) =>
          `| ${what} | ${used.perSecond.toFixed(1)} | ${used.names} | ${used.cpuMsPerSecond.toFixed(1)} |`,
      ),
    ].join('\n')
  }

  /** The cost of more replicas at rest, and how fast a change reaches them. */
  async growth(counts: readonly number[], seconds: number): Promise<string> {
    const lines: string[] = []
    for (const count of counts) {
      const group = await this.#group(count, 'present')
      const probesBefore = await probesOf(group.upstream)
      const cpuBefore = group.members.map(({ pid }) => cpuMs(pid) ?? Number.NaN)
      const used = await group.redis.during(() => delay(seconds * 1000))
      const cpuUsed = group.members.map(
        ({ pid }, index) => (cpuMs(pid) ?? Number.NaN) - (cpuBefore[index] ?? Number.NaN),
      )
      const probes = (await probesOf(group.upstream)) - probesBefore
      const reachedMs = await overridesReach(group.members)
      lines.push(
        `| ${count} | ${used.perSecond.toFixed(1)} | ${used.cpuMsPerSecond.toFixed(1)} | ${(median(cpuUsed) / seconds).toFixed(1)} | ${((probes * 60) / seconds).toFixed(0)} | ${median(reachedMs).toFixed(1)} | ${Math.max(...reachedMs).toFixed(1)} |`,
      )
      await this.#end(group)
    }
    return [
      '| Replicas | Commands/s at rest | CPU of Redis, ms/s | CPU of a replica, ms/s | Probes/min | An override reaches the last, ms | at most |',
      '|---:|---:|---:|---:|---:|---:|---:|',
      ...lines,
    ].join('\n')
  }

  async stop(): Promise<void> {
    for (const children of this.#all) await children.stop()
  }

  async #group(count: number, fiber: 'present' | 'missing'): Promise<Group & { readonly upstream: Server }> {
    const children = new Children()
    this.#all.push(children)
    const port = await freePort()
    const server = await children.startProgram(
      'redis-server',
      [
        '--bind',
        '127.0.0.1',
        '--port',
        String(port),
        '--save',
        '',
        '--appendonly',
        'no',
        '--dir',
        this.#directory,
      ],
      port,
    )
    const upstream = await children.startNode([upstreamFile, fiber])
    const members: Server[] = []
    // Started one by one, because thirty starts at once would slow each other down.
    for (let index = 0; index < count; index += 1) {
      const replicas = { url: `redis://127.0.0.1:${port}`, name: `r${index}` }
      members.push(await this.#proxy(children, upstream, { replicas, admin: { token: TOKEN } }))
    }
    for (const member of members) {
      await until(
        async () => jsonAt((await ask(member.url, 'GET', '/-/status')).body, 'replicas', 'joined') === true,
      )
    }
    return { members, redis: new RedisCounts(port, server.pid), children, upstream }
  }

  async #proxy(children: Children, upstream: Server, config: object): Promise<Server> {
    const file = join(this.#directory, `${Math.random()}.json`)
    writeFileSync(file, JSON.stringify(config))
    const args = ['serve', '--config', file, '--host', '127.0.0.1', '--port', '0', '--upstream', upstream.url]
    const server = await children.startNode([main, ...args])
    await until(async () => {
      const { body } = await ask(server.url, 'GET', '/-/status')
      return jsonAt(body, 'reading') !== null && jsonAt(body, 'circuit', 'cause') !== 'starting'
    })
    return server
  }

  async #end({ children, redis }: Group): Promise<void> {
    redis.close()
    await children.stop()
  }
}

/** The commands that Redis received during an action. */
type Used = { readonly perSecond: number; readonly names: string; readonly cpuMsPerSecond: number }

/** Counts the commands of a Redis server from its own statistics. Commands that a script calls count as well. */
class RedisCounts {
  readonly #redis: Redis
  readonly #pid: number

  constructor(port: number, pid: number) {
    this.#redis = new Redis({ host: '127.0.0.1', port, maxRetriesPerRequest: 0, retryStrategy: () => null })
    // An error also rejects the command that failed.
    this.#redis.on('error', () => undefined)
    this.#pid = pid
  }

  async during(act: () => Promise<unknown>): Promise<Used> {
    const before = await this.#calls()
    const cpuBefore = cpuMs(this.#pid) ?? Number.NaN
    const startedAt = performance.now()
    await act()
    const seconds = (performance.now() - startedAt) / 1000
    const cpuUsed = (cpuMs(this.#pid) ?? Number.NaN) - cpuBefore
    const rates = [...(await this.#calls())]
      .map(([name, calls]) => [name, (calls - (before.get(name) ?? 0)) / seconds] as const)
      .filter(([, rate]) => rate > 0)
      .sort(([, one], [, other]) => other - one)
    return {
      perSecond: rates.reduce((sum, [, rate]) => sum + rate, 0),
      names: rates.map(([name, rate]) => `${name} ${rate.toFixed(1)}`).join(', '),
      cpuMsPerSecond: cpuUsed / seconds,
    }
  }

  close(): void {
    this.#redis.disconnect()
  }

  async #calls(): Promise<ReadonlyMap<string, number>> {
    const text = await this.#redis.info('commandstats')
    const found = [...text.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)]
    return new Map(
      found.map(([, name = '', calls]) => [name, Number(calls)] as const).filter(([name]) => name !== 'info'),
    )
  }
}

/**
 * Sets and removes an override at each replica in turn. Returns how long each took to reach the last replica, in
 * milliseconds.
 */
async function overridesReach(members: readonly Server[]): Promise<readonly number[]> {
  const streams = await Promise.all(members.map(openEvents))
  const reached: number[] = []
  try {
    for (let round = 0; round < OVERRIDES; round += 1) {
      const reason = `round ${round}`
      const seen = streams.map(stream => stream.until(reason))
      const where = members[round % members.length]
      if (where === undefined) break
      const startedAt = performance.now()
      await setOverride(where, reason)
      await Promise.all(seen)
      reached.push(performance.now() - startedAt)
    }
  } finally {
    for (const stream of streams) stream.close()
  }
  return reached
}

type Events = { readonly until: (text: string) => Promise<void>; readonly close: () => void }

/** The stream of events of a replica. */
async function openEvents({ url }: Server): Promise<Events> {
  const sent: ClientRequest = request(`${url}/-/events`, { agent: false }).end()
  const [response]: [IncomingMessage] = await new Promise((resolve, reject) => {
    sent.once('response', response => resolve([response])).once('error', reject)
  })
  let text = ''
  let look: () => void = () => undefined
  response.setEncoding('utf8').on('data', chunk => {
    text += chunk
    look()
  })
  response.on('error', () => undefined)
  return {
    until: wanted =>
      new Promise(resolve => {
        look = () => {
          if (text.includes(wanted)) resolve()
        }
        look()
      }),
    close: () => sent.destroy(),
  }
}

function setOverride({ url }: Server, reason: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' }
    request(`${url}/-/override`, { method: 'PUT', headers, agent: false }, response => {
      response.resume().once('end', () => {
        if (response.statusCode === 200) resolve()
        else reject(new Error(`PUT /-/override: ${response.statusCode}`))
      })
    })
      .once('error', reject)
      .end(JSON.stringify({ state: 'closed', reason, forSeconds: 60 }))
  })
}

async function probesOf(upstream: Server): Promise<number> {
  return Number(jsonAt((await ask(upstream.url, 'GET', '/bench/counts')).body, 'GET /live_metadata') ?? 0)
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`timed out after ${START_TIMEOUT_MS} ms: ${condition}`)
    await delay(50)
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (typeof address !== 'object' || address === null) throw new Error('there is no free port')
  return address.port
}

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? Number.NaN
}

function print(...lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`)
}

// At the end of the file, because classes are not hoisted.
process.exitCode = await run(process.env)
