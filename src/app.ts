import type { IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Logger } from 'pino'
import { Breaker, type Settings } from './breaker/breaker.js'
import { WaitingRoom } from './breaker/waiting-room.js'
import { withoutCredentials } from './config/fault.js'
import { LiveConfig, type Reloaded } from './config/live.js'
import { trustedPeers } from './config/peers.js'
import type { Config } from './config/schema.js'
import { pathOf } from './domain/guarded-route.js'
import type { Reading } from './domain/reading.js'
import { rfc3339 } from './domain/time.js'
import { Notifier } from './notifications/notifier.js'
import { logChanges } from './observability/change-log.js'
import { ClientLog } from './observability/client-log.js'
import { EventRing } from './observability/event-ring.js'
import { LogSummary } from './observability/log-summary.js'
import { type Exchanged, Metrics } from './observability/metrics.js'
import { RecentHours } from './observability/recent-hours.js'
import { Runs } from './observability/runs.js'
import { Totals } from './observability/totals.js'
import { traceOf, tracing } from './observability/traces.js'
import { type History, HistoryFile } from './outages/file.js'
import { OutageLog } from './outages/log.js'
import { Routing } from './proxy/classify.js'
import { runOf } from './proxy/client.js'
import { proxy } from './proxy/forward.js'
import { guard } from './proxy/guard.js'
import { metadataCache } from './proxy/metadata-cache.js'
import type { RefusalOptions } from './proxy/refusal.js'
import { upgrade } from './proxy/websocket.js'
import { AdminToken } from './routes/admin-token.js'
import { clients as clientsRoute } from './routes/clients-route.js'
import { decision } from './routes/decision-route.js'
import { events } from './routes/events-route.js'
import { answerFiber, fiber } from './routes/fiber-route.js'
import { health } from './routes/health-route.js'
import { history } from './routes/history-route.js'
import { metrics as metricsRoute } from './routes/metrics-route.js'
import { openapi } from './routes/openapi-route.js'
import { outages } from './routes/outages-route.js'
import { override } from './routes/override-route.js'
import { dashboard } from './routes/page-route.js'
import { runs as runsRoute } from './routes/runs-route.js'
import { status } from './routes/status-route.js'
import { wait } from './routes/wait-route.js'
import { server as createApp, fastifyLevel } from './server/create.js'
import { shutdown } from './server/drain.js'
import { protocol } from './server/request-checks.js'
import { followCertificate } from './server/tls.js'
import { upstreamAgent, upstreamTls } from './upstream/agent.js'
import { steadyClock } from './upstream/clock.js'
import type { UpstreamFailure } from './upstream/failure.js'
import { judgeText, MetadataReader, metadataUrl } from './upstream/metadata-reader.js'
import { Prober } from './upstream/prober.js'
import { Lane } from './upstream/queue.js'

/** A client's reading that says nothing new counts when the last one is so old. */
const CLIENT_SPACING_MS = 1000

/** The proxy, assembled. */
export type FocusBreaker = {
  /** Listening (or `ready()`) takes the first reading first; closing drains, then stops every part. */
  readonly app: FastifyInstance
  /** The circuit, to be looked at. */
  readonly breaker: Breaker
  /** Fails `/-/ready` from now on, so that new connections go elsewhere. Nothing else changes. */
  readonly retire: () => void
  /** Takes over of another configuration what can change while running. */
  readonly reload: (config: Config) => Reloaded
}

/**
 * Makes each part once and joins them.
 *
 * @throws when a file of the configuration has become unreadable since it was checked.
 */
