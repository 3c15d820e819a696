import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Breaker } from '../breaker/breaker.js'
import { inForce } from '../domain/override.js'
import { type ReplicaGroup, replicaCount } from '../domain/replica-group.js'
import type { Instant } from '../domain/time.js'
import {
  CAUSES,
  CIRCUIT_STATES,
  type CircuitState,
  READING_KINDS,
  READING_SOURCES,
  REFUSAL_CODES,
  type RefusalCode,
  UPSTREAM_FAILURE_KINDS,
} from '../domain/vocabulary.js'
import type { ExchangeEvents } from './exchange-events.js'

/** Counts that come from the process that runs the proxy. */
export type ProcessCounts = {
  /** The number of log lines that could not be written since the start. */
  readonly linesDropped: () => number
}

/** The dependencies of the metrics. */
export type MetricsOptions = ProcessCounts & {
  readonly breaker: Breaker
  readonly clock: () => Instant
  readonly version: string
  /** The number of guarded requests that wait because of `Prefer: wait`. */
  readonly waiting: () => number
  /** The history file, if there is one. */
  readonly history?: { readonly isKeeping: boolean; readonly bytes: number } | undefined
  /** The group of replicas that this process belongs to, if `replicas.url` is set. */
  readonly group?: ReplicaGroup | undefined
}

const CODE_CLASSES = ['none', '1xx', '2xx', '3xx', '4xx', '5xx'] as const

type CodeClass = (typeof CODE_CLASSES)[number]

const GUARDED = { guarded: 'true' }
const UNGUARDED = { guarded: 'false' }

/** Counts per-request events until the next scrape, because an increment of the client library costs a microsecond. */
class Tally<Key extends string> {
  readonly #counts = new Map<Key, number>()

  add(key: Key, count = 1): void {
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + count)
  }

  /** Passes the counts to `take`, and resets them. */
  flush(take: (key: Key, count: number) => void): void {
    for (const [key, count] of this.#counts) take(key, count)
    this.#counts.clear()
  }
}

/** The possible transitions. */
const STEPS: readonly (readonly [from: CircuitState, to: CircuitState])[] = [
  ['closed', 'open'],
  ['open', 'half-open'],
  ['half-open', 'open'],
  ['half-open', 'closed'],
  ['open', 'closed'],
]

/** Covers the usual 4 ms of a probe up to the longest probe. */
const PROBE_BUCKETS_S = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5]

/** Covers a cached read, a configure request that searches recordings (10 s), and timeouts. */
const REQUEST_BUCKETS_S = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]

/**
 * The metrics. Every possible series exists from the start, so that a rate includes its first event. Clients cannot
 * choose the value of any label.
 */
export class Metrics {
  readonly #registry = new Registry()
  readonly #stateSeconds: Counter<'state'>
  readonly #transitions: Counter<'from' | 'to' | 'cause'>
  readonly #readings: Counter<'kind' | 'source'>
  readonly #refused: Tally<RefusalCode>
  readonly #wouldRefuse: Counter
  readonly #wouldRefuseByStatus: Tally<RefusalCode> = new Tally()
  readonly #spared: Counter
  readonly #overloaded: Counter
  readonly #forwarded: Readonly<Record<'true' | 'false', Tally<CodeClass>>>
  readonly #errors: Counter<'kind'>
  readonly #probeDuration: Histogram
  readonly #requestDuration: Histogram<'guarded'>
  /** The current state. The seconds in each state are counted up to `#countedUntil`. */
  #state: CircuitState
  #countedUntil: Instant

