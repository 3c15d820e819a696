import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { Breaker, type Past, type Settings } from '../../src/breaker/breaker.js'
import type { Client } from '../../src/breaker/events.js'
import { inTimeline, phaseOf } from '../../src/domain/timeline.js'
import { Buckets } from '../../src/outages/buckets.js'
import { OutageDetails } from '../../src/outages/details.js'
import { HistoryFile } from '../../src/outages/file.js'
import { OutageLog } from '../../src/outages/log.js'
import { RefusalBatches } from '../../src/outages/refusal-batches.js'
import { CLIENT, SETTINGS } from './breaker-set-up.js'
import { readings } from './play.js'

/** The path of a history file, in a folder that is removed after the test. */
export function historyPath(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return join(folder, 'history')
}

/**
 * The part of one process that keeps outages, details and buckets, with a clock that is moved by hand, starting at
 * `now`.
 */
export function runProcess(path: string | undefined, start: number, settings: Partial<Settings> = {}) {
  let now = start
  const clock = () => now
  const onFault = (error: unknown) => {
    if (error !== undefined) throw error
  }
  const file = path === undefined ? undefined : new HistoryFile({ file: path, clock, onFault })
  const store = file === undefined ? {} : { store: file }
  const outageLog = new OutageLog(file)
  const current = outageLog.current()
  const underWay: Past['underWay'] = current && {
    ...{ openedAt: current.startedAt, cause: current.cause, causeSince: current.causeSince },
  }
  const breaker = new Breaker(() => ({ ...SETTINGS, ...settings }), clock, { underWay })
  const phase = () => {
    const { circuit, override } = breaker.snapshot()
    const cause = circuit.state === 'closed' ? null : circuit.cause
    return phaseOf({ state: circuit.state, cause, override: inTimeline(override) })
  }
  const batches = new RefusalBatches(clock, outageLog)
  const buckets = new Buckets({ outageLog, batches, clock, phase, ...store })
  const { stoppedAt } = buckets
  const details = new OutageDetails({ outageLog, batches, stoppedAt, ...store })
  for (const each of [outageLog, batches, details, buckets, ...(file === undefined ? [] : [file])]) {
    each.attach(breaker)
  }
  return {
    breaker,
    outageLog,
    details,
    buckets,
    clock,
    /** Feeds the breaker a drawn history, one reading per second. */
    see(drawing: string) {
      for (const reading of readings(drawing, now)) {
        now = reading.at
        breaker.observe(reading)
      }
    },
    pass(ms: number) {
      now += ms
    },
    /** A guarded request: it is admitted or refused. */
    ask(client: Partial<Client> = {}) {
      const from = { client: { ...CLIENT, ...client } }
      const decision = breaker.decide()
      if (!decision.admitted) breaker.refused(decision, from.client)
      const admission = breaker.admit(true, from)
      if (admission.admitted) admission.permit.settle({ kind: 'nothing-learned' })
    },
    /** Does what the timer of the history file does. */
    write: () => file?.write(),
    /** Ends the process as SIGTERM does; without it the process ends as by `kill -9`. */
    close() {
      breaker.shutdown()
      file?.close()
    },
  }
}