export function buildApp(config: Config, log: Logger, version: string): FocusBreaker {
  const clock = steadyClock
  const startedAt = clock()
  const live = new LiveConfig(config)
  const { server, upstream } = config
  const upstreamUrl = new URL(upstream.url)
  const metadataAt = metadataUrl(upstream.url, config.probe.path)
  const metadataTarget = metadataAt.pathname + metadataAt.search

  let settings = settingsOf(config)
  const historyFault = (error: unknown) => {
    const { file } = config.history
    if (error === undefined) log.info({ file }, 'outages are kept on disk again')
    else log.warn({ err: error, file }, 'outages are not kept on disk for now')
  }
  const historyFile =
    config.history.file === undefined ? undefined : new HistoryFile(config.history.file, historyFault)
  const { skippedLines, ...past } = historyFile?.load() ?? {
    outages: [],
    unreachablePeriods: [],
    skippedLines: 0,
  }
  if (skippedLines > 0) log.warn({ skippedLines }, 'the history has lines that are none, which were skipped')
  const last = past.outages.at(-1)
  const openSince = last?.endedAt === null ? last.startedAt : undefined
  if (openSince !== undefined) {
    const fields = { startedAt: rfc3339(openSince), file: config.history.file }
    log.info(fields, 'an outage was under way, and goes on until a reading says otherwise')
  }
  const breaker = new Breaker(() => settings, clock, { outagesMs: lengthsOf(past), openSince })
  // Before whoever tells of a transition: what is told has been kept.
  const outageLog = new OutageLog(breaker, past, historyFile)
  const notifier = new Notifier({
    breaker,
    outageLog,
    settings: () => live.current.notify,
    defaultName: upstreamUrl.host,
    clock,
    random: Math.random,
    onFailure: failure => log.warn(failure, 'notification was not delivered'),
  })
  const clientLog = new ClientLog(breaker, clock, () => outageLog.countOperation())
  const runs = new Runs(breaker, clock)
  const waitingRoom = new WaitingRoom({
    breaker,
    clock,
    capacity: () => live.current.guard.maxWaiting,
    concurrency: () => live.current.recovery.maxConcurrency,
  })
  logChanges(log, breaker)
  const logSummary = new LogSummary(log, breaker)
  const totals = new Totals(breaker)
  const metrics = new Metrics({ breaker, clock, version, waiting: () => waitingRoom.size })
  const observe = (reading: Reading) => {
    // However often clients ask, the thresholds count looks that are some time apart. That the fiber is
    // missing is news at any time.
    const isNews = reading.source !== 'client' || reading.kind === 'waiting'
    const sinceLastMs = reading.at - breaker.snapshot().circuit.judgedAt
    breaker.observe(reading, isNews || sinceLastMs >= CLIENT_SPACING_MS)
  }
  const probeAgent = upstreamAgent(upstream, 1)
  const reader = new MetadataReader({
    dispatcher: probeAgent,
    url: metadataAt,
    settings: () => ({ timeoutMs: live.current.probe.timeoutMs, readyWhen: live.current.fiber.readyWhen }),
    clock,
    observe: (reading, durationMs) => {
      if (reading.source === 'probe') {
        totals.probed()
        metrics.probed(durationMs)
      }
      observe(reading)
    },
  })
  const prober = new Prober({
    metadata: reader,
    periodMs: () => live.current.probe.periodMs,
    clock,
    random: Math.random,
  })
  breaker.on('doubt', () => prober.probeNow())
  // Only a reading closes the circuit; one at the end of the ramp does not let it wait for the next period.
  let rampEnd: NodeJS.Timeout | undefined
  breaker.on('transition', ({ to }) => {
    clearTimeout(rampEnd)
    if (to !== 'half-open') return
    rampEnd = setTimeout(() => prober.probeNow(), live.current.recovery.rampMs).unref()
  })
  const agent = upstreamAgent(upstream, upstream.maxConnections)
  const lane = new Lane({
    concurrency: upstream.maxConnections,
    capacity: upstream.maxQueued,
    timeoutMs: upstream.queueTimeoutMs,
  })
  const routing = new Routing({ basePath: config.basePath, upstreamUrl, routes: config.guard.routes })
  const trusts = trustedPeers(server.trustProxy)
  const refusal: RefusalOptions = {
    breaker,
    settings: () => ({ statusCode: live.current.guard.statusCode, retryAfter: live.current.retryAfter }),
    random: Math.random,
  }

  const forwarded = new WeakSet<object>()
  const onForwarded = (received: IncomingMessage) => {
    totals.forwarded()
    forwarded.add(received)
    const run = runOf(received)
    if (run !== undefined) runs.forwarded(run)
  }
  const onExchanged = (exchange: Exchanged) => metrics.exchanged(exchange)
  const onBusy = () => {
    totals.overloaded()
    logSummary.overloaded()
    metrics.overloaded()
  }
  const onFailure = (failure: UpstreamFailure, error: Error) => {
    logSummary.failed(failure.kind, error)
    metrics.failed(failure.kind)
  }

  const app = createApp(server, {
    log,
    rewrite: request => routing.rewrite(request),
    trusts,
  })
  tracing(app, {
    breaker,
    isGuarded: request => routing.targetOf(request)?.guarded,
    isForwarded: request => forwarded.has(request),
  })
  const { maxBodyBytes, maxRequestsPerConnection } = server
  protocol(app, { routing, maxBodyBytes, maxRequestsPerConnection })
  guard(app, { routing, breaker, waitingRoom, refusal, scope: () => live.current.guard.scope })
  metadataCache(app, {
    routing,
    reader,
    target: metadataTarget,
    maxAgeMs: () => live.current.metadataCache.maxAgeMs,
    upstreamUrl,
    trusts,
    clock,
  })
  proxy(app, {
    routing,
    breaker,
    agent,
    upstreamUrl,
    trusts,
    refusal,
    lane,
    bodyPauseTimeoutMs: server.bodyPauseTimeoutMs,
    maxBodyBytes,
    onForwarded,
    onExchanged,
    onFailure,
    onBusy,
    metadataTarget,
    onMetadata: (text, at) => {
      const finding = judgeText(text, live.current.fiber.readyWhen)
      // What a client's own request made of the answer is no reason to call the upstream unreachable.
      if (finding.kind !== 'unreachable') observe({ at, source: 'client', ...finding })
    },
    clock,
  })
  upgrade(app, {
    routing,
    upstreamUrl,
    trusts,
    tls: upstreamTls(upstream),
    connectTimeoutMs: upstream.connectTimeoutMs,
    headersTimeoutMs: upstream.headersTimeoutMs,
    lane,
    onForwarded,
    onFailure,
    onExchanged,
    onBusy,
  })
  openapi(app, version)
  status(app, {
    breaker,
    outageLog,
    waitingRoom,
    refusal,
    totals,
    version,
    startedAt,
    clock,
    upstreamUrl: withoutCredentials(upstream.url),
  })
  const fiberOptions = { breaker, refusal, clock }
  fiber(app, fiberOptions)
  const answer = (request: FastifyRequest, reply: FastifyReply) => answerFiber(request, reply, fiberOptions)
  wait(app, { breaker, clock, random: Math.random, answer })
  metricsRoute(app, metrics)
  events(app, new EventRing({ breaker, clock, startedAt }))
  history(app, new RecentHours(breaker, clock))
  outages(app, { outageLog, clock })
  clientsRoute(app, clientLog)
  runsRoute(app, runs)
  decision(app, { routing, breaker, refusal })
  dashboard(app)
  if (server.trustProxy.length === 0) tellOfGateway(app, log)
  let isRetiring = false
  health(app, { breaker, isRetiring: () => isRetiring })
  const adminToken = new AdminToken({
    token: () => live.current.admin.token,
    onWrongToken: address => logSummary.wrongToken(address),
  })
  override(app, { breaker, adminToken })
  shutdown(app, { drainTimeoutMs: server.drainTimeoutMs })
  app.addHook('onResponse', (request, reply, done) => {
    if (log.isLevelEnabled('debug')) {
      const { method, originalUrl, id } = request
      const durationMs = Math.round(reply.elapsedTime)
      // A query may hold secrets.
      const path = pathOf(originalUrl)
      const fields = { requestId: id, method, path, statusCode: reply.statusCode, durationMs }
      log.debug({ ...fields, ...traceOf(request) }, 'request answered')
    }
    done()
  })
  app.addHook('onReady', () => prober.start())
  let drainEndsAt = 0
  app.addHook('preClose', done => {
    drainEndsAt = clock() + server.drainTimeoutMs
    done()
  })
  const unfollow = followCertificate(app.server, server.tls, error => {
    if (error === undefined) log.info('certificate was renewed')
    else log.warn({ err: error }, 'certificate was not renewed')
  })
  app.addHook('onClose', async () => {
    unfollow()
    clearTimeout(rampEnd)
    reader.close()
    await prober.stop()
    // A guarded request whose client has left is let finish all the same.
    const remainingMs = Math.max(0, drainEndsAt - clock())
    // undici's agent would forget what it waits for, and could not cut it then.
    await Promise.race([lane.empty(), sleep(remainingMs, undefined, { ref: false })])
    // What is cut now is cut by us, and not a failure of the upstream.
    logSummary.close()
    await Promise.all([agent.destroy(), probeAgent.destroy()])
    await notifier.close()
    breaker.shutdown()
    outageLog.close()
  })
  return {
    app,
    breaker,
    retire: () => {
      isRetiring = true
    },
    reload: next => {
      const reloaded = live.replace(next)
      settings = settingsOf(live.current)
      routing.guard(live.current.guard.routes)
      log.level = live.current.log.level
      app.log.level = fastifyLevel(log)
      // With other predicates or another period the last look is of another time.
      prober.probeNow()
      return reloaded
    },
  }
}

/** Says once that a gateway stands before us whose word about its clients is not believed. */
function tellOfGateway(app: FastifyInstance, log: Logger): void {
  let isTold = false
  app.addHook('onRequest', (request, _reply, done) => {
    if (!isTold && request.headers['x-forwarded-for'] !== undefined) {
      isTold = true
      log.info(
        { peer: request.ip },
        'X-Forwarded-For is not believed, so all clients of this peer count as one: server.trustProxy names none',
      )
    }
    done()
  })
}

function settingsOf({ circuit, recovery, probe, guard }: Config): Settings {
  return {
    thresholds: {
      waiting: circuit.waitingThreshold,
      unreachable: circuit.unreachableThreshold,
      ready: circuit.readyThreshold,
    },
    recovery,
    probePeriodMs: probe.periodMs,
    maxConcurrency: guard.maxConcurrency,
    mode: guard.mode,
  }
}

/** How long the outages lasted that have ended. */
function lengthsOf({ outages }: Pick<History, 'outages'>): readonly number[] {
  return outages.flatMap(({ startedAt, endedAt }) => (endedAt === null ? [] : [endedAt - startedAt]))
}
