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

/** The options of the replicas. */
export type ReplicasOptions = {
  /** Called before each attempt to connect, because a password may have changed. @throws if it cannot be read. */
  readonly server: () => RedisServer
  readonly namespace: string
  /** Identifies this replica for people. */
  readonly name: string
  readonly version: string
  readonly clock: CommonClock
  readonly rules: () => ReadingRules
  readonly probePeriodMs: () => number
}

/** The part of the process that decides. It receives the state that the replicas agree on. */
export type Decider = {
  readonly knowledge: Knowledge
  /** The override that was set over HTTP, if one is in force. */
  readonly httpOverride: Override | null
  readonly inFlight: number
  /** The number of guarded requests that all replicas together may have in flight at `now`; null if there is no limit. */
  readonly slotLimitAt: (now: Instant) => number | null
  readonly adopt: (shared: Shared, cause?: { readonly message: Message; readonly isOwn: boolean }) => void
}

/** A replica and the id of its process, which is new for each start. */
export type Member = ReplicaMember & { readonly origin: string }

/** The events of the replicas. */
export type ReplicasEvents = {
  joined: []
  /** After joining, this replica has reported for the first time, and knows the other members. */
  listed: []
  /** This replica cannot reach Redis, with the reason. Repeated when the reason changes. */
  alone: [problem: string]
  /** This replica has become the prober, or no longer is. */
  prober: [isProber: boolean]
  /** A probe is needed now. */
  probe: []
}

/** How often each replica reports, and for how long a share is valid. */
const REPORT_MS = 1000
const SHARE_MS = 3000

/** The minimum interval between two probe requests of this replica; those in between are combined. */
const PROBE_REQUEST_SPACING_MS = 250

/** If the clock of Redis is behind by more than this, it has gone back. A round trip explains half of it. */
const GONE_BACK_MS = 1000

/** The minimum interval between two requested reports. */
const REPORT_SPACING_MS = 100

/** The state is stored after this number of entries, or after this time. */
const STORE_ENTRIES = 100
const STORE_MS = 30_000

/** The prober's lease lasts this number of periods, and at least this long, because commands take time. */
const LEASE_PERIODS = 1.5
const SHORTEST_LEASE_MS = 600

/** A lease lasts at least this number of round trips. Otherwise it would expire before it is known or renewed. */
const LEASE_TRIPS = 4

/** The number of periods, and the minimum time, for which a state without a prober is trusted. */
const TRUSTED_PERIODS = 5
const TRUSTED_MS = 10_000

/**
 * The replicas of one focus-server, from the view of one of them: through Redis they agree on one order of readings and
 * overrides, one of them probes, and they share the slots of guarded requests.
 *
 * No request waits for this. A replica that cannot reach Redis continues with its own readings.
 */
export class Replicas extends EventEmitter<ReplicasEvents> {
  /** Identifies this process; a new id for each start. */
  readonly origin = crypto.randomUUID()
  readonly #options: ReplicasOptions
  readonly #token = crypto.randomUUID()
  #link: ReplicaLink | undefined
  #decider: Decider | undefined
  #problem: string | null = 'not connected yet'
  #changedAt: Instant
  #members: readonly Member[] = []
  /** The last known number of replicas. */
  #count = 1
  /** The number of guarded requests that may be in flight here, and until when; 0 before the first report after joining. */
  #share = 0
  #shareEndsAt = 0
  /** The limit for all replicas of which this is a share. */
  #shareOf = Number.POSITIVE_INFINITY
  #lacksSlot = false
  #isListed = false
  #isReporting = false
  #reportedAt = Number.NEGATIVE_INFINITY
  #reportTimer: NodeJS.Timeout | undefined
  #leaseEndsAt = 0
  /** The duration of the last lease command. */
  #leaseTripMs = 0
  #leaseTimer: NodeJS.Timeout | undefined
  #wasProber = true
  /** The number of own probes in a row that did not reach focus-server. */
  #unreachableProbes = 0
  #probeRequestedAt = Number.NEGATIVE_INFINITY
  #probeRequestTimer: NodeJS.Timeout | undefined
  #receivedEntries = 0
  #sender: string | undefined
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

  /** Whether this replica reaches the log that all replicas read. */
  get isJoined(): boolean {
    return this.#link?.isJoined ?? false
  }

  /** Host and port of Redis; undefined before the first attempt to connect. */
  get address(): string | undefined {
    return this.#link?.address
  }

