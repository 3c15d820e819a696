import { EventEmitter } from 'node:events'
import { performance } from 'node:perf_hooks'
import type { Redis } from 'ioredis'
import { type Entry, type Message, type Shared, unshared } from '../domain/agreement.js'
import type { Knowledge, ReadingRules } from '../domain/knowledge.js'
import type { Override } from '../domain/override.js'
import type { ReplicaMember } from '../domain/replica-group.js'
import type { Instant } from '../domain/time.js'
import type { CommonClock } from './common-clock.js'
import { ReplicaLink, type StreamEntry } from './link.js'
import type { RedisServer } from './redis-server.js'
import { LEASE, LOST, RELEASE, REPORT } from './scripts.js'
import { type Description, descriptionText, parseMember } from './wire.js'

/** What the replicas need. */
export type ReplicasOptions = {
  /** Asked before each attempt to connect: a password may have been changed. @throws when it cannot be read. */
  readonly server: () => RedisServer
  readonly namespace: string
  /** By which people tell this replica from the others. */
  readonly name: string
  readonly version: string
  readonly clock: CommonClock
  readonly rules: () => ReadingRules
  readonly probePeriodMs: () => number
}

/** The part of the process that decides. It receives what the replicas go by. */
export type Decider = {
  readonly knowledge: Knowledge
  /** The override that was set over HTTP, if one is in force. */
  readonly httpOverride: Override | null
  readonly inFlight: number
  /** How many guarded requests all replicas together may have in flight at an instant; null for any number. */
  readonly placeLimitAt: (now: Instant) => number | null
  readonly adopt: (shared: Shared, told?: { readonly message: Message; readonly isOwn: boolean }) => void
}

/** A replica, and its process: a new id for each start. */
export type Member = ReplicaMember & { readonly origin: string }

/** What the replicas tell those who listen. */
export type ReplicasEvents = {
  joined: []
  /** This replica does not reach Redis, for the reason given. Repeated when the reason changes. */
  alone: [problem: string]
  /** This replica probes from now on, or no longer does. */
  prober: [isProber: boolean]
  /** A probe is wanted now. */
  probe: []
}

/** How often each replica reports, and for how long a share is valid. */
const REPORT_MS = 1000
const SHARE_MS = 3000

/** The least time between two probe requests of this replica: together they are one. */
const DOUBT_SPACING_MS = 250

/** The clock of Redis has gone back when it is behind by this. The way to Redis and back explains half of it. */
const GONE_BACK_MS = 1000

/** The least time between two reports that were asked for. */
const REPORT_SPACING_MS = 100

/** The state is stored after so many entries, or so much time. */
const STORE_ENTRIES = 100
const STORE_MS = 30_000

/** The lease of the prober lasts this many periods, and at least so long: commands take their time. */
const LEASE_PERIODS = 1.5
const SHORTEST_LEASE_MS = 600

/** A lease lasts as long as so many of these commands took, or it would be over before it is known, or before it is renewed. */
const LEASE_TRIPS = 4

/** For how many periods, and at least how long, a state is believed that no prober renews. */
const BELIEVED_PERIODS = 5
const BELIEVED_MS = 10_000

/**
 * The replicas of one focus-server, seen from one of them: they agree on one order of readings and overrides through Redis,
 * one of them probes, and they share the places of guarded requests.
 *
 * No request waits for any of it. A replica that does not reach Redis goes on by its own readings.
 */
export class Replicas extends EventEmitter<ReplicasEvents> {
  /** This process: a new id for each start. */
  readonly origin = crypto.randomUUID()
  readonly #options: ReplicasOptions
  readonly #token = crypto.randomUUID()
  #link: ReplicaLink | undefined
  #decider: Decider | undefined
  #problem: string | null = 'not connected yet'
  #changedAt: Instant
  #members: readonly Member[] = []
  /** How many replicas there were when this one last knew. */
  #count = 1
  /** How many guarded requests may be in flight here, until when; none before the first report since it has joined. */
  #share = 0
  #shareEndsAt = 0
  /** Of how many places for all replicas it is a share. */
  #shareOf = Number.POSITIVE_INFINITY
  #lacksPlace = false
  #isReporting = false
  #reportedAt = Number.NEGATIVE_INFINITY
  #reportTimer: NodeJS.Timeout | undefined
  #leaseEndsAt = 0
  /** How long the last command for the lease took. */
  #leaseTripMs = 0
  #leaseTimer: NodeJS.Timeout | undefined
  #wasProber = true
  /** Own probes in a row that did not reach focus-server. */
  #unreachableProbes = 0
  #doubtAt = Number.NEGATIVE_INFINITY
  #doubtTimer: NodeJS.Timeout | undefined
  #heardEntries = 0
  #teller: string | undefined
  #skipped = 0
  #storedAt = 0
  #isLeaving = false
  #isStopped = false
  #settled: (() => void) | undefined

