import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { cadenceSeconds } from '../domain/attempts.js'
import { rfc3339 } from '../domain/time.js'
import type { Clients } from '../observability/client-log.js'
import { sendError } from '../server/error-response.js'
import { LIMIT_PARAMETER, limitOf } from './limit.js'
import { Nullable, Timestamp } from './schemas.js'

const ClientsBody = Type.Object({
  /** How many are known, listed or not. */
  total: Type.Integer(),
  clients: Type.Array(
    Type.Object({
      address: Type.String(),
      /** Null stands for the further ones of an address that has very many. */
      userAgent: Nullable(Type.String()),
      first: Timestamp,
      last: Timestamp,
      attempts: Type.Integer(),
      /** The same request again within a minute is the same operation. */
      operations: Type.Integer(),
      /** From one attempt to the next, for a client that keeps its rhythm. */
      cadenceSeconds: Nullable(Type.Number()),
    }),
  ),
})

const RunBody = Type.Object({
  run: Type.String(),
  forwarded: Type.Integer(),
  refused: Type.Integer(),
  first: Timestamp,
  last: Timestamp,
})

/**
 * `GET /-/clients?limit=100`: who is being refused, who was heard of last first. `GET /-/runs/<id>`: what the requests
 * met that said `X-Test-Run: <id>`.
 */
export function clients(app: FastifyInstance, known: Clients): void {
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
      const all = known.list()
      reply.header('cache-control', 'no-store').send({
        total: all.length,
        clients: all.slice(0, limit).map(({ address, userAgent, attempts }) => ({
          address,
          userAgent,
          first: rfc3339(attempts.first),
          last: rfc3339(attempts.last),
          attempts: attempts.attempts,
          operations: attempts.operations,
          cadenceSeconds: cadenceSeconds(attempts),
        })),
      })
    },
  )
  app.get<{ Params: { id: string } }>(
    '/-/runs/:id',
    { schema: { summary: 'What the requests met that said X-Test-Run: <id>.', response: { 200: RunBody } } },
    (request, reply) => {
      const run = known.run(request.params.id)
      if (run === undefined) {
        return sendError(
          reply,
          404,
          'Not Found',
          'Nothing is known of this run: no request named it lately, or since focus-breaker was started.',
        )
      }
      reply.header('cache-control', 'no-store').send({
        ...run,
        run: request.params.id,
        first: rfc3339(run.first),
        last: rfc3339(run.last),
      })
    },
  )
}