  /** Why this replica cannot reach the others; null while it can. */
  get problem(): string | null {
    return this.#problem
  }

  /** Since when it has been joined, or alone. */
  get since(): Instant {
    return this.#changedAt
  }

  /** All known replicas, including this one, sorted by name. */
  get members(): readonly Member[] {
    return this.#members
  }

  /** Whether there are several replicas. While this one is alone: whether there were several. */
  get areSeveral(): boolean {
    return this.#count > 1
  }

  /** The number of entries that were skipped because they were malformed or of another version. */
  get skippedEntries(): number {
    return (this.#link?.skipped ?? 0) + this.#skipped
  }

  /** Counts a skipped entry of a stream other than the log. */
  noteSkipped(): void {
    this.#skipped += 1
  }

  /** The replica that sent the message that the decider is currently adopting; undefined if it is not known. */
  get sender(): string | undefined {
    return this.#sender
  }

  /** Whether this replica probes: of the joined replicas, one does, and each replica that is alone does. */
  get isProber(): boolean {
    return !this.isJoined || performance.now() < this.#leaseEndsAt
  }

  /** False while the state is out of date because the process was suspended. */
  get isCurrent(): boolean {
    return this.#link?.isCurrent ?? true
  }

  /** The connection for short commands, which fail after a second; undefined while this replica is alone. */
  get redis(): Redis | undefined {
    return this.#link?.redis
  }

  /** The name of a key of these replicas. */
  key(suffix: string): string {
    return this.#linked().key(suffix)
  }

  /** Follows a stream of these replicas from an entry on, until the connection is lost. */
  follow(suffix: string, from: string, onEntries: (all: readonly StreamEntry[]) => void): void {
    this.#linked().follow(this.key(suffix), from, onEntries)
  }

  /** Connects the decider with the replicas; nothing is sent before `start`. */
  attach(decider: Decider): void {
    this.#decider = decider
    const { server, namespace, clock, rules, probePeriodMs } = this.#options
    this.#link = new ReplicaLink({
      ...{ server, namespace, clock, rules, token: this.#token, origin: this.origin },
      trustedMs: () => Math.max(TRUSTED_MS, TRUSTED_PERIODS * probePeriodMs()),
      shared: unshared(decider.knowledge, decider.httpOverride),
      onChange: (shared, entry) => this.#changed(shared, entry),
      onJoined: () => void this.#joined(),
      onAlone: problem => this.#alone(problem),
    })
  }

  /** Starts connecting. Resolves when this replica has joined and knows whether it probes, or after `patienceMs`. */
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

