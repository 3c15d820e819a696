import { createHmac, randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from 'undici'
import type { Breaker } from '../breaker/breaker.js'
import type { Outage } from '../domain/outage.js'
import { type Instant, inWords, rfc3339 } from '../domain/time.js'
import type { NotificationKind, WebhookFormat } from '../domain/vocabulary.js'
import type { OutageLog } from '../outages/log.js'
import { credentialsOf } from '../upstream/credentials.js'
import { failureOf } from '../upstream/failure.js'

/** Where to send notifications, and in which form. */
export type Webhook = { readonly url: string; readonly format: WebhookFormat }

/** What notifications go by. */
export type NotifySettings = {
  readonly webhooks: readonly Webhook[]
  /** Signs each body, where there is one. */
  readonly secret?: string
  /** What this installation is called. */
  readonly name?: string
  /** How long an outage lasts until that is told. */
  readonly lastingAfterMs: number
  /** After the beginning of one outage was told, how long that of another is not. */
  readonly cooldownMs: number
}

/** What notifications need. */
export type NotifyOptions = {
  readonly breaker: Breaker
  readonly outageLog: OutageLog
  /** What the installation is called where the settings do not say. */
  readonly defaultName: string
  /** Read anew at each notification. */
  readonly settings: () => NotifySettings
  readonly clock: () => Instant
  /** In [0, 1). */
  readonly random: () => number
  /** Told of each notification that came to nothing. */
  readonly onFailure: (failure: NotifyFailure) => void
}

/** A notification that nobody took. */
export type NotifyFailure = {
  readonly kind: NotificationKind
  /** Scheme and host alone: the path of such a URL is often a secret. */
  readonly webhook: string
  /** Its place in the list, from 1; 0 when a reload has taken it away. */
  readonly item: number
  /** 0 when it was given up before its turn came. */
  readonly attempts: number
  readonly problem: string
}

type Message = {
  readonly kind: NotificationKind
  readonly name: string
  readonly at: Instant
  readonly outage: Outage
  readonly unsaid: number
  /** What becomes of configure requests, whatever the circuit says; undefined when it decides. */
  readonly ruled: 'observed' | 'let through' | 'stopped' | undefined
}

/** How long one attempt may take, and how often and after what time another one is made. */
const ATTEMPT_TIMEOUT_MS = 5000
const MAX_ATTEMPTS = 6
const FIRST_BACKOFF_MS = 1000

/** The most that wait for one webhook; a newer one is worth more than the oldest. */
const MAX_QUEUED = 20

/** Why what is not delivered at the end is given up. */
const STOPPED = 'focus-breaker was stopped'

/**
 * Tells other systems when an outage opens, lasts, and closes.
 *
 * Each webhook has its own queue and its own pace: one that hangs holds up neither the others nor a request.
 * An outage whose beginning was not told, because another one was told just before, is not told to end.
 */
export class Notifier {
  readonly #options: NotifyOptions
  readonly #stopped = new AbortController()
  // One connection for each webhook that has something to be told: two may be on the same server.
  readonly #agent = new Agent({
    connect: { timeout: ATTEMPT_TIMEOUT_MS },
    headersTimeout: ATTEMPT_TIMEOUT_MS,
    bodyTimeout: ATTEMPT_TIMEOUT_MS,
  })
  readonly #queues = new Map<string, Message[]>()
  readonly #startedAt: Instant
  #lasting: NodeJS.Timeout | undefined
  /** When the outage under way begins to be one that lasts, while that is awaited. */
  #lastsFrom: Instant | undefined
  /** The beginning of the outage that was told to last. */
  #lasted: Instant | undefined
  #toldAt = Number.NEGATIVE_INFINITY
  #isTold = false
  /** Outages that were not told since the last that was. */
  #unsaid = 0

  constructor(options: NotifyOptions) {
    this.#options = options
    this.#startedAt = options.clock()
    // Every wait for a next attempt listens to it.
    setMaxListeners(0, this.#stopped.signal)
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ from, to, at }) => {
      if (to === 'closed') this.#closed(at)
      else if (from === 'closed') this.#opened()
    })
    breaker.on('cause', ({ from }) => {
      // Whoever was told of it before this program was started anew knows.
      if (from !== 'starting') return
      if (this.#options.outageLog.current()?.restarts === 0) this.#opened()
    })
    // At each, because a reload may have set another time.
    breaker.on('reading', () => this.#awaitLasting())
  }

  /** Gives up what is not delivered yet. */
  async close(): Promise<void> {
    clearTimeout(this.#lasting)
    this.#stopped.abort()
    await this.#agent.destroy()
  }

  #opened(): void {
    const { outageLog, clock, settings } = this.#options
    const outage = outageLog.current()
    if (outage === undefined) return
    this.#awaitLasting()
    this.#isTold = clock() - this.#toldAt >= settings().cooldownMs
    if (this.#isTold) this.#tell('outage.opened', outage)
    else this.#unsaid += 1
  }

  #awaitLasting(): void {
    const { outageLog, clock, settings } = this.#options
    const outage = outageLog.current()
    if (outage === undefined || outage.startedAt === this.#lasted) return
    const from = outage.startedAt + settings().lastingAfterMs
    // When it began to last before this program was started, the process before has told it.
    if (from === this.#lastsFrom || from < this.#startedAt) return
    this.#lastsFrom = from
    clearTimeout(this.#lasting)
    this.#lasting = setTimeout(() => this.#lasts(outage.startedAt), Math.max(0, from - clock())).unref()
  }

  #lasts(startedAt: Instant): void {
    const current = this.#options.outageLog.current()
    if (current?.startedAt !== startedAt) return
    // It was counted as one that is not told, when it opened in this process.
    if (!this.#isTold && startedAt >= this.#startedAt) this.#unsaid -= 1
    this.#isTold = true
    this.#lasted = startedAt
    this.#tell('outage.lasting', current)
  }

  #closed(at: Instant): void {
    clearTimeout(this.#lasting)
    this.#lastsFrom = undefined
    const [last] = this.#options.outageLog.outages()
    if (last?.endedAt !== at) return
    // One that began before this program was started was told by the process before.
    if (this.#isTold || last.restarts > 0 || last.startedAt < this.#startedAt)
      this.#tell('outage.closed', last)
    this.#isTold = false
  }

  #tell(kind: NotificationKind, outage: Outage): void {
    const { settings, defaultName, clock } = this.#options
    const at = clock()
    const name = settings().name ?? defaultName
    const message = { kind, name, at, outage, unsaid: this.#unsaid, ruled: this.#ruled() }
    if (kind !== 'outage.closed') {
      this.#toldAt = at
      this.#unsaid = 0
    }
    for (const { url } of settings().webhooks) {
      const queue = this.#queues.get(url)
      if (queue === undefined) {
        this.#queues.set(url, [message])
        void this.#work(url)
      } else {
        queue.push(message)
        const lost = queue.length > MAX_QUEUED ? queue.shift() : undefined
        if (lost !== undefined) this.#giveUp(url, lost, 0, `${MAX_QUEUED} newer ones wait for it as well`)
      }
    }
  }

  #ruled(): Message['ruled'] {
    const { breaker } = this.#options
    const { override } = breaker.snapshot()
    if (override !== null) return override.state === 'open' ? 'stopped' : 'let through'
    return breaker.enforces ? undefined : 'observed'
  }

  /** Delivers what is queued for one webhook, one after the other. */
  async #work(url: string): Promise<void> {
    const queue = this.#queues.get(url) ?? []
    for (let message = queue.shift(); message !== undefined; message = queue.shift()) {
      if (this.#stopped.signal.aborted) this.#giveUp(url, message, 0, STOPPED)
      else await this.#deliver(url, message)
    }
    this.#queues.delete(url)
  }

  async #deliver(url: string, message: Message): Promise<void> {
    const { random, settings } = this.#options
    // The same for every attempt, so that a receiver can tell a repetition.
    const id = `msg_${randomUUID()}`
    for (let attempt = 1; ; attempt += 1) {
      const format = settings().webhooks.find(each => each.url === url)?.format
      // A reload has taken it away.
      if (format === undefined) return
      const outcome = await this.#attempt(url, format === 'slack' ? slack(message) : plain(message), id)
      if (outcome === undefined) return
      const { problem, isFinal } = outcome
      if (isFinal || attempt === MAX_ATTEMPTS || this.#stopped.signal.aborted) {
        this.#giveUp(url, message, attempt, problem)
        return
      }
      const backoffMs = FIRST_BACKOFF_MS * 2 ** (attempt - 1) * (0.5 + random())
      // An aborted wait leads to one last attempt, which fails at once.
      await sleep(backoffMs, undefined, { signal: this.#stopped.signal, ref: false }).catch(() => undefined)
    }
  }

  #giveUp(url: string, { kind }: Message, attempts: number, problem: string): void {
    const { settings, onFailure } = this.#options
    const item = settings().webhooks.findIndex(each => each.url === url) + 1
    onFailure({ kind, webhook: new URL(url).origin, item, attempts, problem })
  }

  /** Undefined when it was taken, else why not. */
  async #attempt(url: string, body: string, id: string) {
    const { secret } = this.#options.settings()
    const timestamp = String(Math.floor(Date.now() / 1000))
    try {
      const parsed = new URL(url)
      const { origin, pathname, search } = parsed
      const answer = await this.#agent.request({
        origin,
        path: pathname + search,
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'user-agent': 'focus-breaker',
          ...credentialsOf(parsed),
          'webhook-id': id,
          'webhook-timestamp': timestamp,
          ...(secret !== undefined && { 'webhook-signature': signature(secret, id, timestamp, body) }),
        },
        body,
        signal: AbortSignal.any([this.#stopped.signal, AbortSignal.timeout(ATTEMPT_TIMEOUT_MS)]),
      })
      await answer.body.dump()
      const { statusCode } = answer
      if (statusCode >= 200 && statusCode < 300) return undefined
      const isFinal = statusCode < 500 && statusCode !== 408 && statusCode !== 429
      return { problem: `answered ${statusCode}`, isFinal }
    } catch (error) {
      if (this.#stopped.signal.aborted) return { problem: STOPPED, isFinal: true }
      const isTimeout = error instanceof DOMException && error.name === 'TimeoutError'
      const problem = isTimeout ? 'no answer in time' : failureOf(error).words
      return { problem, isFinal: false }
    }
  }
}

/** https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, version 1. */
function signature(secret: string, id: string, timestamp: string, body: string): string {
  const key = secret.startsWith('whsec_') ? Buffer.from(secret.slice(6), 'base64') : Buffer.from(secret)
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
}

function plain(message: Message): string {
  const { kind, name, at, outage } = message
  const { startedAt, endedAt, cause, refused, operations } = outage
  return JSON.stringify({
    type: kind,
    timestamp: rfc3339(at),
    data: {
      message: sentence(message),
      name,
      startedAt: rfc3339(startedAt),
      endedAt: endedAt === null ? null : rfc3339(endedAt),
      cause,
      seconds: Math.round(((endedAt ?? at) - startedAt) / 1000),
      refused,
      operations,
      untoldOutages: message.unsaid,
    },
  })
}

/** https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks */
function slack(message: Message): string {
  const text = sentence(message).replace(/[&<>]/g, character => SLACK_ESCAPES[character] ?? character)
  return JSON.stringify({ text })
}

/** https://docs.slack.dev/messaging/formatting-message-text#escaping */
const SLACK_ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' }

function sentence({ kind, name, at, outage, unsaid, ruled }: Message): string {
  const { startedAt, endedAt, cause, refused } = outage
  const what = cause === 'waiting' ? 'the fiber is missing' : "focus-server's metadata cannot be read"
  const lasted = inWords((endedAt ?? at) - startedAt)
  const others =
    unsaid === 0 ? '' : ` ${unsaid} shorter ${unsaid === 1 ? 'outage was' : 'outages were'} not told.`
  switch (kind) {
    case 'outage.opened':
      return `${name}: outage, ${what}; ${MEANWHILE[ruled ?? 'refused']}.${others}`
    case 'outage.lasting': {
      const requests = refused === 1 ? '1 request was' : `${refused} requests were`
      return `${name}: outage for ${lasted}, ${what}; ${requests} refused so far.${others}`
    }
    case 'outage.closed':
      return `${name}: outage over after ${lasted}${AFTERWARDS[ruled ?? 'refused'](refused)}.`
  }
}

/** What becomes of configure requests in an outage. */
const MEANWHILE = {
  refused: 'configure requests are refused until it is back',
  observed: 'mode observe: configure requests are forwarded all the same',
  'let through': 'configure requests are forwarded all the same, on the word of an operator',
  stopped: 'configure requests are refused on the word of an operator as well',
}

/** And when it is over. */
const AFTERWARDS = {
  refused: (refused: number) =>
    `: configure requests pass again; ${refused} ${refused === 1 ? 'was' : 'were'} refused`,
  observed: () => '',
  'let through': (refused: number) =>
    `; ${refused} configure ${refused === 1 ? 'request was' : 'requests were'} refused`,
  stopped: () => ': configure requests are refused still, on the word of an operator',
}
