import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { Redis } from 'ioredis'
import { freePort, type Program, startProgram, until } from './harness.js'
import { pause, resume } from './paused.js'

/** A directive of redis.conf and its arguments, such as `['maxmemory', '2mb']`. */
export type Directive = readonly [name: string, ...values: readonly string[]]

/** A real redis-server on loopback that keeps nothing on disk. Made by `redisServer`. */
export class RedisServer {
  readonly port: number
  readonly #t: TestContext
  readonly #directory: string
  readonly #directives: readonly Directive[]
  #program: Program<true> | undefined

  constructor(t: TestContext, port: number, directory: string, directives: readonly Directive[]) {
    this.#t = t
    this.port = port
    this.#directory = directory
    this.#directives = directives
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`
  }

  get pid(): number {
    if (this.#program === undefined) throw new Error('redis-server has not been started')
    return this.#program.pid
  }

  /** Starts it, empty. */
  async start(): Promise<void> {
    const usual: readonly Directive[] = [
      ['bind', '127.0.0.1'],
      ['port', String(this.port)],
      ['save', ''],
      ['appendonly', 'no'],
      ['dir', this.#directory],
      // A second server gets the data without delay.
      ['repl-diskless-sync-delay', '0'],
    ]
    this.#program = await startProgram(this.#t, {
      command: '/usr/bin/redis-server',
      args: [...usual, ...this.#directives].flatMap(([name, ...values]) => [`--${name}`, ...values]),
      readyWhen: line => (line.includes('Ready to accept connections') ? true : undefined),
    })
  }

  /** Ends it with SIGKILL; its data is lost. */
  async kill(): Promise<void> {
    process.kill(this.pid, 'SIGKILL')
    await this.#program?.stop()
  }

  /** Stops it with SIGSTOP: its connections stay open, and it does not respond. */
  pause(): void {
    pause(this.pid)
  }

  resume(): void {
    resume(this.pid)
  }

  /** Replicates this server from now on, and waits for the first complete copy. */
  async follow(leader: RedisServer): Promise<void> {
    const redis = this.client()
    await redis.replicaof('127.0.0.1', leader.port)
    await until(async () => (await redis.info('replication')).includes('master_link_status:up'), {
      what: 'the second server has copied the first one',
    })
    redis.disconnect()
  }

  /** Stops replicating, and accepts writes. */
  async promote(): Promise<void> {
    const redis = this.client()
    await redis.replicaof('NO', 'ONE')
    redis.disconnect()
  }

  /** Kills it and starts it again, empty, on the same port. */
  async restartEmpty(): Promise<void> {
    await this.kill()
    await this.start()
  }

  /** A client for the duration of the test, which gives up at once when the server is gone. */
  client(credentials: { readonly username?: string; readonly password?: string } = {}): Redis {
    const redis = new Redis({
      ...{ host: '127.0.0.1', port: this.port, ...credentials },
      ...{ maxRetriesPerRequest: 0, commandTimeout: 5000, retryStrategy: () => 200 },
    })
    // A failed command rejects; the library would print an error event without a listener.
    redis.on('error', () => undefined)
    this.#t.after(() => redis.disconnect())
    return redis
  }
}

/** Starts a redis-server on a free port of loopback, until the test ends. */
export async function redisServer(
  t: TestContext,
  directives: readonly Directive[] = [],
): Promise<RedisServer> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-redis-'))
  const server = new RedisServer(t, await freePort(), directory, directives)
  // Before the hook that ends it: a paused program does not react to SIGTERM.
  t.after(() => resume(server.pid))
  await server.start()
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return server
}
