import type { Breaker } from '../breaker/breaker.js'
import { overrideAsJson, pastOverrideAsJson } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import type { ReadingSource } from '../domain/vocabulary.js'

/** What the events need. */
export type EventRingOptions = {
  readonly clock: () => Instant
  /** Part of every event id: the ids of another process resume nothing. */
  readonly startedAt: Instant
  /** Whether all counts up to this moment are on disk, or cannot be. A write may be late when very much changes. */
  readonly hasWritten?: ((at: Instant) => boolean) | undefined
}

/** How many events are kept for clients that resume. */
const RING_SIZE = 1000

/** The least time between two published readings of the same source and kind. */
const READING_SPACING_MS = 1000

/** Refusals are published as a sum, at most this often. */
const REFUSED_SPACING_MS = 1000

/** Refusals that were carried out, and those that mode `observe` did not carry out. */
type RefusedCounts = { readonly count: number; readonly wouldRefuse: number }

const NONE: RefusedCounts = { count: 0, wouldRefuse: 0 }

type Event = { readonly number: number; readonly text: string }

/**
 * The events of `/-/events`, numbered from 1: `transition`, `reading`, `override`, and `refused` with the number of
 * refusals since the last one. Keeps the latest for clients that resume.
 */
export class EventRing {
  readonly #clock: () => Instant
  readonly #epoch: string
  readonly #hasWritten: (at: Instant) => boolean
  /** Until when the refusals were counted that the next `refused` event reports. */
  #dueUntil = 0
  readonly #events: Event[] = []
  readonly #listeners: ((text: string) => void)[] = []
  #count = 0
  /** The last published reading of each source: many failing configures must not hide the probes. */
  readonly #lastReadings = new Map<ReadingSource, Reading>()
  /** Refusals that the next `refused` event reports, and those that came after them. */
  #due = NONE
  #new = NONE
  #timer: NodeJS.Timeout | undefined

  constructor({ clock, startedAt, hasWritten }: EventRingOptions) {
    this.#hasWritten = hasWritten ?? (() => true)
    this.#clock = clock
    this.#epoch = Math.round(startedAt).toString(36)
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ at, from, to, cause, since, outageMs, reading }) =>
      this.#publish('transition', {
        at: rfc3339(at),
        from,
        to,
        cause,
        since: rfc3339(since),
        outageStartedAt: to === 'closed' ? null : rfc3339(at - outageMs),
        outageSeconds: Math.round(outageMs / 1000),
        source: reading.source,
      }),
    )
    breaker.on('cause', ({ at, from, to, since, outageMs, reading }) =>
      this.#publish('transition', {
        at: rfc3339(at),
        from: 'open',
        to: 'open',
        cause: to,
        earlierCause: from,
        since: rfc3339(since),
        outageStartedAt: rfc3339(at - outageMs),
        outageSeconds: Math.round(outageMs / 1000),
        source: reading.source,
      }),
    )
    breaker.on('override', event =>
      this.#publish('override', {
        kind: event.kind,
        ...(event.kind === 'set' ? overrideAsJson(event.override) : pastOverrideAsJson(event.override)),
        ...(event.kind === 'set' &&
          event.replaced !== null && { replaced: pastOverrideAsJson(event.replaced) }),
      }),
    )
    breaker.on('reading', (reading, isNewest) => this.#publishReading(reading, isNewest))
    breaker.on('refused', ({ enforced }) => this.#countRefused(enforced))
  }

  /** Calls the listener with each event from now on, in the form of server-sent events. It must not throw. */
  listen(listener: (text: string) => void): void {
    this.#listeners.push(listener)
  }

  /**
   * The kept events after the one with this id, in the form of server-sent events. Empty for the id of another
   * process or none: the client reads the state itself and has missed nothing.
   */
  after(lastEventId: string | undefined): string {
    const [epoch, number] = (lastEventId ?? '').split('-')
    if (epoch !== this.#epoch) return ''
    return this.#events
      .filter(event => event.number > Number(number))
      .map(event => event.text)
      .join('')
  }

  /** Publishes no more sums of refusals. */
  close(): void {
    clearTimeout(this.#timer)
  }

  #publishReading(reading: Reading, isNewest: boolean): void {
    const last = this.#lastReadings.get(reading.source)
    if (last?.kind === reading.kind && reading.at - last.at < READING_SPACING_MS) return
    this.#lastReadings.set(reading.source, reading)
    this.#publish('reading', { ...reading, at: rfc3339(reading.at), ...(!isNewest && { outdated: true }) })
  }

  #countRefused(enforced: boolean): void {
    const { count, wouldRefuse } = this.#new
    this.#new = enforced ? { count: count + 1, wouldRefuse } : { count, wouldRefuse: wouldRefuse + 1 }
    this.#timer ??= setTimeout(() => this.#publishRefused(), REFUSED_SPACING_MS).unref()
  }

  /** Reports one interval late, and later where the counts are not on disk yet: they are written within half of one. */
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

  #publish(type: string, data: object): void {
    this.#count += 1
    const text = `id: ${this.#epoch}-${this.#count}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`
    this.#events.push({ number: this.#count, text })
    if (this.#events.length > RING_SIZE) this.#events.shift()
    for (const listener of this.#listeners) listener(text)
  }
}
