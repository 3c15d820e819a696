import type { Logger } from 'pino'
import type { Breaker } from '../breaker/breaker.js'
import { WaitingRoom } from '../breaker/waiting-room.js'
import type { Config } from '../config/schema.js'
import { inTimeline, phaseOf } from '../domain/timeline.js'
import type { Phase } from '../domain/vocabulary.js'
import { GroupNotices } from '../notifications/group-notices.js'
import { NotificationFile } from '../notifications/notification-file.js'
import { Notifier } from '../notifications/notifier.js'
import { ChangeLog } from '../observability/change-log.js'
import { ClientLog } from '../observability/client-log.js'
import { EventRing } from '../observability/event-ring.js'
import type { KnownRecord } from '../observability/known-record.js'
import { LogSummary } from '../observability/log-summary.js'
import { Metrics, type ProcessCounts } from '../observability/metrics.js'
import { RecentHours } from '../observability/recent-hours.js'
import { Runs } from '../observability/runs.js'
import { Totals } from '../observability/totals.js'
import { Buckets } from '../outages/buckets.js'
import { OutageDetails } from '../outages/details.js'
import { RefusalBatches } from '../outages/refusal-batches.js'
import { pastOutages, recordOfAll } from '../replicas/one-record.js'
import { RecordExchange } from '../replicas/record-exchange.js'
import { MAX_WAITING } from '../routes/wait-route.js'
import type { Core } from './core.js'

/** The parts that record, count and report events. */
export type Observers = ReturnType<typeof observe>

/** The second stage. */
export function observe(core: Core, { linesDropped }: ProcessCounts) {
  const { live, log, version, clock, startedAt, breaker, exchanges } = core
  const { outageLog, overrideLog, historyFile, replicas } = core
  const waitingRoom = new WaitingRoom({
    breaker,
    clock,
    capacity: () => live.current.guard.maxWaiting,
    policy: { kind: 'by-place', concurrency: () => live.current.recovery.maxConcurrency },
  })
  const waitingClients = new WaitingRoom({
    breaker,
    clock,
    capacity: () => MAX_WAITING,
    policy: { kind: 'at-random', random: Math.random },
  })
  const notifier = new Notifier({
    breaker,
    outageLog,
    file: openNotifications(core.config, log),
    isReportedElsewhere: () => core.store.isInUse,
    group:
      replicas &&
      new GroupNotices({
        redis: () => replicas.redis,
        hasOthers: () => replicas.areSeveral,
        key: suffix => replicas.key(suffix),
        token: replicas.origin,
      }),
    settings: () => live.current.notify,
    defaultName: core.upstreamUrl.host,
    clock,
    random: Math.random,
    onFailure: failure => log.warn(failure, 'notification was not delivered'),
  })
  const store = core.store
  const phase = () => presentPhase(breaker)
  const batches = new RefusalBatches(clock, outageLog)
  const buckets = new Buckets({ outageLog, batches, clock, store, phase })
  const { stoppedAt } = buckets
  const outageDetails = new OutageDetails({ outageLog, batches, stoppedAt, store })
  const observers = {
    outageLog,
    outageDetails,
    buckets,
    overrideLog,
    notifier,
    clientLog: new ClientLog(clock, () => outageLog.countOperation(), core.store),
    runs: new Runs(clock, core.store),
    waitingRoom,
    waitingClients,
    changeLog: new ChangeLog(log),
    logSummary: new LogSummary(log),
    totals: new Totals(core.store),
    metrics: new Metrics({
      breaker,
      clock,
      version,
      waiting: () => waitingRoom.size,
      linesDropped,
      history: historyFile,
      group: replicas,
    }),
    eventRing: new EventRing({
      clock,
      startedAt,
      hasWritten: historyFile && (at => historyFile.hasWritten(at)),
      group: replicas,
    }),
    recentHours: new RecentHours(breaker, clock, core),
  }
  // All keepers have joined, so the number of malformed lines is known.
  const skippedLines = historyFile?.skippedLines ?? 0
  if (skippedLines > 0) log.warn({ skippedLines }, 'skipped malformed lines in the history file')
  // The order in which listeners are called. Keepers come first, then the history file, which writes the changes of all
  // keepers together, then reporters: a change is on disk before it is reported.
  const { clientLog, runs, changeLog, logSummary, totals, metrics, eventRing, recentHours } = observers
  const keeping = [
    outageLog,
    batches,
    outageDetails,
    buckets,
    overrideLog,
    clientLog,
    runs,
    totals,
    recentHours,
  ]
  const writing = historyFile === undefined ? [] : [historyFile]
  const reporting = [notifier, waitingRoom, changeLog, logSummary, metrics, eventRing]
  for (const each of [...keeping, ...writing, ...reporting]) each.attach(breaker)
  if (replicas !== undefined) changeLog.attachToReplicas(replicas)
  for (const each of [totals, runs, metrics, logSummary]) each.attachToExchanges(exchanges)
  exchanges.on('ended', ({ guarded, statusCode, durationMs }) => {
    // Failed requests, and requests without a response, do not measure how long focus-server takes.
    if (guarded && statusCode >= 200 && statusCode < 500) buckets.answered(durationMs)
  })
  return { ...observers, ...recordFor(core, observers) }
}

/** The record of this process or of all replicas, and the exchange of records between replicas. */
function recordFor(
  { breaker, clock, lifetime, replicas, sharedStore }: Core,
  kept: Pick<
    KnownRecord,
    'outageLog' | 'outageDetails' | 'buckets' | 'clientLog' | 'runs' | 'totals' | 'recentHours'
  >,
): { readonly known: () => KnownRecord; readonly exchange: RecordExchange | undefined } {
  const { outageLog, outageDetails, buckets, clientLog, runs, totals, recentHours } = kept
  const own: KnownRecord = {
    ...{ outageLog, outageDetails, buckets, clientLog, runs, totals, recentHours },
    get pastOverrides() {
      return breaker.pastOverrides
    },
    get span() {
      return lifetime.span
    },
    replicas: replicas && [replicas.name],
  }
  if (replicas === undefined || sharedStore === undefined) return { known: () => own, exchange: undefined }
  const exchange = new RecordExchange({
    ...{ replicas, store: sharedStore, clock },
    onSkipped: () => replicas.noteSkipped(),
    onOutages: sets => breaker.rememberOutages(pastOutages(sets, clock())),
  })
  replicas.on('joined', () => exchange.joined())
  replicas.on('alone', () => exchange.alone())
  const phase = () => presentPhase(breaker)
  const known = recordOfAll(own, exchange, {
    ...{ breaker, clock, phase },
    isKeeping: () => sharedStore.isKeeping,
  })
  return { known, exchange }
}

function presentPhase(breaker: Breaker): Phase {
  const { circuit, override } = breaker.snapshot()
  const cause = circuit.state === 'closed' ? null : circuit.cause
  return phaseOf({ state: circuit.state, cause, override: inTimeline(override) })
}

/** The file next to the history file that keeps notifications across restarts. */
function openNotifications({ history }: Config, log: Logger): NotificationFile | undefined {
  if (history.file === undefined) return undefined
  return new NotificationFile(history.file, (error, file) => {
    if (error === undefined) log.info({ file }, 'notifications file is writable again')
    else
      log.warn({ err: error, file }, 'cannot write the notifications file; keeping notifications in memory')
  })
}
