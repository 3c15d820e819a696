import type { FastifyInstance } from 'fastify'
import Type from 'typebox'

const LiveBody = Type.Object({ status: Type.Literal('ok') })
const ReadyBody = Type.Object({
  status: Type.Enum(['ready', 'not ready']),
  problem: Type.Optional(Type.String()),
})

/** Why the proxy is not ready; null when it is. */
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
 * `GET /-/live`: the process responds. `GET /-/ready`: it has its first reading and is not shutting down.
 *
 * Neither depends on the fiber: a missing fiber is no reason to restart the proxy or to take it out of service, because
 * its responses are needed most then.
 */
export function health(app: FastifyInstance, readiness: Readiness): void {
  app.get(
    '/-/live',
    { schema: { summary: 'The process answers.', response: { 200: LiveBody } } },
    (_request, reply) => {
      reply.header('cache-control', 'no-store').send(LIVE)
    },
  )
  app.get(
    '/-/ready',
    {
      schema: {
        summary: 'It has its first reading, and is not shutting down. Never the fiber.',
        response: { 200: ReadyBody, 503: ReadyBody },
      },
    },
    (_request, reply) => {
      const { status, body } = readyResponse(readiness())
      reply.code(status).header('cache-control', 'no-store').send(body)
    },
  )
}
