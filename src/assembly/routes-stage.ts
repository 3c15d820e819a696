import { hostname } from 'node:os'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { withoutCredentials } from '../config/fault.js'
import { addressOf } from '../proxy/client-view.js'
import { AdminToken } from '../routes/admin-token.js'
import { clients } from '../routes/clients-route.js'
import { decision } from '../routes/decision-route.js'
import { events } from '../routes/events-route.js'
import { answerFiber, fiber } from '../routes/fiber-route.js'
import { HealthListener } from '../routes/health-listener.js'
import { health } from '../routes/health-route.js'
import { history } from '../routes/history-route.js'
import { metrics } from '../routes/metrics-route.js'
import { openapi } from '../routes/openapi-route.js'
import { outages } from '../routes/outages-route.js'
import { override } from '../routes/override-route.js'
import { dashboard } from '../routes/page-route.js'
import { type ReloadOutcome, reload } from '../routes/reload-route.js'
import { replicas } from '../routes/replicas-route.js'
import { report } from '../routes/report-route.js'
import { runs } from '../routes/runs-route.js'
import { status } from '../routes/status-route.js'
import { wait } from '../routes/wait-route.js'
import { metadataUrl } from '../upstream/metadata-reader.js'
import type { Core } from './core.js'
import type { Observers } from './observers.js'
import type { Server } from './server-stage.js'
import type { Upstream } from './upstream-stage.js'

/**
 * The fifth stage: the proxy's own routes.
 *
 * @returns a function that makes `/-/ready` fail from then on, and the listener of `server.healthPort`.
 */
export function addRoutes(
  core: Core,
  observers: Observers,
  upstream: Upstream,
  server: Server,
  reloadNow: () => Promise<ReloadOutcome>,
) {
  const { config, live, version, clock, startedAt, breaker, trusts } = core
  const { known, waitingRoom, logSummary } = observers
  const { app, connections, routing, refusals } = server
  const clientAddressOf = ({ raw }: FastifyRequest) => addressOf(raw, trusts)
  let isLeaving = false
  app.addHook('preClose', done => {
    isLeaving = true
    done()
  })
  const readiness = () => {
    if (isLeaving) return 'shutting down'
    return breaker.snapshot().reading === null ? 'no reading yet' : null
  }
  // Must come first, because it describes the routes that are added after it.
  openapi(app, version)
  const upstreamUrl = withoutCredentials(config.upstream.url)
  const retryAfter = () => live.current.retryAfter
  status(app, {
    ...{ breaker, known, waitingRoom, retryAfter, version, startedAt, clock, upstreamUrl },
    name: () => live.current.notify.name ?? core.upstreamUrl.host,
    probeUrl: withoutCredentials(metadataUrl(config.upstream.url, config.probe.path).href),
    probesSlowedUntil: () => upstream.prober.slowedUntil,
    group: core.replicas,
  })
  const fiberOptions = { breaker, refusals, clock }
  fiber(app, fiberOptions)
  wait(app, {
    breaker,
    connections,
    room: observers.waitingClients,
    addressOf: clientAddressOf,
    answer: (request: FastifyRequest, reply: FastifyReply) => answerFiber(request, reply, fiberOptions),
  })
  metrics(app, observers.metrics)
  events(app, observers.eventRing, { connections, addressOf: clientAddressOf })
  history(app, known)
  outages(app, { known, breaker, clock })
  clients(app, known)
  runs(app, known)
  replicas(app, {
    ...{ breaker, version, startedAt, clock, group: core.replicas },
    name: core.replicas?.name ?? config.replicas.name ?? hostname(),
    maxConcurrency: () => live.current.guard.maxConcurrency,
  })
  decision(app, { routing, breaker, refusals, addressOf: clientAddressOf })
  dashboard(app)
  report(app, {
    ...{ known, clock },
    name: () => live.current.notify.name ?? core.upstreamUrl.host,
    isKept: () => core.store.isKeeping,
  })
  health(app, readiness)
  const adminToken = new AdminToken({
    token: () => live.current.admin.token,
    onWrongToken: address => logSummary.wrongToken(address),
    addressOf: clientAddressOf,
  })
  override(app, { breaker, adminToken, isKept: () => core.historyFile?.isKeeping === true })
  reload(app, { adminToken, reload: reloadNow })
  return {
    retire: () => {
      isLeaving = true
      connections.retire()
    },
    healthListener: new HealthListener({ readiness, metrics: observers.metrics }),
  }
}
