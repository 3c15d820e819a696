import type { Breaker } from '../breaker/breaker.js'
import type { OverrideEvent } from '../breaker/events.js'
import { lastOpenedAt, type Noted, type Notices, noted, noticeOf, unreportedIn } from '../domain/notices.js'
import type { Outage } from '../domain/outage.js'
import { isDeclared } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { OutageNotificationKind } from '../domain/vocabulary.js'
import type { OutageLog } from '../outages/log.js'
import { Delivery, type DeliveryFailure, type DeliverySettings } from './delivery.js'
import type { GroupNotices } from './group-notices.js'
import { type Handling, isAboutOverride, type Message, type OutageMessage, type Present } from './message.js'
import type { NotificationFile, Reported } from './notification-file.js'

/** The settings of notifications. */
export type NotifySettings = DeliverySettings & {
  /** The name of this installation. */
  readonly name?: string
  /** How long an outage has to last before it is reported as lasting. */
  readonly lastingAfterMs: number
  /** The minimum interval between two "outage opened" notifications. */
  readonly cooldownMs: number
  /** Whether overrides are reported. */
  readonly overrides?: boolean
  /** The URL of the status page. */
  readonly pageUrl?: string
}

/** The options of the notifier. */
export type NotifyOptions = {
  readonly breaker: Breaker
  readonly outageLog: OutageLog
  /** Keeps notifications across restarts; without it, nothing is kept. */
  readonly file?: NotificationFile | undefined
  /** Whether another process writes the same history and therefore sends the notifications. Without it, none does. */
  readonly isReportedElsewhere?: () => boolean
  /** The other replicas, if there may be any: each notification is sent by one of them. */
  readonly group?: GroupNotices | undefined
  /** The host of focus-server; also the name of the installation if the settings have none. */
  readonly defaultName: string
  /** Read at each notification. */
  readonly settings: () => NotifySettings
  readonly clock: () => Instant
  /** In [0, 1). */
  readonly random: () => number
  /** Called for each notification that could not be delivered. */
  readonly onFailure: (failure: DeliveryFailure) => void
}

/** A reading older than this is not used to report an outage. */
const STALE_MS = 60_000

/** The number of outages for which this replica remembers what it has reported. */
const MAX_OWN = 20

/** What this replica has reported about an outage. */
type Own = {
  /** Its key in the group. */
  readonly key?: Instant
  /** The key under which its start was reported. */
  readonly openedAs?: Instant
  readonly openedAt: Instant | null
  readonly isLasting: boolean
  readonly isHeld: boolean
  /** Whether the group knows all of this. */
  readonly isNoted: boolean
}

const NOTHING: Own = { openedAt: null, isLasting: false, isHeld: false, isNoted: false }

/** The end of a reported outage is not reported if it is older than this; also the longest delay of the timer. */
const DAY_MS = 86_400_000

/**
 * Decides when to report an outage: when it opens, when it lasts, and when it closes.
 *
 * An outage that opens within the cooldown is reported at the end of the cooldown, if it still lasts then. The end of an
 * outage is reported if the outage was. While a silent override is in force, no start is reported.
 *
 * The notifier compares what was reported with the outage history, and reports the difference. So the time of a comparison
 * does not matter: if a process is killed in between, the next one catches up.
 *
 * While another process writes the same history, as in a rolling update, that process sends the notifications. When it has
 * stopped, this one reads what the other has reported and could not deliver, and continues from there.
 *
 * Each replica compares on its own, taking into account what the group has reported, and queues what is due. The replica that
 * claims a notification first sends it. So another replica takes over if one is killed, and a replica that cannot reach the
 * others reports what it observes.
 *
 * A process that starts during an outage, without a record of an earlier process, cannot know whether that outage was
 * reported. It assumes that it has just been: it reports the start only after the cooldown, and the end in any case.
 */
