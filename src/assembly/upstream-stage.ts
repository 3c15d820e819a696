import type { Breaker } from '../breaker/breaker.js'
import type { Reading } from '../domain/reading.js'
import { rfc3339 } from '../domain/time.js'
import { FreshConnections, upstreamPool, upstreamTls } from '../upstream/agent.js'
import { MetadataReader, metadataUrl } from '../upstream/metadata-reader.js'
import { ProbeHeaders } from '../upstream/probe-headers.js'
import { Prober } from '../upstream/prober.js'
import { UpstreamQueue } from '../upstream/queue.js'
import type { Core } from './core.js'
import type { Observers } from './observers.js'

/** A client's reading without news counts only if the last counted reading is at least this old. */
const CLIENT_SPACING_MS = 1000

/** The parts that connect to focus-server. */
export type Upstream = ReturnType<typeof reachUpstream>

/** The third stage. */
export function reachUpstream({ config, live, log, clock, breaker, replicas }: Core, observers: Observers) {
  const { totals, metrics, logSummary } = observers
  const { upstream, probe, server } = config
  let tls = upstreamTls(upstream)
  const currentTls = () => tls
  // A new connection for each probe: a kept one would still reach an instance that gets no new connections.
  const probeAgent = new FreshConnections(upstream, currentTls)
  const probeHeaders = new ProbeHeaders(() => live.current.probe.headers)
  const url = metadataUrl(upstream.url, probe.path)
  const observe = (reading: Reading) => {
    // The thresholds count readings that are some time apart, however often clients read the metadata. A missing fiber
    // is always news.
    const isNews = reading.source !== 'client' || reading.kind === 'waiting'
    const sinceLastMs = reading.at - breaker.countedAt
    breaker.observe(reading, isNews || sinceLastMs >= CLIENT_SPACING_MS)
  }
  const reader = new MetadataReader({
    dispatcher: probeAgent,
    url,
    settings: () => ({ timeoutMs: live.current.probe.timeoutMs, readyWhen: live.current.fiber.readyWhen }),
    headers: () => probeHeaders.current(),
    clock,
    onNotCounted: why => logSummary.probeNotCounted(why),
    observe: (reading, durationMs) => {
      if (reading.source === 'probe') {
        totals.probed()
        metrics.probed(durationMs)
      }
      observe(reading)
    },
  })
  const periodMs = () => live.current.probe.periodMs
  const prober = new Prober({
    metadata: reader,
    periodMs,
    clock,
    random: Math.random,
    ...(replicas !== undefined && { isOnDuty: () => replicas.isProber }),
    onSlowed: until => {
      if (until === undefined) log.info('probes resumed at the configured interval')
      else
        log.warn({ until: rfc3339(until) }, 'probes slowed: focus-server responded with 429 and Retry-After')
    },
  })
  const requestProbe = () => {
    if (replicas === undefined) prober.probeNow()
    else replicas.requestProbe()
  }
  const rampEnd = new RampEnd(() => live.current.recovery.rampMs, prober)
  breaker.on('probeRequested', requestProbe)
  replicas?.on('probe', () => prober.probeNow())
  rampEnd.attach(breaker)
  const queue = new UpstreamQueue({
    concurrency: upstream.maxConnections,
    capacity: upstream.maxQueued,
    timeoutMs: upstream.queueTimeoutMs,
    clientShare: server.clientShare,
  })
  const agent = upstreamPool(upstream, upstream.maxConnections, currentTls, upstream)
  // For requests that are sent again. The upstream queue limits the connections of both agents together.
  const freshAgent = new FreshConnections(upstream, currentTls)
  return {
    probeAgent,
    agent,
    freshAgent,
    probeHeaders,
    queue,
    reader,
    prober,
    rampEnd,
    observe,
    /** New connections to focus-server use these files from now on. @throws if the files cannot be used. */
    renewTls: (read: (file: string) => string) => {
      tls = upstreamTls(upstream, read)
    },
    metadataTarget: url.pathname + url.search,
  }
}

/** Probes at the end of the ramp, because only a reading closes the circuit and the next regular probe may be late. */
class RampEnd {
  readonly #rampMs: () => number
  readonly #prober: Prober
  #timer: NodeJS.Timeout | undefined

  constructor(rampMs: () => number, prober: Prober) {
    this.#rampMs = rampMs
    this.#prober = prober
  }

  attach(breaker: Breaker): void {
    breaker.on('transition', ({ to }) => {
      this.stop()
      if (to === 'half-open') this.#timer = setTimeout(() => this.#prober.probeNow(), this.#rampMs()).unref()
    })
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}
