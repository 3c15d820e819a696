import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs'
import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import { overrideAsJson, pastOverrideAsJson } from '../domain/override.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import {
  OUTAGE_NOTIFICATION_KINDS,
  OVERRIDE_ENDS,
  OVERRIDE_NOTIFICATION_KINDS,
} from '../domain/vocabulary.js'
import {
  Nullable,
  OutageRecord,
  OverrideRecord,
  outageAsJson,
  outageFromJson,
  overrideFromJson,
  Timestamp,
} from '../outages/record.js'
import { removeLeftovers, replaceFile } from '../outages/replace-file.js'
import { MAX_QUEUED, MAX_RETRY_AFTER_MS, type Pending } from './delivery.js'
import { isAboutOverride } from './message.js'

/** What has been reported so far. */
export type Reported = {
  /** The start of the outage that was reported and whose end was not; null if there is none. */
  readonly outage: Instant | null
  /** When the start of an outage was last reported. */
  readonly at: Instant | null
  /** The start of the outage that was last reported as lasting. */
  readonly lasting: Instant | null
  /** Outages since then that were not reported. */
  readonly unreported: number
}

/** What survives a restart; `reported` is undefined if there is no record of it. */
export type Kept = { readonly reported: Reported | undefined; readonly pending: readonly Pending[] }

/** A larger file is not a notifications file. */
const MAX_FILE_BYTES = 4_194_304

const FOREIGN = new Error('not a notifications file; leaving it unchanged')

/** The common members of all pending messages. */
const PENDING = {
  webhook: Type.String({ pattern: '^[0-9a-f]{8}$' }),
  id: Type.String({ pattern: '^msg_[0-9a-f-]{36}$' }),
  queuedAt: Timestamp,
  attempts: Type.Integer({ minimum: 0 }),
  notBefore: Timestamp,
  name: Type.String({ maxLength: 500 }),
  source: Type.String({ maxLength: 500 }),
  at: Timestamp,
  claim: Type.Optional(Type.String({ maxLength: 200 })),
}

const PastOverrideRecord = Type.Object({
  ...OverrideRecord.properties,
  endedAt: Timestamp,
  end: Type.Enum(OVERRIDE_ENDS),
  endedBy: Nullable(Type.String()),
})

const Line = Type.Union([
  Type.Object(
    {
      reported: Type.Object({
        outage: Nullable(Timestamp),
        at: Nullable(Timestamp),
        lasting: Nullable(Timestamp),
        unreported: Type.Integer({ minimum: 0 }),
      }),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      pending: Type.Object({
        ...PENDING,
        kind: Type.Enum(OUTAGE_NOTIFICATION_KINDS),
        unreported: Type.Integer({ minimum: 0 }),
        foundAtStart: Type.Optional(Type.Boolean()),
        key: Type.Optional(Timestamp),
        openedAs: Type.Optional(Timestamp),
        outage: OutageRecord,
      }),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      pending: Type.Object({
        ...PENDING,
        kind: Type.Enum(OVERRIDE_NOTIFICATION_KINDS),
        override: Nullable(OverrideRecord),
        past: Nullable(PastOverrideRecord),
      }),
    },
    { additionalProperties: false },
  ),
])

/**
 * The notifications file, next to the history file. It keeps what was reported, and what has not been delivered yet, across
 * restarts. It is small, and replaced as a whole at each change. It contains no URL and no other secret.
 */
export class NotificationFile {
  readonly #file: string
  readonly #onFault: (error: unknown, file: string) => void
  #isForeign = false
  #isFailing = false
  #skippedLines = 0

  /** @param onFault called with the error when writing starts to fail, and with undefined once it works again. */
  constructor(historyFile: string, onFault: (error: unknown, file: string) => void) {
    this.#file = `${historyFile}.notifications`
    this.#onFault = onFault
  }

  /** The number of malformed lines that were skipped. */
  get skippedLines(): number {
    return this.#skippedLines
  }

  /** False while the file cannot be written. */
  get isWorking(): boolean {
    return !this.#isFailing
  }

