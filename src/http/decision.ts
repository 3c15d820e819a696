import { METHODS } from 'node:http'
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
const TOLD = [
  { methodField: 'x-forwarded-method', targetFields: ['x-forwarded-uri'] },
  { methodField: 'x-original-method', targetFields: ['x-original-uri', 'x-original-url'] },
] as const

/**
 * `GET /-/decision`, for the forward-auth of another gateway: 200 when the request that it tells about may
 * pass, else the refusal to hand on. Without a request told, one for a guarded route is meant.
 */
export function decision(app: FastifyInstance, { routing, breaker, refusal }: DecisionOptions): void {
  app.get(
    '/-/decision',
    { schema: { summary: "For another gateway's forward-auth: 200, or the refusal to hand on." } },
    (request, reply) => {
      const decided = breaker.decide()
      reply.header('cache-control', 'no-store')
      if (decided.admitted || !tellsGuarded(request, routing)) {
        reply.send()
        return
      }
      breaker.refused(decided, clientOf(request))
      if (breaker.enforces) refuse(request, reply, decided, '', refusal)
      else reply.header('focus-breaker', 'would-refuse').send()
    },
  )
}

/**
 * Whether anything that is told is a request for a guarded route: a gateway sets the fields that it knows, and
 * passes the others on as its client sent them. A target without its method is one of any method.
 */
function tellsGuarded({ headers }: FastifyRequest, routing: Routing): boolean {
  const told = TOLD.flatMap(({ methodField, targetFields }) => {
    const method = headers[methodField]
    const methods = typeof method === 'string' && method !== '' ? [method] : METHODS
    return targetFields
      .map(field => headers[field])
      .filter(target => typeof target === 'string' && target !== '')
      .map(target => methods.some(candidate => routing.guards(candidate, String(target))))
  })
  return told.length === 0 || told.includes(true)
}
