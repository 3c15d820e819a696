import { createHash } from 'node:crypto'
import type { WebhookFormat } from '../domain/vocabulary.js'

/** Where to send notifications, and in which format. */
export type Webhook = {
  readonly url: string
  readonly format: WebhookFormat
  /** Sent with each notification; the values may be secrets. */
  readonly headers?: Readonly<Record<string, string>>
  /** The integration key of PagerDuty, a secret. */
  readonly routingKey?: string
}

/** An identity of a webhook that may be stored: it shows neither the URL nor the key, which may be secrets. */
export type WebhookId = string

/**
 * The identity of a webhook. It stays the same when its format or its headers change.
 *
 * 32 bits tell a few webhooks apart, and are too few to confirm a guess of a password in the URL.
 */
export function idOf({ url, routingKey = '' }: Webhook): WebhookId {
  return createHash('sha256').update(`${url}\n${routingKey}`).digest('hex').slice(0, 8)
}
