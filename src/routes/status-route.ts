import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import type { WaitingRoom } from '../breaker/waiting-room.js'
import { circuitAsJson } from '../domain/circuit.js'
import { overrideAsJson } from '../domain/override.js'
import { type ReplicaGroup, replicaCount } from '../domain/replica-group.js'
import { type RetryAfter, retryAfterSeconds } from '../domain/retry-after.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { GUARD_MODES } from '../domain/vocabulary.js'
import type { KnownRecord } from '../observability/known-record.js'
import {
  CircuitBody,
  COUNTED_BY,
  COUNTED_SPAN,
  countedBy,
  described,
  Forecast,
  Nullable,
  OverrideBody,
  ReadingBody,
  Timestamp,
} from './schemas.js'

/** Dependencies of the route. */
export type StatusOptions = {
  readonly breaker: Breaker
  /** Called for each request. */
  readonly known: () => Pick<KnownRecord, 'outageLog' | 'totals' | 'span' | 'replicas'>
  readonly waitingRoom: WaitingRoom
  /** Called for each request. */
  readonly retryAfter: () => RetryAfter
  readonly version: string
  /** The name of this installation. Called for each request. */
  readonly name: () => string
  readonly startedAt: Instant
  readonly clock: () => Instant
  /** The URL of the upstream, without credentials. */
  readonly upstreamUrl: string
  /** The URL of the probes, without credentials. */
  readonly probeUrl: string
  /** The time until which focus-server has asked for no probes (429 with `Retry-After`). */
  readonly probesSlowedUntil: () => Instant | undefined
  /** Undefined if `replicas.url` is not set. */
  readonly group?: ReplicaGroup | undefined
}

const StatusBody = Type.Object({
  version: Type.String(),
  name: described('`notify.name`, or the host of focus-server.', Type.String()),
  startedAt: Timestamp,
  mode: Type.Enum(GUARD_MODES),
  circuit: described(
    "`forMs`, here and below, is the time since `since` by the proxy's clock, because the client's clock may differ.",
    Type.Object({
      ...CircuitBody.properties,
      forMs: Type.Integer(),
      outageForMs: Nullable(Type.Integer()),
    }),
  ),
  admits: Type.Boolean(),
  refusal: described(
    'The `status` of the refusal that a guarded request would get.',
    Nullable(Type.String()),
  ),
  retryAfterSeconds: Nullable(Type.Integer()),
  override: Nullable(Type.Object({ ...OverrideBody.properties, forMs: Type.Integer() })),
  forecast: Nullable(Forecast),
  disagreement: Nullable(
    Type.Object({ since: Timestamp, forMs: Type.Integer(), missing: Type.Array(Type.String()) }),
  ),
  reading: Nullable(ReadingBody),
  lastReadyAt: Nullable(Timestamp),
  lastReadyAgeMs: Nullable(Type.Integer()),
  outage: described(
    'The current outage, from the outage history.',
    Nullable(
      Type.Object({
        startedAt: Timestamp,
        forMs: Type.Integer(),
        refused: Type.Integer(),
        /** Requests that would have been refused and were forwarded in mode `observe`. */
        wouldRefuse: Type.Integer(),
        operations: Type.Integer(),
        /** Requests refused while focus-server was up, which it would have rejected. */
        spared: Type.Integer(),
      }),
    ),
  ),
  upstream: Type.Object({ url: Type.String(), reachable: Type.Boolean() }),
  probes: described(
    '`slowedUntil` is set while focus-server asks for fewer probes (429 with `Retry-After`).',
    Type.Object({ url: Type.String(), slowedUntil: Nullable(Timestamp) }),
  ),
  inFlight: Type.Integer(),
  waiting: Type.Integer(),
  totals: Type.Object({
    forwarded: Type.Integer(),
    refused: Type.Integer(),
    wouldRefuse: Type.Integer(),
    probes: Type.Integer(),
    overloaded: Type.Integer(),
    ...COUNTED_SPAN,
    ...COUNTED_BY,
  }),
  replicas: described(
    'Only if `replicas.url` is set. `problem` states why this replica is disconnected; `prober` whether it probes.',
    Type.Optional(
      Type.Object({
        name: Type.String(),
        joined: Type.Boolean(),
        problem: Nullable(Type.String()),
        count: Type.Integer(),
        prober: Type.Boolean(),
      }),
    ),
  ),
})

/** `GET /-/status`: the state of the proxy, for programs. */
export function status(app: FastifyInstance, options: StatusOptions): void {
  app.get(
    '/-/status',
    {
      schema: {
        summary: 'The state of the proxy: circuit, last reading, totals.',
        response: { 200: StatusBody },
      },
    },
    (_request, reply) => {
      reply.header('cache-control', 'no-store').send(statusOf(options))
    },
  )
}

function statusOf({
  breaker,
  known,
  waitingRoom,
  retryAfter,
  version,
  name,
  startedAt,
  clock,
  upstreamUrl,
  probeUrl,
  probesSlowedUntil,
  group,
}: StatusOptions) {
  const slowedUntil = probesSlowedUntil()
  const { outageLog, totals, span, replicas } = known()
  const { circuit, override, reading, streak, lastReadyAt, inFlight } = breaker.snapshot()
  const decision = breaker.decide()
  const { disagreement } = breaker
  const outage = outageLog.current() ?? null
  const msSince = (at: Instant) => Math.max(0, Math.round(clock() - at))
  return {
    version,
    name: name(),
    startedAt: rfc3339(startedAt),
    mode: breaker.enforces ? 'enforce' : 'observe',
    circuit: {
      ...circuitAsJson(circuit),
      forMs: msSince(circuit.since),
      outageForMs: circuit.state === 'closed' ? null : msSince(circuit.openedAt),
    },
    admits: decision.admitted,
    refusal: decision.admitted ? null : decision.code,
    retryAfterSeconds: decision.admitted ? null : retryAfterSeconds(decision.retryInMs, retryAfter()),
    override: override && { ...overrideAsJson(override), forMs: msSince(override.since) },
    forecast: breaker.forecast(),
    disagreement: disagreement && {
      ...disagreement,
      since: rfc3339(disagreement.since),
      forMs: msSince(disagreement.since),
    },
    reading: reading && {
      ...reading,
      at: rfc3339(reading.at),
      ageMs: msSince(reading.at),
      streak,
    },
    lastReadyAt: lastReadyAt === null ? null : rfc3339(lastReadyAt),
    lastReadyAgeMs: lastReadyAt === null ? null : msSince(lastReadyAt),
    outage: outage && {
      startedAt: rfc3339(outage.startedAt),
      forMs: msSince(outage.startedAt),
      refused: outage.refused,
      wouldRefuse: outage.wouldRefuse,
      operations: outage.operations,
      spared: outage.spared,
    },
    upstream: { url: upstreamUrl, reachable: reading !== null && reading.kind !== 'unreachable' },
    probes: { url: probeUrl, slowedUntil: slowedUntil === undefined ? null : rfc3339(slowedUntil) },
    inFlight,
    waiting: waitingRoom.size,
    totals: { ...totals.counts(), ...span, ...countedBy(replicas) },
    ...(group !== undefined && {
      replicas: {
        ...{ name: group.name, joined: group.isJoined, problem: group.problem },
        ...{ count: replicaCount(group), prober: group.isProber },
      },
    }),
  }
}
