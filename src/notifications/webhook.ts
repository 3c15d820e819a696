import { createHash } from 'node:crypto'
import type { WebhookFormat } from '../domain/vocabulary.js'

/** A receiver of notifications, and the format that it expects. */
export type Webhook = {
  readonly url: string
  readonly format: WebhookFormat
  /** Sent with each notification; the values may be secrets. */
  readonly headers?: Readonly<Record<string, string>>
  /** The integration key of PagerDuty, a secret. */
  readonly routingKey?: string
}

/** An identifier of a webhook that is safe to store: it reveals neither the URL nor the key, which may be secrets. */
export type WebhookId = string

/**
 * The identifier of a webhook. It stays the same when the format or the headers change.
 *
 * 32 bits distinguish a few webhooks, and are too few to confirm a guessed password in the URL.
 */
export function idOf({ url, routingKey = '' }: Webhook): WebhookId {
  return createHash('sha256').update(`${url}\n${routingKey}`).digest('hex').slice(0, 8)
}
