/**
 * The proxy with a clock and timers that are moved by hand, as a separate process. `playedProxy` of `played-proxy.ts`
 * starts it and sends it commands over the channel between parent and child.
 */
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { buildApp } from '../../src/app.js'
import { load } from '../../src/config/load.js'
import type { Finding } from '../../src/domain/reading.js'
import { createLogger } from '../../src/observability/logger.js'

/** The commands of the parent. */
export type PlayedCommand =
  | { readonly pass: number; readonly step: number }
  | { readonly reading: Finding['kind'] }
  | { readonly close: true }

/** How often the event loop turns after each step, so that what the step started can continue. */
const TURNS = 3

const FINDINGS: Readonly<Record<Finding['kind'], Finding>> = {
  ready: { kind: 'ready', metadata: { prr: 2000, sw_version: '1.0' } },
  waiting: {
    kind: 'waiting',
    metadata: { prr: 0, sw_version: 'waiting for fiber' },
    missing: ['prr', 'sw_version'],
  },
  unreachable: { kind: 'unreachable', problem: 'connection refused' },
}

let now = Number(process.env.PLAYED_NOW)
const loaded = load({ environment: process.env, flags: new Map() })
if (!loaded.ok) throw new Error(JSON.stringify(loaded.faults))
mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
const { app, breaker } = buildApp(loaded.config, createLogger(loaded.config.log), 'played', {
  linesDropped: () => 0,
  clock: () => now,
})
process.on('message', async (command: PlayedCommand) => {
  if ('pass' in command) await pass(command.pass, command.step)
  else if ('reading' in command) breaker.observe({ at: now, source: 'probe', ...FINDINGS[command.reading] })
  else await close()
  process.send?.({ now })
})
process.send?.({ url: await app.listen({ host: '127.0.0.1', port: 0 }), now })

async function pass(ms: number, step: number): Promise<void> {
  for (let left = ms; left > 0; left -= step) {
    now += Math.min(step, left)
    mock.timers.tick(Math.min(step, left))
    for (let count = 0; count < TURNS; count += 1) await turn()
  }
}

async function close(): Promise<void> {
  let isClosed = false
  const closing = app.close().then(() => {
    isClosed = true
  })
  while (!isClosed) {
    mock.timers.tick(10)
    await turn()
  }
  await closing
  process.exit(0)
}
