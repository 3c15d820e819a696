import type { FastifyInstance } from 'fastify'
import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import type { ReplicaGroup, ReplicaMember } from '../domain/replica-group.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { described, Nullable, Timestamp } from './schemas.js'

/** Dependencies of the route. */
export type ReplicasRouteOptions = {
  /** Undefined if `replicas.url` is not set. */
  readonly group: ReplicaGroup | undefined
  /** The name of this replica. */
  readonly name: string
  readonly version: string
  readonly startedAt: Instant
  readonly clock: () => Instant
  readonly breaker: Breaker
  /** Returns `guard.maxConcurrency`; 0 for no limit. Called for each request. */
  readonly maxConcurrency: () => number
}

const ReplicaBody = Type.Object({
  name: Type.String(),
  version: Type.String(),
  since: described('When it joined the replicas.', Timestamp),
  lastHeardAt: Timestamp,
  present: described(
    'False if it has not reported for some seconds, or if this replica cannot reach the others.',
    Type.Boolean(),
  ),
  share: described(
    'How many guarded requests it may have in flight; null without a limit.',
    Nullable(Type.Integer()),
  ),
  inFlight: Type.Integer(),
  prober: described('Whether it is the prober.', Type.Boolean()),
  self: described('Whether it is the replica that sent this response.', Type.Boolean()),
})

const ReplicasBody = Type.Object({
  enabled: described('Whether `replicas.url` is set.', Type.Boolean()),
  namespace: Nullable(Type.String()),
  joined: described(
    'Whether this replica is connected to the others. If not, it uses only its own readings.',
    Type.Boolean(),
  ),
  problem: described('Why it is not connected.', Nullable(Type.String())),
  since: described('When it was connected or disconnected.', Timestamp),
  replicas: Type.Array(ReplicaBody),
})

/** `GET /-/replicas`: the replicas for this focus-server, as known to this replica. */
export function replicas(app: FastifyInstance, options: ReplicasRouteOptions): void {
  app.get(
    '/-/replicas',
    {
      schema: {
        summary: 'The replicas for this focus-server, as known to the replica that sends the response.',
        response: { 200: ReplicasBody },
      },
    },
    (_request, reply) => {
      reply.header('cache-control', 'no-store').send(bodyOf(options))
    },
  )
}

function bodyOf(options: ReplicasRouteOptions): Static<typeof ReplicasBody> {
  const { group, startedAt } = options
  const { isJoined = false, members = [], problem = null, namespace = null, since = startedAt } = group ?? {}
  const known = members.find(({ isSelf }) => isSelf)
  const all = known === undefined ? [ownEntry(options), ...members] : members
  return {
    enabled: group !== undefined,
    namespace,
    joined: isJoined,
    problem,
    since: rfc3339(since),
    replicas: all.map(member => {
      // While disconnected, this replica's information about the others is out of date; that about itself is not.
      if (isJoined) return asJson(member)
      return asJson(
        member.isSelf ? ownEntry(options, member) : { ...member, isPresent: false, isProber: false },
      )
    }),
  }
}

/** The entry of this replica, from its own state. */
function ownEntry(
  { group, name, version, startedAt, clock, breaker, maxConcurrency }: ReplicasRouteOptions,
  known?: ReplicaMember,
): ReplicaMember {
  const limit = maxConcurrency()
  const { inFlight } = breaker.snapshot()
  return {
    ...{ name, version, since: known?.since ?? startedAt, heardAt: clock(), isPresent: true },
    ...{ share: known?.share ?? (limit === 0 ? null : limit), inFlight, isSelf: true },
    isProber: group?.isProber ?? true,
  }
}

function asJson(member: ReplicaMember): Static<typeof ReplicaBody> {
  const { name, version, since, heardAt, isPresent, share, inFlight, isProber, isSelf } = member
  return {
    ...{ name, version, since: rfc3339(since), lastHeardAt: rfc3339(heardAt), present: isPresent },
    ...{ share, inFlight, prober: isProber, self: isSelf },
  }
}
