import { buildApp } from '../../src/app.js'
import { load } from '../../src/config/load.js'
import type { ReplicaGroup } from '../../src/domain/replica-group.js'
import { createLogger } from '../../src/observability/logger.js'
import { Metrics } from '../../src/observability/metrics.js'

/** What a proxy that runs in this process shows about itself. */
export type BuiltProgram = {
  /** The document of `/-/openapi.json`. */
  readonly description: unknown
  /** The text of `/-/metrics`, with the metrics of the history file and of replicas. */
  readonly exposition: string
  readonly close: () => Promise<void>
}

/** One replica on its own, which has every metric of replicas. */
const REPLICA: ReplicaGroup = {
  name: 'a',
  namespace: 'focus-server',
  isJoined: true,
  problem: null,
  since: 0,
  members: [],
  areSeveral: false,
  isProber: true,
  skippedEntries: 0,
}

/** Starts the proxy without a running upstream: what it shows about itself does not depend on the upstream. */
export async function builtProgram(): Promise<BuiltProgram> {
  const flags = new Map([
    ['upstream.url', { flag: 'upstream', value: 'http://127.0.0.1:9' }],
    ['probe.timeoutMs', { flag: 'probe.timeoutMs', value: '100' }],
  ])
  const loaded = load({ environment: {}, flags })
  if (!loaded.ok) throw new Error('the configuration of the generator is invalid', { cause: loaded.faults })
  const version = 'VERSION'
  const { app, breaker } = buildApp(loaded.config, createLogger({ level: 'silent', format: 'json' }), version)
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const description: unknown = await (await fetch(`${url}/-/openapi.json`)).json()
  const metrics = new Metrics({
    breaker,
    clock: () => 0,
    version,
    waiting: () => 0,
    linesDropped: () => 0,
    history: { isKeeping: true, bytes: 0 },
    group: REPLICA,
  })
  const exposition = await metrics.exposition()
  return { description, exposition, close: () => app.close() }
}
