import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import type { Entry, Message, OverrideChange, Shared } from '../domain/agreement.js'
import type { Circuit } from '../domain/circuit.js'
import type { Knowledge } from '../domain/knowledge.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Member } from './replicas.js'

/** The version of the data in Redis. It is part of each key; entries of another version are skipped and counted. */
export const WIRE_VERSION = 1

/** The maximum length of an entry or a state in characters; a longer text is malformed. */
const MAX_LENGTH = 65_536

const Time = Type.Number()
const Count = Type.Integer({ minimum: 0 })
const Text = Type.String({ maxLength: 4096 })
const FailedKind = Type.Union([Type.Literal('waiting'), Type.Literal('unreachable')])
const CauseOf = Type.Union([Type.Literal('starting'), FailedKind])
const Metadata = Type.Record(
  Type.String(),
  Type.Union([Type.String(), Type.Number(), Type.Boolean(), Type.Null()]),
)
const ReadingBase = {
  at: Time,
  source: Type.Union([Type.Literal('probe'), Type.Literal('client'), Type.Literal('configure')]),
}
const ReadingText = Type.Union([
  Type.Object({ ...ReadingBase, kind: Type.Literal('ready'), metadata: Metadata }),
  Type.Object({
    ...ReadingBase,
    kind: Type.Literal('waiting'),
    metadata: Metadata,
    missing: Type.Array(Text),
  }),
  Type.Object({ ...ReadingBase, kind: Type.Literal('unreachable'), problem: Text }),
])
const OverrideText = Type.Object({
  state: Type.Union([Type.Literal('open'), Type.Literal('closed')]),
  reason: Text,
  since: Time,
  until: Time,
  by: Text,
  silent: Type.Optional(Type.Boolean()),
})
const Failures = Type.Object({ waiting: Count, unreachable: Count })
const CircuitBase = { since: Time, judgedAt: Time }
const CircuitText = Type.Union([
  Type.Object({ ...CircuitBase, state: Type.Literal('closed'), failures: Failures }),
  Type.Object({
    ...CircuitBase,
    state: Type.Literal('open'),
    openedAt: Time,
    cause: CauseOf,
    failures: Failures,
    failingSince: Time,
    successes: Count,
    resumed: Type.Optional(Type.Object({ cause: CauseOf, causeSince: Time })),
  }),
  Type.Object({ ...CircuitBase, state: Type.Literal('half-open'), openedAt: Time, cause: CauseOf }),
])
const KnowledgeText = Type.Object({
  circuit: CircuitText,
  reading: Type.Union([ReadingText, Type.Null()]),
  streak: Count,
  lastReadyAt: Type.Union([Time, Type.Null()]),
  newestAt: Time,
  countedAt: Time,
})
const OverrideChangeText = Type.Object({
  override: Type.Union([OverrideText, Type.Null()]),
  at: Time,
  by: Text,
})
const MessageText = Type.Union([
  Type.Object({ kind: Type.Literal('reading'), reading: ReadingText, isCounted: Type.Boolean() }),
  Type.Object({ kind: Type.Literal('override'), ...OverrideChangeText.properties }),
  Type.Object({ kind: Type.Literal('knowledge'), knowledge: KnowledgeText, extends: Time }),
  Type.Object({ kind: Type.Literal('probe-request') }),
])
const SharedText = Type.Object({
  version: Type.Literal(WIRE_VERSION),
  knowledge: KnowledgeText,
  overridden: OverrideChangeText,
  sequences: Type.Array(Type.Tuple([Type.String(), Count]), { maxItems: 1000 }),
})

const DescriptionText = Type.Object({
  name: Text,
  version: Text,
  isProber: Type.Boolean(),
  hasLimit: Type.Boolean(),
})
/** End of its share, start, share, requests in flight, previous share, whether it lacks slots, and the description. */
const MEMBER = /^(\d+) (\d+) (\d+) (\d+) \d+ [01] (.*)$/

/** The fields of an entry in the stream. */
export function entryFields({ origin, sequence, message }: Entry): readonly string[] {
  return ['v', String(WIRE_VERSION), 'o', origin, 's', String(sequence), 'm', JSON.stringify(message)]
}

