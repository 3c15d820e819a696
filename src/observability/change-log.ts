import type { Logger } from 'pino'
import type { Breaker } from '../breaker/breaker.js'
import type { ReplicaGroup } from '../domain/replica-group.js'
import { inWords, rfc3339 } from '../domain/time.js'
import type { Cause } from '../domain/vocabulary.js'

/** A group of replicas that reports changes in the group. */
export type ChangingGroup = ReplicaGroup & {
  /** Host and port of Redis, once known. */
  readonly address: string | undefined
  on(event: 'listed', listener: () => void): unknown
  on(event: 'alone', listener: (problem: string) => void): unknown
  on(event: 'prober', listener: (isProber: boolean) => void): unknown
}

/** Logs each change of the breaker on its own line: transitions, causes, overrides and contradictions. */
export class ChangeLog {
  readonly #log: Logger

  constructor(log: Logger) {
    this.#log = log
  }

  /** Starts listening to the breaker. Listeners are called in the order in which they were attached. */
  attach(breaker: Breaker): void {
    const log = this.#log
    breaker.on('transition', ({ from, to, cause, outageMs, reading }) => {
      const fields = {
        from,
        to,
        cause,
        ...(from !== 'closed' && { outageSeconds: Math.round(outageMs / 1000) }),
        source: reading.source,
        ...(reading.kind === 'waiting' && { missing: reading.missing }),
        ...(reading.kind === 'unreachable' && { problem: reading.problem }),
      }
      const length = cause !== 'starting' && outageMs > 0 ? ` after ${inWords(outageMs)}` : ''
      // At the start, the line "listening" already shows the state.
      if (to === 'closed') log[cause === 'starting' ? 'debug' : 'info'](fields, `circuit closed${length}`)
      else if (to === 'half-open') log.info(fields, `circuit half-opened${length}`)
      else log.warn(fields, `circuit opened: ${problemOf(cause)}`)
    })
    breaker.on('cause', ({ from, to, outageMs, reading }) => {
      const problem = reading.kind === 'unreachable' ? reading.problem : undefined
      log.warn(
        { from, to, outageSeconds: Math.round(outageMs / 1000), problem },
        `circuit stayed open: ${problemOf(to)}`,
      )
    })
    breaker.on('override', event => {
      const { state, reason, until, by, silent } = event.override
      const fields = { state, reason, until: rfc3339(until), by, ...(silent === true && { silent }) }
      if (event.kind === 'set') {
        const replaced = event.replaced && { state: event.replaced.state, reason: event.replaced.reason }
        log.warn({ ...fields, ...(replaced && { replaced }) }, `override set: circuit forced ${state}`)
      } else if (event.kind === 'removed')
        log.warn({ ...fields, by: event.override.endedBy }, 'override removed')
      else log.warn(fields, 'override ended')
    })
    breaker.on('disagreement', ({ missing }) => {
      log.warn({ missing }, 'metadata reports the fiber as connected, but configure reports it as missing')
    })
    breaker.on('reading', reading => log.trace({ ...reading, at: rfc3339(reading.at) }, 'reading taken'))
  }

  /** Starts listening to the replicas. Repeated failures to reach them are logged as one warning. */
  attachToReplicas(group: ChangingGroup): void {
    const log = this.#log
    const { name: replica, namespace } = group
    let isAlone = false
    group.on('listed', () => {
      isAlone = false
      const { address: redis } = group
      const message = group.areSeveral
        ? 'joined the other replicas'
        : 'connected to Redis; this is the only replica'
      log.info({ replica, namespace, redis }, message)
    })
    group.on('alone', problem => {
      const level = isAlone ? 'debug' : 'warn'
      isAlone = true
      const { address: redis } = group
      log[level](
        { replica, namespace, redis, problem },
        'cannot use Redis; this replica continues on its own',
      )
    })
    group.on('prober', isProber => {
      const message = isProber ? 'this replica now probes' : 'another replica now probes'
      log.debug({ replica, namespace }, message)
    })
  }
}

function problemOf(cause: Cause): string {
  return cause === 'waiting' ? 'the fiber is missing' : 'the metadata cannot be read'
}
