import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../observability/metrics.js'

/** `GET /-/metrics`: metrics in the Prometheus text format. */
export function metrics(app: FastifyInstance, known: Metrics): void {
  app.get(
    '/-/metrics',
    { schema: { summary: 'Metrics in the Prometheus text format.', mediaTypes: ['text/plain'] } },
    async (_request, reply) => {
      reply.header('cache-control', 'no-store').header('content-type', known.contentType)
      return Buffer.from(await known.exposition())
    },
  )
}
