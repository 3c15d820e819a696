import Type, { type TObject } from 'typebox'
import {
  CAUSES,
  CIRCUIT_STATES,
  OVERRIDE_ENDS,
  OVERRIDE_STATES,
  READING_KINDS,
  READING_SOURCES,
} from '../../src/domain/vocabulary.js'
import { memberTable } from './http-api.js'

const time = (description: string) => Type.String({ format: 'date-time', description })

/** Which replica publishes the event. */
const REPLICA = {
  replica: Type.Optional(
    Type.String({ description: 'The replica that publishes the event, if there are several.' }),
  ),
}

const PAST_OVERRIDE = {
  state: Type.Enum(OVERRIDE_STATES),
  reason: Type.String(),
  since: time('When it was set.'),
  until: time('When it ends at the latest.'),
  by: Type.String({ description: 'Who set it: an address, or `override.file`.' }),
  silent: Type.Boolean({
    description: 'Whether it is planned maintenance, for which no notifications are sent.',
  }),
}

const ENDED = {
  endedAt: time('When it ended.'),
  end: Type.Enum(OVERRIDE_ENDS, { description: 'How it ended.' }),
  endedBy: Type.Union([Type.String(), Type.Null()], { description: 'Who removed or replaced it.' }),
}

const optional = <Members extends Record<string, Type.TSchema>>(members: Members) =>
  Object.fromEntries(Object.entries(members).map(([name, schema]) => [name, Type.Optional(schema)]))

/** An event of `/-/events`: when it is sent, and its data. A test compares the data with what the program publishes. */
export type EventDescription = { readonly sentence: string; readonly data: TObject }

const strict = (members: Record<string, Type.TSchema>) =>
  Type.Object(members, { additionalProperties: false })

/** Every event of `/-/events` by its name. */
export const EVENTS: Readonly<Record<'transition' | 'reading' | 'override' | 'refused', EventDescription>> = {
  transition: {
    sentence:
      'The state of the circuit has changed or, from `open` to `open`, only the cause of the outage. Sent after the change has been written to the history file.',
    data: strict({
      at: time('When the state changed.'),
      from: Type.Enum(CIRCUIT_STATES),
      to: Type.Enum(CIRCUIT_STATES),
      cause: Type.Enum(CAUSES, {
        description: 'Why the circuit is not closed. When it closes, why it was not closed.',
      }),
      earlierCause: Type.Optional(
        Type.Enum(CAUSES, { description: 'The previous cause, if only the cause has changed.' }),
      ),
      since: time('Since when the circuit is in this state for this cause.'),
      outageStartedAt: Type.Union([time(''), Type.Null()], {
        description: 'When the outage began. Null when the circuit closes.',
      }),
      outageSeconds: Type.Integer({ description: 'How long the outage has lasted.' }),
      source: Type.Enum(READING_SOURCES, {
        description: 'The source of the reading that caused the change.',
      }),
      ...REPLICA,
    }),
  },
  reading: {
    sentence:
      'A reading was taken. While the readings from a source stay of the same kind, at most one event per second is sent for that source.',
    data: strict({
      at: time('When the request was sent.'),
      kind: Type.Enum(READING_KINDS),
      source: Type.Enum(READING_SOURCES),
      metadata: Type.Optional(Type.Object({}, { description: 'The metadata, unless it could not be read.' })),
      missing: Type.Optional(
        Type.Array(Type.String(), {
          description: 'For the kind `waiting`: the fields that show that the fiber is missing.',
        }),
      ),
      problem: Type.Optional(
        Type.String({ description: 'For the kind `unreachable`: why the metadata could not be read.' }),
      ),
      outdated: Type.Optional(Type.Literal(true, { description: 'A newer reading came first.' })),
      elsewhere: Type.Optional(Type.Literal(true, { description: 'Another replica took the reading.' })),
      ...REPLICA,
    }),
  },
  override: {
    sentence: 'A manual override was set, was removed, or has expired.',
    data: strict({
      kind: Type.Enum(['set', 'removed', 'ended']),
      ...PAST_OVERRIDE,
      ...optional(ENDED),
      replaced: Type.Optional(
        Type.Object(
          { ...PAST_OVERRIDE, ...ENDED },
          { additionalProperties: false, description: 'The override that was in force before.' },
        ),
      ),
      ...REPLICA,
    }),
  },
  refused: {
    sentence: 'Guarded requests were refused since the last event of this type. Sent at most once a second.',
    data: strict({
      at: time('When the requests were counted.'),
      count: Type.Integer({ description: 'Requests that were refused.' }),
      wouldRefuse: Type.Integer({
        description: 'Requests that mode `observe` forwarded instead of refusing them.',
      }),
      ...REPLICA,
    }),
  },
}

/** `docs/reference/events.md`. */
export function eventsPage(): string {
  const sections = Object.entries(EVENTS).map(
    ([name, { sentence, data }]) => `## \`${name}\`\n\n${sentence}\n\n${memberTable(data)}\n`,
  )
  return `# Events

Generated from \`docs/generate/events.ts\` by \`npm run docs\`; a test compares it with the events that the program publishes.

\`GET /-/events\` is a stream of server-sent events. The data of each event is a JSON object; a \`?\` marks a member that may be
missing.

- \`Last-Event-ID\` resumes from the last 1,000 events. An id from an earlier process cannot be resumed.
- A comment is sent every 15 seconds, so that gateways do not close the stream.
- A client with more than 256 KiB of unread events is disconnected. It can resume.
- At most 1,000 streams are open at a time. At the limit, [slots are shared](limits.md).
- A pipelined request cannot open a stream: it gets 400.

${sections.join('\n')}
## With several replicas

Each replica has its own ids. An id also records the last transition and the last override that its client has seen; these
are the same at all replicas. A client that a gateway connects to another replica therefore gets the transitions and
overrides that it has missed, and none of them twice. Readings and counts of refusals from the earlier replica are not
repeated. The exceptions are events that a replica published while it could not reach the others, and overrides that are
declared in a file: each replica publishes those on its own.
`
}
