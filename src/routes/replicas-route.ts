import type { FastifyInstance } from 'fastify'
import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import type { ReplicaGroup, ReplicaMember } from '../domain/replica-group.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { Nullable, Timestamp } from './schemas.js'

/** What the route needs. */
export type ReplicasRouteOptions = {
  /** Undefined when `replicas.url` is not set. */
  readonly group: ReplicaGroup | undefined
  /** What this replica is called. */
  readonly name: string
  readonly version: string
  readonly startedAt: Instant
  readonly clock: () => Instant
  readonly breaker: Breaker
  /** `guard.maxConcurrency`, read again at each request; 0 for any number. */
  readonly maxConcurrency: () => number
}

const ReplicaBody = Type.Object({
  name: Type.String(),
  version: Type.String(),
  /** Since when it is one of these replicas. */
  since: Timestamp,
  lastHeardAt: Timestamp,
  /** False when it has not reported for some seconds, or cannot be reached from here. */
  present: Type.Boolean(),
  /** How many guarded requests it may have in flight; null where nothing limits them. */
  share: Nullable(Type.Integer()),
  inFlight: Type.Integer(),
  /** Whether it probes. */
  prober: Type.Boolean(),
  /** Whether it is the one that answers. */
  self: Type.Boolean(),
})

const ReplicasBody = Type.Object({
  /** Whether `replicas.url` is set. */
  enabled: Type.Boolean(),
  namespace: Nullable(Type.String()),
  /** Whether this replica reaches the others; if not, it goes on by its own readings. */
  joined: Type.Boolean(),
  /** Why it does not reach them. */
  problem: Nullable(Type.String()),
  /** Since when it reaches them, or does not. */
  since: Timestamp,
  replicas: Type.Array(ReplicaBody),
})

/** `GET /-/replicas`: the replicas of this focus-server, as this one knows them. */
export function replicas(app: FastifyInstance, options: ReplicasRouteOptions): void {
  app.get(
    '/-/replicas',
    {
      schema: {
        summary: 'The replicas of this focus-server, as the one that answers knows them.',
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
      // What this replica knows of the others is out of date while it does not reach them; what it knows of itself is not.
      if (isJoined) return asJson(member)
      return asJson(
        member.isSelf ? ownEntry(options, member) : { ...member, isPresent: false, isProber: false },
      )
    }),
  }
}

/** This replica, as it knows itself. */
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
