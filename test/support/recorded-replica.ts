import { Breaker, type Past } from '../../src/breaker/breaker.js'
import type { Client } from '../../src/breaker/events.js'
import { periodReport } from '../../src/domain/period-report.js'
import type { Instant } from '../../src/domain/time.js'
import { inTimeline, phaseOf } from '../../src/domain/timeline.js'
import { ClientLog } from '../../src/observability/client-log.js'
import type { KnownRecord } from '../../src/observability/known-record.js'
import { RecentHours } from '../../src/observability/recent-hours.js'
import { Runs } from '../../src/observability/runs.js'
import { Totals } from '../../src/observability/totals.js'
import { Buckets } from '../../src/outages/buckets.js'
import { OutageDetails } from '../../src/outages/details.js'
import { IN_MEMORY, type Store } from '../../src/outages/keeper.js'
import { Lifetime } from '../../src/outages/lifetime.js'
import { OutageLog } from '../../src/outages/log.js'
import { OverrideLog } from '../../src/outages/override-log.js'
import { RefusalBatches } from '../../src/outages/refusal-batches.js'
import { OneRecord } from '../../src/replicas/one-record.js'
import type { RecordSet } from '../../src/replicas/record-set.js'
import { SharedStore } from '../../src/replicas/shared-store.js'
import { CLIENT, SETTINGS } from './breaker-set-up.js'

/** The parts of one process that keep records, with a clock that is moved from outside. */
export type RecordedReplica = ReturnType<typeof recordedReplica>

/** Starts such a process. */
export function recordedReplica(
  name: string,
  clock: () => Instant,
  { base = IN_MEMORY, underWay }: { readonly base?: Store; readonly underWay?: Past['underWay'] } = {},
) {
  const store = new SharedStore(base, name)
  const lifetime = new Lifetime(clock(), store)
  const outageLog = new OutageLog(store)
  const overrideLog = new OverrideLog(store)
  const current = outageLog.current()
  const breaker = new Breaker(() => SETTINGS, clock, {
    underWay:
      underWay ??
      (current && { openedAt: current.startedAt, cause: current.cause, causeSince: current.causeSince }),
    pastOverrides: overrideLog.past,
  })
  const phase = () => {
    const { circuit, override } = breaker.snapshot()
    const cause = circuit.state === 'closed' ? null : circuit.cause
    return phaseOf({ state: circuit.state, cause, override: inTimeline(override) })
  }
  const batches = new RefusalBatches(clock, outageLog)
  const buckets = new Buckets({ outageLog, batches, clock, phase, store })
  const { stoppedAt } = buckets
  const outageDetails = new OutageDetails({ outageLog, batches, stoppedAt, store })
  const clientLog = new ClientLog(clock, () => outageLog.countOperation(), store)
  const runs = new Runs(clock, store)
  const totals = new Totals(store)
  const recentHours = new RecentHours(breaker, clock, { store, lifetime })
  const keeping = [
    outageLog,
    batches,
    outageDetails,
    buckets,
    overrideLog,
    clientLog,
    runs,
    totals,
    recentHours,
  ]
  for (const each of keeping) each.attach(breaker)
  const own: KnownRecord = {
    ...{ outageLog, outageDetails, buckets, clientLog, runs, totals, recentHours },
    get pastOverrides() {
      return breaker.pastOverrides
    },
    get span() {
      return lifetime.span
    },
    replicas: undefined,
  }
  return {
    breaker,
    store,
    own,
    phase,
    /** A guarded request: it is admitted and gets a response, or is refused. */
    ask(client: Partial<Client> = {}) {
      const from = { client: { ...CLIENT, ...client } }
      const decision = breaker.decide()
      if (!decision.admitted) breaker.refused(decision, from.client)
      const admission = breaker.admit(true, from)
      if (!admission.admitted) return
      totals.forwarded()
      if (from.client.run !== undefined) runs.forwarded(from.client.run)
      buckets.answered(300)
      admission.permit.settle({ kind: 'nothing-learned' })
    },
    /** What it would send to the others now. */
    set(): RecordSet {
      store.changes(clock())
      return structuredClone(store.own)
    },
    /** The record of these sets as this process shows it. */
    view: (sets: readonly RecordSet[]) =>
      new OneRecord({ sets, breaker, phase, clock, isKeeping: () => base.isKeeping }),
  }
}

/** What people see of a record: for lists only what does not depend on the order of equal entries. */
export function shown(record: KnownRecord, now: Instant) {
  const { outageLog, outageDetails, buckets, clientLog, runs, totals, recentHours, pastOverrides } = record
  const outages = outageLog.outages()
  const byText = <Item extends object>(items: readonly Item[]) =>
    items
      .map(item => Object.fromEntries(Object.entries(item).sort(([one], [other]) => (one < other ? -1 : 1))))
      .sort((one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1))
  const report = periodReport(2, {
    ...{ now, buckets: buckets.buckets(), ...buckets.lasting() },
    underWayAt: () => ({ outage: null, absence: false }),
  })
  const { rows, attempts, ...rest } = report
  return {
    outages: outages.map(({ openedBy, closedBy, replica, ...outage }) => ({
      ...outage,
      openedBy: [openedBy.kind, openedBy.at],
      closedBy: closedBy && [closedBy.kind, closedBy.at],
    })),
    details: outages.map(outage => {
      const detail = outageDetails.of(outage)
      return (
        detail && {
          ...detail,
          changes: detail.changes.map(({ at, state, cause }) => [at, state, cause]),
          clients: { items: byText(detail.clients.items), others: detail.clients.others },
          runs: { items: byText(detail.runs.items), others: detail.runs.others },
          letIn: byText(detail.letIn),
        }
      )
    }),
    periods: outageLog.unreachablePeriods(),
    report: {
      ...rest,
      rows,
      attempts: { ...attempts, clients: byText(attempts.clients), runs: byText(attempts.runs) },
    },
    clients: byText(
      clientLog.list().map(({ attempts: { requests, ...counts }, ...client }) => ({ ...client, ...counts })),
    ),
    runs: ['nightly', 'smoke'].map(name => runs.get(name)),
    totals: totals.counts(),
    past: recentHours.past(),
    overrides: pastOverrides,
    since: record.span.since,
  }
}
