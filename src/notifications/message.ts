import { createHash } from 'node:crypto'
import type { Outage } from '../domain/outage.js'
import {
  isDeclared,
  type Override,
  overrideAsJson,
  type PastOverride,
  pastOverrideAsJson,
} from '../domain/override.js'
import { oneLine } from '../domain/text.js'
import { type Instant, inWords, rfc3339 } from '../domain/time.js'
import type { OutageNotificationKind, OverrideNotificationKind } from '../domain/vocabulary.js'
import type { Webhook } from './webhook.js'

/** What decides about guarded requests: the circuit, mode `observe`, or an override of either state. */
export type Handling = 'circuit' | 'observe' | 'forced-closed' | 'forced-open'

/** The common members of all notifications. */
type Common = {
  /** The name of this installation. */
  readonly name: string
  /** The host of focus-server. Unlike the name, it is the same at the start of an outage and at its end. */
  readonly source: string
  readonly at: Instant
}

/** A notification about an outage, as data. */
export type OutageMessage = Common & {
  readonly kind: OutageNotificationKind
  readonly outage: Outage
  /** Outages since the last notification that were not reported. */
  readonly unreported: number
  /** Set if the outage was in progress when this process started, and there is no record of an earlier process. */
  readonly foundAtStart?: boolean
  /** The key of the outage among the replicas, if there may be several. Without it, the key is the start. */
  readonly key?: Instant
  /** The key under which this replica has reported the start, if it is a different one. */
  readonly openedAs?: Instant
}

/** A notification about a manual override, as data. */
export type OverrideMessage = Common & {
  readonly kind: OverrideNotificationKind
  /** The override that is now in force; null after one was removed or has ended. */
  readonly override: Override | null
  /** The override before it; null if there was none. */
  readonly past: PastOverride | null
}

/** One notification, as data. */
export type Message = OutageMessage | OverrideMessage

/** The state at the time of an attempt, which may be long after the message was created. */
export type Present = {
  readonly handling: Handling
  /** The same outage, if it has ended since the message was created. */
  readonly ended?: Outage
  /** Whether a later outage has started since. */
  readonly isFollowed: boolean
  /** The same outage as it is now, while it lasts. Its cause may have changed, and more requests may have been refused. */
  readonly current?: Outage
  /** Whether this outage is no longer the current one. Also true for an outage that is no longer known. */
  readonly isGone?: boolean
  /** Whether the fiber is back, and the recovery has begun. */
  readonly isRecovering?: boolean
  /** Why the metadata cannot be read, while it cannot. */
  readonly problem?: string
  /** The time of the attempt. */
  readonly now?: Instant
  /** The override in force. */
  readonly override?: Override | null
  /** The URL of the status page. */
  readonly pageUrl?: string
}

/**
 * The body of a notification in the format of a webhook. If the message is about a state that has ended, the text says so.
 * Undefined if it must not be sent any more (`isUseless`).
 */
export function bodyOf(message: Message, webhook: Webhook, present: Present): string | undefined {
  if (isUseless(message, webhook, present)) return undefined
  const { pageUrl } = present
  switch (webhook.format) {
    case 'json':
      return JSON.stringify(
        isAboutOverride(message) ? plainOverride(message, present) : plain(message, present),
      )
    case 'slack':
      return JSON.stringify({ text: escaped(textOf(message, present)) + slackLink(pageUrl) })
    case 'teams':
      return JSON.stringify(teams(textOf(message, present), pageUrl))
    case 'pagerduty':
      return isAboutOverride(message) ? undefined : JSON.stringify(pagerDuty(message, webhook, present))
  }
}

/** Whether the message is about a manual override. */
export function isAboutOverride(message: Message): message is OverrideMessage {
  return 'override' in message
}

/**
 * Whether a message must not be sent any more. An outage that has ended neither pages a person nor is reported as lasting. An
 * override never pages a person.
 */
export function isUseless(message: Message, { format }: Webhook, present: Present): boolean {
  if (isAboutOverride(message)) return format === 'pagerduty'
  return isOver(message, present) && (format === 'pagerduty' || message.kind === 'outage.lasting')
}

