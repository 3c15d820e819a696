import type { ConnectionOptions } from 'node:tls'
import { Redis } from 'ioredis'
import {
  type Agreement,
  afterEntry,
  alone,
  type Entry,
  effective,
  heard,
  joined,
  type Message,
  rejected,
  type Shared,
  told,
} from '../domain/agreement.js'
import type { ReadingRules } from '../domain/knowledge.js'
import type { CommonClock } from './common-clock.js'
import { APPEND, JOIN, LEASE, RELEASE, STORE } from './scripts.js'
import { entryFields, parseEntry, parseShared, sharedText } from './wire.js'

/** Where Redis is, and how to get in. */
export type RedisServer = {
  readonly host: string
  readonly port: number
  readonly db: number
  readonly username?: string
  readonly password?: string
  readonly tls?: ConnectionOptions
}

/** What a link needs. */
export type LinkOptions = {
  readonly redis: RedisServer
  readonly namespace: string
  /** This process; a new id for each start. */
  readonly origin: string
  readonly rules: () => ReadingRules
  readonly clock: CommonClock
  /** What this process knows when it begins. */
  readonly shared: Shared
  /** What the replica goes by has changed, by an entry or because it has joined or is alone. */
  readonly onChange: (shared: Shared, by: Entry | undefined) => void
  /** Whether the replica reaches the log; `problem` says why not. */
  readonly onJoined: (isJoined: boolean, problem?: string) => void
}

/** A command that takes longer has failed. */
const COMMAND_TIMEOUT_MS = 1000

/** How long a look for new entries waits for one. */
const BLOCK_MS = 1000

/** The pauses between attempts to join. */
const RETRY_MS = 500

/** How many entries are read at a time. */
const BATCH = 1000

/**
 * The connection of one replica to the log that all read.
 *
 * Nobody waits for it: `tell` returns at once, and whatever fails makes the replica go on alone until it can join again.
 */
export class ReplicaLink {
  readonly #options: LinkOptions
  readonly #keys: { readonly log: string; readonly state: string; readonly prober: string }
  readonly #commands: Redis
  readonly #reads: Redis
  #agreement: Agreement
  #sequence = 0
  #lastId = '0-0'
  #own: Message | undefined
  #isStopped = false
  #loop: Promise<void> | undefined
  /** Entries that were not of this version, or malformed. */
  skipped = 0

