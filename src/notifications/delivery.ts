import { createHash, createHmac, randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from 'undici'
import { afterClaim, NOT_WAITING, type Waiting } from '../domain/notices.js'
import { parseRetryAfter } from '../domain/retry-after.js'
import type { Instant } from '../domain/time.js'
import type { NotificationKind } from '../domain/vocabulary.js'
import { credentialsOf } from '../upstream/credentials.js'
import { failureOf } from '../upstream/failure.js'
import type { GroupNotices } from './group-notices.js'
import {
  bodyOf,
  isAboutOverride,
  isNamedByContent,
  isUseless,
  type Message,
  nameOf,
  type Present,
} from './message.js'
import { idOf, type Webhook, type WebhookId } from './webhook.js'

/** The settings of the delivery. */
export type DeliverySettings = {
  readonly webhooks: readonly Webhook[]
  /** Signs each body, if set. */
  readonly secret?: string
  /** How long delivery of a message is retried. */
  readonly retryForMs: number
}

/** The options of the delivery. */
export type DeliveryOptions = {
  /** Read at each attempt. */
  readonly settings: () => DeliverySettings
  /** The other replicas, if there may be any: each notification is sent by one of them. */
  readonly group?: GroupNotices | undefined
  readonly clock: () => Instant
  /** In [0, 1). */
  readonly random: () => number
  /** The current state, as far as it concerns a message. Called at each attempt. */
  readonly present: (message: Message) => Present
  /** Called whenever `pending` has changed. */
  readonly onChange: () => void
  /** Called for each notification that could not be delivered. */
  readonly onFailure: (failure: DeliveryFailure) => void
}

/** A notification that was not delivered. */
export type DeliveryFailure = {
  readonly kind: NotificationKind
  /** Only scheme and host, because the path of a webhook's URL is often a secret. Null if a reload removed the webhook. */
  readonly webhook: string | null
  /** Its position in the list, starting at 1; 0 if a reload removed it. */
  readonly item: number
  /** 0 if the notification was dropped before its first attempt. */
  readonly attempts: number
  readonly problem: string
}

/** A message that a webhook has not accepted yet. */
export type Pending = {
  readonly webhook: WebhookId
  /** All attempts have the same id, so that a receiver can recognise duplicates. */
  readonly id: string
  readonly message: Message
  /** The claim of the replica that sends it; the same for all replicas. */
  readonly claim?: string
  readonly queuedAt: Instant
  readonly attempts: number
  /** The earliest time of the next attempt. */
  readonly notBefore: Instant
}

/** The timeout of an attempt, and the first and the longest pause between attempts. */
const ATTEMPT_TIMEOUT_MS = 5000
const FIRST_BACKOFF_MS = 1000
const MAX_BACKOFF_MS = 300_000

/** The maximum pause, even if a receiver asks for a longer one. */
export const MAX_RETRY_AFTER_MS = 3_600_000

/** The maximum number of messages queued for one webhook behind the one being sent. The oldest is dropped first. */
export const MAX_QUEUED = 20

/** Why messages are dropped at shutdown. */
const STOPPED = 'focus-breaker was stopped'

type Attempt =
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly problem: string; readonly isFinal: boolean; readonly waitMs: number }

/**
 * Sends notifications to webhooks, and retries when that fails.
 *
 * Each webhook has its own queue, so one that does not respond delays neither the others nor any request.
 */
