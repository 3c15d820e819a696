import type { TestContext } from 'node:test'
import type { Settings } from '../../src/breaker/breaker.js'
import type { Outage } from '../../src/domain/outage.js'
import type { DeliveryFailure } from '../../src/notifications/delivery.js'
import type { GroupNotices } from '../../src/notifications/group-notices.js'
import type { NotificationFile } from '../../src/notifications/notification-file.js'
import { Notifier, type NotifySettings } from '../../src/notifications/notifier.js'
import type { Webhook } from '../../src/notifications/webhook.js'
import { OutageLog } from '../../src/outages/log.js'
import { outageAsJson } from '../../src/outages/record.js'
import { setUp } from './breaker-set-up.js'
import { until } from './harness.js'
import { memoryStore } from './memory-store.js'

/** An outage and its end with the defaults of the tests: the last reading closes the circuit. */
export const OUTAGE = '-'
export const RECOVERY = '++++++'
export const HOUR_MS = 3_600_000

/** A breaker with drawn readings, its outage log, and the notifier that reports it. */
export function notifying(
  t: TestContext,
  webhooks: readonly (string | Webhook)[],
  settings: Partial<NotifySettings> & {
    readonly past?: readonly Outage[]
    readonly mode?: Settings['mode']
    readonly file?: NotificationFile
    readonly group?: GroupNotices
  } = {},
) {
  const { past = [], mode = 'enforce', file, group, ...others } = settings
  const all = setUp({ mode })
  const kept = past.map(outage => [String(outage.startedAt), outageAsJson(outage)] as const)
  const outageLog = new OutageLog(memoryStore({ outage: kept }))
  outageLog.attach(all.breaker)
  const failures: DeliveryFailure[] = []
  let current: NotifySettings = {
    webhooks: webhooks.map(each => (typeof each === 'string' ? { url: each, format: 'json' } : each)),
    lastingAfterMs: HOUR_MS,
    cooldownMs: 0,
    retryForMs: HOUR_MS,
    ...others,
  }
  const notifier = new Notifier({
    breaker: all.breaker,
    outageLog,
    file,
    group,
    settings: () => current,
    defaultName: 'focus-server:5000',
    clock: all.clock,
    random: () => 0,
    onFailure: failure => failures.push(failure),
  })
  notifier.attach(all.breaker)
  t.after(() => notifier.close())
  return {
    ...all,
    outageLog,
    notifier,
    failures,
    /** Applies options as a reload of the configuration does. */
    reload(changed: Partial<NotifySettings>) {
      current = { ...current, ...changed }
    },
    failed: (count = 1) =>
      until(() => failures.length >= count && failures, {
        what: 'the delivery has failed',
        timeoutMs: 30_000,
      }),
  }
}

/** An outage as the history of an earlier process has it: it started three seconds before this one. */
export function underWay(): Outage {
  const openedBy = { at: -3000, source: 'probe', kind: 'waiting', metadata: {}, missing: ['prr'] } as const
  return {
    ...{ startedAt: -3000, endedAt: null, cause: 'waiting', causeSince: -3000, openedBy, closedBy: null },
    ...{ refused: 7, wouldRefuse: 0, spared: 7, operations: 3, restarts: 0 },
  }
}
