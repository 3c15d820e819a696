import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { cadenceSeconds } from '../domain/attempts.js'
import { rfc3339 } from '../domain/time.js'
import type { KnownRecord } from '../observability/known-record.js'
import { LIMIT_PARAMETER, limitOf } from './limit-parameter.js'
import { COUNTED_BY, COUNTED_SPAN, countedBy, Nullable, Timestamp } from './schemas.js'

const ClientsBody = Type.Object({
  /** How many clients are known, listed or not. */
  total: Type.Integer(),
  ...COUNTED_SPAN,
  ...COUNTED_BY,
  clients: Type.Array(
    Type.Object({
      address: Type.String(),
      /** Null for the user agents that are counted together, when one address sends very many. */
      userAgent: Nullable(Type.String()),
      first: Timestamp,
      last: Timestamp,
      /** The sum of `refused` and `wouldRefuse`: what mode `observe` forwarded though it would have been refused. */
      attempts: Type.Integer(),
      refused: Type.Integer(),
      wouldRefuse: Type.Integer(),
      /** A repeat of the same request within a minute is the same operation. */
      operations: Type.Integer(),
      /** The interval between attempts of a client that repeats them regularly. */
      cadenceSeconds: Nullable(Type.Number()),
    }),
  ),
})

/** `GET /-/clients?limit=100`: the clients whose requests are refused, or would be, the last one seen first. */
export function clients(
  app: FastifyInstance,
  known: () => Pick<KnownRecord, 'clientLog' | 'span' | 'replicas'>,
): void {
  app.get(
    '/-/clients',
    {
      schema: {
        summary: 'Who is being refused, and how often; who was heard of last comes first.',
        parameters: LIMIT_PARAMETER,
        response: { 200: ClientsBody },
      },
    },
    (request, reply) => {
      const limit = limitOf(request, reply)
      if (limit === undefined) return
      const { clientLog, span, replicas } = known()
      const all = clientLog.list()
      reply.header('cache-control', 'no-store').send({
        total: all.length,
        ...span,
        ...countedBy(replicas),
        clients: all.slice(0, limit).map(({ address, userAgent, attempts }) => ({
          address,
          userAgent,
          first: rfc3339(attempts.first),
          last: rfc3339(attempts.last),
          attempts: attempts.attempts,
          refused: attempts.attempts - attempts.wouldRefuse,
          wouldRefuse: attempts.wouldRefuse,
          operations: attempts.operations,
          cadenceSeconds: cadenceSeconds(attempts),
        })),
      })
    },
  )
}
