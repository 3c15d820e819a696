import type { Outage } from '../domain/outage.js'
import { type Instant, inWords, rfc3339 } from '../domain/time.js'
import type { NotificationKind, WebhookFormat } from '../domain/vocabulary.js'

/** What decides about guarded requests: the circuit, mode `observe`, or an override to either state. */
export type Handling = 'circuit' | 'observe' | 'forced-closed' | 'forced-open'

/** One notification, as data. */
export type Message = {
  readonly kind: NotificationKind
  /** The name of this installation. */
  readonly name: string
  readonly at: Instant
  readonly outage: Outage
  /** Outages since the last notification that were not reported. */
  readonly unreported: number
  readonly handling: Handling
}

/** The body of a notification in the format of a webhook. */
export function bodyOf(message: Message, format: WebhookFormat): string {
  return format === 'slack' ? slack(message) : plain(message)
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
      untoldOutages: message.unreported,
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

function sentence({ kind, name, at, outage, unreported, handling }: Message): string {
  const { startedAt, endedAt, cause, refused } = outage
  const what = cause === 'waiting' ? 'the fiber is missing' : "focus-server's metadata cannot be read"
  const lasted = inWords((endedAt ?? at) - startedAt)
  const others =
    unreported === 0
      ? ''
      : ` ${unreported} shorter ${unreported === 1 ? 'outage was' : 'outages were'} not told.`
  switch (kind) {
    case 'outage.opened':
      return `${name}: outage, ${what}; ${DURING[handling]}.${others}`
    case 'outage.lasting': {
      const requests = refused === 1 ? '1 request was' : `${refused} requests were`
      return `${name}: outage for ${lasted}, ${what}; ${requests} refused so far.${others}`
    }
    case 'outage.closed':
      return `${name}: outage over after ${lasted}${AFTER[handling](refused)}.`
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
