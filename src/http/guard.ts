import type { FastifyInstance } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { type RefusalOptions, refuse } from './refusal.js'
import type { Routing } from './routing.js'

/** What the guard needs. */
export type GuardOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly refusal: RefusalOptions
}

/**
 * Refuses guarded requests that the circuit does not admit, before anything of them is read.
 *
 * In mode `observe` it marks the answer instead and lets the request pass.
 */
export function guard(app: FastifyInstance, { routing, breaker, refusal }: GuardOptions): void {
  app.addHook('onRequest', (request, reply, done) => {
    const target = routing.targetOf(request.raw)
    if (target?.guarded !== true) return done()
    const decision = breaker.admit({ address: request.ip })
    if (decision.admitted) return done()
    if (breaker.enforces) return refuse(request, reply, decision, target.clientPrefix, refusal)
    reply.header('focus-breaker', 'would-refuse')
    done()
  })
}
