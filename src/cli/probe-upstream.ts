import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '../config/schema.js'
import { startingCircuit, step } from '../domain/circuit.js'
import type { Reading } from '../domain/reading.js'
import { FreshConnections } from '../upstream/agent.js'
import { steadyClock } from '../upstream/clock.js'
import { MetadataReader, metadataUrl } from '../upstream/metadata-reader.js'
import { type Observer, spread } from './probe.js'
import type { Verdict } from './verdict.js'

/**
 * Probes focus-server directly and judges the readings as the proxy would: after a bad reading, the fiber counts as
 * connected again only after `circuit.readyThreshold` good ones.
 */
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
  const probeOnce = async () => {
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
    probe: probeOnce,
    next: async maxMs => {
      await sleep(Math.min(spread(probe.periodMs), maxMs))
      return probeOnce()
    },
    close: () => agent.cut(),
  }
}

function judgeReading(reading: Reading, isConfirmed: boolean): Verdict {
  const known = { since: null, forMs: null, circuit: null, forecast: null }
  if (reading.kind === 'unreachable') {
    const message = `focus-server's metadata cannot be read: ${reading.problem}`
    return { ready: false, state: 'unreachable', message, reason: message, ...known }
  }
  if (reading.kind === 'waiting' || !isConfirmed) {
    const message =
      reading.kind === 'waiting'
        ? `waiting for fiber: missing ${reading.missing.join(', ')}`
        : 'the fiber is back; waiting for one more successful probe'
    return { ready: false, state: 'waiting', message, reason: message, ...known }
  }
  const message = 'ready: the fiber is connected'
  return { ready: true, state: 'ready', message, reason: message, ...known }
}