export class Delivery {
  readonly #options: DeliveryOptions
  readonly #stopped = new AbortController()
  // No limit on connections: two webhooks may be on the same server, and one of them may not respond.
  readonly #agent = new Agent({
    connect: { timeout: ATTEMPT_TIMEOUT_MS },
    headersTimeout: ATTEMPT_TIMEOUT_MS,
    bodyTimeout: ATTEMPT_TIMEOUT_MS,
  })
  /** The messages of each webhook, oldest first. The first one is being sent. */
  readonly #queues = new Map<WebhookId, Pending[]>()
  readonly #working = new Set<WebhookId>()

  /** @param left messages that an earlier process has not delivered; they are sent after `start`. */
  constructor(options: DeliveryOptions, left: readonly Pending[] = []) {
    this.#options = options
    this.restore(left)
    // Every pause before an attempt adds a listener.
    setMaxListeners(0, this.#stopped.signal)
  }

  /** All messages that have not been delivered yet. */
  pending(): readonly Pending[] {
    return [...this.#queues.values()].flat()
  }

  /** Adds messages that an earlier process has not delivered; they are sent after `start`. */
  restore(left: readonly Pending[]): void {
    const known = new Set(this.pending().map(({ id }) => id))
    for (const each of left) if (!known.has(each.id)) this.#queueOf(each.webhook).push(each)
  }

  /** Starts sending the messages that an earlier process has left. */
  start(): void {
    for (const webhook of this.#queues.keys()) this.#begin(webhook)
  }

  /** Queues a message for every webhook. */
  send(message: Message): void {
    const { settings, clock, group } = this.#options
    const now = clock()
    for (const webhook of settings().webhooks) {
      const id = idOf(webhook)
      const queue = this.#queueOf(id)
      const claim = group && `${nameOf(message, webhook)}:${id}`
      queue.push({
        ...{ webhook: id, id: `msg_${claim === undefined ? randomUUID() : uuidOf(claim)}`, message },
        ...{ queuedAt: now, attempts: 0, notBefore: now, ...(claim !== undefined && { claim }) },
      })
      if (queue.length > MAX_QUEUED + 1) this.#dropOne(webhook, queue)
      this.#begin(id)
    }
    this.#options.onChange()
  }

  /**
   * Stops sending.
   *
   * @param isKept whether the next process or another replica sends the remaining messages; if not, they are given up.
   */
  async close(isKept: boolean): Promise<void> {
    this.#stopped.abort()
    await this.#agent.destroy()
    await this.#options.group?.close()
    if (isKept) return
    for (const pending of this.pending()) this.#giveUp(pending, STOPPED)
    this.#queues.clear()
  }

  #queueOf(webhook: WebhookId): Pending[] {
    const queue = this.#queues.get(webhook) ?? []
    this.#queues.set(webhook, queue)
    return queue
  }

  /** Drops a message from a full queue, preferably one that would no longer be sent. The first one is being sent. */
  #dropOne(webhook: Webhook, queue: Pending[]): void {
    const useless = queue.findIndex(
      ({ message }, index) => index > 0 && isUseless(message, webhook, this.#options.present(message)),
    )
    // Next, a message about an override: an operator's experiments must not displace a notification about an outage.
    const override = queue.findIndex(({ message }, index) => index > 0 && isAboutOverride(message))
    const [dropped] = queue.splice(useless > 0 ? useless : Math.max(1, override), 1)
    if (dropped !== undefined && useless < 0) {
      this.#giveUp(dropped, `queue full: ${MAX_QUEUED} newer notifications are waiting`)
    }
  }

  #begin(webhook: WebhookId): void {
    if (this.#working.has(webhook) || this.#stopped.signal.aborted) return
    this.#working.add(webhook)
    void this.#work(webhook, this.#queueOf(webhook))
  }

  /** Sends the messages of one webhook, one after the other. */
  async #work(id: WebhookId, queue: Pending[]): Promise<void> {
    const { signal } = this.#stopped
    for (let head = queue[0]; head !== undefined && !signal.aborted; head = queue[0]) {
      const pauseMs = head.notBefore - this.#options.clock()
      if (pauseMs > 0) await this.#pause(pauseMs)
      const isOurs = head.claim === undefined || (await this.#isOurs(head.claim))
      if (signal.aborted) break
      if (!isOurs) {
        queue.shift()
        this.#options.onChange()
        continue
      }
      const webhook = this.#options.settings().webhooks.find(each => idOf(each) === id)
      // A reload may have removed the webhook.
      if (webhook === undefined) break
      queue[0] = head = { ...head, attempts: head.attempts + 1 }
      const attempt = await this.#attempt(webhook, head)
      if (signal.aborted && attempt.kind === 'failed') break
      const next = this.#afterAttempt(head, attempt)
      if (next === undefined) queue.shift()
      else queue[0] = next
      this.#options.onChange()
    }
    if (signal.aborted) return
    this.#queues.delete(id)
    this.#working.delete(id)
    this.#options.onChange()
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#stopped.signal, ref: false }).catch(() => undefined)
  }

  /** Waits until it is certain whether this replica sends the message or another one has. */
  async #isOurs(claim: string): Promise<boolean> {
    const { group, clock } = this.#options
    // The claim was made by an earlier process, which ran with replicas.
    if (group === undefined) return true
    let waiting: Waiting = NOT_WAITING
    while (!this.#stopped.signal.aborted) {
      const next = afterClaim(await group.take(claim), waiting, clock())
      if (next.kind !== 'check-again') return next.kind === 'send'
      waiting = next.waiting
      await this.#pause(next.inMs)
    }
    return false
  }

  /** The message with the time of its next attempt; undefined if there is none. */
  #afterAttempt(pending: Pending, attempt: Attempt): Pending | undefined {
    if (attempt.kind === 'done') {
      this.#finish(pending)
      return undefined
    }
    const { settings, clock, random } = this.#options
    const now = clock()
    const remainingMs = pending.queuedAt + settings().retryForMs - now
    if (attempt.isFinal || remainingMs <= 0) {
      this.#giveUp(pending, attempt.problem)
      this.#finish(pending)
      return undefined
    }
    const backoffMs = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (pending.attempts - 1))
    const pauseMs = Math.min(remainingMs, backoffMs * (0.5 + random()))
    return { ...pending, notBefore: now + Math.max(attempt.waitMs, pauseMs) }
  }

  #finish({ claim, message }: Pending): void {
    if (claim !== undefined) this.#options.group?.finish(claim, isNamedByContent(message))
  }

  #giveUp({ webhook, message, attempts }: Pending, problem: string): void {
    const { settings, onFailure } = this.#options
    const { webhooks } = settings()
    const index = webhooks.findIndex(each => idOf(each) === webhook)
    const url = webhooks[index]?.url
    onFailure({
      kind: message.kind,
      webhook: url === undefined ? null : new URL(url).origin,
      item: index + 1,
      attempts,
      problem,
    })
  }

  async #attempt(webhook: Webhook, { id, message }: Pending): Promise<Attempt> {
    const { settings, present } = this.#options
    const body = bodyOf(message, webhook, present(message))
    if (body === undefined) return { kind: 'done' }
    const { secret } = settings()
    const now = Date.now()
    const timestamp = String(Math.floor(now / 1000))
    try {
      const parsed = new URL(webhook.url)
      const { origin, pathname, search } = parsed
      const response = await this.#agent.request({
        origin,
        path: pathname + search,
        method: 'POST',
        headers: {
          'user-agent': 'focus-breaker',
          ...credentialsOf(parsed),
          ...lowerCased(webhook.headers ?? {}),
          'content-type': 'application/json',
          'webhook-id': id,
          'webhook-timestamp': timestamp,
          ...(secret !== undefined && { 'webhook-signature': signature(secret, id, timestamp, body) }),
        },
        body,
        signal: AbortSignal.any([this.#stopped.signal, AbortSignal.timeout(ATTEMPT_TIMEOUT_MS)]),
      })
      await response.body.dump()
      const { statusCode, headers } = response
      if (statusCode >= 200 && statusCode < 300) return { kind: 'done' }
      const isFinal = statusCode < 500 && statusCode !== 408 && statusCode !== 429
      const retryAfter = oneOf(headers['retry-after'])
      const waitMs =
        retryAfter === undefined ? undefined : parseRetryAfter(retryAfter, now, oneOf(headers.date))
      return {
        kind: 'failed',
        problem: `responded with ${statusCode}`,
        isFinal,
        waitMs: Math.min(waitMs ?? 0, MAX_RETRY_AFTER_MS),
      }
    } catch (error) {
      const isTimeout = error instanceof DOMException && error.name === 'TimeoutError'
      const problem = isTimeout ? 'no response in time' : failureOf(error).words
      return { kind: 'failed', problem, isFinal: false, waitMs: 0 }
    }
  }
}

/** The same id for the same claim, so that a receiver can recognise a notification that two replicas have sent. */
function uuidOf(claim: string): string {
  const hex = createHash('sha256').update(claim).digest('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join(
    '-',
  )
}

function oneOf(value: string | readonly string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.[0]
}

function lowerCased(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
}

/** https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, version 1. */
function signature(secret: string, id: string, timestamp: string, body: string): string {
  const key = secret.startsWith('whsec_') ? Buffer.from(secret.slice(6), 'base64') : Buffer.from(secret)
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
}
