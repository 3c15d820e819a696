import type { PastOverride } from '../domain/override.js'
import type { Buckets } from '../outages/buckets.js'
import type { OutageDetails } from '../outages/details.js'
import type { CountedSpan } from '../outages/lifetime.js'
import type { OutageLog } from '../outages/log.js'
import type { ClientLog } from './client-log.js'
import type { RecentHours } from './recent-hours.js'
import type { Runs } from './runs.js'
import type { Totals } from './totals.js'

/** Read access to everything that is remembered and counted, by this process or by all replicas. */
export type KnownRecord = {
  readonly outageLog: OutageLog
  readonly outageDetails: Pick<OutageDetails, 'of'>
  readonly buckets: Pick<Buckets, 'buckets' | 'lasting'>
  readonly clientLog: ClientLog
  readonly runs: Runs
  readonly totals: Totals
  readonly recentHours: RecentHours
  /** The overrides that have ended, newest first. */
  readonly pastOverrides: readonly PastOverride[]
  readonly span: CountedSpan
  /** The names of the replicas that the counts come from; undefined for a proxy without replicas. */
  readonly replicas: readonly string[] | undefined
}
