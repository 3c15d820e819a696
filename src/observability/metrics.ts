import type { FastifyInstance } from 'fastify'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Breaker } from '../breaker/breaker.js'
import { standing } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import {
  CAUSES,
  CIRCUIT_STATES,
  type CircuitState,
  READING_KINDS,
  READING_SOURCES,
  REFUSAL_CODES,
  UPSTREAM_FAILURE_KINDS,
} from '../domain/vocabulary.js'
import type { UpstreamFailure } from '../upstream/failure.js'

/** What the metrics need. */
export type MetricsOptions = {
  readonly breaker: Breaker
  readonly clock: () => Instant
  readonly version: string
  /** How many guarded requests are held because they said `Prefer: wait`. */
  readonly waiting: () => number
}

/** An exchange with the upstream that has ended, as the client saw it. */
export type Exchanged = {
  readonly guarded: boolean
  /** 0 when the client left without an answer. */
  readonly statusCode: number
  readonly durationMs: number
}

/** What reports to the metrics, besides the breaker. */
export type Metrics = {
  readonly exchanged: (exchange: Exchanged) => void
  readonly failed: (failure: UpstreamFailure) => void
  readonly overloaded: () => void
  /** A probe's reading took so long. */
  readonly probed: (durationMs: number) => void
}

const CODE_CLASSES = ['none', '1xx', '2xx', '3xx', '4xx', '5xx'] as const

/** The possible transitions: from, to. */
const STEPS: readonly (readonly [from: CircuitState, to: CircuitState])[] = [
  ['closed', 'open'],
  ['open', 'half-open'],
  ['half-open', 'open'],
  ['half-open', 'closed'],
  ['open', 'closed'],
]

/** From the metadata's usual 4 ms to the longest probe. */
const PROBE_BUCKETS_S = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5]

/** From a cached read to a configure that searches recordings (10 s), and what times out. */
const REQUEST_BUCKETS_S = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]

/**
 * `GET /-/metrics`, in the text format of Prometheus. Every series that can be is there from the start, so
 * that a rate over it sees its first event; no label has values that clients can invent.
 */