/**
 * The name of a notification in a group of replicas: all replicas use the same name for the same event. The name of an
 * override's start is the same whether or not it replaced another one, and so is the name of its end.
 */
export function nameOf(message: Message, { format }: Webhook): string {
  if (!isAboutOverride(message)) {
    const { kind, outage, key = outage.startedAt } = message
    // Each PagerDuty incident is resolved under the key under which it was triggered.
    return `${kind}:${rfc3339(format === 'pagerduty' ? triggeredAs(message) : key)}`
  }
  const about = aboutOf(message)
  const what = message.override === null ? 'over' : 'set'
  if (about === null) return `override.${what}`
  const { state, reason, silent = false, since, until } = about
  // Each replica reads a declared override on its own, at its own time.
  const when = isDeclared(about)
    ? createHash('sha256')
        .update(JSON.stringify([state, reason, silent, until]))
        .digest('hex')
        .slice(0, 16)
    : rfc3339(since)
  return `override.${what}:${when}`
}

/** Whether the replicas identify this notification by its content and not by its time, so that it may recur. */
export function isNamedByContent(message: Message): boolean {
  const about = isAboutOverride(message) ? aboutOf(message) : null
  return about !== null && isDeclared(about)
}

function aboutOf({ override, past }: OverrideMessage): Override | null {
  return override ?? past
}

function triggeredAs({ outage, key = outage.startedAt, openedAs = key }: OutageMessage): Instant {
  return openedAs
}

/** Whether a message about an outage in progress comes after the outage has ended. */
function isOver({ kind }: OutageMessage, { ended, isFollowed, isGone = false }: Present): boolean {
  return kind !== 'outage.closed' && (ended !== undefined || isFollowed || isGone)
}

/** The outage at the time of the attempt. */
function latest({ kind, outage }: OutageMessage, { ended, current }: Present): Outage {
  return kind === 'outage.closed' ? outage : (ended ?? current ?? outage)
}

/** The time up to which the message counts the duration: for `outage.lasting`, that of the attempt. */
function knownAt({ kind, at }: OutageMessage, { now }: Present): Instant {
  return kind === 'outage.lasting' && now !== undefined ? now : at
}

/** The message as one line of text. */
function textOf(message: Message, present: Present): string {
  return isAboutOverride(message) ? overrideSentence(message, present) : sentence(message, present)
}

function plainOverride(message: OverrideMessage, present: Present) {
  const { kind, name, at, override, past } = message
  const { pageUrl } = present
  return {
    type: kind,
    timestamp: rfc3339(at),
    data: {
      message: overrideSentence(message, present),
      name,
      override: override && overrideAsJson(override),
      past: past && pastOverrideAsJson(past),
      ...(pageUrl !== undefined && { pageUrl }),
    },
  }
}

function plain(message: OutageMessage, present: Present) {
  const { kind, name, at, unreported } = message
  const { startedAt, endedAt, cause, causeSince, refused, wouldRefuse, operations, spared } = latest(
    message,
    present,
  )
  const { pageUrl } = present
  const problem = problemOf(message, present)
  return {
    type: kind,
    timestamp: rfc3339(at),
    data: {
      message: sentence(message, present),
      name,
      startedAt: rfc3339(startedAt),
      endedAt: endedAt === null ? null : rfc3339(endedAt),
      cause,
      causeSince: rfc3339(causeSince),
      ...(problem !== undefined && { problem }),
      seconds: Math.max(0, Math.round(((endedAt ?? knownAt(message, present)) - startedAt) / 1000)),
      refused,
      wouldRefuse,
      operations,
      spared,
      untoldOutages: unreported,
      ...(message.foundAtStart === true && { foundAtStart: true }),
      ...(pageUrl !== undefined && { pageUrl }),
    },
  }
}

/** https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks */
function escaped(text: string): string {
  return text.replace(/[&<>]/g, character => SLACK_ESCAPES[character] ?? character)
}

/** https://docs.slack.dev/messaging/formatting-message-text#escaping */
const SLACK_ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' }

/** The text of the link to the status page. */
const LINK_TEXT = 'Open the status page'

/** https://docs.slack.dev/messaging/formatting-message-text#linking-urls */
function slackLink(pageUrl: string | undefined): string {
  return pageUrl === undefined ? '' : ` <${escaped(pageUrl).replaceAll('|', '%7C')}|${LINK_TEXT}>`
}

