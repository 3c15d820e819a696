import type { Breaker } from '../breaker/breaker.js'
import { overrideAsJson, pastOverrideAsJson } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import { nameAmongSeveral, type ReplicaGroup } from '../domain/replica-group.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import type { ReadingSource } from '../domain/vocabulary.js'

/** The dependencies of an `EventRing`. */
export type EventRingOptions = {
  readonly clock: () => Instant
  /** Part of every event id, so that an id of another process resumes nothing. */
  readonly startedAt: Instant
  /** Whether all counts up to this moment are on disk, or cannot be written. A write may be late under heavy load. */
  readonly hasWritten?: ((at: Instant) => boolean) | undefined
  /**
   * The group of replicas that this process belongs to, if `replicas.url` is set, and the unique id of this process.
   */
  readonly group?: (ReplicaGroup & { readonly origin: string }) | undefined
}

/** The events that every replica publishes, in the same order and with the same times. */
const SHARED_TYPES = ['transition', 'override'] as const

type SharedType = (typeof SHARED_TYPES)[number]

/** The positions of the last transition and the last override that a client has seen. */
export type Seen = Readonly<Record<SharedType, number>>

/** An event as it is sent, and its position among the shared events of its type. */
export type PublishedEvent = {
  readonly text: string
  readonly shared?: { readonly type: SharedType; readonly position: number }
}

/** How many events are kept for clients that resume. */
const RING_SIZE = 1000

/** The minimum interval between two published readings of the same source and kind. */
const READING_SPACING_MS = 1000

/** Refusals are published as a count, at this interval at most. */
const REFUSED_SPACING_MS = 1000

/** The number of refused requests, and of requests that only mode `observe` forwarded. */
type RefusedCounts = { readonly count: number; readonly wouldRefuse: number }

const NONE: RefusedCounts = { count: 0, wouldRefuse: 0 }

type Event = PublishedEvent & { readonly number: number }

/** Length of the part of a replica's event id that identifies its process, in addition to the start time. */
const ORIGIN_LENGTH = 8

/**
 * The events of `/-/events`, numbered from 1: `transition`, `reading`, `override`, and `refused` with the number of
 * refusals since the previous one. Keeps the latest events for clients that resume.
 *
 * With replicas, an id also contains the positions of the last transition and override. These have the same times at
 * every replica, so a client that resumes with the id of another replica gets the ones it has not seen, and none twice.
 * Readings and refusals are not repeated for it.
 */
export class EventRing {
  readonly #clock: () => Instant
  readonly #epoch: string
  readonly #hasWritten: (at: Instant) => boolean
  /** End of the interval that the next `refused` event reports. */
  #dueUntil = 0
  readonly #events: Event[] = []
  readonly #listeners: ((event: PublishedEvent) => void)[] = []
  readonly #group: ReplicaGroup | undefined
  #seen: Seen
  #count = 0
  /** The last published reading of each source. Many failed configure requests must not hide the probes. */
  readonly #lastReadings = new Map<ReadingSource, Reading>()
  /** Refusals that the next `refused` event reports, and the refusals after them. */
  #due = NONE
  #new = NONE
  #timer: NodeJS.Timeout | undefined

