/**
 * The JSON that the page reads from the routes under `/-/`. A member that an older focus-breaker does not send is
 * optional here: the page treats an absent member as not known.
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

export type Override = {
  state: 'open' | 'closed'
  reason: string
  since: string
  until: string
  by: string
  silent: boolean
}

export type Forecast = { p50Seconds: number; p90Seconds: number; samples: number }

export type Status = {
  version: string
  startedAt: string
  mode: 'enforce' | 'observe'
  circuit: { state: CircuitState; since: string; cause: Cause | null }
  admits: boolean
  refusal: string | null
  override: Override | null
  forecast: Forecast | null
  disagreement: { since: string; missing: string[] } | null
  reading: Reading | null
  lastReadyAt: string | null
  outage: { startedAt: string; refused: number; operations: number } | null
  upstream: { url: string; reachable: boolean }
  inFlight: number
  waiting: number
  totals: { forwarded: number; refused: number; wouldRefuse: number; probes: number; overloaded: number }
}

export type PastState = { from: string; state: CircuitState; cause: Cause | null }

export type History = {
  from: string
  states: PastState[]
  refused: { minute: string; count: number }[]
}

export type Outage = {
  startedAt: string
  endedAt: string | null
  seconds: number
  cause: Cause
  openedBy: { missing?: string[] }
  refused: number
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
  cadenceSeconds: number | null
}

export type Clients = { total: number; clients: Client[] }

export type Overrides = { override: Override | null; history: Override[]; changeable: boolean; kept: boolean }

/** What is known, by the name of the route; null before its first response. */
export type Known = {
  status: Status | null
  history: History | null
  outages: Outages | null
  clients: Clients | null
  override: Overrides | null
}
