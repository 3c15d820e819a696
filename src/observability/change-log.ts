import type { Logger } from 'pino'
import type { Breaker } from '../breaker/breaker.js'
import type { ReplicaGroup } from '../domain/replica-group.js'
import { inWords, rfc3339 } from '../domain/time.js'
import type { Cause } from '../domain/vocabulary.js'

/** The replicas of a group, which report what changes among them. */
export type ChangingGroup = ReplicaGroup & {
  /** Host and port of Redis, once known. */
  readonly address: string | undefined
  on(event: 'listed', listener: () => void): unknown
  on(event: 'alone', listener: (problem: string) => void): unknown
  on(event: 'prober', listener: (isProber: boolean) => void): unknown
}

/** Logs each change of the breaker on a line of its own: transitions, causes, overrides and contradictions. */
export class ChangeLog {
  readonly #log: Logger

  constructor(log: Logger) {
    this.#log = log
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
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
      // At a start the line "listening" shows the state already.
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
      log.warn({ missing }, 'metadata says that the fiber is there, configure says that it is missing')
    })
    breaker.on('reading', reading => log.trace({ ...reading, at: rfc3339(reading.at) }, 'reading taken'))
  }

  /** Starts listening to the replicas. However often this one fails to reach them, that is one line. */
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
      log[level]({ replica, namespace, redis, problem }, 'cannot use Redis; continuing with own readings')
    })
    group.on('prober', isProber => {
      const message = isProber ? 'this replica probes from now on' : 'another replica probes from now on'
      log.debug({ replica, namespace }, message)
    })
  }
}

function problemOf(cause: Cause): string {
  return cause === 'waiting' ? 'the fiber is missing' : 'the metadata cannot be read'
}
