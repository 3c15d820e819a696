/**
 * The JSON that the page reads from the routes under `/-/`. A member that an older focus-breaker does not send is
 * optional here: the page treats an absent member as unknown.
 */

export type CircuitState = 'closed' | 'open' | 'half-open'
export type Cause = 'starting' | 'waiting' | 'unreachable'
export type MetadataValue = string | number | boolean | null

export type Reading = {
  kind: 'ready' | 'waiting' | 'unreachable'
  at: string
  ageMs: number
  source: 'probe' | 'configure' | 'client'
  missing?: string[]
  metadata?: Record<string, MetadataValue>
  problem?: string
  streak: number
}

export type OverrideState = 'open' | 'closed'

export type Override = {
  state: OverrideState
  reason: string
  since: string
  until: string
  by: string
  silent: boolean
}

/** An override that has ended. In the details of an outage, one in force has no end. */
export type PastOverride = Override & {
  endedAt?: string | null
  end?: 'expired' | 'removed' | 'replaced' | null
  endedBy?: string | null
}

export type Forecast = {
  cause?: Cause
  p50Seconds: number
  p90Seconds: number
  samples: number
  confidence?: 'low' | 'fair' | 'good'
}

/** The state at a time: according to the readings or an override, or focus-breaker not running. */
export type Phase =
  | 'ready'
  | 'waiting'
  | 'unreachable'
  | 'recovering'
  | 'starting'
  | 'stopped'
  | 'maintenance'
  | 'let-through'
  | 'not-running'

export type TimelineEntry = {
  from: string
  state: CircuitState | null
  cause: Cause | null
  override?: { state: OverrideState; silent: boolean } | null
}

/** When counting began, and whether it continues across restarts. */
type Counted = { since?: string; kept?: boolean }

export type Status = {
  version: string
  name?: string | null
  startedAt: string
  mode: 'enforce' | 'observe'
  circuit: { state: CircuitState; since: string; cause: Cause | null; outageStartedAt?: string | null }
  admits: boolean
  refusal: string | null
  override: Override | null
  forecast: Forecast | null
  disagreement: { since: string; missing: string[] } | null
  reading: Reading | null
  lastReadyAt: string | null
  outage: {
    startedAt: string
    refused: number
    operations: number
    wouldRefuse?: number
    spared?: number
  } | null
  upstream: { url: string; reachable: boolean }
  inFlight: number
  waiting: number
  totals: Counted & {
    forwarded: number
    refused: number
    wouldRefuse: number
    probes: number
    overloaded: number
  }
  /** Absent where there are no replicas. */
  replicas?: { name: string; joined: boolean; problem: string | null; count: number; prober: boolean }
}

export type RefusedMinute = { minute: string; count: number; wouldRefuse?: number }

export type History = Counted & {
  from: string
  states: TimelineEntry[]
  refused: RefusedMinute[]
}

export type OutageCause = { cause: Cause; from: string; to: string | null }

export type Outage = {
  id?: string
  startedAt: string
  endedAt: string | null
  seconds: number
  cause: Cause
  causes?: OutageCause[]
  openedBy: { missing?: string[]; problem?: string }
  refused: number
  wouldRefuse?: number
  spared?: number
  operations: number
}

export type Outages = { outages: Outage[] }

export type Client = {
  address: string
  userAgent: string | null
  first: string
  last: string
  attempts: number
  operations: number
  refused?: number
  wouldRefuse?: number
  cadenceSeconds: number | null
}

export type Clients = Counted & { total: number; clients: Client[] }

export type Overrides = {
  override: Override | null
  history: PastOverride[]
  changeable: boolean
  kept: boolean
}

/** A change inside an outage: a state or a cause, and the reading that decided it. */
export type OutageChange = TimelineEntry & { at: string; reading?: DecidingReading | null }

export type DecidingReading = {
  kind: Reading['kind']
  at: string
  source: Reading['source']
  missing?: string[]
  problem?: string
}

/** How many requests were refused, and how many would have been in observe mode. */
export type Counts = { refused: number; wouldRefuse: number }

/** The body of `/-/outages/<id>`: an outage of the list with its details. */
export type OutageDetail = Outage & {
  changes: Omit<OutageChange, 'from'>[]
  omittedChanges?: number
  minutes: {
    spanMinutes: number
    counts: (Counts & { minute: string })[]
    unknown?: Counts
  }
  clients: (Counts & { address: string; userAgent: string | null; first: string; last: string })[]
  otherClients?: Counts
  runs: (Counts & { run: string })[]
  otherRuns?: Counts
  withoutRun?: Counts
  letIn: {
    at: string
    address: string
    userAgent: string | null
    run: string | null
    operation: string
  }[]
  letInTotal: number
  overrides?: PastOverride[]
}

/** A row of the report: an hour or a day. */
export type ReportRow = Counts & {
  from: string
  to: string
  observedSeconds: number
  notRunningSeconds: number
  availability: number | null
  secondsBy: Record<Phase, number>
  spared: number
  outages: number
  longestOutageSeconds: number
  absences: number
  absenceSeconds: number
}

export type ReportCause = { count: number; seconds: number; longestSeconds: number }

/** The body of `/-/report`. */
export type Report = {
  name: string
  from: string
  to: string
  days: number
  observedSeconds: number
  notRunningSeconds: number
  availability: { ready: number | null; secondsBy: Record<Phase, number> }
  outages: {
    count: number
    byCause: { waiting: ReportCause; unreachable: ReportCause }
    longest: {
      id: string
      startedAt: string
      endedAt: string | null
      seconds: number
      cause: 'waiting' | 'unreachable'
    } | null
  }
  absences: ReportCause
  attempts: Counts & {
    spared: number
    clients: OutageDetail['clients']
    otherClients: Counts
    runs: OutageDetail['runs']
    otherRuns: Counts
    withoutRun: Counts
  }
  saved: { seconds: number; perAttemptSeconds: number; basis: { measured: number; spared: number } } | null
  buckets: ReportRow[]
  kept: boolean
  since: string
}

/** The newest JSON of each route; null before its first response. */
export type Known = {
  status: Status | null
  history: History | null
  outages: Outages | null
  clients: Clients | null
  override: Overrides | null
}
