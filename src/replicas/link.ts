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
  heard,
  isPending,
  isRepeated,
  joined,
  type Message,
  news,
  notJoined,
  rejected,
  type Shared,
  told,
} from '../domain/agreement.js'
import type { ReadingRules } from '../domain/knowledge.js'
import type { Instant } from '../domain/time.js'
import type { CommonClock } from './common-clock.js'
import { CLIENT_PACKAGE, type ClientLibrary, loadClient, type RedisServer } from './redis-server.js'
import { APPEND, JOIN, LOST, NOT_PROBER, STORE, TOO_NEW } from './scripts.js'
import { entryFields, parseEntry, parseShared, sharedText, WIRE_VERSION } from './wire.js'

/** What a link needs. */
export type LinkOptions = {
  /** Asked before each attempt to connect: a password may have been changed. @throws when it cannot be read. */
  readonly server: () => RedisServer
  readonly namespace: string
  /** This process; a new id for each start. */
  readonly origin: string
  readonly rules: () => ReadingRules
  /** For how long a state is believed after the last entry, when nobody probes. */
  readonly believedMs: () => number
  readonly clock: CommonClock
  /** What this process knows when it begins. */
  readonly shared: Shared
  /** The token of the prober's lease, as this process holds or held it. */
  readonly token: string
  /** What the replica goes by has changed, or may have; `entry` is the one that did it, if it was one. */
  readonly onChange: (shared: Shared, entry: Entry | undefined) => void
  readonly onJoined: () => void
  /** The replica does not reach the log, or could not join. */
  readonly onAlone: (problem: string) => void
}

/** An entry of a stream as ioredis gives it. */
export type StreamEntry = readonly [id: string, fields: readonly string[]]

/** A command that takes longer has failed. */
const COMMAND_TIMEOUT_MS = 1000

/** How long a wait for new entries lasts. Two of them, and twice the way to Redis and back, have to fit into `CURRENT_MS`. */
const BLOCK_MS = 500

/** What a replica knows is out of date when it asked for new entries this long ago: it was suspended. */
const CURRENT_MS = 2500

/** Its own entries are back in this time, or it writes to another log than it reads. */
const ECHO_MS = 3000

/** The first and the longest pause between two attempts to join, and for how long one has to last to be no flapping. */
const FIRST_PAUSE_MS = 250
const LONGEST_PAUSE_MS = 5000
const STABLE_MS = 10_000

/** How many entries are read at a time. */
const BATCH = 1000

