import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { rfc3339 } from '../domain/time.js'
import type { KnownRecord } from '../observability/known-record.js'
import { sendError } from '../server/error-response.js'
import { COUNTED_BY, countedBy, described, Timestamp } from './schemas.js'

const RunBody = Type.Object({
  run: Type.String(),
  forwarded: Type.Integer(),
  refused: Type.Integer(),
  wouldRefuse: described(
    'Forwarded requests that would have been refused without mode `observe`.',
    Type.Integer(),
  ),
  first: Timestamp,
  last: Timestamp,
  ...COUNTED_BY,
})

/** `GET /-/runs/<id>`: counts of the requests sent with `X-Test-Run: <id>`. */
export function runs(app: FastifyInstance, known: () => Pick<KnownRecord, 'runs' | 'replicas'>): void {
  app.get<{ Params: { id: string } }>(
    '/-/runs/:id',
    { schema: { summary: 'Counts of the requests sent with X-Test-Run: <id>.', response: { 200: RunBody } } },
    (request, reply) => {
      const { id } = request.params
      const { runs, replicas } = known()
      const run = runs.get(id)
      if (run === undefined) {
        return sendError(reply, 404, 'Not Found', 'Unknown or expired run: no recent request named it.')
      }
      reply
        .header('cache-control', 'no-store')
        .send({ ...run, run: id, first: rfc3339(run.first), last: rfc3339(run.last), ...countedBy(replicas) })
    },
  )
}
