import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { clientOf } from './client.js'
import { type RefusalOptions, refuse } from './refusal.js'
import type { Routing } from './routing.js'

/** What deciding for other gateways needs. */
export type DecisionOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly refusal: RefusalOptions
}

/** Under which names gateways tell the request that they ask about: Traefik and Caddy, then nginx by custom. */
const METHOD_FIELDS = ['x-forwarded-method', 'x-original-method']
const TARGET_FIELDS = ['x-forwarded-uri', 'x-original-uri', 'x-original-url']

/**
 * `GET /-/decision`, for the forward-auth of another gateway: 200 when the request that it tells about may
 * pass, else the refusal to hand on. Without a request told, one for a guarded route is meant.
 */
export function decision(app: FastifyInstance, { routing, breaker, refusal }: DecisionOptions): void {
  app.get('/-/decision', (request, reply) => {
    const target = fieldOf(request, TARGET_FIELDS)
    const isGuarded = target === undefined || routing.guards(fieldOf(request, METHOD_FIELDS) ?? 'GET', target)
    const decided = breaker.decide()
    reply.header('cache-control', 'no-store')
    if (!isGuarded || decided.admitted) {
      reply.send()
      return
    }
    breaker.refused(decided, clientOf(request))
    if (breaker.enforces) refuse(request, reply, decided, '', refusal)
    else reply.header('focus-breaker', 'would-refuse').send()
  })
}

function fieldOf({ headers }: FastifyRequest, names: readonly string[]): string | undefined {
  return names.map(name => headers[name]).find(value => typeof value === 'string')
}
