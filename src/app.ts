import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { closeInOrder } from './assembly/closing-order.js'
import { makeCore } from './assembly/core.js'
import { followFiles } from './assembly/followed-files.js'
import { observe } from './assembly/observers.js'
import { addRoutes } from './assembly/routes-stage.js'
import { serve } from './assembly/server-stage.js'
import { reachUpstream } from './assembly/upstream-stage.js'
import type { Breaker } from './breaker/breaker.js'
import type { Reloaded } from './config/live.js'
import type { Config } from './config/schema.js'
import { fastifyLevel } from './server/create.js'

/** The proxy, assembled. */
export type FocusBreaker = {
  /** Listening (or `ready()`) takes the first reading first; closing drains, then stops every part. */
  readonly app: FastifyInstance
  /** The circuit, for reading. */
  readonly breaker: Breaker
  /** Fails `/-/ready` from now on, so that new connections go elsewhere. Nothing else changes. */
  readonly retire: () => void
  /** Applies those options of another configuration that can change while running. */
  readonly reload: (config: Config) => Reloaded
}

/** What is counted outside of the proxy's own parts. */
type ProcessCounts = Parameters<typeof observe>[1]

const NONE: ProcessCounts = { linesDropped: () => 0 }

/**
 * Makes each part once and joins them, in stages: each needs only those before it.
 *
 * @throws when a file of the configuration has become unreadable since it was checked.
 */
export function buildApp(
  config: Config,
  log: Logger,
  version: string,
  process: ProcessCounts = NONE,
): FocusBreaker {
  const core = makeCore(config, log, version)
  const observers = observe(core, process)
  const upstream = reachUpstream(core, observers)
  const server = serve(core, observers, upstream)
  const retire = addRoutes(core, observers, server)
  const followSecrets = followFiles(core, upstream, server)
  closeInOrder(core, observers, upstream, server)
  const { app, routing } = server
  const { live, breaker } = core
  return {
    app,
    breaker,
    retire,
    reload: next => {
      const reloaded = live.replace(next)
      followSecrets()
      void core.files.checkNow()
      routing.guard(live.current.guard.routes)
      log.level = live.current.log.level
      app.log.level = fastifyLevel(log)
      // With other predicates or another period the last reading is out of date.
      upstream.prober.probeNow()
      return reloaded
    },
  }
}
