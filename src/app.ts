import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { closeInOrder } from './assembly/closing-order.js'
import { type Core, makeCore } from './assembly/core.js'
import { followFiles } from './assembly/followed-files.js'
import { observe } from './assembly/observers.js'
import { addRoutes } from './assembly/routes-stage.js'
import { serve } from './assembly/server-stage.js'
import { reachUpstream } from './assembly/upstream-stage.js'
import type { Breaker } from './breaker/breaker.js'
import { explain } from './config/fault.js'
import type { Loaded } from './config/load.js'
import type { Config } from './config/schema.js'
import type { ReloadOutcome } from './routes/reload-route.js'
import { fastifyLevel } from './server/create.js'

/** The assembled proxy. */
export type FocusBreaker = {
  /** Takes the first reading before it listens (or is `ready()`). Closing drains, then stops every part. */
  readonly app: FastifyInstance
  /** The breaker. Callers only read it. */
  readonly breaker: Breaker
  /**
   * Opens the listener of `server.healthPort` and returns its URL; undefined without the option. @throws if it cannot
   * listen.
   */
  readonly listenForHealth: () => Promise<string | undefined>
  /** Makes `/-/ready` fail from now on, so that new connections go to other instances. Nothing else changes. */
  readonly retire: () => void
  /**
   * Loads the configuration again and applies the options that can change at run time. An invalid one changes nothing.
   */
  readonly reload: () => Promise<ReloadOutcome>
}

/**
 * What the proxy needs from the process that runs it: its counts, a function that loads the configuration again, and
 * the clock (default: the steady clock of the process).
 */
type Surroundings = Parameters<typeof observe>[1] & {
  readonly loadAgain?: () => Loaded
  readonly clock?: Core['clock']
}

const NONE: Surroundings = { linesDropped: () => 0 }

/**
 * Creates and connects all parts in stages. Each stage needs only earlier ones.
 *
 * @throws if a file of the configuration has become unreadable since it was checked.
 */
export function buildApp(
  config: Config,
  log: Logger,
  version: string,
  process: Surroundings = NONE,
): FocusBreaker {
  const core = makeCore(config, log, version, process.clock)
  const observers = observe(core, process)
  const upstream = reachUpstream(core, observers)
  const server = serve(core, observers, upstream)
  const { retire, healthListener } = addRoutes(core, observers, upstream, server, () => reload())
  const followSecrets = followFiles(core, upstream, server)
  closeInOrder(core, observers, upstream, server, healthListener)
  const { app, routing } = server
  const { live, breaker, files } = core
  const reload = async (): Promise<ReloadOutcome> => {
    const loaded = process.loadAgain?.() ?? { ok: true, config }
    if (!loaded.ok) {
      log.error({ faults: loaded.faults }, 'configuration was not reloaded: it is invalid')
      return { ok: false, explanation: explain(loaded.faults) }
    }
    const { applied, needRestart } = live.replace(loaded.config)
    followSecrets()
    routing.guard(live.current.guard.routes)
    log.level = live.current.log.level
    app.log.level = fastifyLevel(log)
    // The last reading is outdated if the predicates have changed.
    upstream.prober.probeNow()
    log.info({ applied }, 'configuration was reloaded')
    if (needRestart.length > 0) log.warn({ needRestart }, 'these options need a restart')
    return { ok: true, applied, needRestart, renewedFiles: await files.checkNow() }
  }
  return {
    app,
    breaker,
    retire,
    reload,
    listenForHealth: async () => {
      const { host, healthPort } = config.server
      return healthPort === undefined ? undefined : healthListener.listen(host, healthPort)
    },
  }
}
