import type { Breaker } from '../breaker/breaker.js'
import type { Outage } from '../domain/outage.js'
import type { Instant } from '../domain/time.js'
import type { NotificationKind } from '../domain/vocabulary.js'
import type { OutageLog } from '../outages/log.js'
import { Delivery, type DeliveryFailure, type DeliverySettings } from './delivery.js'
import type { Handling } from './message.js'

/** The settings of notifications. */
export type NotifySettings = DeliverySettings & {
  /** The name of this installation. */
  readonly name?: string
  /** How long an outage lasts before that is reported. */
  readonly lastingAfterMs: number
  /** The minimum interval between two "outage opened" notifications. */
  readonly cooldownMs: number
}

/** What notifications need. */
export type NotifyOptions = {
  readonly breaker: Breaker
  readonly outageLog: OutageLog
  /** The name of the installation when the settings have none. */
  readonly defaultName: string
  /** Read at each notification. */
  readonly settings: () => NotifySettings
  readonly clock: () => Instant
  /** In [0, 1). */
  readonly random: () => number
  /** Called for each notification that could not be delivered. */
  readonly onFailure: (failure: DeliveryFailure) => void
}

/**
 * Decides when to report an outage: when it opens, when it lasts, and when it closes.
 *
 * An outage that opens within the cooldown is not reported, and neither is its end.
 */
export class Notifier {
  readonly #options: NotifyOptions
  readonly #delivery: Delivery
  readonly #startedAt: Instant
  #lastingTimer: NodeJS.Timeout | undefined
  /** When the current outage counts as lasting, while the timer for that runs. */
  #lastsFrom: Instant | undefined
  /** The start of the outage that was reported as lasting. */
  #lasted: Instant | undefined
  #reportedAt = Number.NEGATIVE_INFINITY
  /** Whether the current outage was reported. */
  #isReported = false
  /** Outages since the last notification that were not reported. */
  #unreported = 0

  constructor(options: NotifyOptions) {
    this.#options = options
    const { clock, settings, random, onFailure } = options
    this.#delivery = new Delivery({ settings, random, onFailure })
    this.#startedAt = clock()
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ from, to, at }) => {
      if (to === 'closed') this.#closed(at)
      else if (from === 'closed') this.#opened()
    })
    breaker.on('cause', ({ from }) => {
      // An outage from before a restart was reported by the earlier process.
      if (from === 'starting' && this.#options.outageLog.current()?.restarts === 0) this.#opened()
    })
    // At each reading, because a reload may have changed the time.
    breaker.on('reading', () => this.#awaitLasting())
  }

  /** Drops what is not delivered yet. */
  async close(): Promise<void> {
    clearTimeout(this.#lastingTimer)
    await this.#delivery.close()
  }

  #opened(): void {
    const { outageLog, clock, settings } = this.#options
    const outage = outageLog.current()
    if (outage === undefined) return
    this.#awaitLasting()
    this.#isReported = clock() - this.#reportedAt >= settings().cooldownMs
    if (this.#isReported) this.#report('outage.opened', outage)
    else this.#unreported += 1
  }

  #awaitLasting(): void {
    const { outageLog, clock, settings } = this.#options
    const outage = outageLog.current()
    if (outage === undefined || outage.startedAt === this.#lasted) return
    const from = outage.startedAt + settings().lastingAfterMs
    // If that time was before this start, the earlier process has reported it.
    if (from === this.#lastsFrom || from < this.#startedAt) return
    this.#lastsFrom = from
    clearTimeout(this.#lastingTimer)
    this.#lastingTimer = setTimeout(() => this.#lasts(outage.startedAt), Math.max(0, from - clock())).unref()
  }

  #lasts(startedAt: Instant): void {
    const current = this.#options.outageLog.current()
    if (current?.startedAt !== startedAt) return
    // If it opened in this process and was not reported then, it was counted as unreported.
    if (!this.#isReported && startedAt >= this.#startedAt) this.#unreported -= 1
    this.#isReported = true
    this.#lasted = startedAt
    this.#report('outage.lasting', current)
  }

  #closed(at: Instant): void {
    clearTimeout(this.#lastingTimer)
    this.#lastsFrom = undefined
    const [last] = this.#options.outageLog.outages()
    if (last?.endedAt !== at) return
    // An outage from before this start was reported by the earlier process.
    if (this.#isReported || last.restarts > 0 || last.startedAt < this.#startedAt) {
      this.#report('outage.closed', last)
    }
    this.#isReported = false
  }

  #report(kind: NotificationKind, outage: Outage): void {
    const { settings, defaultName, clock } = this.#options
    const at = clock()
    const name = settings().name ?? defaultName
    const message = { kind, name, at, outage, unreported: this.#unreported, handling: this.#handling() }
    if (kind !== 'outage.closed') {
      this.#reportedAt = at
      this.#unreported = 0
    }
    this.#delivery.send(message)
  }

  #handling(): Handling {
    const { breaker } = this.#options
    const { override } = breaker.snapshot()
    if (override !== null) return override.state === 'open' ? 'forced-open' : 'forced-closed'
    return breaker.enforces ? 'circuit' : 'observe'
  }
}