  constructor(options: MetricsOptions) {
    const { breaker, clock } = options
    this.#addGauges(options)
    if (options.group !== undefined) this.#addReplicas(options.group)
    this.#state = breaker.snapshot().circuit.state
    this.#countedUntil = clock()
    this.#stateSeconds = new Counter({
      name: 'focus_breaker_state_seconds_total',
      help: 'Seconds that the circuit spent in each state.',
      labelNames: ['state'],
      registers: [this.#registry],
      // Counted at each transition as well, so that an outage between two scrapes is included.
      collect: () => this.#countSeconds(clock()),
    })
    this.#transitions = this.#counter('transitions_total', 'Transitions of the circuit.', [
      'from',
      'to',
      'cause',
    ])
    this.#readings = this.#counter('readings_total', 'Readings of the fiber.', ['kind', 'source'])
    const refused = this.#counter(
      'refused_requests_total',
      'Guarded requests that were refused.',
      ['status'],
      () => this.#refused.flush((status, count) => refused.inc({ status }, count)),
    )
    this.#refused = new Tally()
    this.#wouldRefuse = this.#counter(
      'would_refuse_requests_total',
      'Requests that mode observe forwarded and mode enforce would have refused.',
    )
    const wouldRefuseByStatus = this.#counter(
      'would_refuse_by_status_total',
      'Requests that mode observe forwarded and mode enforce would have refused, by the status of the refusal.',
      ['status'],
      () => this.#wouldRefuseByStatus.flush((status, count) => wouldRefuseByStatus.inc({ status }, count)),
    )
    this.#spared = this.#counter(
      'spared_requests_total',
      'Requests refused while focus-server was running without a fiber; it would have rejected them.',
    )
    this.#overloaded = this.#counter(
      'overloaded_requests_total',
      'Requests rejected because the upstream queue was full or the wait in it was too long.',
    )
    const forwarded = this.#counter(
      'forwarded_requests_total',
      'Forwarded requests, by the status of the response that the client received.',
      ['guarded', 'code_class'],
      () => {
        for (const guarded of ['true', 'false'] as const) {
          this.#forwarded[guarded].flush((codeClass, count) =>
            forwarded.inc({ guarded, code_class: codeClass }, count),
          )
        }
      },
    )
    this.#forwarded = { true: new Tally(), false: new Tally() }
    let linesCounted = 0
    const linesDropped = this.#counter(
      'log_lines_dropped_total',
      'Log lines that could not be written.',
      [],
      () => {
        const total = options.linesDropped()
        linesDropped.inc(total - linesCounted)
        linesCounted = total
      },
    )
    this.#errors = this.#counter('upstream_errors_total', 'Forwarded requests without a usable response.', [
      'kind',
    ])
    this.#probeDuration = new Histogram({
      name: 'focus_breaker_probe_duration_seconds',
      help: 'Duration of probes.',
      buckets: PROBE_BUCKETS_S,
      registers: [this.#registry],
    })
    this.#requestDuration = new Histogram({
      name: 'focus_breaker_request_duration_seconds',
      help: 'Duration of forwarded requests, from the request headers to the end of the response.',
      labelNames: ['guarded'],
      buckets: REQUEST_BUCKETS_S,
      registers: [this.#registry],
    })
    this.#addZeros()
    collectDefaultMetrics({ register: this.#registry })
    // promtool rejects gauges with the name of a counter. The gauges by type have the same counts.
    for (const kind of ['handles', 'requests', 'resources']) {
      this.#registry.removeSingleMetric(`nodejs_active_${kind}_total`)
    }
  }

  /** The media type of the exposition. */
  get contentType(): string {
    return this.#registry.contentType
  }

  /** The current values of all metrics, in the text format of Prometheus. */
  exposition(): Promise<string> {
    return this.#registry.metrics()
  }

  /** Starts listening to the requests that are forwarded to focus-server. */
  attachToExchanges(exchanges: ExchangeEvents): void {
    exchanges.on('ended', ({ guarded, statusCode, durationMs }) => {
      const codeClass = CODE_CLASSES[Math.min(5, Math.floor(statusCode / 100))] ?? 'none'
      this.#forwarded[guarded ? 'true' : 'false'].add(codeClass)
      this.#requestDuration.observe(guarded ? GUARDED : UNGUARDED, durationMs / 1000)
    })
    exchanges.on('failed', kind => this.#errors.inc({ kind }))
    exchanges.on('overloaded', () => this.#overloaded.inc())
  }

  /** Records the duration of a probe. */
  probed(durationMs: number): void {
    this.#probeDuration.observe(durationMs / 1000)
  }

  /** @param collect is called before each scrape. */
  #counter<L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[] = [],
    collect: () => void = () => undefined,
  ): Counter<L> {
    return new Counter({
      name: `focus_breaker_${name}`,
      help,
      labelNames,
      registers: [this.#registry],
      collect,
    })
  }

  /** A gauge whose value is set by `collect` at each scrape. */
  #gauge<L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    collect: (this: Gauge<L>) => void,
  ): void {
    new Gauge<L>({ name: `focus_breaker_${name}`, help, labelNames, registers: [this.#registry], collect })
  }

  #addGauges({ breaker, clock, version, waiting, history }: MetricsOptions): void {
    if (history !== undefined) {
      this.#gauge('history_writable', '1 while the history file is writable.', [], function () {
        this.set(history.isKeeping ? 1 : 0)
      })
      this.#gauge('history_bytes', 'Size of the history file.', [], function () {
        this.set(history.bytes)
      })
    }
    this.#gauge('build_info', '1 for the version that is running.', ['version'], function () {
      this.set({ version }, 1)
    })
    this.#gauge('circuit_state', '1 for the state that the circuit is in.', ['state'], function () {
      const { state } = breaker.snapshot().circuit
      for (const each of CIRCUIT_STATES) this.set({ state: each }, each === state ? 1 : 0)
    })
    this.#gauge('override_active', '1 while a manual override is in force.', [], function () {
      this.set(inForce(breaker.snapshot().override, clock()) === null ? 0 : 1)
    })
    // Prometheus compares with the system clock, which may have been changed since this process started.
    const timestampSeconds = (at: Instant | null) => (at === null ? 0 : (Date.now() - (clock() - at)) / 1000)
    this.#gauge(
      'last_ready_timestamp_seconds',
      'Time of the last ready reading; 0 if there was none.',
      [],
      function () {
        this.set(timestampSeconds(breaker.snapshot().lastReadyAt))
      },
    )
    this.#gauge(
      'outage_start_timestamp_seconds',
      'Start of the current outage; 0 without an outage.',
      [],
      function () {
        const { circuit } = breaker.snapshot()
        this.set(timestampSeconds(circuit.state === 'closed' ? null : circuit.openedAt))
      },
    )
    this.#gauge(
      'cause_start_timestamp_seconds',
      'When the circuit entered its current state for this cause; 0 for other causes.',
      ['cause'],
      function () {
        const { circuit } = breaker.snapshot()
        const present = circuit.state === 'closed' ? null : circuit.cause
        for (const cause of CAUSES)
          this.set({ cause }, timestampSeconds(cause === present ? circuit.since : null))
      },
    )
    this.#gauge('in_flight_requests', 'Guarded requests in flight.', [], function () {
      this.set(breaker.snapshot().inFlight)
    })
    this.#gauge(
      'waiting_requests',
      'Guarded requests that wait until the circuit admits them.',
      [],
      function () {
        this.set(waiting())
      },
    )
  }

  #addReplicas(group: ReplicaGroup): void {
    this.#gauge('replicas', 'Number of known replicas, including this one.', [], function () {
      this.set(replicaCount(group))
    })
    this.#gauge('replicas_joined', '1 while this replica is connected to the others.', [], function () {
      this.set(group.isJoined ? 1 : 0)
    })
    this.#gauge('replicas_prober', '1 while this replica probes.', [], function () {
      this.set(group.isProber ? 1 : 0)
    })
    let counted = 0
    const skipped = this.#counter(
      'replicas_skipped_entries_total',
      'Entries of other replicas that were skipped because they were malformed or of another version.',
      [],
      () => {
        const total = group.skippedEntries
        skipped.inc(total - counted)
        counted = total
      },
    )
  }

  #addZeros(): void {
    for (const state of CIRCUIT_STATES) this.#stateSeconds.inc({ state }, 0)
    for (const [from, to] of STEPS) {
      for (const cause of CAUSES) {
        // Only a start goes directly from open to closed, unless there is no ramp.
        if (cause !== 'starting' || to === 'closed') this.#transitions.inc({ from, to, cause }, 0)
      }
    }
    for (const kind of READING_KINDS) {
      for (const source of READING_SOURCES) this.#readings.inc({ kind, source }, 0)
    }
    for (const status of REFUSAL_CODES) {
      this.#refused.add(status, 0)
      this.#wouldRefuseByStatus.add(status, 0)
    }
    for (const kind of UPSTREAM_FAILURE_KINDS) this.#errors.inc({ kind }, 0)
    for (const guarded of ['true', 'false'] as const) {
      for (const codeClass of CODE_CLASSES) this.#forwarded[guarded].add(codeClass, 0)
      this.#requestDuration.zero({ guarded })
    }
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    breaker.on('transition', ({ at, from, to, cause }) => {
      this.#countSeconds(at)
      this.#state = to
      this.#transitions.inc({ from, to, cause })
    })
    breaker.on('reading', ({ kind, source }, _, isOwn) => {
      if (isOwn) this.#readings.inc({ kind, source })
    })
    breaker.on('refused', ({ decision, enforced }) => {
      if (!enforced) {
        this.#wouldRefuse.inc()
        this.#wouldRefuseByStatus.add(decision.code)
        return
      }
      this.#refused.add(decision.code)
      const { circuit } = breaker.snapshot()
      const isWaiting = circuit.state !== 'closed' && circuit.cause === 'waiting'
      if (isWaiting && decision.code !== 'forced_open') this.#spared.inc()
    })
  }

  #countSeconds(now: Instant): void {
    this.#stateSeconds.inc({ state: this.#state }, Math.max(0, now - this.#countedUntil) / 1000)
    this.#countedUntil = Math.max(now, this.#countedUntil)
  }
}
