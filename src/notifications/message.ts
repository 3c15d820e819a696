import type { Outage } from '../domain/outage.js'
import { type Instant, inWords, rfc3339 } from '../domain/time.js'
import type { NotificationKind } from '../domain/vocabulary.js'
import type { Webhook } from './webhook.js'

/** What decides about guarded requests: the circuit, mode `observe`, or an override to either state. */
export type Handling = 'circuit' | 'observe' | 'forced-closed' | 'forced-open'

/** One notification, as data. */
export type Message = {
  readonly kind: NotificationKind
  /** The name of this installation. */
  readonly name: string
  /** The host of focus-server. Unlike the name it is the same for the beginning of an outage and for its end. */
  readonly source: string
  readonly at: Instant
  readonly outage: Outage
  /** Outages since the last notification that were not reported. */
  readonly unreported: number
}

/** What is true at the time of an attempt, which may be long after the message was made. */
export type Present = {
  readonly handling: Handling
  /** The same outage, if it has ended since the message was made. */
  readonly ended?: Outage
  /** Whether a later outage has begun since. */
  readonly isFollowed: boolean
}

/**
 * The body of a notification in the format of a webhook. A message about a state that is over says so. Undefined when it
 * must not be sent any more: no one is paged for an outage that is over.
 */
export function bodyOf(message: Message, webhook: Webhook, present: Present): string | undefined {
  switch (webhook.format) {
    case 'json':
      return JSON.stringify(plain(message, present))
    case 'slack':
      return JSON.stringify({ text: escaped(sentence(message, present)) })
    case 'teams':
      return JSON.stringify(teams(sentence(message, present)))
    case 'pagerduty':
      return isOver(message, present) ? undefined : JSON.stringify(pagerDuty(message, webhook, present))
  }
}

/** Whether a message about a beginning comes after the end. */
export function isOver({ kind }: Message, { ended, isFollowed }: Present): boolean {
  return kind !== 'outage.closed' && (ended !== undefined || isFollowed)
}

function plain(message: Message, present: Present) {
  const { kind, name, at, unreported } = message
  const { startedAt, endedAt, cause, refused, operations } = present.ended ?? message.outage
  return {
    type: kind,
    timestamp: rfc3339(at),
    data: {
      message: sentence(message, present),
      name,
      startedAt: rfc3339(startedAt),
      endedAt: endedAt === null ? null : rfc3339(endedAt),
      cause,
      seconds: Math.max(0, Math.round(((endedAt ?? at) - startedAt) / 1000)),
      refused,
      operations,
      untoldOutages: unreported,
    },
  }
}

/** https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks */
function escaped(text: string): string {
  return text.replace(/[&<>]/g, character => SLACK_ESCAPES[character] ?? character)
}

/** https://docs.slack.dev/messaging/formatting-message-text#escaping */
const SLACK_ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' }

/**
 * An Adaptive Card in the envelope of Workflows:
 * https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
 *
 * A TextBlock would take the name for Markdown; a TextRun does not.
 */
function teams(text: string) {
  return {
    type: 'message',
    attachments: [
      {
        contentType: 'application/vnd.microsoft.card.adaptive',
        contentUrl: null,
        content: {
          $schema: 'http://adaptivecards.io/schemas/adaptive-card.json',
          type: 'AdaptiveCard',
          version: '1.2',
          body: [{ type: 'RichTextBlock', inlines: [{ type: 'TextRun', text }] }],
        },
      },
    ],
  }
}

/** The longest `dedup_key` and `summary` that PagerDuty takes. */
const MAX_DEDUP_KEY_LENGTH = 255
const MAX_SUMMARY_LENGTH = 1024

/** An alert event: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ */
function pagerDuty(message: Message, { routingKey }: Webhook, present: Present) {
  const { kind, source, at, outage } = message
  // The end of an outage has the key of its beginning, whatever was reloaded in between.
  const start = ` ${rfc3339(outage.startedAt)}`
  const event = {
    routing_key: routingKey,
    event_action: kind === 'outage.closed' ? 'resolve' : 'trigger',
    dedup_key: `focus-breaker ${source}`.slice(0, MAX_DEDUP_KEY_LENGTH - start.length) + start,
  }
  if (kind === 'outage.closed') return event
  return {
    ...event,
    client: 'focus-breaker',
    payload: {
      summary: sentence(message, present).slice(0, MAX_SUMMARY_LENGTH),
      source,
      severity: 'critical',
      timestamp: rfc3339(at),
      custom_details: plain(message, present).data,
    },
  }
}

/** A beginning that is reported after this time says how long ago it was. */
const LATE_AFTER_MS = 5000

function sentence(message: Message, present: Present): string {
  const { kind, name, at, unreported } = message
  const { handling, ended, isFollowed } = present
  const { startedAt, endedAt, cause, refused } = ended ?? message.outage
  const isMissing = cause === 'waiting'
  const what = isMissing ? 'the fiber is missing' : "focus-server's metadata cannot be read"
  const lastedMs = (endedAt ?? at) - startedAt
  const lasted = inWords(lastedMs)
  const others =
    unreported === 0
      ? ''
      : ` ${unreported} shorter ${unreported === 1 ? 'outage was' : 'outages were'} not told.`
  if (isOver(message, present)) {
    const was = isMissing ? 'the fiber was missing' : "focus-server's metadata could not be read"
    const until = endedAt === null ? '' : ` to ${rfc3339(endedAt)}`
    return `${name}: outage from ${rfc3339(startedAt)}${until}, ${was}; it is over.${others}`
  }
  switch (kind) {
    case 'outage.opened': {
      const since = lastedMs < LATE_AFTER_MS ? '' : ` for ${lasted}`
      return `${name}: outage${since}, ${what}; ${DURING[handling]}.${others}`
    }
    case 'outage.lasting': {
      const requests = refused === 1 ? '1 request was' : `${refused} requests were`
      return `${name}: outage for ${lasted}, ${what}; ${requests} refused so far.${others}`
    }
    case 'outage.closed': {
      const until = endedAt === null ? '' : ` at ${rfc3339(endedAt)}`
      return isFollowed
        ? `${name}: outage over after ${lasted}${until}; another one has begun since.`
        : `${name}: outage over after ${lasted}${AFTER[handling](refused)}.`
    }
  }
}

/** What happens to configure requests during an outage. */
const DURING: Readonly<Record<Handling, string>> = {
  circuit: 'configure requests are refused until it is back',
  observe: 'mode observe: configure requests are forwarded all the same',
  'forced-closed': 'configure requests are forwarded all the same, on the word of an operator',
  'forced-open': 'configure requests are refused on the word of an operator as well',
}

/** What happens to them after it. */
const AFTER: Readonly<Record<Handling, (refused: number) => string>> = {
  circuit: refused => `: configure requests pass again; ${refused} ${refused === 1 ? 'was' : 'were'} refused`,
  observe: () => '',
  'forced-closed': refused =>
    `; ${refused} configure ${refused === 1 ? 'request was' : 'requests were'} refused`,
  'forced-open': () => ': configure requests are refused still, on the word of an operator',
}