/** Parses an entry of the stream; undefined if it is of another version or malformed. */
export function parseEntry(fields: readonly string[]): Entry | undefined {
  const byName = new Map<string, string>()
  for (let index = 0; index + 1 < fields.length; index += 2) {
    byName.set(fields[index] ?? '', fields[index + 1] ?? '')
  }
  const origin = byName.get('o')
  const sequence = Number(byName.get('s'))
  const message = parseMessage(byName.get('m'))
  if (byName.get('v') !== String(WIRE_VERSION) || origin === undefined || message === undefined)
    return undefined
  if (origin.length > 100 || !Number.isSafeInteger(sequence) || sequence < 1) return undefined
  return { origin, sequence, message }
}

/** The state in its stored form. */
export function sharedText(shared: Shared): string {
  return JSON.stringify({ version: WIRE_VERSION, ...shared })
}

/** Parses the stored state; undefined if it is of another version or malformed. */
export function parseShared(text: string): Shared | undefined {
  const value = parseJson(text)
  if (!Value.Check(SharedText, value)) return undefined
  const { knowledge, overridden, sequences } = value
  return {
    knowledge: asKnowledge(knowledge),
    overridden: asOverrideChange(overridden),
    sequences,
  }
}

function parseMessage(text: string | undefined): Message | undefined {
  const value = parseJson(text)
  if (!Value.Check(MessageText, value)) return undefined
  switch (value.kind) {
    case 'reading':
      return { kind: 'reading', reading: asReading(value.reading), isCounted: value.isCounted }
    case 'override':
      return { kind: 'override', ...asOverrideChange(value) }
    case 'knowledge':
      return { kind: 'knowledge', knowledge: asKnowledge(value.knowledge), extends: value.extends }
    case 'probe-request':
      return { kind: 'probe-request' }
  }
}

/** How a replica describes itself in each report. */
export type Description = Static<typeof DescriptionText>

/** The description in its stored form. */
export function descriptionText(description: Description): string {
  return JSON.stringify(description)
}

/** The time of Redis, its shift to the common time, the replica that reads, and how long a report is valid. */
export type MemberContext = {
  readonly now: Instant
  readonly shiftMs: number
  readonly self: string
  readonly leaseMs: number
}

/** Parses the report of a replica; undefined if it is malformed. */
export function parseMember(
  origin: string,
  text: string,
  { now, shiftMs, self, leaseMs }: MemberContext,
): Member | undefined {
  const [, ends, since, share, inFlight, description] = MEMBER.exec(text) ?? []
  const value = parseJson(description)
  if (!Value.Check(DescriptionText, value)) return undefined
  const { name, version, isProber, hasLimit } = value
  return {
    ...{ origin, name, version, isProber, isSelf: origin === self },
    since: Number(since) + shiftMs,
    heardAt: Number(ends) - leaseMs + shiftMs,
    isPresent: Number(ends) >= now,
    share: hasLimit ? Number(share) : null,
    inFlight: Number(inFlight),
  }
}

/** Copies only the known members, so that unknown data from Redis is dropped. */
function asReading(reading: Static<typeof ReadingText>): Reading {
  const { at, source } = reading
  switch (reading.kind) {
    case 'ready':
      return { at, source, kind: 'ready', metadata: reading.metadata }
    case 'waiting':
      return { at, source, kind: 'waiting', metadata: reading.metadata, missing: reading.missing }
    case 'unreachable':
      return { at, source, kind: 'unreachable', problem: reading.problem }
  }
}

function asOverrideChange({ override, at, by }: Static<typeof OverrideChangeText>): OverrideChange {
  return { override: override && asOverride(override), at, by }
}

function asOverride({ state, reason, since, until, by, silent }: Static<typeof OverrideText>) {
  return { state, reason, since, until, by, ...(silent !== undefined && { silent }) }
}

function asKnowledge({ circuit, reading, ...known }: Static<typeof KnowledgeText>): Knowledge {
  const { streak, lastReadyAt, newestAt, countedAt } = known
  return {
    ...{ circuit: asCircuit(circuit), reading: reading && asReading(reading) },
    ...{ streak, lastReadyAt, newestAt, countedAt },
  }
}

function asCircuit(circuit: Static<typeof CircuitText>): Circuit {
  if (circuit.state !== 'open') return circuit
  const { resumed, ...rest } = circuit
  return resumed === undefined ? rest : { ...rest, resumed }
}

function parseJson(text: string | undefined): unknown {
  if (text === undefined || text.length > MAX_LENGTH) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