export class Notifier {
  readonly #options: NotifyOptions
  readonly #delivery: Delivery
  readonly #startedAt: Instant
  /** Whether there is a record of what an earlier process has reported. */
  #isKnown = false
  #reported: Reported = { outage: null, at: null, lasting: null, unreported: 0 }
  /** Whether another process sends the notifications. */
  #isWaiting = false
  /** The start of the outage that the first reading found, if there is no record of earlier reports. */
  #found: Instant | undefined
  /** Whether the file must be written. It is also written when nothing was reported, so that the next process knows. */
  #isChanged = true
  /** The start of the current outage while the cooldown suppresses its notification. */
  #heldBack: Instant | undefined
  /** The `since` of the override that an operator set at this process, while it is in force. */
  #ownSince: Instant | undefined
  #timer: NodeJS.Timeout | undefined
  #soon: NodeJS.Immediate | undefined
  #isClosed = false
  /** What this replica has reported, by the start of each outage. */
  readonly #own = new Map<Instant, Own>()
  #isReviewing = false
  #isReviewWanted = false

  constructor(options: NotifyOptions) {
    this.#options = options
    const { clock, settings, random, onFailure, group } = options
    this.#startedAt = clock()
    this.#delivery = new Delivery({
      ...{ settings, clock, random, onFailure, group },
      present: message => this.#present(message),
      onChange: () => this.#save(),
    })
    this.#isWaiting = this.#isReportedElsewhere()
    if (!this.#isWaiting) this.#resume()
  }

  /** Starts listening to the breaker. The breaker calls its listeners in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('transition', () => this.#review())
    breaker.on('cause', ({ from }) => {
      const current = this.#options.outageLog.current()
      // If an earlier process ran, the outage is known from the history.
      if (from === 'starting' && !this.#isKnown && current !== undefined && !this.#isResumed(current)) {
        this.#found = current.startedAt
      }
      this.#review()
    })
    breaker.on('override', event => {
      this.#reportOverride(event)
      this.#review()
    })
    // A reload may have changed a time. The review runs after the changes that the reading causes.
    breaker.on('reading', () => {
      this.#soon ??= setImmediate(() => {
        this.#soon = undefined
        this.#review()
      })
    })
  }

  /**
   * Stops. Undelivered messages are left to the next process or to another replica, or given up if there is neither a file nor
   * another replica.
   */
  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    clearImmediate(this.#soon)
    const isKept = this.#options.file?.isWorking === true && !this.#isReportedElsewhere()
    await this.#delivery.close(isKept || this.#options.group?.hasOthers === true)
  }

  #isReportedElsewhere(): boolean {
    return this.#options.isReportedElsewhere?.() === true
  }

  /** Loads what an earlier process has reported and what it could not deliver. */
  #resume(): void {
    const { clock, file, outageLog } = this.#options
    const underWay = outageLog.current()?.startedAt ?? null
    const kept = file?.load(clock(), underWay)
    this.#isKnown = kept?.reported !== undefined
    // Without a record, assume that the earlier process has reported the outage in progress.
    this.#reported = kept?.reported ?? { outage: underWay, at: null, lasting: null, unreported: 0 }
    this.#delivery.restore(kept?.pending ?? [])
    this.#isChanged = true
  }

  /** Whether this outage began in an earlier process. */
  #isResumed({ startedAt }: Pick<Outage, 'startedAt'>): boolean {
    return this.#reported.outage === startedAt
  }

  #review(): void {
    if (this.#options.group === undefined) this.#reviewNow()
    else {
      this.#isReviewWanted = true
      if (!this.#isReviewing) void this.#reviewTogether(this.#options.group)
    }
  }

  /** Reviews, taking into account what the other replicas have reported, if they can be reached. */
  async #reviewTogether(group: GroupNotices): Promise<void> {
    this.#isReviewing = true
    while (this.#isReviewWanted && !this.#isClosed) {
      this.#isReviewWanted = false
      let notices = await this.#exchange(group)
      // Another replica may already have reported an outage that started meanwhile.
      while (this.#isNew(this.#options.outageLog.current())) notices = await this.#exchange(group)
      this.#reviewNow(notices)
      await this.#exchange(group)
    }
    this.#isReviewing = false
  }

  /** Shares what this replica has reported, and returns what the group has; undefined if the others cannot be reached. */
  async #exchange(group: GroupNotices): Promise<Notices | undefined> {
    const { outageLog, clock } = this.#options
    const current = outageLog.current()
    if (current !== undefined && this.#isNew(current)) this.#remember(current.startedAt, {})
    const concerned = outageLog.outages().filter(({ startedAt, endedAt }) => {
      const own = this.#own.get(startedAt)
      return own !== undefined && (endedAt === null || !own.isNoted)
    })
    if (concerned.length === 0) return undefined
    const all = concerned.toReversed().map(outage => this.#notedOf(outage))
    const notices = await group.exchange(before =>
      all.reduce((sofar, outage) => noted(sofar, outage, clock()), before),
    )
    if (notices === undefined) return undefined
    for (const { startedAt, endedAt } of all) {
      const key = this.#own.get(startedAt)?.key
      const notice = noticeOf(notices, { ...(key !== undefined && { key }), startedAt, endedAt })
      // An outage that has ended is noted for the last time.
      this.#remember(startedAt, { isNoted: endedAt !== null, ...(notice && { key: notice.key }) })
    }
    return notices
  }

  #isNew(outage: Outage | undefined): boolean {
    return outage !== undefined && !this.#own.has(outage.startedAt)
  }

  #notedOf({ startedAt, endedAt }: Outage): Noted {
    const { isNoted: _, openedAs: __, ...own } = this.#own.get(startedAt) ?? NOTHING
    // An earlier process has reported the start.
    const resumedAt = this.#isResumed({ startedAt }) ? (this.#reported.at ?? startedAt) : null
    const openedAt = own.openedAt ?? resumedAt
    return { startedAt, endedAt, ...own, openedAt, isFound: this.#found === startedAt }
  }

  #remember(startedAt: Instant, changed: Partial<Own>): void {
    this.#own.set(startedAt, { ...NOTHING, ...this.#own.get(startedAt), ...changed })
    const [oldest] = this.#own.keys()
    if (this.#own.size > MAX_OWN && oldest !== undefined) this.#own.delete(oldest)
  }

  /** Adopts what other replicas have reported. It is queued here as well, in case the replica that sends it is killed. */
  #adopt(notices: Notices, current: Outage | undefined): void {
    const { clock, settings } = this.#options
    const openedAt = lastOpenedAt(notices)
    const at = Math.max(openedAt ?? Number.NEGATIVE_INFINITY, this.#reported.at ?? Number.NEGATIVE_INFINITY)
    const unreported = unreportedIn(notices)
    const isNews =
      (Number.isFinite(at) && at !== this.#reported.at) || unreported !== this.#reported.unreported
    if (isNews) this.#update({ unreported, ...(Number.isFinite(at) && { at }) })
    if (current === undefined) return
    const { startedAt } = current
    const key = this.#own.get(startedAt)?.key ?? startedAt
    const notice = noticeOf(notices, { key, startedAt, endedAt: null })
    if (notice === undefined) return
    if (notice.isFound) this.#found = startedAt
    else if (this.#found === startedAt) {
      this.#found = undefined
      this.#isKnown = true
    }
    if (notice.openedAt !== null && this.#reported.outage !== startedAt) {
      this.#heldBack = undefined
      const isRecent = clock() - notice.openedAt <= settings().retryForMs
      if (isRecent) this.#report('outage.opened', current)
      this.#remember(startedAt, { openedAt: notice.openedAt, openedAs: notice.key })
      this.#isKnown = true
      this.#update({ outage: startedAt, unreported: 0 })
    }
    if (notice.isLasting && this.#reported.lasting !== startedAt) {
      this.#report('outage.lasting', current)
      this.#remember(startedAt, { isLasting: true })
      this.#update({ lasting: startedAt })
    }
  }

  /**
   * Reports what has changed since the last review, and schedules the next one.
   *
   * @param notices what the group has reported.
   */
  #reviewNow(notices?: Notices): void {
    const { breaker, outageLog, clock } = this.#options
    const { circuit, override, reading } = breaker.snapshot()
    // Before the first reading, it is not known whether the outage of an earlier process still lasts.
    if (this.#isClosed || reading === null) return
    clearTimeout(this.#timer)
    if (this.#isReportedElsewhere()) {
      this.#isWaiting = true
      return
    }
    if (this.#isWaiting) {
      this.#isWaiting = false
      this.#found = undefined
      this.#resume()
    }
    this.#delivery.start()
    const current = outageLog.current()
    this.#reviewEnd(current)
    if (notices !== undefined) this.#adopt(notices, current)
    // During a recovery the outage may be about to end. If the recovery fails, the transition causes another review.
    const isCertain = circuit.state !== 'half-open' && !this.#isStale(reading)
    if (current !== undefined && override?.silent !== true && isCertain) {
      const dueAt = this.#reviewCurrent(current)
      if (dueAt !== undefined) {
        const inMs = Math.min(DAY_MS, Math.max(1, dueAt - clock()))
        this.#timer = setTimeout(() => this.#review(), inMs).unref()
      }
    }
    if (this.#isChanged) this.#save()
  }

  /** Whether the process was suspended since the last reading: the outage may have ended. The next reading causes a review. */
  #isStale({ at }: Reading): boolean {
    return this.#options.clock() - at > STALE_MS
  }

  /** Reports the end of the outage that was reported. */
  #reviewEnd(current: Outage | undefined): void {
    const { outageLog, clock } = this.#options
    if (this.#heldBack !== undefined && this.#heldBack !== current?.startedAt) {
      // An earlier process may have reported the start of this outage.
      if (this.#heldBack === this.#found) this.#update({ outage: this.#found })
      else this.#update({ unreported: this.#reported.unreported + 1 })
      this.#heldBack = undefined
    }
    const startedAt = this.#reported.outage
    if (startedAt === null || startedAt === current?.startedAt) return
    this.#update({ outage: null })
    const ended = outageLog.outages().find(outage => outage.startedAt === startedAt)
    if (ended === undefined || ended.endedAt === null || clock() - ended.endedAt > DAY_MS) return
    this.#report('outage.closed', ended)
  }

  /** Reports the outage in progress if that is due. Returns the time at which the next report of it may be due. */
  #reviewCurrent(current: Outage): Instant | undefined {
    const { clock, settings } = this.#options
    const { cooldownMs, lastingAfterMs } = settings()
    const { startedAt } = current
    const now = clock()
    const lastsFrom = startedAt + lastingAfterMs
    const isLasting = () => this.#reported.lasting === startedAt
    // If that time was before this process started, assume that the earlier process has reported it.
    const mayLast = this.#isKnown || lastsFrom >= this.#startedAt
    const reportedAt = this.#found === startedAt ? this.#startedAt : this.#reported.at
    const openFrom = (reportedAt ?? Number.NEGATIVE_INFINITY) + cooldownMs
    if (this.#reported.outage !== startedAt) {
      this.#heldBack = startedAt
      if (this.#options.group !== undefined) this.#remember(startedAt, { isHeld: true })
      if (now >= openFrom) this.#reportCurrent('outage.opened', current, now >= lastsFrom)
    }
    if (mayLast && !isLasting() && now >= lastsFrom) this.#reportCurrent('outage.lasting', current, true)
    const dueAt = Math.min(
      this.#reported.outage === startedAt ? Number.POSITIVE_INFINITY : openFrom,
      mayLast && !isLasting() ? lastsFrom : Number.POSITIVE_INFINITY,
    )
    return Number.isFinite(dueAt) ? dueAt : undefined
  }

  #reportCurrent(kind: OutageNotificationKind, outage: Outage, isLasting: boolean): void {
    const { startedAt } = outage
    this.#heldBack = undefined
    this.#report(kind, outage)
    if (this.#options.group !== undefined) {
      const { key = startedAt, openedAt, openedAs = key } = this.#own.get(startedAt) ?? NOTHING
      const opened = { openedAt: openedAt ?? this.#options.clock(), openedAs }
      this.#remember(startedAt, { ...opened, ...(isLasting && { isLasting }) })
    }
    this.#update({
      outage: startedAt,
      at: this.#options.clock(),
      ...(isLasting && { lasting: startedAt }),
      unreported: 0,
    })
  }

  #report(kind: OutageNotificationKind, outage: Outage): void {
    const { settings, defaultName, clock } = this.#options
    const name = settings().name ?? defaultName
    const { unreported } = this.#reported
    const isFound = this.#found === outage.startedAt
    const { key, openedAs } = this.#own.get(outage.startedAt) ?? NOTHING
    this.#delivery.send({
      ...{ kind, name, source: defaultName, at: clock(), outage, unreported },
      ...(isFound && { foundAtStart: true }),
      ...(key !== undefined && { key }),
      ...(openedAs !== undefined && { openedAs }),
    })
  }

  #reportOverride(event: OverrideEvent): void {
    const { settings, defaultName, clock } = this.#options
    if (this.#isClosed || settings().overrides !== true) return
    // The other process does not know about an override that was set at this one.
    const isOwn = isSetHere(event) || event.override.since === this.#ownSince
    if (event.kind === 'set') this.#ownSince = isOwn ? event.override.since : undefined
    if (this.#isReportedElsewhere() && !isOwn) return
    const common = { name: settings().name ?? defaultName, source: defaultName, at: clock() }
    if (event.kind === 'set') {
      const { override, replaced: past } = event
      const kind = past === null ? 'override.set' : 'override.replaced'
      this.#delivery.send({ ...common, kind, override, past })
    } else {
      this.#delivery.send({ ...common, kind: `override.${event.kind}`, override: null, past: event.override })
    }
  }

  #update(changed: Partial<Reported>): void {
    this.#reported = { ...this.#reported, ...changed }
    this.#isChanged = true
  }

  #save(): void {
    const { file, settings } = this.#options
    if (this.#isWaiting || this.#isReportedElsewhere()) return
    this.#isChanged = false
    // Without webhooks, nothing is reported; and nothing was.
    if (settings().webhooks.length === 0 && !this.#isKnown) return
    file?.save(this.#reported, this.#delivery.pending())
  }

  #present(message: Message): Present {
    const { breaker, clock, settings } = this.#options
    const { pageUrl } = settings()
    return {
      handling: this.#handling(),
      now: clock(),
      override: breaker.snapshot().override,
      ...(pageUrl !== undefined && { pageUrl }),
      ...(isAboutOverride(message) ? { isFollowed: false } : this.#presentOf(message)),
    }
  }

  #presentOf({ outage }: OutageMessage) {
    const { breaker, outageLog } = this.#options
    const outages = outageLog.outages()
    const same = outages.find(({ startedAt }) => startedAt === outage.startedAt)
    const { circuit, reading } = breaker.snapshot()
    return {
      isFollowed: (outages[0]?.startedAt ?? outage.startedAt) > outage.startedAt,
      isGone: outageLog.current()?.startedAt !== outage.startedAt,
      isRecovering: circuit.state === 'half-open',
      ...(outage.endedAt === null && same !== undefined && same.endedAt !== null && { ended: same }),
      ...(same?.endedAt === null && { current: same }),
      ...(reading?.kind === 'unreachable' && { problem: reading.problem }),
    }
  }

  #handling(): Handling {
    const { breaker } = this.#options
    const { override } = breaker.snapshot()
    // In mode `observe`, not even an override refuses requests.
    if (!breaker.enforces) return 'observe'
    if (override === null) return 'circuit'
    return override.state === 'open' ? 'forced-open' : 'forced-closed'
  }
}

/** Whether an operator has set or removed the override at this process. */
function isSetHere(event: OverrideEvent): boolean {
  return event.kind === 'removed' || (event.kind === 'set' && !isDeclared(event.override))
}
