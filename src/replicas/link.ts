import { connect, type Socket } from 'node:net'
import { performance } from 'node:perf_hooks'
import { connect as connectEncrypted } from 'node:tls'
import type { Redis } from 'ioredis'
import {
  type Agreement,
  actsAtOnce,
  afterEntry,
  alone,
  type Entry,
  effective,
  isPending,
  isRepeated,
  joined,
  type Message,
  news,
  notJoined,
  received,
  rejected,
  type Shared,
  sent,
} from '../domain/agreement.js'
import type { ReadingRules } from '../domain/knowledge.js'
import type { Instant } from '../domain/time.js'
import type { CommonClock } from './common-clock.js'
import { redisProblem } from './redis-problem.js'
import {
  addressOf,
  CLIENT_PACKAGE,
  type ClientLibrary,
  loadClient,
  type RedisServer,
} from './redis-server.js'
import { APPEND, JOIN, LOST, NOT_PROBER, STORE, TOO_NEW } from './scripts.js'
import { entryFields, parseEntry, parseShared, sharedText, WIRE_VERSION } from './wire.js'

/** The options of a link. */
export type LinkOptions = {
  /** Called before each attempt to connect, because a password may have changed. @throws if it cannot be read. */
  readonly server: () => RedisServer
  readonly namespace: string
  /** Identifies this process; a new id for each start. */
  readonly origin: string
  readonly rules: () => ReadingRules
  /** How long a state is trusted after the last entry if no replica probes. */
  readonly trustedMs: () => number
  readonly clock: CommonClock
  /** The state of this process at the start. */
  readonly shared: Shared
  /** The token that this process uses for the prober's lease. */
  readonly token: string
  /** Called when the state that the replica acts on may have changed; `entry` is the cause, if it was one entry. */
  readonly onChange: (shared: Shared, entry: Entry | undefined) => void
  readonly onJoined: () => void
  /** Called when the replica cannot reach the log or could not join. */
  readonly onAlone: (problem: string) => void
}

/** An entry of a stream, as ioredis returns it. */
export type StreamEntry = readonly [id: string, fields: readonly string[]]

/** A command that takes longer counts as failed. */
const COMMAND_TIMEOUT_MS = 1000

/** How long a read waits for new entries. Two waits and two round trips to Redis must fit into `CURRENT_MS`. */
const BLOCK_MS = 500

/** If the last read of new entries is older than this, the process was suspended, and its state is out of date. */
const CURRENT_MS = 2500

/** Own entries must come back within this time. Otherwise the replica writes to a different log than it reads. */
const ECHO_MS = 3000

/** The first and the longest pause between attempts to join, and how long a connection must last to count as stable. */
const FIRST_PAUSE_MS = 250
const LONGEST_PAUSE_MS = 5000
const STABLE_MS = 10_000

/** The number of entries that are read at a time. */
const BATCH = 1000

/**
 * The connection of one replica to the log that all replicas read.
 *
 * No request waits for it: `send` returns at once, and after any failure the replica continues alone until it can join again.
 */
export class ReplicaLink {
  readonly #options: LinkOptions
  readonly #keys: { readonly log: string; readonly state: string; readonly prober: string }
  #connections: { readonly commands: Redis; readonly reads: Redis } | undefined
  #agreement: Agreement
  #sequence = 0
  #epoch = ''
  #lastId = '0-0'
  /** The last reading of this process. */
  #own: Extract<Message, { kind: 'reading' }> | undefined
  /** When own entries were written that have not come back from the log yet, by their numbers. */
  readonly #written = new Map<number, number>()
  /** The numbers of own entries that repeat what has already been reported here. */
  readonly #sentAgain = new Set<number>()
  readonly #followed = new Map<
    string,
    { from: string; readonly onEntries: (all: readonly StreamEntry[]) => void }
  >()
  /** Everything that was in the log at this time, by the clock of the process, is known. */
  #knownUntil = 0
  /** Whether the process was suspended while it was alone, so that its state is out of date until its next reading. */
  #isOutOfDate = false
  #isEncrypted = false
  #address: string | undefined
  #hasJoined = false
  #isStopped = false
  #wake: (() => void) | undefined
  #loop: Promise<void> | undefined
  /** Why the last connection failed, if the library has reported it. */
  #failure: Error | undefined
  #skipped = 0

