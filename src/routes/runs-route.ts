import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { rfc3339 } from '../domain/time.js'
import type { KnownRecord } from '../observability/known-record.js'
import { sendError } from '../server/error-response.js'
import { COUNTED_BY, countedBy, Timestamp } from './schemas.js'

const RunBody = Type.Object({
  run: Type.String(),
  forwarded: Type.Integer(),
  refused: Type.Integer(),
  /** Those of the forwarded that only mode `observe` did not refuse. */
  wouldRefuse: Type.Integer(),
  first: Timestamp,
  last: Timestamp,
  ...COUNTED_BY,
})

/** `GET /-/runs/<id>`: the counts of the requests that were sent with `X-Test-Run: <id>`. */
export function runs(app: FastifyInstance, known: () => Pick<KnownRecord, 'runs' | 'replicas'>): void {
  app.get<{ Params: { id: string } }>(
    '/-/runs/:id',
    { schema: { summary: 'What the requests met that said X-Test-Run: <id>.', response: { 200: RunBody } } },
    (request, reply) => {
      const { id } = request.params
      const { runs, replicas } = known()
      const run = runs.get(id)
      if (run === undefined) {
        return sendError(reply, 404, 'Not Found', 'Nothing is known of this run: no request named it lately.')
      }
      reply
        .header('cache-control', 'no-store')
        .send({ ...run, run: id, first: rfc3339(run.first), last: rfc3339(run.last), ...countedBy(replicas) })
    },
  )
}
