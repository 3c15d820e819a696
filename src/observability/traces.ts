import type {} from '@fastify/otel'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { pathOf } from '../domain/guarded-route.js'

/** What a span tells about the exchange of a request that belongs to focus-server. */
export type TracedExchange = {
  readonly guarded: boolean
  /** Calls back when the request is about to be sent to focus-server. */
  readonly whenForwarded: (listener: () => void) => void
}

/** What the attributes of spans need. */
export type TracingOptions = {
  readonly breaker: Breaker
  /** The exchange of a request; null for one of the proxy's own routes. */
  readonly exchangeOf: (request: FastifyRequest) => TracedExchange | null
  /** Calls back once when the client has its response, or is gone. */
  readonly whenOver: (reply: FastifyReply, over: (hasResponse: boolean) => void) => void
}

/** The phase that completes the span of each request, where there are any. It runs as soon as the exchange is known. */
export function tracing(app: FastifyInstance, { breaker, exchangeOf, whenOver }: TracingOptions): void {
  if (!app.hasRequestDecorator('opentelemetry')) return
  app.addHook('onRequest', (request, reply, done) => {
    const { span } = request.opentelemetry()
    const exchange = exchangeOf(request)
    // Clients can invent paths, and inside of our router every request for focus-server has one.
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
    // The instrumentation ends a span with a response; a client that left has none.
    whenOver(reply, () => {
      if (span?.isRecording() !== true) return
      if (reply.raw.headersSent) span.setAttribute('http.response.status_code', reply.raw.statusCode)
      span.end()
    })
    done()
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