/**
 * An Adaptive Card in the envelope of Workflows:
 * https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
 *
 * A TextBlock would interpret the name as Markdown; a TextRun does not.
 */
function teams(text: string, pageUrl: string | undefined) {
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
          ...(pageUrl !== undefined && {
            actions: [{ type: 'Action.OpenUrl', title: LINK_TEXT, url: pageUrl }],
          }),
        },
      },
    ],
  }
}

/** The longest `dedup_key` and `summary` that PagerDuty accepts. */
const MAX_DEDUP_KEY_LENGTH = 255
const MAX_SUMMARY_LENGTH = 1024

/** An alert event: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ */
function pagerDuty(message: OutageMessage, { routingKey }: Webhook, present: Present) {
  const { kind, source, at } = message
  // The end of an outage has the same key as its start, even if the configuration was reloaded in between.
  const start = ` ${rfc3339(triggeredAs(message))}`
  const event = {
    routing_key: routingKey,
    event_action: kind === 'outage.closed' ? 'resolve' : 'trigger',
    dedup_key: `focus-breaker ${source}`.slice(0, MAX_DEDUP_KEY_LENGTH - start.length) + start,
  }
  if (kind === 'outage.closed') return event
  return {
    ...event,
    client: 'focus-breaker',
    ...(present.pageUrl !== undefined && { links: [{ href: present.pageUrl, text: LINK_TEXT }] }),
    payload: {
      summary: sentence(message, present).slice(0, MAX_SUMMARY_LENGTH),
      source,
      severity: 'critical',
      timestamp: rfc3339(at),
      custom_details: plain(message, present).data,
    },
  }
}

/** A start that is reported later than this mentions how long ago it was. */
const LATE_AFTER_MS = 5000

/** The maximum length of a problem in a sentence. */
const MAX_PROBLEM_LENGTH = 300

/** Why the metadata cannot be read, if that is the cause of the outage. */
function problemOf(message: OutageMessage, present: Present): string | undefined {
  const { cause, openedBy } = latest(message, present)
  if (cause !== 'unreachable' || message.kind === 'outage.closed') return undefined
  const first = openedBy.kind === 'unreachable' && openedBy.problem !== '' ? openedBy.problem : undefined
  return oneLine(present.problem ?? first ?? '').slice(0, MAX_PROBLEM_LENGTH) || undefined
}

function sentence(message: OutageMessage, present: Present): string {
  const { kind, name, unreported, foundAtStart = false } = message
  const { handling, isFollowed, isRecovering = false } = present
  const outage = latest(message, present)
  const { startedAt, endedAt, cause, causeSince } = outage
  const isMissing = cause === 'waiting'
  const problem = problemOf(message, present)
  const why = problem === undefined ? '' : ` (${problem})`
  const lastedMs = (endedAt ?? knownAt(message, present)) - startedAt
  const lasted = `${foundAtStart ? 'at least ' : ''}${inWords(lastedMs)}`
  const notReported =
    unreported === 0
      ? ''
      : ` ${unreported} shorter ${unreported === 1 ? 'outage was' : 'outages were'} not reported.`
  const others = `${notReported}${foundAtStart ? FOUND : ''}`
  if (isOver(message, present)) {
    const was = isMissing ? 'the fiber was missing' : `focus-server's metadata could not be read${why}`
    const until = endedAt === null ? '' : ` to ${rfc3339(endedAt)}`
    return `${name}: outage from ${rfc3339(startedAt)}${until}, ${was}; it has ended.${others}`
  }
  const causeMs = knownAt(message, present) - causeSince
  // The outage may have started with another cause.
  const recently = causeMs < 1000 ? 'now ' : `for the last ${inWords(causeMs)} `
  const sinceThen = lastedMs - causeMs < LATE_AFTER_MS ? '' : recently
  const what = isRecovering
    ? `${isMissing ? 'the fiber is back' : "focus-server's metadata can be read again"} and the recovery has begun`
    : sinceThen + (isMissing ? 'the fiber is missing' : `focus-server's metadata cannot be read${why}`)
  switch (kind) {
    case 'outage.opened': {
      const since = lastedMs < LATE_AFTER_MS ? '' : ` for ${lasted}`
      const during = isRecovering && handling === 'circuit' ? DURING_RECOVERY : DURING[handling]
      return `${name}: outage${since}, ${what}; ${during}.${others}`
    }
    case 'outage.lasting': {
      return `${name}: outage for ${lasted}, ${what}; ${refusedInWords(outage, handling, 'request')} so far.${others}`
    }
    case 'outage.closed': {
      const until = endedAt === null ? '' : ` at ${rfc3339(endedAt)}`
      return isFollowed
        ? `${name}: outage ended after ${lasted}${until}; another one has started since.`
        : `${name}: outage ended after ${lasted}${AFTER[handling](outage)}.${foundAtStart ? FOUND : ''}`
    }
  }
}

