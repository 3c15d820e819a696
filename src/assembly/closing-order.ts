import { setTimeout as sleep } from 'node:timers/promises'
import type { HealthListener } from '../routes/health-listener.js'
import type { Core } from './core.js'
import type { Observers } from './observers.js'
import type { Server } from './server-stage.js'
import type { Upstream } from './upstream-stage.js'

/** For how long the start waits for the other replicas. */
const JOIN_PATIENCE_MS = 1000

/** The last stage: begins with the first reading, and states in which order everything ends. */
export function closeInOrder(
  core: Core,
  observers: Observers,
  upstream: Upstream,
  { app }: Server,
  healthListener: HealthListener,
): void {
  const { config, clock, breaker, files, historyFile, replicas } = core
  const { drainTimeoutMs } = config.server
  const { reader, prober, rampEnd, agent, freshAgent, probeAgent, queue } = upstream
  let drainEndsAt = 0
  app.addHook('onReady', async () => {
    observers.exchange?.start()
    // The others may know of the fiber already, and probe.
    await replicas?.start(JOIN_PATIENCE_MS)
    await prober.start()
  })
  // With the drain the decisions are over: no reading that still comes moves the ledger, the log or a webhook.
  app.addHook('preClose', done => {
    drainEndsAt = clock() + drainTimeoutMs
    breaker.ignoreReadings()
    rampEnd.stop()
    void prober.stop()
    void replicas?.stopProbing()
    done()
  })
  // What closes, in this order, when the server has closed: every client has its response or was cut.
  const closing: readonly (() => unknown)[] = [
    () => files.close(),
    () => reader.close(),
    () => prober.stop(),
    // A guarded request whose client has left is let finish all the same. undici's agent would forget what it waits for,
    // and could not cut it then.
    () => Promise.race([queue.empty(), sleep(Math.max(0, drainEndsAt - clock()), undefined, { ref: false })]),
    // What is cut from here on is cut by us, and is not a failure of the upstream.
    () => observers.logSummary.close(),
    () => Promise.all([agent.destroy(), freshAgent.cut(), probeAgent.cut()]),
    () => observers.notifier.close(),
    // The others know what this replica has counted to the end.
    () => observers.exchange?.stop(),
    () => replicas?.stop(),
    () => breaker.shutdown(),
    () => historyFile?.close(),
    // Whoever restarts what does not respond is told until the end that this process lives.
    () => healthListener.close(),
  ]
  app.addHook('onClose', async () => {
    for (const close of closing) await close()
  })
}