export function metrics(app: FastifyInstance, options: MetricsOptions): Metrics {
  const { breaker, clock, version, waiting } = options
  const register = new Registry()
  const registers = [register]
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Counter({ name: `focus_breaker_${name}`, help, labelNames, registers })
  const gauge = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    collect: (this: Gauge<L>) => void,
  ) => new Gauge<L>({ name: `focus_breaker_${name}`, help, labelNames, registers, collect })

  gauge('build_info', 'The version that runs.', ['version'], function () {
    this.set({ version }, 1)
  })
  gauge('circuit_state', '1 for the state that the circuit is in.', ['state'], function () {
    const { state } = breaker.snapshot().circuit
    for (const each of CIRCUIT_STATES) this.set({ state: each }, each === state ? 1 : 0)
  })
  gauge('override_active', "1 while an operator's word stands.", [], function () {
    this.set(standing(breaker.snapshot().override, clock()) === null ? 0 : 1)
  })
  // Prometheus compares with its own time: the clock of the system, which may have been set since our start.
  const timestampSeconds = (at: Instant | null) => (at === null ? 0 : (Date.now() - (clock() - at)) / 1000)
  gauge('last_ready_timestamp_seconds', 'When the fiber was last seen; 0 for never.', [], function () {
    this.set(timestampSeconds(breaker.snapshot().lastReadyAt))
  })
  gauge('outage_start_timestamp_seconds', 'When the present outage began; 0 for none.', [], function () {
    const { circuit } = breaker.snapshot()
    this.set(timestampSeconds(circuit.state === 'closed' ? null : circuit.openedAt))
  })
  gauge('in_flight_requests', 'Guarded requests that were forwarded and have not ended.', [], function () {
    this.set(breaker.snapshot().inFlight)
  })
  gauge('waiting_requests', 'Guarded requests that are held until the circuit admits them.', [], function () {
    this.set(waiting())
  })

  // Counted at each transition and at each scrape, so that an outage between two scrapes is seen as well.
  let countedUntil = clock()
  let counted: CircuitState = breaker.snapshot().circuit.state
  const stateSeconds = new Counter({
    name: 'focus_breaker_state_seconds_total',
    help: 'Seconds in each state.',
    labelNames: ['state'],
    registers,
    collect: () => countUntil(clock()),
  })
  const countUntil = (now: Instant) => {
    stateSeconds.inc({ state: counted }, Math.max(0, now - countedUntil) / 1000)
    countedUntil = Math.max(now, countedUntil)
  }
  const transitions = counter('transitions_total', 'Changes of the state.', ['from', 'to', 'cause'])
  breaker.on('transition', ({ at, from, to, cause }) => {
    countUntil(at)
    counted = to
    transitions.inc({ from, to, cause })
  })
  const readings = counter('readings_total', 'Looks at the metadata, by what they found.', ['kind', 'source'])
  breaker.on('reading', ({ kind, source }: Reading) => readings.inc({ kind, source }))
  const refused = counter('refused_requests_total', 'Guarded requests that were refused.', ['status'])
  const wouldRefuse = counter('would_refuse_requests_total', 'Refusals that mode observe did not carry out.')
  breaker.on('refused', ({ decision, enforced }) => {
    if (enforced) refused.inc({ status: decision.code })
    else wouldRefuse.inc()
  })
  const overloaded = counter(
    'overloaded_requests_total',
    'Requests that found no room on the way to focus-server.',
  )
  const forwarded = counter(
    'forwarded_requests_total',
    'Forwarded requests, by the answer that clients got.',
    ['guarded', 'code_class'],
  )
  const errors = counter('upstream_errors_total', 'Requests that focus-server failed.', ['kind'])
  const probeDuration = new Histogram({
    name: 'focus_breaker_probe_duration_seconds',
    help: 'How long probes of the metadata took.',
    buckets: PROBE_BUCKETS_S,
    registers,
  })
  const requestDuration = new Histogram({
    name: 'focus_breaker_request_duration_seconds',
    help: 'How long forwarded requests took, from their head to the end of their answer.',
    labelNames: ['guarded'],
    buckets: REQUEST_BUCKETS_S,
    registers,
  })

  for (const state of CIRCUIT_STATES) stateSeconds.inc({ state }, 0)
  for (const [from, to] of STEPS) {
    for (const cause of CAUSES) {
      // Only a start goes from open to closed at once, unless there is no ramp.
      if (cause !== 'starting' || to === 'closed') transitions.inc({ from, to, cause }, 0)
    }
  }
  for (const kind of READING_KINDS) for (const source of READING_SOURCES) readings.inc({ kind, source }, 0)
  for (const status of REFUSAL_CODES) refused.inc({ status }, 0)
  for (const kind of UPSTREAM_FAILURE_KINDS) errors.inc({ kind }, 0)
  for (const guarded of ['true', 'false'] as const) {
    for (const codeClass of CODE_CLASSES) forwarded.inc({ guarded, code_class: codeClass }, 0)
    requestDuration.zero({ guarded })
  }
  collectDefaultMetrics({ register })
  // Gauges that are named like counters, at which promtool takes offence; those by type tell the same.
  for (const kind of ['handles', 'requests', 'resources']) {
    register.removeSingleMetric(`nodejs_active_${kind}_total`)
  }

  app.get(
    '/-/metrics',
    { schema: { summary: 'Metrics, in the text format of Prometheus.', mediaTypes: ['text/plain'] } },
    async (_request, reply) => {
      reply.header('cache-control', 'no-store').header('content-type', register.contentType)
      return Buffer.from(await register.metrics())
    },
  )
  return {
    exchanged: ({ guarded, statusCode, durationMs }) => {
      const codeClass = CODE_CLASSES[Math.min(5, Math.floor(statusCode / 100))] ?? 'none'
      forwarded.inc({ guarded: String(guarded), code_class: codeClass })
      requestDuration.observe({ guarded: String(guarded) }, durationMs / 1000)
    },
    failed: ({ kind }) => errors.inc({ kind }),
    overloaded: () => overloaded.inc(),
    probed: durationMs => probeDuration.observe(durationMs / 1000),
  }
}
