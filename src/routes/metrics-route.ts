import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../observability/metrics.js'

/** `GET /-/metrics`, in the text format of Prometheus. */
export function metrics(app: FastifyInstance, known: Metrics): void {
  app.get(
    '/-/metrics',
    { schema: { summary: 'Metrics, in the text format of Prometheus.', mediaTypes: ['text/plain'] } },
    async (_request, reply) => {
      reply.header('cache-control', 'no-store').header('content-type', known.contentType)
      return Buffer.from(await known.exposition())
    },
  )
}
