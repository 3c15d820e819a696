import Type from 'typebox'
import {
  CAUSES,
  CIRCUIT_STATES,
  CONFIDENCES,
  FAILED_READING_KINDS,
  OVERRIDE_ENDS,
  OVERRIDE_STATES,
  READING_KINDS,
  READING_SOURCES,
  REFUSAL_CODES,
} from '../domain/vocabulary.js'
import { Nullable, Timestamp } from '../outages/record.js'

// The outage records use these two as well, and their folder may not import routes.
export { Nullable, Timestamp }

/** A copy of the schema with a sentence about it, which `/-/openapi.json` shows. */
export function described<Schema extends Type.TSchema>(description: string, schema: Schema): Schema {
  // TypeBox marks optional members with properties that a spread would drop.
  const copy: Schema = Object.create(Object.getPrototypeOf(schema), Object.getOwnPropertyDescriptors(schema))
  return Object.assign(copy, { description })
}

/**
 * The start of the counting, and whether counts survive a restart: true if `history.file` is set and writable. Without
 * it, counts start with the process.
 */
export const COUNTED_SPAN = {
  since: described('Start of the counts.', Timestamp),
  kept: described(
    'Whether the counts survive a restart: true if `history.file` is set and writable.',
    Type.Boolean(),
  ),
}

/** The replicas whose counts a response includes, if there are several. */
export const COUNTED_BY = {
  replicas: described(
    'The replicas whose counts are included, if there are several.',
    Type.Optional(Type.Array(Type.String())),
  ),
}

/** The value of `COUNTED_BY` for a response. */
export function countedBy(replicas: readonly string[] | undefined): { replicas?: string[] } {
  return replicas === undefined ? {} : { replicas: [...replicas] }
}

/** The state of the circuit. */
export const State = Type.Enum(CIRCUIT_STATES)

/** The cause of a circuit that is not closed. */
export const Cause = Type.Enum(CAUSES)

const Metadata = Type.Record(
  Type.String(),
  Type.Union([Type.Number(), Type.Boolean(), Type.String(), Type.Null()]),
)

/** The last reading. */
export const ReadingBody = Type.Object({
  kind: Type.Enum(READING_KINDS),
  at: Timestamp,
  ageMs: Type.Integer(),
  source: Type.Enum(READING_SOURCES),
  missing: Type.Optional(Type.Array(Type.String())),
  metadata: Type.Optional(Metadata),
  problem: Type.Optional(Type.String()),
  streak: Type.Integer(),
})

/** An override, as `overrideAsJson` returns it. */
export const OverrideBody = Type.Object({
  state: Type.Enum(OVERRIDE_STATES),
  reason: Type.String(),
  since: Timestamp,
  until: Timestamp,
  by: Type.String(),
  silent: described('Whether it is planned maintenance.', Type.Boolean()),
})

/** An override that has ended, as `pastOverrideAsJson` returns it. */
export const PastOverrideBody = Type.Object({
  ...OverrideBody.properties,
  endedAt: Timestamp,
  end: Type.Enum(OVERRIDE_ENDS),
  endedBy: described(
    'Who removed or replaced it: an address, or `override.file`. Null if it expired.',
    Nullable(Type.String()),
  ),
})

/** The likely total duration of the current outage, based on earlier outages with the same cause. */
export const Forecast = Type.Object({
  cause: Type.Enum(FAILED_READING_KINDS),
  p50Seconds: Type.Integer(),
  p90Seconds: Type.Integer(),
  samples: Type.Integer(),
  confidence: described('`low` below 10 samples, `good` from 30.', Type.Enum(CONFIDENCES)),
})

/** The circuit, as `circuitAsJson` returns it. */
export const CircuitBody = Type.Object({
  state: State,
  since: described('When it entered this state with this cause.', Timestamp),
  cause: described('Null if the circuit is closed.', Nullable(Cause)),
  outageStartedAt: described(
    'Start of the current outage; null if the circuit is closed.',
    Nullable(Timestamp),
  ),
})

/** The response of `/-/fiber` and `/-/wait` while guarded requests are admitted. */
export const FiberBody = Type.Object({
  admits: Type.Boolean(),
  message: Type.String(),
  circuit: CircuitBody,
  observedAt: Nullable(Timestamp),
})

/** An error, as `server/error-response` sends it. */
export const ErrorBody = Type.Object(
  {
    error: Type.String(),
    message: Type.String(),
    statusCode: Type.Integer(),
    requestId: Type.String(),
  },
  { title: 'Error' },
)

/** Members of both forms of a refusal, as `proxy/refusal` sends them. */
const FACTS = {
  error: Type.String(),
  message: Type.String(),
  reason: Type.String(),
  details: Type.Object({}),
  forwarded: Type.Literal(false),
  retryAfterSeconds: Type.Integer(),
  circuit: CircuitBody,
  observedAt: Nullable(Timestamp),
  lastReadyAt: Nullable(Timestamp),
  forecast: Type.Optional(Forecast),
  override: Type.Optional(
    Type.Object({ state: Type.String(), reason: Type.String(), until: Timestamp, silent: Type.Boolean() }),
  ),
  replica: described(
    'The replica that refused the request, if there are several.',
    Type.Optional(Type.String()),
  ),
  requestId: Type.String(),
}

const Code = Type.Enum(REFUSAL_CODES)

/** A refusal. */
export const RefusalBody = Type.Object({ status: Code, ...FACTS }, { title: 'Refusal' })

/** A refusal for `Accept: application/problem+json` (RFC 9457). */
export const ProblemBody = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String(),
    instance: Type.String(),
    code: Code,
    ...FACTS,
  },
  { title: 'Refusal for Accept: application/problem+json (RFC 9457)' },
)