  /** Releases the role of the prober immediately and permanently. */
  async stopProbing(): Promise<void> {
    clearTimeout(this.#leaseTimer)
    this.#isLeaving = true
    this.#leaseEndsAt = 0
    await this.redis?.eval(RELEASE, 1, this.key('prober'), this.#token).catch(() => undefined)
  }

  /** Leaves the group. */
  async stop(): Promise<void> {
    await this.stopProbing()
    this.#isStopped = true
    clearTimeout(this.#reportTimer)
    clearTimeout(this.#probeRequestTimer)
    await this.redis?.hdel(this.key('members'), this.origin).catch(() => undefined)
    await this.#link?.stop()
  }

  /** Sends a message to the others. If it has to take effect at once, it does so before this returns. */
  send(message: Message): void {
    this.#linked().send(message)
    if (message.kind !== 'reading' || message.reading.source !== 'probe') return
    this.#unreachableProbes = message.reading.kind === 'unreachable' ? this.#unreachableProbes + 1 : 0
    if (this.#unreachableProbes >= this.#options.rules().thresholds.unreachable) this.#handOver()
  }

  /** Requests a probe from the prober. */
  requestProbe(): void {
    if (this.isProber) {
      this.emit('probe')
      return
    }
    if (this.#probeRequestTimer !== undefined) return
    const inMs = this.#probeRequestedAt + PROBE_REQUEST_SPACING_MS - performance.now()
    if (inMs <= 0) {
      this.#probeRequestedAt = performance.now()
      this.send({ kind: 'probe-request' })
      return
    }
    this.#probeRequestTimer = setTimeout(() => {
      this.#probeRequestTimer = undefined
      this.requestProbe()
    }, inMs).unref()
  }

  /**
   * The number of guarded requests that may be in flight here, of `limit` for all replicas together. While this replica is
   * alone, it is an equal part, rounded up.
   */
  share(limit: number): number {
    if (!this.isJoined) return Math.ceil(limit / this.#count)
    // A share of a larger limit is no longer valid: together, the shares of all replicas would exceed the limit.
    return limit >= this.#shareOf && performance.now() < this.#shareEndsAt ? this.#share : 0
  }

  /** Notes that a request found no free slot here. Other replicas may have one to spare. */
  lacksSlot(): void {
    if (this.#lacksSlot) return
    this.#lacksSlot = true
    this.#reportSoon()
  }

  #changed(shared: Shared, entry: Entry | undefined): void {
    const decider = this.#decider
    if (decider === undefined) return
    const before = this.#slotLimit(decider)
    if (entry === undefined) decider.adopt(shared)
    else {
      const { message, origin } = entry
      const isOwn = origin === this.origin
      this.#receivedEntries += 1
      this.#sender = isOwn ? this.name : this.#members.find(member => member.origin === origin)?.name
      decider.adopt(shared, { message, isOwn })
      this.#sender = undefined
      if (message.kind === 'probe-request' && this.isProber) this.emit('probe')
    }
    if (isLower(this.#slotLimit(decider), before)) this.#reportSoon()
  }

  async #joined(): Promise<void> {
    this.#problem = null
    this.#changedAt = this.#options.clock.now()
    this.#share = 0
    this.#isListed = false
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
    // From now on, it has only its own readings.
    if (this.#wasProber) this.emit('probe')
    else this.#noteProber()
  }

  /** Uses the common time: a replica whose clock is still ahead would be further up the ramp than the others. */
  #slotLimit(decider: Decider): number | null {
    return decider.slotLimitAt(this.#options.clock.common())
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
    const slotLimit = this.#slotLimit(decider)
    const startedAt = performance.now()
    this.#isReporting = true
    this.#reportedAt = startedAt
    const lacked = this.#lacksSlot
    // The current share is valid until the response arrives.
    const held = startedAt < this.#shareEndsAt ? this.#share : 0
    this.#lacksSlot = false
    const { name, version } = this.#options
    const description: Description = { name, version, isProber: this.isProber, hasLimit: slotLimit !== null }
    try {
      const reply: unknown = await redis.eval(
        REPORT,
        2,
        ...[this.key('members'), this.key('state'), this.#linked().epoch, this.origin],
        ...[inFlight, lacked ? '1' : '0', slotLimit ?? -1, SHARE_MS, descriptionText(description), held],
      )
      if (reply === LOST) throw new Error('the data in Redis was lost')
      if (!Array.isArray(reply)) throw new Error('unexpected response from Redis')
      this.#take(reply, startedAt, slotLimit)
    } catch (error) {
      this.#lost(error)
      return
    } finally {
      this.#isReporting = false
    }
    if (this.#isStopped || !this.isJoined) return
    if (!this.#isListed) {
      this.#isListed = true
      this.emit('listed')
    }
    clearTimeout(this.#reportTimer)
    const now = this.#slotLimit(decider)
    const isOther = isLower(now, slotLimit) || (now === null && slotLimit !== null)
    // After another report, the others can use the slots that this replica has released.
    if (this.#lacksSlot || isOther || this.#share < held) this.#reportSoon()
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
    // Readings would look old until the clock has caught up. Joining again corrects the common time.
    if (common + tookMs + GONE_BACK_MS < clock.common()) throw new Error('the clock of Redis has gone back')
    this.#share = Number(share)
    this.#shareOf = limit ?? Number.POSITIVE_INFINITY
    // Measured from before the request, so that the share expires here before it expires in Redis.
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

  /** Lets another replica probe, because possibly only this one cannot reach focus-server. */
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
    if (this.#receivedEntries < STORE_ENTRIES && now - this.#storedAt < STORE_MS) return
    this.#receivedEntries = 0
    this.#storedAt = now
    await this.#linked().store()
  }

  #lost(error: unknown): void {
    this.#linked().lost(error instanceof Error ? error : new Error(String(error)))
  }

  #linked(): ReplicaLink {
    if (this.#link === undefined) throw new Error('attach must be called first')
    return this.#link
  }
}

/** Whether the limit is lower than before; null means no limit. */
function isLower(limit: number | null, before: number | null): boolean {
  return (limit ?? Number.POSITIVE_INFINITY) < (before ?? Number.POSITIVE_INFINITY)
}
