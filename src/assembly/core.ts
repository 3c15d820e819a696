import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { Logger } from 'pino'
import { Breaker, type Settings } from '../breaker/breaker.js'
import { FileFollower } from '../config/follow.js'
import { LiveConfig } from '../config/live.js'
import { trustedPeers } from '../config/peers.js'
import type { Config } from '../config/schema.js'
import { inForce, isDeclared } from '../domain/override.js'
import { defaultNamespace } from '../domain/redis-url.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { ExchangeEvents } from '../observability/exchange-events.js'
import { HistoryFile, LeftAlone } from '../outages/file.js'
import { HistoryLock } from '../outages/history-lock.js'
import { IN_MEMORY, type Store } from '../outages/keeper.js'
import { Lifetime } from '../outages/lifetime.js'
import { OutageLog } from '../outages/log.js'
import { OverrideLog } from '../outages/override-log.js'
import type { TrustsPeer } from '../proxy/client-view.js'
import { CommonClock } from '../replicas/common-clock.js'
import { redisServer } from '../replicas/redis-server.js'
import { Replicas } from '../replicas/replicas.js'
import { SharedStore } from '../replicas/shared-store.js'
import { type Clock, steadyClock } from '../upstream/clock.js'

/** The parts that everything else depends on: the configuration, the clock, the history, and the breaker. */
export type Core = {
  readonly config: Config
  readonly live: LiveConfig
  /** Follows all files of the configuration. */
  readonly files: FileFollower
  readonly log: Logger
  readonly version: string
  readonly clock: Clock
  readonly startedAt: Instant
  readonly upstreamUrl: URL
  readonly trusts: TrustsPeer
  readonly historyFile: HistoryFile | undefined
  /** Keeps records across restarts: the history file, if there is one. */
  readonly store: Store
  readonly lifetime: Lifetime
  readonly outageLog: OutageLog
  readonly overrideLog: OverrideLog
  readonly breaker: Breaker
  /** The group of replicas that this process belongs to; undefined if `replicas.url` is not set. */
  readonly replicas: Replicas | undefined
  /** Tracks which records have changed for the other replicas; undefined without replicas. */
  readonly sharedStore: SharedStore | undefined
  readonly exchanges: ExchangeEvents
}

/** The first stage. @throws if a file of the configuration has become unreadable since it was checked. */
export function makeCore(config: Config, log: Logger, version: string, ownClock: Clock = steadyClock): Core {
  const live = new LiveConfig(config)
  const settings = settingsOf(live)
  const group = makeReplicas(live, settings, version, ownClock)
  const replicas = group?.replicas
  const clock = group?.clock ?? ownClock
  const historyFile = openHistory(config, log, clock)
  const base = historyFile ?? IN_MEMORY
  const sharedStore = group && new SharedStore(base, group.replicas.name)
  const store = sharedStore ?? base
  const startedAt = clock()
  const lifetime = new Lifetime(startedAt, store)
  const outageLog = new OutageLog(store, () => (replicas?.areSeveral === true ? replicas.sender : undefined))
  const overrideLog = new OverrideLog(store)
  reportCorrected(outageLog, config, log)
  const current = outageLog.current()
  const underWay = current && {
    openedAt: current.startedAt,
    cause: current.cause,
    causeSince: current.causeSince,
  }
  if (underWay !== undefined) {
    const fields = { startedAt: rfc3339(underWay.openedAt), file: config.history.file }
    log.info(fields, 'resuming the outage recorded in the history file')
  }
  const outages = outageLog
    .outages()
    .toReversed()
    .flatMap(outage => {
      const { startedAt, endedAt, cause } = outage
      return endedAt === null || outageLog.corrected.has(outage)
        ? []
        : [{ cause, lengthMs: endedAt - startedAt }]
    })
  const resumed = overrideLog.inForce ?? null
  if (inForce(resumed, startedAt) !== null && resumed !== null) {
    const { state, reason, until, by } = resumed
    const fields = { state, reason, until: rfc3339(until), by, file: config.history.file }
    log.warn(fields, `resuming the override recorded in the history file: circuit forced ${state}`)
  }
  if (config.admin.token !== undefined && historyFile === undefined && group === undefined) {
    log.info('an override set over HTTP will not survive a restart: history.file is not configured')
  }
  const past = {
    ...{ outages, underWay },
    ...(resumed !== null && (isDeclared(resumed) ? { declared: resumed } : { override: resumed })),
    pastOverrides: overrideLog.past,
  }
  const breaker = new Breaker(settings, clock, past, replicas)
  replicas?.attach(breaker)
  return {
    config,
    live,
    files: new FileFollower(),
    log,
    version,
    clock,
    startedAt,
    lifetime,
    upstreamUrl: new URL(config.upstream.url),
    trusts: trustedPeers(config.server.trustProxy),
    historyFile,
    store,
    outageLog,
    overrideLog,
    breaker,
    replicas,
    sharedStore,
    exchanges: new ExchangeEvents(),
  }
}

/** Creates the group of replicas that this process belongs to, and their common clock. */
function makeReplicas(
  live: LiveConfig,
  settings: () => Settings,
  version: string,
  ownClock: Clock,
): { readonly replicas: Replicas; readonly clock: Clock } | undefined {
  const { url, caFile } = live.current.replicas
  if (url === undefined) return undefined
  const { namespace = defaultNamespace(live.current.upstream.url), name = hostname() } = live.current.replicas
  const clock = new CommonClock(ownClock)
  const replicas = new Replicas({
    // Read again at each attempt, because both files may have been renewed.
    server: () => redisServer(live.current.replicas.url ?? url, caFile && readFileSync(caFile, 'utf8')),
    ...{ namespace, name, version, clock },
    rules: settings,
    probePeriodMs: () => live.current.probe.periodMs,
  })
  return { replicas, clock: clock.now }
}

const HISTORY_IN_USE =
  'another process is writing this history file; keeping the history in memory until it stops (each process needs its own file)'
const HISTORY_IS_NEWER =
  'a newer version wrote this history file; keeping the history in memory (run that version, or set history.file to another file)'

function openHistory({ history: { file } }: Config, log: Logger, clock: Clock): HistoryFile | undefined {
  if (file === undefined) return undefined
  return new HistoryFile({
    file,
    clock,
    lock: new HistoryLock({ file, clock }),
    onFault: error => {
      if (error === undefined) log.info({ file }, 'history file is writable again')
      else if (error instanceof LeftAlone && error.reason === 'in use') {
        log.warn({ file, problem: error.message }, HISTORY_IN_USE)
      } else if (error instanceof LeftAlone && error.reason === 'newer') {
        log.warn({ file, problem: error.message }, HISTORY_IS_NEWER)
      } else log.warn({ err: error, file }, 'cannot write the history file; keeping outages in memory')
    },
  })
}

function reportCorrected(outageLog: OutageLog, { history: { file } }: Config, log: Logger): void {
  const corrected = outageLog.corrected.size
  if (corrected > 0) {
    log.warn({ file, corrected }, 'corrected impossible times in the history file; check the system clock')
  }
}

/** The settings of the breaker. They are computed from the live configuration, because a reload changes them. */
function settingsOf(live: LiveConfig): () => Settings {
  let config: Config | undefined
  let settings: Settings | undefined
  return () => {
    if (settings !== undefined && config === live.current) return settings
    config = live.current
    const { circuit, recovery, probe, guard } = config
    settings = {
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
    return settings
  }
}
