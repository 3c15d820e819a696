import type {} from '@fastify/otel'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { pathOf } from '../domain/guarded-route.js'
import type { Routing } from './routing.js'

/** What the attributes of spans need. */
export type TracingOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly isForwarded: (request: object) => boolean
}

/** Completes the span of each request, where there are any: what was asked for, and what came of it. */
export function tracing(app: FastifyInstance, { routing, breaker, isForwarded }: TracingOptions): void {
  if (!app.hasRequestDecorator('opentelemetry')) return
  app.addHook('onSend', (request, _reply, payload, done) => {
    const { span } = request.opentelemetry()
    // Inside of our router every request for focus-server has one path.
    const path = pathOf(request.originalUrl)
    const target = routing.targetOf(request.raw)
    const { circuit } = breaker.snapshot()
    span?.updateName(target === undefined ? `${request.method} ${path}` : request.method)
    span?.setAttributes({
      'url.path': path,
      'focus_breaker.guarded': target?.guarded === true,
      'focus_breaker.forwarded': isForwarded(request.raw),
      'focus_breaker.admits': breaker.decide().admitted,
      'focus_breaker.circuit.state': circuit.state,
      ...(circuit.state !== 'closed' && { 'focus_breaker.circuit.cause': circuit.cause }),
    })
    done(null, payload)
  })
}

/** https://www.w3.org/TR/trace-context/#traceparent-header-field-values, of this and any later version. */
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}/

/** The client's trace, as a field of a line of the log. */
export function traceOf({ headers }: FastifyRequest): { readonly traceparent?: string } {
  const { traceparent } = headers
  const [known] = typeof traceparent === 'string' ? (TRACEPARENT.exec(traceparent) ?? []) : []
  return known === undefined ? {} : { traceparent: known }
}
