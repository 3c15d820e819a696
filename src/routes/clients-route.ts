import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { cadenceSeconds } from '../domain/attempts.js'
import { rfc3339 } from '../domain/time.js'
import type { KnownRecord } from '../observability/known-record.js'
import { LIMIT_PARAMETER, limitOf } from './limit-parameter.js'
import { COUNTED_BY, COUNTED_SPAN, countedBy, described, Nullable, Timestamp } from './schemas.js'

const ClientsBody = Type.Object({
  total: described('Number of known clients, listed or not.', Type.Integer()),
  ...COUNTED_SPAN,
  ...COUNTED_BY,
  clients: Type.Array(
    Type.Object({
      address: Type.String(),
      userAgent: described(
        'Null for the combined entry of an address that sends very many user agents.',
        Nullable(Type.String()),
      ),
      first: Timestamp,
      last: Timestamp,
      attempts: described('The sum of `refused` and `wouldRefuse`.', Type.Integer()),
      refused: Type.Integer(),
      wouldRefuse: described(
        'Requests that would have been refused and were forwarded in mode `observe`.',
        Type.Integer(),
      ),
      operations: described(
        'Repeats of the same request within a minute count as one operation.',
        Type.Integer(),
      ),
      cadenceSeconds: described(
        'The interval between attempts of a client that repeats them regularly.',
        Nullable(Type.Number()),
      ),
    }),
  ),
})

/** `GET /-/clients?limit=100`: the clients whose requests are or would be refused, most recent first. */
export function clients(
  app: FastifyInstance,
  known: () => Pick<KnownRecord, 'clientLog' | 'span' | 'replicas'>,
): void {
  app.get(
    '/-/clients',
    {
      schema: {
        summary: 'Clients whose requests are refused, with counts, most recent first.',
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