  constructor(options: LinkOptions) {
    this.#options = options
    const prefix = `focus-breaker:{${options.namespace}}`
    this.#keys = { log: `${prefix}:log`, state: `${prefix}:state`, prober: `${prefix}:prober` }
    this.#agreement = { isJoined: false, shared: options.shared, pending: [] }
    const connect = (limits: { readonly commandTimeout: number } | { readonly blockingTimeout: number }) =>
      new Redis({
        ...options.redis,
        ...limits,
        lazyConnect: true,
        enableOfflineQueue: false,
        maxRetriesPerRequest: 0,
        connectTimeout: COMMAND_TIMEOUT_MS,
        retryStrategy: () => null,
      })
    this.#commands = connect({ commandTimeout: COMMAND_TIMEOUT_MS })
    this.#reads = connect({ blockingTimeout: BLOCK_MS + COMMAND_TIMEOUT_MS })
    // What fails rejects its command; an event without a listener would be logged by the library.
    for (const redis of [this.#commands, this.#reads]) redis.on('error', () => undefined)
  }

  get isJoined(): boolean {
    return this.#agreement.isJoined
  }

  start(): void {
    this.#loop = this.#run()
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    this.#commands.disconnect()
    this.#reads.disconnect()
    await this.#loop
  }

  /**
   * Tells the others. What has to act at once does so before this returns.
   *
   * @param token of the prober's lease, for what only the prober may say.
   */
  tell(message: Message, token = ''): void {
    this.#sequence += 1
    const entry: Entry = { origin: this.#options.origin, sequence: this.#sequence, message }
    if (message.kind === 'reading') this.#own = message
    this.#take(told(this.#agreement, entry, this.#options.rules()), entry)
    if (!this.#agreement.isJoined) return
    const { log, state, prober } = this.#keys
    this.#commands.eval(APPEND, 3, log, state, prober, token, ...entryFields(entry)).then(
      id => {
        if (id === null) this.#take(rejected(this.#agreement, entry), undefined)
      },
      (error: Error) => this.#lost(error),
    )
  }

  /** Takes or renews the lease of the one that probes. */
  async lease(token: string, lengthMs: number): Promise<boolean> {
    return (await this.#commands.eval(LEASE, 1, this.#keys.prober, token, lengthMs)) === 1
  }

  async release(token: string): Promise<void> {
    await this.#commands.eval(RELEASE, 1, this.#keys.prober, token)
  }

  /** Stores what the log says up to now, for those who join later. */
  async store(token: string): Promise<void> {
    const { state, prober } = this.#keys
    await this.#commands.eval(
      STORE,
      2,
      state,
      prober,
      token,
      this.#lastId,
      sharedText(this.#agreement.shared),
    )
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      try {
        await this.#join()
        while (!this.#isStopped && this.#agreement.isJoined) await this.#read()
      } catch (error) {
        this.#lost(error instanceof Error ? error : new Error(String(error)))
      }
      this.#commands.disconnect()
      this.#reads.disconnect()
      if (!this.#isStopped) await new Promise(resolve => setTimeout(resolve, RETRY_MS).unref())
    }
  }

  async #join(): Promise<void> {
    await Promise.all([this.#commands.connect(), this.#reads.connect()])
    const { log, state } = this.#keys
    const { clock, rules } = this.#options
    const seed = sharedText(this.#agreement.shared)
    const reply: unknown = await this.#commands.eval(JOIN, 2, log, state, seed)
    if (!Array.isArray(reply)) throw new Error('unexpected reply of Redis')
    const [id, text, seconds, micros] = reply.map(String)
    const stored = parseShared(text ?? '')
    if (id === undefined || stored === undefined) throw new Error('the stored state is of another version')
    clock.correct(Number(seconds) * 1000 + Number(micros) / 1000)
    let shared = stored
    this.#lastId = id
    for (;;) {
      const entries = await this.#commands.xrange(log, `(${this.#lastId}`, '+', 'COUNT', BATCH)
      for (const [entryId, fields] of entries) {
        this.#lastId = entryId
        const entry = parseEntry(fields)
        if (entry === undefined) this.skipped += 1
        else shared = afterEntry(shared, entry, rules())
      }
      if (entries.length < BATCH) break
    }
    this.#take(joined(shared), undefined)
    this.#options.onJoined(true)
    const own = this.#own
    if (own?.kind === 'reading' && own.reading.at >= shared.knowledge.newestAt) this.tell(own)
  }

  async #read(): Promise<void> {
    const { log } = this.#keys
    const streams = await this.#reads.xread('COUNT', BATCH, 'BLOCK', BLOCK_MS, 'STREAMS', log, this.#lastId)
    for (const [, entries] of streams ?? []) {
      for (const [id, fields] of entries) {
        this.#lastId = id
        const entry = parseEntry(fields)
        if (entry === undefined) this.skipped += 1
        else this.#take(heard(this.#agreement, entry, this.#options.rules()), entry)
      }
    }
  }

  #take(agreement: Agreement, by: Entry | undefined): void {
    this.#agreement = agreement
    this.#options.onChange(effective(agreement, this.#options.rules()), by)
  }

  #lost(error: Error): void {
    if (!this.#agreement.isJoined) return
    this.#agreement = alone(this.#agreement, this.#options.rules())
    this.#options.onJoined(false, error.message)
    this.#commands.disconnect()
    this.#reads.disconnect()
  }
}
