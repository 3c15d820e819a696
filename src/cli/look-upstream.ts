import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '../config/schema.js'
import { startingCircuit, step } from '../domain/circuit.js'
import type { Reading } from '../domain/reading.js'
import { FreshConnections } from '../upstream/agent.js'
import { steadyClock } from '../upstream/clock.js'
import { MetadataReader, metadataUrl } from '../upstream/metadata-reader.js'
import { type Observer, spread } from './look.js'
import type { Verdict } from './verdict.js'

/** Looks at focus-server as the proxy itself would judge: after a bad reading, it takes as many good ones in a row. */
export function observeUpstream(config: Config): Observer {
  const { circuit: thresholds, probe, recovery } = config
  const agent = new FreshConnections(config.upstream)
  let circuit = startingCircuit(steadyClock())
  const reader = new MetadataReader({
    dispatcher: agent,
    url: metadataUrl(config.upstream.url, probe.path),
    settings: () => ({ timeoutMs: probe.timeoutMs, readyWhen: config.fiber.readyWhen }),
    clock: steadyClock,
    observe: () => undefined,
  })
  const look = async () => {
    const { reading, notCounted } = await reader.read('probe')
    if (notCounted !== undefined) return judgeReading(reading, false)
    circuit = step(
      circuit,
      reading,
      {
        waiting: thresholds.waitingThreshold,
        unreachable: thresholds.unreachableThreshold,
        ready: thresholds.readyThreshold,
      },
      recovery,
    )
    return judgeReading(reading, circuit.state !== 'open')
  }
  return {
    look,
    next: async maxMs => {
      await sleep(Math.min(spread(probe.periodMs), maxMs))
      return look()
    },
    close: () => agent.cut(),
  }
}

function judgeReading(reading: Reading, isBelieved: boolean): Verdict {
  const known = { since: null, forMs: null, circuit: null, forecast: null }
  if (reading.kind === 'unreachable') {
    const message = `focus-server's metadata cannot be read: ${reading.problem}`
    return { ready: false, state: 'unreachable', message, reason: message, ...known }
  }
  if (reading.kind === 'waiting' || !isBelieved) {
    const message =
      reading.kind === 'waiting'
        ? `waiting for fiber: missing ${reading.missing.join(', ')}`
        : 'the fiber is back, and one more look is awaited'
    return { ready: false, state: 'waiting', message, reason: message, ...known }
  }
  const message = 'ready: the fiber is connected'
  return { ready: true, state: 'ready', message, reason: message, ...known }
}