/** Why the duration is not known. */
const FOUND = ' It was already in progress when focus-breaker started.'

/** What happens to configure requests during an outage. */
const DURING: Readonly<Record<Handling, string>> = {
  circuit: 'configure requests are refused until it is back',
  observe: 'configure requests are still forwarded (mode observe)',
  'forced-closed': 'configure requests are still forwarded because of a manual override',
  'forced-open': 'configure requests are also refused by a manual override',
}

/** The same while the circuit is half-open. */
const DURING_RECOVERY = 'configure requests are admitted a few at a time'

/** What happens to configure requests after an outage. */
const AFTER: Readonly<Record<Handling, (outage: Outage) => string>> = {
  circuit: outage => `: configure requests pass again; ${refusedInWords(outage, 'circuit')}`,
  observe: outage =>
    outage.wouldRefuse === 0 ? '' : `; ${refusedInWords(outage, 'observe', 'configure request')}`,
  'forced-closed': outage => `; ${refusedInWords(outage, 'forced-closed', 'configure request')}`,
  'forced-open': () => ': configure requests are still refused by a manual override',
}

/** What an override does to configure requests. */
function effectOf({ state, silent }: Override, { handling }: Present): string {
  const effect = state === 'open' ? 'configure requests are refused' : 'configure requests are admitted'
  const words = silent === true ? `planned maintenance, ${effect}` : effect
  return handling === 'observe' && state === 'open' ? `${words} (mode observe: still forwarded)` : words
}

function overrideSentence({ kind, name, override, past, at }: OverrideMessage, present: Present): string {
  const { override: inForce, now = at } = present
  if (override !== null) {
    const { by, reason, since, until } = override
    const verb = kind === 'override.replaced' ? 'replaced' : 'set'
    const before = past === null ? '' : ` It replaces: ${oneLine(past.reason)}.`
    const isOver = now >= until || (inForce !== undefined && !isSame(override, inForce))
    // Delivered late: the override no longer has an effect.
    if (isOver)
      return `${name}: override ${verb} by ${by} at ${rfc3339(since)}: ${oneLine(reason)}; it has ended.`
    const effect = `${effectOf(override, present)} until ${rfc3339(until)}`
    return `${name}: override ${verb} by ${by}: ${effect}: ${oneLine(reason)}.${before}`
  }
  if (past === null) return `${name}: override ended.`
  const lasted = inWords(past.endedAt - past.since)
  const how = past.endedBy === null ? 'ended' : `removed by ${past.endedBy}`
  const after = inForce === null ? ': the circuit decides again' : ''
  return `${name}: override ${how} after ${lasted}${after}. Its reason was: ${oneLine(past.reason)}.`
}

function isSame(override: Override, other: Override | null): boolean {
  return other !== null && other.since === override.since && other.by === override.by
}

/** The number of requests that were refused and, in mode `observe`, would have been refused. */
function refusedInWords({ refused, wouldRefuse }: Outage, handling: Handling, noun = ''): string {
  const count = (of: number) => `${of}${noun === '' ? '' : ` ${noun}${of === 1 ? '' : 's'}`}`
  const were = `${count(refused)} ${refused === 1 ? 'was' : 'were'} refused`
  const would = `${count(wouldRefuse)} would have been refused`
  if (handling === 'observe') return refused === 0 ? would : `${were}, ${would}`
  return wouldRefuse === 0 ? were : `${were}, ${would}`
}
