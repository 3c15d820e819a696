import { createHmac, randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from 'undici'
import type { NotificationKind, WebhookFormat } from '../domain/vocabulary.js'
import { credentialsOf } from '../upstream/credentials.js'
import { failureOf } from '../upstream/failure.js'
import { bodyOf, type Message } from './message.js'

/** Where to send notifications, and in which format. */
export type Webhook = { readonly url: string; readonly format: WebhookFormat }

/** The settings of the delivery. */
export type DeliverySettings = {
  readonly webhooks: readonly Webhook[]
  /** Signs each body, if set. */
  readonly secret?: string
}

/** What the delivery needs. */
export type DeliveryOptions = {
  /** Read at each attempt. */
  readonly settings: () => DeliverySettings
  /** In [0, 1). */
  readonly random: () => number
  /** Called for each notification that could not be delivered. */
  readonly onFailure: (failure: DeliveryFailure) => void
}

/** A notification that was not delivered. */
export type DeliveryFailure = {
  readonly kind: NotificationKind
  /** Only scheme and host: the path of such a URL is often a secret. */
  readonly webhook: string
  /** Its position in the list, from 1; 0 when a reload has removed it. */
  readonly item: number
  /** 0 when it was dropped before its first attempt. */
  readonly attempts: number
  readonly problem: string
}

/** How long one attempt may take, how many there are, and the first pause between two. */
const ATTEMPT_TIMEOUT_MS = 5000
const MAX_ATTEMPTS = 6
const FIRST_BACKOFF_MS = 1000

/** The most messages that wait for one webhook. The oldest is dropped first. */
const MAX_QUEUED = 20

/** Why messages are dropped at the end. */
const STOPPED = 'focus-breaker was stopped'

/**
 * Sends notifications to webhooks, and tries again when that fails.
 *
 * Each webhook has its own queue: one that does not respond delays neither the others nor any request.
 */
export class Delivery {
  readonly #options: DeliveryOptions
  readonly #stopped = new AbortController()
  // Without a limit of connections: two webhooks may be on one server, and one of them may not respond.
  readonly #agent = new Agent({
    connect: { timeout: ATTEMPT_TIMEOUT_MS },
    headersTimeout: ATTEMPT_TIMEOUT_MS,
    bodyTimeout: ATTEMPT_TIMEOUT_MS,
  })
  /** The waiting messages of each webhook that is being sent one. */
  readonly #queues = new Map<string, Message[]>()

  constructor(options: DeliveryOptions) {
    this.#options = options
    // Every pause before a next attempt adds a listener.
    setMaxListeners(0, this.#stopped.signal)
  }

  /** Sends a message to every webhook, behind the earlier ones. */
  send(message: Message): void {
    for (const { url } of this.#options.settings().webhooks) {
      const queue = this.#queues.get(url)
      if (queue === undefined) {
        this.#queues.set(url, [message])
        void this.#work(url)
      } else {
        queue.push(message)
        const dropped = queue.length > MAX_QUEUED ? queue.shift() : undefined
        if (dropped !== undefined) {
          this.#giveUp(url, dropped, 0, `${MAX_QUEUED} newer ones wait for it as well`)
        }
      }
    }
  }

  /** Drops everything that is not delivered yet. */
  async close(): Promise<void> {
    this.#stopped.abort()
    await this.#agent.destroy()
  }

  /** Sends the queued messages of one webhook, one after the other. */
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
    // All attempts have the same id, so that a receiver can recognise a repetition.
    const id = `msg_${randomUUID()}`
    for (let attempt = 1; ; attempt += 1) {
      const format = settings().webhooks.find(each => each.url === url)?.format
      // A reload has removed the webhook.
      if (format === undefined) return
      const failure = await this.#attempt(url, bodyOf(message, format), id)
      if (failure === undefined) return
      const { problem, isFinal } = failure
      if (isFinal || attempt === MAX_ATTEMPTS || this.#stopped.signal.aborted) {
        this.#giveUp(url, message, attempt, problem)
        return
      }
      const backoffMs = FIRST_BACKOFF_MS * 2 ** (attempt - 1) * (0.5 + random())
      // After an aborted pause the last attempt fails at once.
      await sleep(backoffMs, undefined, { signal: this.#stopped.signal, ref: false }).catch(() => undefined)
    }
  }

  #giveUp(url: string, { kind }: Message, attempts: number, problem: string): void {
    const { settings, onFailure } = this.#options
    const item = settings().webhooks.findIndex(each => each.url === url) + 1
    onFailure({ kind, webhook: new URL(url).origin, item, attempts, problem })
  }

  /** Undefined when the webhook accepted the message, else why not. */
  async #attempt(url: string, body: string, id: string) {
    const { secret } = this.#options.settings()
    const timestamp = String(Math.floor(Date.now() / 1000))
    try {
      const parsed = new URL(url)
      const { origin, pathname, search } = parsed
      const response = await this.#agent.request({
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
      await response.body.dump()
      const { statusCode } = response
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
