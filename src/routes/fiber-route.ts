import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { circuitAsJson } from '../domain/circuit.js'
import { withinOutage } from '../domain/outage.js'
import { oneLine } from '../domain/text.js'
import { type Instant, inWords, rfc3339 } from '../domain/time.js'
import { type Refusals, refusalWords, sendLine, wantsText } from '../proxy/refusal.js'
import { FiberBody } from './schemas.js'

/** Dependencies of the route. */
export type FiberOptions = {
  readonly breaker: Breaker
  readonly refusals: Refusals
  readonly clock: () => Instant
}

/** `GET /-/fiber`: the status code shows whether a guarded request would be admitted. */
export function fiber(app: FastifyInstance, options: FiberOptions): void {
  app.get(
    '/-/fiber',
    {
      schema: {
        summary: 'Returns 200 if a guarded request would be admitted, otherwise the refusal.',
        response: { 200: FiberBody },
      },
    },
    (request, reply) => {
      answerFiber(request, reply, options)
    },
  )
}

/** Responds whether a guarded request would be admitted now. */
export function answerFiber(request: FastifyRequest, reply: FastifyReply, options: FiberOptions): void {
  const { breaker, refusals, clock } = options
  const decision = breaker.decide()
  const { circuit, override, reading } = breaker.snapshot()
  const lastedMs = clock() - circuit.since
  const within = circuit.state === 'closed' ? '' : withinOutage(lastedMs, clock() - circuit.openedAt)
  const state = `circuit ${circuit.state} for ${inWords(lastedMs)}${within}`
  const refused = breaker.enforces ? 'refused' : 'would be refused'
  const message = decision.admitted
    ? override?.state === 'closed'
      ? `admitted: let through by an operator until ${rfc3339(override.until)}: ${oneLine(override.reason)}; ${state}`
      : `admitted: ${state}`
    : decision.code === 'forced_open' && override !== null
      ? `${refused} ${override.silent === true ? 'for planned maintenance' : 'by an operator'} until ${rfc3339(override.until)}: ${oneLine(override.reason)}`
      : `${refused}: ${refusalWords(decision.code)}, ${state}; try again in a few seconds`
  if (!decision.admitted) refusals.send(request, reply, decision, { line: message })
  else if (wantsText(request.headers.accept)) sendLine(reply, message)
  else {
    reply.header('cache-control', 'no-store').send({
      admits: true,
      message,
      circuit: circuitAsJson(circuit),
      observedAt: reading === null ? null : rfc3339(reading.at),
    })
  }
}