  constructor({ clock, startedAt, hasWritten, group }: EventRingOptions) {
    this.#hasWritten = hasWritten ?? (() => true)
    this.#clock = clock
    this.#group = group
    const start = Math.round(startedAt).toString(36)
    this.#epoch =
      group === undefined ? start : `${start}.${group.origin.replaceAll('-', '').slice(0, ORIGIN_LENGTH)}`
    // A client of this process has not missed events from before its start.
    this.#seen = { transition: positionOf(startedAt), override: positionOf(startedAt) }
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ at, from, to, cause, since, outageMs, reading }) =>
      this.#publish(
        'transition',
        {
          at: rfc3339(at),
          from,
          to,
          cause,
          since: rfc3339(since),
          outageStartedAt: to === 'closed' ? null : rfc3339(at - outageMs),
          outageSeconds: Math.round(outageMs / 1000),
          source: reading.source,
        },
        positionOf(at),
      ),
    )
    breaker.on('cause', ({ at, from, to, since, outageMs, reading }) =>
      this.#publish(
        'transition',
        {
          at: rfc3339(at),
          from: 'open',
          to: 'open',
          cause: to,
          earlierCause: from,
          since: rfc3339(since),
          outageStartedAt: rfc3339(at - outageMs),
          outageSeconds: Math.round(outageMs / 1000),
          source: reading.source,
        },
        positionOf(at),
      ),
    )
    breaker.on('override', event =>
      this.#publish(
        'override',
        {
          kind: event.kind,
          ...(event.kind === 'set' ? overrideAsJson(event.override) : pastOverrideAsJson(event.override)),
          ...(event.kind === 'set' &&
            event.replaced !== null && { replaced: pastOverrideAsJson(event.replaced) }),
        },
        // Each replica has its own time for the end of an override, so the end takes the position after its beginning.
        positionOf(event.override.since) + (event.kind === 'set' ? 0 : 1),
      ),
    )
    breaker.on('reading', (reading, isNewest, isOwn) => this.#publishReading(reading, isNewest, isOwn))
    breaker.on('refused', ({ enforced }) => this.#countRefused(enforced))
  }

  /** Calls the listener with each event from now on, in the form of server-sent events. It must not throw. */
  listen(listener: (event: PublishedEvent) => void): void {
    this.#listeners.push(listener)
  }

  /**
   * The kept events after the one with this id, as server-sent events. For an id of another replica: only the shared
   * events that the client has not seen. Empty without an id or for an id of another process: the client must read the
   * state.
   */
  after(lastEventId: string | undefined): string {
    const [epoch, number] = (lastEventId ?? '').split('-')
    const seen = this.seenElsewhere(lastEventId)
    const isMissed = (event: Event) =>
      seen === undefined ? event.number > Number(number) : isNew(event, seen)
    if (seen === undefined && epoch !== this.#epoch) return ''
    return this.#events
      .filter(isMissed)
      .map(event => event.text)
      .join('')
  }

  /** The events that a client with an id of another replica has seen; undefined without replicas, and for any other id. */
  seenElsewhere(lastEventId: string | undefined): Seen | undefined {
    if (this.#group === undefined) return undefined
    const [, epoch, transition = '', override = ''] =
      /^([0-9a-z]{1,16}\.[0-9a-z]{1,16})-\d{1,16}-([0-9a-z]{1,11})\.([0-9a-z]{1,11})$/.exec(
        lastEventId ?? '',
      ) ?? []
    if (epoch === undefined || epoch === this.#epoch) return undefined
    return { transition: Number.parseInt(transition, 36), override: Number.parseInt(override, 36) }
  }

  /** Whether a client that has seen this much of another replica's events has seen this one as well. */
  isSeen({ shared }: PublishedEvent, seen: Seen): boolean {
    return shared !== undefined && shared.position <= seen[shared.type]
  }

  /** Stops publishing `refused` events. */
  close(): void {
    clearTimeout(this.#timer)
  }

  #publishReading(reading: Reading, isNewest: boolean, isOwn: boolean): void {
    const last = this.#lastReadings.get(reading.source)
    if (last?.kind === reading.kind && reading.at - last.at < READING_SPACING_MS) return
    this.#lastReadings.set(reading.source, reading)
    this.#publish('reading', {
      ...{ ...reading, at: rfc3339(reading.at) },
      ...(!isNewest && { outdated: true }),
      ...(!isOwn && { elsewhere: true }),
    })
  }

  #countRefused(enforced: boolean): void {
    const { count, wouldRefuse } = this.#new
    this.#new = enforced ? { count: count + 1, wouldRefuse } : { count, wouldRefuse: wouldRefuse + 1 }
    this.#timer ??= setTimeout(() => this.#publishRefused(), REFUSED_SPACING_MS).unref()
  }

  /**
   * Publishes counts one interval late, because they are written to disk within half an interval; later if they are not
   * on disk yet.
   */
  #publishRefused(): void {
    if (this.#due !== NONE && !this.#hasWritten(this.#dueUntil)) {
      this.#timer = setTimeout(() => this.#publishRefused(), REFUSED_SPACING_MS).unref()
      return
    }
    if (this.#due !== NONE) {
      const { count, wouldRefuse } = this.#due
      this.#publish('refused', { at: rfc3339(this.#clock()), wouldRefuse, count })
    }
    this.#due = this.#new
    this.#dueUntil = this.#clock()
    this.#new = NONE
    this.#timer =
      this.#due === NONE ? undefined : setTimeout(() => this.#publishRefused(), REFUSED_SPACING_MS).unref()
  }

  /** @param position position of a shared event. */
  #publish(type: 'reading' | 'refused', data: object): void
  #publish(type: SharedType, data: object, position: number): void
  #publish(type: SharedType | 'reading' | 'refused', data: object, position?: number): void {
    this.#count += 1
    const isShared = type === 'transition' || type === 'override'
    const shared = isShared && position !== undefined && { type, position }
    if (shared) this.#seen = { ...this.#seen, [type]: Math.max(this.#seen[shared.type], shared.position) }
    const replica = nameAmongSeveral(this.#group)
    const named = replica === undefined ? data : { ...data, replica }
    const text = `id: ${this.#id()}\nevent: ${type}\ndata: ${JSON.stringify(named)}\n\n`
    const event = { number: this.#count, text, ...(shared && { shared }) }
    this.#events.push(event)
    if (this.#events.length > RING_SIZE) this.#events.shift()
    for (const listener of this.#listeners) listener(event)
  }

  #id(): string {
    const id = `${this.#epoch}-${this.#count}`
    if (this.#group === undefined) return id
    return `${id}-${this.#seen.transition.toString(36)}.${this.#seen.override.toString(36)}`
  }
}

/** The position of an event, from the time that it has at every replica. Even, so that one more fits between two. */
function positionOf(at: Instant): number {
  return 2 * Math.max(0, Math.round(at * 1000))
}

function isNew({ shared }: PublishedEvent, seen: Seen): boolean {
  return shared !== undefined && shared.position > seen[shared.type]
}