  /**
   * Reads the file. Times in the future, from before the clock was set back, become `now`. If the start of an outage is in the
   * future, it becomes the start of the outage in progress, whose record was corrected in the same way.
   */
  load(now: Instant, underWay: Instant | null = null): Kept {
    removeLeftovers(this.#file, now)
    let text: string
    try {
      text = readBounded(this.#file)
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) {
        this.#isForeign = true
        this.#fail(error)
      }
      return { reported: undefined, pending: [] }
    }
    let reported: Reported | undefined
    const pending: Pending[] = []
    const ofWebhook = new Map<string, number>()
    for (const line of text.split('\n')) {
      if (line === '') continue
      const record = parseLine(line)
      if (record === undefined) this.#skippedLines += 1
      else if ('reported' in record) reported = reportedFromJson(record.reported, now, underWay)
      else {
        const one = pendingFromJson(record.pending, now, underWay)
        const count = (ofWebhook.get(one.webhook) ?? 0) + 1
        ofWebhook.set(one.webhook, count)
        if (count <= MAX_QUEUED + 1) pending.push(one)
      }
    }
    this.#isForeign = text !== '' && reported === undefined && pending.length === 0
    if (this.#isForeign) this.#fail(FOREIGN)
    return { reported, pending }
  }

  /** Replaces the content. */
  save(reported: Reported, pending: readonly Pending[]): void {
    try {
      if (this.#isForeign) throw FOREIGN
      const lines = [{ reported: reportedAsJson(reported) }, ...pending.map(pendingAsJson)]
      replaceFile(this.#file, lines.map(line => `${JSON.stringify(line)}\n`).join(''))
      if (this.#isFailing) this.#onFault(undefined, this.#file)
      this.#isFailing = false
    } catch (error) {
      this.#fail(error)
    }
  }

  #fail(error: unknown): void {
    if (!this.#isFailing) this.#onFault(error, this.#file)
    this.#isFailing = true
  }
}

function readBounded(file: string): string {
  const descriptor = openSync(file, 'r')
  try {
    const stats = fstatSync(descriptor)
    if (!stats.isFile() || stats.size > MAX_FILE_BYTES) throw FOREIGN
    return readFileSync(descriptor, 'utf8')
  } finally {
    closeSync(descriptor)
  }
}

function parseLine(line: string): Static<typeof Line> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return Value.Check(Line, value) && timesOf(value).every(isTime) ? value : undefined
  } catch {
    return undefined
  }
}

function timesOf(line: Static<typeof Line>): readonly (string | null | undefined)[] {
  if ('reported' in line) return [line.reported.outage, line.reported.at, line.reported.lasting]
  const { queuedAt, notBefore, at } = line.pending
  const common = [queuedAt, notBefore, at]
  if ('override' in line.pending) {
    const { override, past } = line.pending
    return [...common, override?.since, override?.until, past?.since, past?.until, past?.endedAt]
  }
  const { key, openedAs, outage } = line.pending
  const { startedAt, endedAt, causeSince, openedBy, closedBy } = outage
  return [...common, key, openedAs, startedAt, endedAt, causeSince, openedBy.at, closedBy?.at]
}

/** The format `date-time` allows leap seconds, which `Date` cannot parse. */
function isTime(text: string | null | undefined): boolean {
  return typeof text !== 'string' || Number.isFinite(Date.parse(text))
}

function reportedAsJson({ outage, at, lasting, unreported }: Reported) {
  const time = (instant: Instant | null) => (instant === null ? null : rfc3339(instant))
  return { outage: time(outage), at: time(at), lasting: time(lasting), unreported }
}

function reportedFromJson(
  { outage, at, lasting, unreported }: Extract<Static<typeof Line>, { reported: unknown }>['reported'],
  now: Instant,
  underWay: Instant | null,
): Reported {
  const start = (text: string | null) => (text === null ? null : startOf(Date.parse(text), now, underWay))
  const time = at === null ? null : Math.min(now, Date.parse(at))
  return { outage: start(outage), at: time, lasting: start(lasting), unreported }
}

function startOf(start: Instant, now: Instant, underWay: Instant | null): Instant {
  return start > now ? (underWay ?? now) : start
}

function pendingAsJson({ webhook, id, message, claim, queuedAt, attempts, notBefore }: Pending) {
  const { kind, name, source, at } = message
  return {
    pending: {
      ...{ webhook, id, queuedAt: rfc3339(queuedAt), attempts, notBefore: rfc3339(notBefore) },
      ...{ kind, name, source, at: rfc3339(at) },
      ...(claim !== undefined && { claim }),
      ...(isAboutOverride(message)
        ? {
            override: message.override && overrideAsJson(message.override),
            past: message.past && pastOverrideAsJson(message.past),
          }
        : {
            unreported: message.unreported,
            ...(message.foundAtStart === true && { foundAtStart: true }),
            ...(message.key !== undefined && { key: rfc3339(message.key) }),
            ...(message.openedAs !== undefined && { openedAs: rfc3339(message.openedAs) }),
            outage: outageAsJson(message.outage),
          }),
    },
  }
}

function pendingFromJson(
  record: Extract<Static<typeof Line>, { pending: unknown }>['pending'],
  now: Instant,
  underWay: Instant | null,
): Pending {
  const { webhook, id, claim, queuedAt, attempts, notBefore, name, source, at } = record
  const time = (text: string) => Math.min(now, Date.parse(text))
  const common = { name, source, at: time(at) }
  return {
    ...{ webhook, id, attempts, queuedAt: time(queuedAt), ...(claim !== undefined && { claim }) },
    notBefore: Math.min(now + MAX_RETRY_AFTER_MS, Date.parse(notBefore)),
    message:
      'override' in record
        ? { ...common, ...overridesFromJson(record) }
        : { ...common, ...outageMessageFromJson(record, now, underWay) },
  }
}

type PendingRecord = Extract<Static<typeof Line>, { pending: unknown }>['pending']

function outageMessageFromJson(
  { kind, unreported, foundAtStart, key, openedAs, outage }: Extract<PendingRecord, { outage: unknown }>,
  now: Instant,
  underWay: Instant | null,
) {
  const read = outageFromJson(outage)
  const found = foundAtStart === true && { foundAtStart }
  return {
    kind,
    unreported,
    ...found,
    ...(key !== undefined && { key: Date.parse(key) }),
    ...(openedAs !== undefined && { openedAs: Date.parse(openedAs) }),
    outage: { ...read, startedAt: startOf(read.startedAt, now, underWay) },
  }
}

function overridesFromJson({ kind, override, past }: Extract<PendingRecord, { override: unknown }>) {
  return {
    kind,
    override: override && overrideFromJson(override),
    past: past && { ...past, ...overrideFromJson(past), endedAt: Date.parse(past.endedAt) },
  }
}
