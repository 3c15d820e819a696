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

/** The proxy, assembled. */
export type FocusBreaker = {
  /** Listening (or `ready()`) takes the first reading first; closing drains, then stops every part. */
  readonly app: FastifyInstance
  /** The circuit, for reading. */
  readonly breaker: Breaker
  /** Opens the listener of `server.healthPort` and returns its URL; undefined without one. @throws as listening does. */
  readonly listenForHealth: () => Promise<string | undefined>
  /** Fails `/-/ready` from now on, so that new connections go elsewhere. Nothing else changes. */
  readonly retire: () => void
  /** Loads the configuration again and applies what can change while running. A faulty one changes nothing. */
  readonly reload: () => Promise<ReloadOutcome>
}

/**
 * What the process around the proxy counts, how it loads the configuration again from where it came, and the clock, which
 * is the steady one of the process unless another is given.
 */
type Surroundings = Parameters<typeof observe>[1] & {
  readonly loadAgain?: () => Loaded
  readonly clock?: Core['clock']
}

const NONE: Surroundings = { linesDropped: () => 0 }

/**
 * Makes each part once and joins them, in stages: each needs only those before it.
 *
 * @throws when a file of the configuration has become unreadable since it was checked.
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
      log.error({ faults: loaded.faults }, 'configuration was not reloaded, because it has faults')
      return { ok: false, explanation: explain(loaded.faults) }
    }
    const { applied, needRestart } = live.replace(loaded.config)
    followSecrets()
    routing.guard(live.current.guard.routes)
    log.level = live.current.log.level
    app.log.level = fastifyLevel(log)
    // With other predicates or another period the last reading is out of date.
    upstream.prober.probeNow()
    log.info({ applied }, 'configuration was reloaded')
    if (needRestart.length > 0) log.warn({ needRestart }, 'these options change with a restart only')
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
