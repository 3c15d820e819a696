import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../breaker/breaker.js'

const LiveBody = Type.Object({ status: Type.Literal('ok') })
const ReadyBody = Type.Object({
  status: Type.Enum(['ready', 'not ready']),
  problem: Type.Optional(Type.String()),
})

/**
 * `GET /-/live`: the process responds. `GET /-/ready`: it has its first reading and is not shutting down.
 *
 * Neither depends on the fiber: a missing fiber is no reason to restart the proxy or to take it out of service, because
 * its responses are needed most then.
 */
export function health(
  app: FastifyInstance,
  { breaker, isRetiring }: { readonly breaker: Breaker; readonly isRetiring: () => boolean },
): void {
  let isClosing = false
  app.addHook('preClose', done => {
    isClosing = true
    done()
  })
  app.get(
    '/-/live',
    { schema: { summary: 'The process answers.', response: { 200: LiveBody } } },
    (_request, reply) => {
      reply.header('cache-control', 'no-store').send({ status: 'ok' })
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
      const problem =
        isClosing || isRetiring()
          ? 'shutting down'
          : breaker.snapshot().reading === null
            ? 'no reading yet'
            : null
      reply.code(problem === null ? 200 : 503).header('cache-control', 'no-store')
      reply.send(problem === null ? { status: 'ready' } : { status: 'not ready', problem })
    },
  )
}
