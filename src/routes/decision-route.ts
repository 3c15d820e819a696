import { METHODS } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { Routing } from '../proxy/classify.js'
import { type Asked, clientOf } from '../proxy/client.js'
import type { Refusals } from '../proxy/refusal.js'

/** What deciding for other gateways needs. */
export type DecisionOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly refusals: Refusals
  /** The address that a request comes from. */
  readonly addressOf: (request: FastifyRequest) => string
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
export function decision(
  app: FastifyInstance,
  { routing, breaker, refusals, addressOf }: DecisionOptions,
): void {
  app.get(
    '/-/decision',
    {
      schema: {
        summary: "For another gateway's forward-auth: 200, or the refusal to hand on.",
        mediaTypes: [],
      },
    },
    (request, reply) => {
      const decided = breaker.decide()
      const guarded = guardedOf(request, routing)
      reply.header('cache-control', 'no-store')
      if (decided.admitted || guarded === undefined) {
        reply.send()
        return
      }
      breaker.refused(decided, clientOf(addressOf(request), request.raw, guarded))
      if (breaker.enforces) refusals.send(request, reply, decided)
      else reply.header('focus-breaker', 'would-refuse').send()
    },
  )
}

/**
 * The guarded request that is told, or this one where none is: a gateway sets the fields that it knows, and
 * passes the others on as its client sent them, so that one of them is enough. A target without its method is
 * one of any method. Undefined when none of those told is guarded.
 */
function guardedOf({ headers, raw }: FastifyRequest, routing: Routing): Asked | undefined {
  const told = TOLD.flatMap(({ methodField, targetFields }) => {
    const given = headers[methodField]
    const methods = typeof given === 'string' && given !== '' ? [given] : METHODS
    return targetFields.flatMap(field => {
      const url = headers[field]
      return typeof url === 'string' && url !== '' ? [methods.map(method => ({ method, url }))] : []
    })
  })
  if (told.length === 0) return raw
  return told.flat().find(({ method, url }) => routing.guards(method, url))
}