  constructor(options: ReplicasOptions) {
    super()
    this.#options = options
    this.#changedAt = options.clock.now()
  }

  get name(): string {
    return this.#options.name
  }

  get namespace(): string {
    return this.#options.namespace
  }

  /** Whether this replica reaches the log that all of them read. */
  get isJoined(): boolean {
    return this.#link?.isJoined ?? false
  }

  /** Why this replica is alone; null while it is not. */
  get problem(): string | null {
    return this.#problem
  }

  /** Since when it is joined, or alone. */
  get since(): Instant {
    return this.#changedAt
  }

  /** All replicas that are known, this one included, in the order of their names. */
  get members(): readonly Member[] {
    return this.#members
  }

  /** Whether there are several. While this one is alone, whether there were. */
  get areSeveral(): boolean {
    return this.#count > 1
  }

  /** How many entries of the log were malformed or of another version, and were skipped. */
  get skippedEntries(): number {
    return (this.#link?.skipped ?? 0) + this.#skipped
  }

  /** Counts one more that was skipped, of another stream than the log. */
  noteSkipped(): void {
    this.#skipped += 1
  }

  /** The replica that has told what the one that decides is taking over at this moment; undefined if it is not known. */
  get teller(): string | undefined {
    return this.#teller
  }

  /** Whether this replica is to probe: one of those that are joined is, and each that is alone. */
  get isProber(): boolean {
    return !this.isJoined || performance.now() < this.#leaseEndsAt
  }

  /** False while what this process knows is out of date, because it was suspended. */
  get isCurrent(): boolean {
    return this.#link?.isCurrent ?? true
  }

  /** The connection for short commands, each of which fails after a second; undefined while this replica is alone. */
  get redis(): Redis | undefined {
    return this.#link?.redis
  }

  /** The name of a key of these replicas. */
  key(suffix: string): string {
    return this.#linked().key(suffix)
  }

  /** Follows a stream of these replicas from an entry on, until this one is alone. */
  follow(suffix: string, from: string, onEntries: (all: readonly StreamEntry[]) => void): void {
    this.#linked().follow(this.key(suffix), from, onEntries)
  }

  /** Joins the one that decides with the replicas; nothing is sent before `start`. */
  attach(decider: Decider): void {
    this.#decider = decider
    const { server, namespace, clock, rules, probePeriodMs } = this.#options
    this.#link = new ReplicaLink({
      ...{ server, namespace, clock, rules, token: this.#token, origin: this.origin },
      believedMs: () => Math.max(BELIEVED_MS, BELIEVED_PERIODS * probePeriodMs()),
      shared: unshared(decider.knowledge, decider.httpOverride),
      onChange: (shared, entry) => this.#changed(shared, entry),
      onJoined: () => void this.#joined(),
      onAlone: problem => this.#alone(problem),
    })
  }

