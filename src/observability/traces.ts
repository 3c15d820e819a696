import type { IncomingMessage } from 'node:http'
import type {} from '@fastify/otel'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { pathOf } from '../domain/guarded-route.js'

/** What the attributes of spans need. */
export type TracingOptions = {
  readonly breaker: Breaker
  /** Whether a request of focus-server is guarded; undefined for one of the proxy's own routes. */
  readonly isGuarded: (request: IncomingMessage) => boolean | undefined
  /** Whether the request has been sent to focus-server. */
  readonly isForwarded: (request: IncomingMessage) => boolean
}

/** Completes the span of each request, where traces are exported: the route, the circuit and the outcome. */
export function tracing(app: FastifyInstance, { breaker, isGuarded, isForwarded }: TracingOptions): void {
  if (!app.hasRequestDecorator('opentelemetry')) return
  app.addHook('onRequest', (request, reply, done) => {
    const { span } = request.opentelemetry()
    const guarded = isGuarded(request.raw)
    // A span is named after a route of the proxy only: clients can choose any other path.
    const route = guarded === undefined && !request.is404 ? request.routeOptions.url : undefined
    const { circuit } = breaker.snapshot()
    span?.updateName(route === undefined ? request.method : `${request.method} ${route}`)
    span?.setAttributes({
      'url.path': pathOf(request.originalUrl),
      'focus_breaker.guarded': guarded === true,
      'focus_breaker.admits': breaker.decide().admitted,
      'focus_breaker.circuit.state': circuit.state,
      ...(circuit.state !== 'closed' && { 'focus_breaker.circuit.cause': circuit.cause }),
    })
    // The instrumentation ends a span only with a response: not for an event stream or a client that left.
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

/** https://www.w3.org/TR/trace-context/#traceparent-header-field-values, this version and later ones. */
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}/

/** The trace of the client, as a field of a log line. */
export function traceOf({ headers }: FastifyRequest): { readonly traceparent?: string } {
  const { traceparent } = headers
  const [known] = typeof traceparent === 'string' ? (TRACEPARENT.exec(traceparent) ?? []) : []
  return known === undefined ? {} : { traceparent: known }
}
