import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { pathOf } from '../domain/guarded-route.js'
import type { Instant } from '../domain/time.js'
import { traceOf, tracing } from '../observability/traces.js'
import { classify, Routing } from '../proxy/classify.js'
import { addressOf } from '../proxy/client-view.js'
import { forward } from '../proxy/forward.js'
import { guard } from '../proxy/guard.js'
import { metadataCache } from '../proxy/metadata-cache.js'
import { Refusals } from '../proxy/refusal.js'
import { webSockets } from '../proxy/websocket.js'
import { Connections, whenOver } from '../server/connection.js'
import { CorsPolicy, corsOfOwnRoutes } from '../server/cors.js'
import { createApp } from '../server/create.js'
import { drain } from '../server/drain.js'
import { sendError } from '../server/error-response.js'
import { notFound } from '../server/not-found.js'
import { requestChecks } from '../server/request-checks.js'
import { judgeText } from '../upstream/metadata-reader.js'
import type { Core } from './core.js'
import type { Observers } from './observers.js'
import type { Upstream } from './upstream-stage.js'

/** The server, and the parts that its routes need. */
export type Server = ReturnType<typeof serve>

/** The fourth stage. */
export function serve(core: Core, observers: Observers, upstream: Upstream) {
  const { config, live, log, upstreamUrl, trusts, breaker } = core
  const connections = new Connections(config.server)
  const routing = new Routing({ basePath: config.basePath, upstreamUrl, routes: config.guard.routes })
  const rewrite = routing.rewrite.bind(routing)
  const app = createApp(config.server, { log, connections, trusts, rewrite })
  const refusals = new Refusals({
    breaker,
    settings: () => ({ statusCode: live.current.guard.statusCode, retryAfter: live.current.retryAfter }),
    random: Math.random,
    group: core.replicas,
  })
  const cors = new CorsPolicy()
  const server = { app, connections, routing, refusals, cors }
  corsOfOwnRoutes(app, cors)
  for (const phase of phasesOf(core, observers, upstream, server)) phase(app)
  const toPhases = (request: IncomingMessage, response: ServerResponse) => app.routing(request, response)
  webSockets(app.server, { routing, connections, serve: toPhases })
  notFound(app, { isForUpstream: request => request.exchange !== null })
  drain(app, { connections, drainTimeoutMs: config.server.drainTimeoutMs })
  return server
}

/** The phases of a request, in the order in which they run. */
function phasesOf(
  core: Core,
  { waitingRoom }: Observers,
  { agent, freshAgent, queue, reader, metadataTarget, observe }: Upstream,
  {
    connections,
    routing,
    refusals,
    cors,
  }: {
    readonly connections: Connections
    readonly routing: Routing
    readonly refusals: Refusals
    readonly cors: CorsPolicy
  },
): readonly ((app: FastifyInstance) => void)[] {
  const { config, live, clock, upstreamUrl, trusts, breaker, exchanges: events } = core
  const { maxBodyBytes, bodyPauseTimeoutMs, bodyTimeoutMs } = config.server
  const forwarding = { upstreamUrl, metadataTarget, clock }
  const bodies = { maxBodyBytes, bodyPauseTimeoutMs, bodyTimeoutMs }
  const scope = () => live.current.guard.scope
  // A response to a probe with credentials must not be served to all clients.
  const maxAgeMs = () =>
    Object.keys(live.current.probe.headers).length > 0 ? 0 : live.current.metadataCache.maxAgeMs
  const onMetadata = (text: string, at: Instant) => {
    const finding = judgeText(text, live.current.fiber.readyWhen)
    // The client's own request may be why the metadata cannot be read, so it does not count as unreachable.
    if (finding.kind !== 'unreachable') observe({ at, source: 'client', ...finding })
  }
  return [
    app => logRequests(app, core),
    app => requestChecks(app, { maxBodyBytes, cors }),
    app => classify(app, { routing, connections, events, trusts }),
    app => traceExchanges(app, core),
    app => guard(app, { ...bodies, breaker, waitingRoom, refusals, connections, cors, scope }),
    app => metadataCache(app, { ...forwarding, reader, maxAgeMs }),
    app =>
      forward(app, {
        ...forwarding,
        ...bodies,
        breaker,
        agent,
        freshAgent,
        refusals,
        queue,
        events,
        cors,
        onMetadata,
      }),
  ]
}

/** Logs each request at debug level, each internal error, and once the first gateway that is not trusted. */
function logRequests(app: FastifyInstance, { config, log, trusts }: Core): void {
  let isGatewayKnown = config.server.trustProxy.length > 0
  app.addHook('onRequest', (request, reply, done) => {
    if (!isGatewayKnown && request.headers['x-forwarded-for'] !== undefined) {
      isGatewayKnown = true
      const hint =
        'ignoring X-Forwarded-For from an untrusted peer; all its clients count as one (set server.trustProxy)'
      log.info({ peer: addressOf(request.raw, trusts) }, hint)
    }
    if (log.isLevelEnabled('debug')) {
      whenOver(reply.raw, () => log.debug(factsOf(request, reply), 'request completed'))
    }
    done()
  })
  app.setErrorHandler((error, request, reply) => {
    // A client that disconnected during its response is not an error.
    if (reply.raw.destroyed) return
    const fields = { err: error, requestId: request.id, ...traceOf(request) }
    request.log.error(fields, 'request failed: internal error')
    sendError(reply, 500, 'Internal Server Error', 'focus-breaker failed; see its log for details.')
  })
}

function traceExchanges(app: FastifyInstance, { breaker }: Core): void {
  tracing(app, {
    breaker,
    exchangeOf: request => request.exchange,
    whenOver: ({ raw }, over) => whenOver(raw, over),
  })
}

function factsOf(request: FastifyRequest, reply: FastifyReply) {
  const { method, originalUrl, id } = request
  const durationMs = Math.round(reply.elapsedTime)
  // A query may hold secrets.
  const path = pathOf(originalUrl)
  return { requestId: id, method, path, statusCode: reply.raw.statusCode, durationMs, ...traceOf(request) }
}
