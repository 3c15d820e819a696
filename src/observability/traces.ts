import type {} from '@fastify/otel'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { pathOf } from '../domain/guarded-route.js'

/** The part of an exchange with focus-server that a span records. */
export type TracedExchange = {
  readonly guarded: boolean
  /** Calls the listener when the request is about to be sent to focus-server. */
  readonly whenForwarded: (listener: () => void) => void
}

/** The dependencies of `tracing`. */
export type TracingOptions = {
  readonly breaker: Breaker
  /** The exchange of a request; null for one of the proxy's own routes. */
  readonly exchangeOf: (request: FastifyRequest) => TracedExchange | null
  /** Calls back once, when the client has received its response or has disconnected. */
  readonly whenOver: (reply: FastifyReply, over: (hasResponse: boolean) => void) => void
}

/**
 * The phase that adds attributes to the span of each request, if traces are exported. It runs as soon as the exchange
 * is known.
 */
export function tracing(app: FastifyInstance, { breaker, exchangeOf, whenOver }: TracingOptions): void {
  if (!app.hasRequestDecorator('opentelemetry')) return
  app.addHook('onRequest', (request, reply, done) => {
    const { span } = request.opentelemetry()
    const exchange = exchangeOf(request)
    // Only our own routes are named. Clients can invent paths, and in our router requests for focus-server match any
    // path.
    const route = exchange === null && !request.is404 ? request.routeOptions.url : undefined
    const { circuit } = breaker.snapshot()
    span?.updateName(route === undefined ? request.method : `${request.method} ${route}`)
    span?.setAttributes({
      'url.path': pathOf(request.originalUrl),
      'focus_breaker.guarded': exchange?.guarded === true,
      'focus_breaker.forwarded': false,
      'focus_breaker.admits': breaker.decide().admitted,
      'focus_breaker.circuit.state': circuit.state,
      ...(circuit.state !== 'closed' && { 'focus_breaker.circuit.cause': circuit.cause }),
    })
    exchange?.whenForwarded(() => span?.setAttribute('focus_breaker.forwarded', true))
    // The instrumentation ends a span only with a response. A client that disconnected gets none.
    whenOver(reply, () => {
      if (span?.isRecording() !== true) return
      if (reply.raw.headersSent) span.setAttribute('http.response.status_code', reply.raw.statusCode)
      span.end()
    })
    done()
  })
}

/** https://www.w3.org/TR/trace-context/#traceparent-header-field-values, of this version and any later one. */
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}/

/** The trace of the client, as a field for a log line. */
export function traceOf({ headers }: FastifyRequest): { readonly traceparent?: string } {
  const { traceparent } = headers
  const [known] = typeof traceparent === 'string' ? (TRACEPARENT.exec(traceparent) ?? []) : []
  return known === undefined ? {} : { traceparent: known }
}