  /** Begins to connect. Resolves when this replica has joined and knows whether it probes, or after `patienceMs`. */
  async start(patienceMs: number): Promise<void> {
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, patienceMs)
      this.#settled = () => {
        clearTimeout(timer)
        resolve()
      }
      this.#linked().start()
    })
  }

  /** Lets another one probe, at once and for good. */
  async stopProbing(): Promise<void> {
    clearTimeout(this.#leaseTimer)
    this.#isLeaving = true
    this.#leaseEndsAt = 0
    await this.redis?.eval(RELEASE, 1, this.key('prober'), this.#token).catch(() => undefined)
  }

  /** Leaves the others. */
  async stop(): Promise<void> {
    await this.stopProbing()
    this.#isStopped = true
    clearTimeout(this.#reportTimer)
    clearTimeout(this.#doubtTimer)
    await this.redis?.hdel(this.key('members'), this.origin).catch(() => undefined)
    await this.#link?.stop()
  }

  /** Tells the others. What has to act at once does so before this returns. */
  tell(message: Message): void {
    this.#linked().tell(message)
    if (message.kind !== 'reading' || message.reading.source !== 'probe') return
    this.#unreachableProbes = message.reading.kind === 'unreachable' ? this.#unreachableProbes + 1 : 0
    if (this.#unreachableProbes >= this.#options.rules().thresholds.unreachable) this.#handOver()
  }

  /** Asks the one that probes for a probe now. */
  requestProbe(): void {
    if (this.isProber) {
      this.emit('probe')
      return
    }
    if (this.#doubtTimer !== undefined) return
    const inMs = this.#doubtAt + DOUBT_SPACING_MS - performance.now()
    if (inMs <= 0) {
      this.#doubtAt = performance.now()
      this.tell({ kind: 'doubt' })
      return
    }
    this.#doubtTimer = setTimeout(() => {
      this.#doubtTimer = undefined
      this.requestProbe()
    }, inMs).unref()
  }

  /**
   * How many guarded requests may be in flight here, of those that all replicas together may have. Alone it is an equal part,
   * rounded up.
   */
  share(limit: number): number {
    if (!this.isJoined) return Math.ceil(limit / this.#count)
    // A share of more places than there are now says nothing: those of all replicas together would be too many.
    return limit >= this.#shareOf && performance.now() < this.#shareEndsAt ? this.#share : 0
  }

  /** A request found no place here. The others may have one to spare. */
  lacksPlace(): void {
    if (this.#lacksPlace) return
    this.#lacksPlace = true
    this.#reportSoon()
  }

  #changed(shared: Shared, entry: Entry | undefined): void {
    const decider = this.#decider
    if (decider === undefined) return
    const before = this.#placeLimit(decider)
    if (entry === undefined) decider.adopt(shared)
    else {
      const { message, origin } = entry
      const isOwn = origin === this.origin
      this.#heardEntries += 1
      this.#teller = isOwn ? this.name : this.#members.find(member => member.origin === origin)?.name
      decider.adopt(shared, { message, isOwn })
      this.#teller = undefined
      if (message.kind === 'doubt' && this.isProber) this.emit('probe')
    }
    if (isLower(this.#placeLimit(decider), before)) this.#reportSoon()
  }

  async #joined(): Promise<void> {
    this.#problem = null
    this.#changedAt = this.#options.clock.now()
    this.#share = 0
    this.emit('joined')
    await this.#report()
    await this.#lease()
  }

  #alone(problem: string): void {
    const isNews = this.#problem !== problem
    if (this.#problem === null) this.#changedAt = this.#options.clock.now()
    this.#problem = problem
    this.#leaseEndsAt = 0
    clearTimeout(this.#reportTimer)
    clearTimeout(this.#leaseTimer)
    if (this.#isStopped || !isNews) return
    this.emit('alone', problem)
    // Its own readings are all that it has now.
    if (this.#wasProber) this.emit('probe')
    else this.#noteProber()
  }

  /** By the common time: a replica whose own clock is still ahead of it would be further up the ramp than the others. */
  #placeLimit(decider: Decider): number | null {
    return decider.placeLimitAt(this.#options.clock.common())
  }

  #reportSoon(): void {
    if (!this.isJoined || this.#isStopped) return
    clearTimeout(this.#reportTimer)
    const inMs = Math.max(0, this.#reportedAt + REPORT_SPACING_MS - performance.now())
    this.#reportTimer = setTimeout(() => void this.#report(), inMs).unref()
  }

  async #report(): Promise<void> {
    const redis = this.redis
    const decider = this.#decider
    if (redis === undefined || decider === undefined || this.#isReporting || this.#isStopped) return
    const { inFlight } = decider
    const placeLimit = this.#placeLimit(decider)
    const startedAt = performance.now()
    this.#isReporting = true
    this.#reportedAt = startedAt
    const lacked = this.#lacksPlace
    // It holds until the response is here.
    const held = startedAt < this.#shareEndsAt ? this.#share : 0
    this.#lacksPlace = false
    const { name, version } = this.#options
    const description: Description = { name, version, isProber: this.isProber, hasLimit: placeLimit !== null }
    try {
      const reply: unknown = await redis.eval(
        REPORT,
        2,
        ...[this.key('members'), this.key('state'), this.#linked().epoch, this.origin],
        ...[inFlight, lacked ? '1' : '0', placeLimit ?? -1, SHARE_MS, descriptionText(description), held],
      )
      if (reply === LOST) throw new Error('the data in Redis was lost')
      if (!Array.isArray(reply)) throw new Error('unexpected response of Redis')
      this.#take(reply, startedAt, placeLimit)
    } catch (error) {
      this.#lost(error)
      return
    } finally {
      this.#isReporting = false
    }
    if (this.#isStopped || !this.isJoined) return
    clearTimeout(this.#reportTimer)
    const now = this.#placeLimit(decider)
    const isOther = isLower(now, placeLimit) || (now === null && placeLimit !== null)
    // With the report after it the others have what this one has given back.
    if (this.#lacksPlace || isOther || this.#share < held) this.#reportSoon()
    else this.#reportTimer = setTimeout(() => void this.#report(), REPORT_MS).unref()
  }

  #take(
    [share, count, redisTime, shift, listed]: readonly unknown[],
    startedAt: number,
    limit: number | null,
  ): void {
    const { clock } = this.#options
    const common = Number(redisTime) + Number(shift)
    const tookMs = performance.now() - startedAt
    // Readings would look old until it has caught up. Joining makes up for it.
    if (common + tookMs + GONE_BACK_MS < clock.common()) throw new Error('the clock of Redis has gone back')
    this.#share = Number(share)
    this.#shareOf = limit ?? Number.POSITIVE_INFINITY
    // By its own clock, from before it asked: it ends here before it ends there.
    this.#shareEndsAt = startedAt + SHARE_MS
    this.#count = Math.max(1, Number(count))
    clock.compare(common, tookMs)
    if (!Array.isArray(listed)) return
    const texts: readonly string[] = listed.map(String)
    const members: Member[] = []
    for (let index = 0; index + 1 < texts.length; index += 2) {
      const member = parseMember(texts[index] ?? '', texts[index + 1] ?? '', {
        ...{ now: Number(redisTime), shiftMs: Number(shift) },
        ...{ self: this.origin, leaseMs: SHARE_MS },
      })
      if (member !== undefined) members.push(member)
    }
    this.#members = members.toSorted(
      (one, other) => one.name.localeCompare(other.name) || one.since - other.since,
    )
  }

  async #lease(): Promise<void> {
    const redis = this.redis
    if (redis === undefined || this.#isLeaving) return
    const lengthMs = this.#leaseMs
    const startedAt = performance.now()
    try {
      const isHeld = (await redis.eval(LEASE, 1, this.key('prober'), this.#token, lengthMs)) === 1
      this.#leaseTripMs = performance.now() - startedAt
      this.#leaseEndsAt = isHeld ? startedAt + lengthMs : 0
      this.#noteProber()
      this.#settled?.()
      if (isHeld) await this.#store()
    } catch (error) {
      this.#lost(error)
      return
    }
    if (this.#isLeaving || !this.isJoined) return
    const part = this.isProber ? 1 / 3 : (1 + Math.random()) / 8
    clearTimeout(this.#leaseTimer)
    this.#leaseTimer = setTimeout(() => void this.#lease(), lengthMs * part).unref()
  }

  /** It may be this replica only that does not reach focus-server: another one is to look. */
  #handOver(): void {
    this.#unreachableProbes = 0
    const areOthers = this.#members.some(({ isSelf, isPresent }) => isPresent && !isSelf)
    const { redis } = this
    if (redis === undefined || !this.isProber || !areOthers) return
    this.#leaseEndsAt = 0
    this.#noteProber()
    clearTimeout(this.#leaseTimer)
    this.#leaseTimer = setTimeout(() => void this.#lease(), this.#leaseMs).unref()
    redis.eval(RELEASE, 1, this.key('prober'), this.#token).catch(error => this.#lost(error))
  }

  get #leaseMs(): number {
    const periodsMs = LEASE_PERIODS * this.#options.probePeriodMs()
    return Math.ceil(Math.max(SHORTEST_LEASE_MS, periodsMs, LEASE_TRIPS * this.#leaseTripMs))
  }

  #noteProber(): void {
    const { isProber } = this
    if (isProber === this.#wasProber) return
    this.#wasProber = isProber
    this.emit('prober', isProber)
    if (isProber) this.emit('probe')
  }

  async #store(): Promise<void> {
    const now = performance.now()
    if (this.#heardEntries < STORE_ENTRIES && now - this.#storedAt < STORE_MS) return
    this.#heardEntries = 0
    this.#storedAt = now
    await this.#linked().store()
  }

  #lost(error: unknown): void {
    this.#linked().lost(error instanceof Error ? error : new Error(String(error)))
  }

  #linked(): ReplicaLink {
    if (this.#link === undefined) throw new Error('attach comes first')
    return this.#link
  }
}

/** Whether there are fewer places than before; null is any number. */
function isLower(limit: number | null, before: number | null): boolean {
  return (limit ?? Number.POSITIVE_INFINITY) < (before ?? Number.POSITIVE_INFINITY)
}