  constructor(options: LinkOptions) {
    this.#options = options
    this.#keys = { log: this.key('log'), state: this.key('state'), prober: this.key('prober') }
    this.#agreement = notJoined(options.shared)
  }

  /** The name of a key of these replicas. Each version of the data has its own keys. */
  key(suffix: string): string {
    return `focus-breaker:${WIRE_VERSION}:{${this.#options.namespace}}:${suffix}`
  }

  /** Host and port of Redis, as of the last attempt to connect. */
  get address(): string | undefined {
    return this.#address
  }

  get isJoined(): boolean {
    return this.#agreement.isJoined
  }

  /** Lets the scripts detect that the state in Redis is not the one that was joined. */
  get epoch(): string {
    return this.#epoch
  }

  /** The connection for short commands, which fail after a second; undefined while the replica is alone. */
  get redis(): Redis | undefined {
    return this.isJoined ? this.#connections?.commands : undefined
  }

  /** The number of log entries that were malformed or of another version. */
  get skipped(): number {
    return this.#skipped
  }

  /** False while the state is out of date because the process was suspended. */
  get isCurrent(): boolean {
    if (!this.isJoined) return !this.#isOutOfDate
    return performance.now() - this.#knownUntil < CURRENT_MS
  }

  start(): void {
    this.#loop = this.#run()
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    this.#wake?.()
    this.#disconnect()
    await this.#loop
  }

  /** Follows another stream from an entry on, until the connection is lost. */
  follow(key: string, from: string, onEntries: (all: readonly StreamEntry[]) => void): void {
    this.#followed.set(key, { from, onEntries })
  }

  /** Sends a message to the others. If it has to take effect at once, it does so before this returns. */
  send(message: Message): void {
    const dated = this.#inCommonTime(message)
    if (dated.kind === 'reading') {
      this.#own = dated
      this.#isOutOfDate = false
    }
    const entry = this.#take(dated)
    if (!this.isJoined || actsAtOnce(dated)) this.#changed(entry)
    // A replica that is no longer the prober may send a probe from before it was suspended.
    const isProbe = dated.kind === 'reading' && dated.reading.source === 'probe'
    this.#append(entry, isProbe ? this.#options.token : '')
  }