/**
 * The connection of one replica to the log that all read.
 *
 * Nothing waits for it: `tell` returns at once, and whatever fails makes the replica go on alone until it can join again.
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
  /** By the numbers of own entries that have not come back from the log: when they were written. */
  readonly #written = new Map<number, number>()
  /** The numbers of own entries that tell what has been reported here before. */
  readonly #toldAgain = new Set<number>()
  readonly #followed = new Map<
    string,
    { from: string; readonly onEntries: (all: readonly StreamEntry[]) => void }
  >()
  /** Everything that was in the log at this time of the process is known. */
  #knownUntil = 0
  /** The process was suspended while it was alone: what it knows is out of date until it has a reading. */
  #isOutOfDate = false
  #hasJoined = false
  #isStopped = false
  #wake: (() => void) | undefined
  #loop: Promise<void> | undefined
  #problem = ''
  #skipped = 0

  constructor(options: LinkOptions) {
    this.#options = options
    this.#keys = { log: this.key('log'), state: this.key('state'), prober: this.key('prober') }
    this.#agreement = notJoined(options.shared)
  }

  /** The name of a key of these replicas. Another version of what is written has keys of its own. */
  key(suffix: string): string {
    return `focus-breaker:${WIRE_VERSION}:{${this.#options.namespace}}:${suffix}`
  }

  get isJoined(): boolean {
    return this.#agreement.isJoined
  }

  /** By which the scripts notice that the state in Redis is not the one that was joined. */
  get epoch(): string {
    return this.#epoch
  }

  /** The connection for short commands, each of which fails after a second; undefined while the replica is alone. */
  get redis(): Redis | undefined {
    return this.isJoined ? this.#connections?.commands : undefined
  }

  /** How many entries of the log were malformed or of another version. */
  get skipped(): number {
    return this.#skipped
  }

  /** False while the process knows nothing that is recent enough, because it was suspended. */
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

  /** Follows another stream from an entry on, until the replica is alone. */
  follow(key: string, from: string, onEntries: (all: readonly StreamEntry[]) => void): void {
    this.#followed.set(key, { from, onEntries })
  }

  /** Tells the others. What has to act at once does so before this returns. */
  tell(message: Message): void {
    const dated = this.#inCommonTime(message)
    if (dated.kind === 'reading') {
      this.#own = dated
      this.#isOutOfDate = false
    }
    const entry = this.#take(dated)
    if (!this.isJoined || actsAtOnce(dated)) this.#changed(entry)
    // A probe of one that is not the prober any more may be from before it was suspended.
    const isProbe = dated.kind === 'reading' && dated.reading.source === 'probe'
    this.#send(entry, isProbe ? this.#options.token : '')
  }

  /** Stores what the log says up to now, for those who join later. */
  async store(): Promise<void> {
    const { state, prober } = this.#keys
    const { token } = this.#options
    const args = [this.#epoch, token, this.#lastId, sharedText(this.#agreement.shared)]
    await this.redis?.eval(STORE, 2, state, prober, ...args)
  }

  /** A command has failed, so the replica goes on alone. */
  lost(error: Error): void {
    if (!this.isJoined) return
    this.#isOutOfDate = !this.isCurrent
    this.#agreement = alone(this.#agreement, this.#options.rules())
    this.#written.clear()
    this.#toldAgain.clear()
    this.#followed.clear()
    this.#disconnect()
    this.#options.onAlone(this.#explained(error))
  }

  #take(message: Message): Entry {
    this.#sequence += 1
    const entry: Entry = { origin: this.#options.origin, sequence: this.#sequence, message }
    this.#agreement = told(this.#agreement, entry, this.#options.rules())
    return entry
  }

  /** @param token of the lease that it needs; '' for none. */
  #send(entry: Entry, token: string): void {
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
        if (id === TOO_NEW) this.lost(new Error('the clock of this replica was ahead of that of the others'))
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
        // Both send commands that nothing here needs, and that a user of Redis may lack; the first one is reported on standard error.
        enableReadyCheck: false,
        disableClientInfo: true,
      })
      redis.on('error', (error: Error) => {
        this.#problem = error.message
      })
      return redis
    }
    this.#problem = ''
    const commands = make(COMMAND_TIMEOUT_MS)
    // Not `blockingTimeout`: with it a read without a response looks like one that found nothing, and one that comes later is lost.
    const reads = make(BLOCK_MS + COMMAND_TIMEOUT_MS)
    this.#connections = { commands, reads }
    await Promise.all([commands.connect(), reads.connect()])
    // The client would go on with database 0 where it may not select another one.
    if (db !== 0) await Promise.all([commands.select(db), reads.select(db)])
    return { commands, reads }
  }

  async #join(): Promise<void> {
    const { commands } = await this.#connect()
    const { log, state, prober } = this.#keys
    const { clock, rules, believedMs } = this.#options
    const { shared: own } = this.#agreement
    const common = this.#hasJoined ? clock.common() : 0
    const knownUntil = performance.now()
    const reply: unknown = await commands.eval(
      JOIN,
      3,
      ...[log, state, prober],
      ...[sharedText(own), crypto.randomUUID(), common, believedMs()],
    )
    if (!Array.isArray(reply)) throw new Error('unexpected response of Redis')
    const [epoch, id, text, time, isLeft] = reply.map(String)
    const stored = parseShared(text ?? '')
    if (epoch === undefined || id === undefined || stored === undefined)
      throw new Error('the state in Redis is malformed')
    // Before it has joined for the first time, and without a reading, nothing was dated.
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
    // What it has found out while it was about to join counts as well.
    const messages = news(shared, this.#agreement, this.#own, isLeft === '1')
    this.#hasJoined = true
    this.#knownUntil = knownUntil
    this.#agreement = joined(shared)
    const entries = messages.map(message => this.#take(message))
    this.#changed(undefined)
    for (const entry of entries) {
      this.#toldAgain.add(entry.sequence)
      this.#send(entry, '')
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
    // After a suspension the response to the wait before it says nothing of what came later.
    const wasWaiting = this.isCurrent
    const streams = wasWaiting
      ? await reads.xread('COUNT', BATCH, 'BLOCK', BLOCK_MS, 'STREAMS', ...keys, ...ids)
      : await reads.xread('COUNT', BATCH, 'STREAMS', ...keys, ...ids)
    for (const [key, entries] of streams ?? []) {
      if (key === this.#keys.log) for (const each of entries) this.#heard(each)
      else this.#deliver(key, entries)
    }
    // Without a new entry Redis has waited all that time.
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

  #heard(each: StreamEntry): void {
    const entry = this.#parsed(each)
    if (entry === undefined || !this.isJoined) return
    const isOwn = entry.origin === this.#options.origin
    const isKnown =
      isPending(this.#agreement, entry) ||
      isRepeated(this.#agreement.shared, entry) ||
      (isOwn && this.#toldAgain.delete(entry.sequence))
    if (isOwn) {
      for (const sequence of this.#written.keys())
        if (sequence <= entry.sequence) this.#written.delete(sequence)
    }
    this.#agreement = heard(this.#agreement, entry, this.#options.rules())
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

  /** What is dated by this clock while it is ahead of the common time would be too new for the others. */
  #inCommonTime(message: Message): Message {
    const { clock } = this.#options
    switch (message.kind) {
      case 'reading': {
        const { reading } = message
        return { ...message, reading: { ...reading, at: clock.toCommon(reading.at) } }
      }
      case 'override':
        // What is known here came earlier, also if it came from a replica whose clock is ahead of this one.
        return { ...message, at: Math.max(clock.toCommon(message.at), this.#overriddenAt + 1) }
      case 'knowledge':
      case 'doubt':
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
    // The library says why a connection failed in an event, and then only that it is closed.
    return this.#problem === '' ? error.message : this.#problem
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
    case 'doubt':
      return 0
  }
}

/**
 * How the client opens its connections.
 *
 * Its own way listens to the first error of a socket only, and closes one that is still shaking hands, which can fail twice:
 * a second error that nothing listens to would end the process.
 */
function connectorTo({ host, port, tls }: Omit<RedisServer, 'db'>, { AbstractConnector }: ClientLibrary) {
  return class extends AbstractConnector {
    constructor() {
      // It closes at once, and does not wait that long.
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
