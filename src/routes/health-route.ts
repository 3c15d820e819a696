import type { FastifyInstance } from 'fastify'
import Type from 'typebox'

const LiveBody = Type.Object({ status: Type.Literal('ok') })
const ReadyBody = Type.Object({
  status: Type.Enum(['ready', 'not ready']),
  problem: Type.Optional(Type.String()),
})

/** Returns why the proxy is not ready, or null if it is. */
export type Readiness = () => string | null

/** The body of `/-/live`. */
export const LIVE = { status: 'ok' } as const

/** The response of `/-/ready`. */
export function readyResponse(problem: string | null) {
  return problem === null
    ? ({ status: 200, body: { status: 'ready' } } as const)
    : ({ status: 503, body: { status: 'not ready', problem } } as const)
}

/**
 * `GET /-/live`: the process responds. `GET /-/ready`: the process has its first reading and is not shutting down.
 *
 * Neither depends on the fiber: a missing fiber is not a reason to restart the proxy or to take it out of service,
 * because that is when its responses are needed most.
 */
export function health(app: FastifyInstance, readiness: Readiness): void {
  app.get(
    '/-/live',
    { schema: { summary: 'Returns 200 while the process responds.', response: { 200: LiveBody } } },
    (_request, reply) => {
      reply.header('cache-control', 'no-store').send(LIVE)
    },
  )
  app.get(
    '/-/ready',
    {
      schema: {
        summary:
          'Returns 200 once the proxy has its first reading and is not shutting down. Does not depend on the fiber.',
        response: { 200: ReadyBody, 503: ReadyBody },
      },
    },
    (_request, reply) => {
      const { status, body } = readyResponse(readiness())
      reply.code(status).header('cache-control', 'no-store').send(body)
    },
  )
}
