import type {} from '@fastify/otel'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { pathOf } from '../domain/guarded-route.js'
import type { Routing } from '../proxy/classify.js'

/** What the attributes of spans need. */
export type TracingOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly isForwarded: (request: object) => boolean
}

/** Completes the span of each request, where there are any: what was asked for, and what came of it. */
export function tracing(app: FastifyInstance, { routing, breaker, isForwarded }: TracingOptions): void {
  if (!app.hasRequestDecorator('opentelemetry')) return
  app.addHook('onRequest', (request, reply, done) => {
    const { span } = request.opentelemetry()
    const target = routing.targetOf(request.raw)
    // Clients can invent paths, and inside of our router every request for focus-server has one.
    const route = target === undefined && !request.is404 ? request.routeOptions.url : undefined
    const { circuit } = breaker.snapshot()
    span?.updateName(route === undefined ? request.method : `${request.method} ${route}`)
    span?.setAttributes({
      'url.path': pathOf(request.originalUrl),
      'focus_breaker.guarded': target?.guarded === true,
      'focus_breaker.admits': breaker.decide().admitted,
      'focus_breaker.circuit.state': circuit.state,
      ...(circuit.state !== 'closed' && { 'focus_breaker.circuit.cause': circuit.cause }),
    })
    // A stream of events, or a client that left: the instrumentation itself ends a span with an answer alone.
    reply.raw.once('close', () => {
      if (span?.isRecording() !== true) return
      span.setAttribute('focus_breaker.forwarded', isForwarded(request.raw))
      if (reply.raw.headersSent) span.setAttribute('http.response.status_code', reply.raw.statusCode)
      span.end()
    })
    done()
  })
  app.addHook('onSend', (request, _reply, payload, done) => {
    request.opentelemetry().span?.setAttribute('focus_breaker.forwarded', isForwarded(request.raw))
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
