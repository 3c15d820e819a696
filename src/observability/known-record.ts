import type { PastOverride } from '../domain/override.js'
import type { Buckets } from '../outages/buckets.js'
import type { OutageDetails } from '../outages/details.js'
import type { CountedSpan } from '../outages/lifetime.js'
import type { OutageLog } from '../outages/log.js'
import type { ClientLog } from './client-log.js'
import type { RecentHours } from './recent-hours.js'
import type { Runs } from './runs.js'
import type { Totals } from './totals.js'

/** What is remembered and counted, for reading: by this process, or by all replicas. */
export type KnownRecord = {
  readonly outageLog: OutageLog
  readonly outageDetails: Pick<OutageDetails, 'of'>
  readonly buckets: Pick<Buckets, 'buckets' | 'lasting'>
  readonly clientLog: ClientLog
  readonly runs: Runs
  readonly totals: Totals
  readonly recentHours: RecentHours
  /** Those that have ended, newest first. */
  readonly pastOverrides: readonly PastOverride[]
  readonly span: CountedSpan
  /** The names of the replicas that counted it; undefined for a proxy that has no replicas. */
  readonly replicas: readonly string[] | undefined
}