  /** Stores the current state of the log, for replicas that join later. */
  async store(): Promise<void> {
    const { state, prober } = this.#keys
    const { token } = this.#options
    const args = [this.#epoch, token, this.#lastId, sharedText(this.#agreement.shared)]
    await this.redis?.eval(STORE, 2, state, prober, ...args)
  }

  /** Notes that a command has failed: the replica continues alone. */
  lost(error: Error): void {
    if (!this.isJoined) return
    this.#isOutOfDate = !this.isCurrent
    this.#agreement = alone(this.#agreement, this.#options.rules())
    this.#written.clear()
    this.#sentAgain.clear()
    this.#followed.clear()
    this.#disconnect()
    this.#options.onAlone(this.#explained(error))
  }

  #take(message: Message): Entry {
    this.#sequence += 1
    const entry: Entry = { origin: this.#options.origin, sequence: this.#sequence, message }
    this.#agreement = sent(this.#agreement, entry, this.#options.rules())
    return entry
  }

  /** @param token the token of the lease that the entry needs; empty for none. */
  #append(entry: Entry, token: string): void {
    const redis = this.redis
    if (redis === undefined) return
    const { log, state, prober } = this.#keys
    this.#written.set(entry.sequence, performance.now())
    const given = [this.#epoch, token, timeOf(entry.message), ...entryFields(entry)]
    redis.eval(APPEND, 3, log, state, prober, ...given).then(
      id => {
        if (id === LOST) this.lost(new Error('the data in Redis was lost'))
        if (id === NOT_PROBER || id === TOO_NEW) this.#rejected(entry)
        // Joining corrects the clock.
        if (id === TOO_NEW) this.lost(new Error('the clock of this replica was ahead of the others'))
      },
      (error: Error) => this.lost(error),
    )
  }

  async #run(): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS
    while (!this.#isStopped) {
      const startedAt = performance.now()
      try {
        await this.#join()
        while (this.isJoined && !this.#isStopped) await this.#read()
      } catch (error) {
        const known = error instanceof Error ? error : new Error(String(error))
        if (this.#isStopped) return
        if (this.isJoined) this.lost(known)
        else this.#options.onAlone(this.#explained(known))
      }
      this.#disconnect()
      if (this.#isStopped) return
      if (performance.now() - startedAt > STABLE_MS) pauseMs = FIRST_PAUSE_MS
      await this.#pause(pauseMs * (0.8 + 0.4 * Math.random()))
      pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)
    }
  }

  async #connect(): Promise<{ readonly commands: Redis; readonly reads: Redis }> {
    const library = await loadClient()
    if (library === undefined)
      throw new Error(`the package ioredis is not installed (npm install ${CLIENT_PACKAGE})`)
    const { db, ...server } = this.#options.server()
    this.#isEncrypted = server.tls !== undefined
    this.#address = addressOf(server)
    const Connector = connectorTo(server, library)
    const make = (commandTimeout: number) => {
      const redis = new library.Redis({
        ...server,
        commandTimeout,
        lazyConnect: true,
        enableOfflineQueue: false,
        maxRetriesPerRequest: 0,
        connectTimeout: COMMAND_TIMEOUT_MS,
        retryStrategy: () => null,
        Connector,
        // Both send commands that are not needed and may be forbidden for the Redis user; the first also logs to standard error.
        enableReadyCheck: false,
        disableClientInfo: true,
      })
      redis.on('error', (error: Error) => {
        this.#failure = error
      })
      return redis
    }
    this.#failure = undefined
    const commands = make(COMMAND_TIMEOUT_MS)
    // Not `blockingTimeout`: a read without a response would look like an empty one, and a late response would be lost.
    const reads = make(BLOCK_MS + COMMAND_TIMEOUT_MS)
    this.#connections = { commands, reads }
    await Promise.all([commands.connect(), reads.connect()])
    // Otherwise the client would continue with database 0 if it may not select another one.
    if (db !== 0) await Promise.all([commands.select(db), reads.select(db)])
    return { commands, reads }
  }

  async #join(): Promise<void> {
    const { commands } = await this.#connect()
    const { log, state, prober } = this.#keys
    const { clock, rules, trustedMs } = this.#options
    const { shared: own } = this.#agreement
    const common = this.#hasJoined ? clock.common() : 0
    const knownUntil = performance.now()
    const reply: unknown = await commands.eval(
      JOIN,
      3,
      ...[log, state, prober],
      ...[sharedText(own), crypto.randomUUID(), common, trustedMs()],
    )
    if (!Array.isArray(reply)) throw new Error('unexpected response from Redis')
    const [epoch, id, text, time, isLeft] = reply.map(String)
    const stored = parseShared(text ?? '')
    if (epoch === undefined || id === undefined || stored === undefined)
      throw new Error('the state in Redis is malformed')
    // Before the first join, and without a reading, nothing has been dated by this clock.
    const mayGoBack = !this.#hasJoined && own.knowledge.reading === null
    clock.correct(Number(time) + (performance.now() - knownUntil) / 2, mayGoBack)
    let shared = stored
    this.#epoch = epoch
    this.#lastId = id
    for (let isEnd = false; !isEnd; ) {
      const entries = await commands.xrange(log, `(${this.#lastId}`, '+', 'COUNT', BATCH)
      for (const each of entries) {
        const entry = this.#parsed(each)
        if (entry !== undefined) shared = afterEntry(shared, entry, rules())
      }
      isEnd = entries.length < BATCH
    }
    // What the replica has learned while joining counts as well.
    const messages = news(shared, this.#agreement, this.#own, isLeft === '1')
    this.#hasJoined = true
    this.#knownUntil = knownUntil
    this.#agreement = joined(shared)
    const entries = messages.map(message => this.#take(message))
    this.#changed(undefined)
    for (const entry of entries) {
      this.#sentAgain.add(entry.sequence)
      this.#append(entry, '')
    }
    this.#options.onJoined()
  }

  async #read(): Promise<void> {
    const { reads } = this.#connections ?? {}
    if (reads === undefined) return
    const askedAt = performance.now()
    const followed = [...this.#followed]
    const keys = [this.#keys.log, ...followed.map(([key]) => key)]
    const ids = [this.#lastId, ...followed.map(([, { from }]) => from)]
    // After a suspension, the response to an earlier read does not include later entries.
    const wasWaiting = this.isCurrent
    const streams = wasWaiting
      ? await reads.xread('COUNT', BATCH, 'BLOCK', BLOCK_MS, 'STREAMS', ...keys, ...ids)
      : await reads.xread('COUNT', BATCH, 'STREAMS', ...keys, ...ids)
    for (const [key, entries] of streams ?? []) {
      if (key === this.#keys.log) for (const each of entries) this.#received(each)
      else this.#deliver(key, entries)
    }
    // Without a new entry, Redis has waited all that time.
    this.#knownUntil = wasWaiting && streams === null ? askedAt + BLOCK_MS : askedAt
    const [oldest = Number.POSITIVE_INFINITY] = this.#written.values()
    if (askedAt - oldest > ECHO_MS) throw new Error('what was written to Redis cannot be read there')
  }

  #deliver(key: string, entries: readonly StreamEntry[]): void {
    const followed = this.#followed.get(key)
    const last = entries.at(-1)
    if (followed === undefined || last === undefined) return
    followed.from = last[0]
    followed.onEntries(entries)
  }

  #received(each: StreamEntry): void {
    const entry = this.#parsed(each)
    if (entry === undefined || !this.isJoined) return
    const isOwn = entry.origin === this.#options.origin
    const isKnown =
      isPending(this.#agreement, entry) ||
      isRepeated(this.#agreement.shared, entry) ||
      (isOwn && this.#sentAgain.delete(entry.sequence))
    if (isOwn) {
      for (const sequence of this.#written.keys())
        if (sequence <= entry.sequence) this.#written.delete(sequence)
    }
    this.#agreement = received(this.#agreement, entry, this.#options.rules())
    this.#changed(isKnown ? undefined : entry)
  }

  #rejected(entry: Entry): void {
    if (entry.message === this.#own) this.#own = undefined
    this.#written.delete(entry.sequence)
    this.#agreement = rejected(this.#agreement, entry)
    this.#changed(undefined)
  }

  #parsed([id, fields]: StreamEntry): Entry | undefined {
    this.#lastId = id
    const entry = parseEntry(fields)
    if (entry === undefined) this.#skipped += 1
    return entry
  }

  /** Converts times to the common time: times of this clock while it is ahead would be too new for the others. */
  #inCommonTime(message: Message): Message {
    const { clock } = this.#options
    switch (message.kind) {
      case 'reading': {
        const { reading } = message
        return { ...message, reading: { ...reading, at: clock.toCommon(reading.at) } }
      }
      case 'override':
        // Must be later than the known change, which may come from a replica whose clock is ahead of this one.
        return { ...message, at: Math.max(clock.toCommon(message.at), this.#overriddenAt + 1) }
      case 'knowledge':
      case 'probe-request':
        return message
    }
  }

  get #overriddenAt(): Instant {
    return effective(this.#agreement, this.#options.rules()).overridden.at
  }

  #changed(entry: Entry | undefined): void {
    this.#options.onChange(effective(this.#agreement, this.#options.rules()), entry)
  }

  #explained(error: Error): string {
    // The library reports the cause of a failed connection in an event, and then only that the connection is closed.
    return redisProblem(this.#failure ?? error, this.#isEncrypted, !this.#hasJoined)
  }

  #disconnect(): void {
    const { commands, reads } = this.#connections ?? {}
    this.#connections = undefined
    commands?.disconnect()
    reads?.disconnect()
  }

  async #pause(milliseconds: number): Promise<void> {
    await new Promise<void>(resolve => {
      this.#wake = resolve
      setTimeout(resolve, milliseconds).unref()
    })
  }
}

function timeOf(message: Message): Instant {
  switch (message.kind) {
    case 'reading':
      return message.reading.at
    case 'override':
      return message.at
    case 'knowledge':
      return message.knowledge.newestAt
    case 'probe-request':
      return 0
  }
}

/**
 * Opens the connections of the client.
 *
 * The client's own connector listens only to the first error of a socket. A socket that is closed during its TLS handshake
 * can fail twice, and a second error without a listener would end the process.
 */
function connectorTo({ host, port, tls }: Omit<RedisServer, 'db'>, { AbstractConnector }: ClientLibrary) {
  return class extends AbstractConnector {
    constructor() {
      // `disconnect` closes at once, without this delay.
      super(0)
    }

    async connect(): Promise<Socket> {
      this.connecting = true
      const stream = tls === undefined ? connect({ host, port }) : connectEncrypted({ host, port, ...tls })
      stream.on('error', error => {
        this.firstError ??= error
      })
      this.stream = stream
      return stream
    }

    override disconnect(): void {
      this.connecting = false
      this.stream?.destroy()
    }
  }
}
