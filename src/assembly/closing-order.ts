import { setTimeout as sleep } from 'node:timers/promises'
import type { HealthListener } from '../routes/health-listener.js'
import type { Core } from './core.js'
import type { Observers } from './observers.js'
import type { Server } from './server-stage.js'
import type { Upstream } from './upstream-stage.js'

/** How long the start waits for the other replicas. */
const JOIN_PATIENCE_MS = 1000

/** The last stage: takes the first reading at the start, and defines the order in which everything closes. */
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
    // The other replicas may already have readings, and one of them may be probing.
    await replicas?.start(JOIN_PATIENCE_MS)
    await prober.start()
  })
  // No decisions are made during the drain: late readings must not change the history, the log or a webhook.
  app.addHook('preClose', done => {
    drainEndsAt = clock() + drainTimeoutMs
    breaker.ignoreReadings()
    rampEnd.stop()
    void prober.stop()
    void replicas?.stopProbing()
    done()
  })
  // These close in this order after the server has closed, when every client has its response or was disconnected.
  const closing: readonly (() => unknown)[] = [
    () => files.close(),
    () => reader.close(),
    () => prober.stop(),
    // Wait for guarded requests whose clients have disconnected: they run to their end. Do not close undici's agent
    // before that, because it would lose track of them and could not cut them later.
    () => Promise.race([queue.empty(), sleep(Math.max(0, drainEndsAt - clock()), undefined, { ref: false })]),
    // Close the summary first: requests that are cut after this point are not failures of the upstream.
    () => observers.logSummary.close(),
    () => Promise.all([agent.destroy(), freshAgent.cut(), probeAgent.cut()]),
    () => observers.notifier.close(),
    // Sends the final counts to the other replicas.
    () => observers.exchange?.stop(),
    () => replicas?.stop(),
    () => breaker.shutdown(),
    () => historyFile?.close(),
    // Closed last, so that a supervisor that restarts unresponsive processes does not restart this one while it closes.
    () => healthListener.close(),
  ]
  app.addHook('onClose', async () => {
    for (const close of closing) await close()
  })
}
