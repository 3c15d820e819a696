import { type Instant, rfc3339 } from './time.js'
import { OVERRIDE_STATES, type OverrideEnd, type OverrideState } from './vocabulary.js'

/** A manual override, which outranks the readings until it ends. `open` refuses, `closed` admits. */
export type Override = {
  readonly state: OverrideState
  readonly reason: string
  readonly since: Instant
  readonly until: Instant
  /** The address of the client that set it, or `DECLARED_BY`. */
  readonly by: string
  /** Whether this is planned maintenance: while it is in force, no alert is sent. */
  readonly silent?: boolean
}

/**
 * An override that is no longer in force: when and how it ended, and who removed or replaced it. `endedBy` is an
 * address or `DECLARED_BY`, and null when the override expired.
 *
 * It covers one period in which the override was in force. A declared override that was outranked for a while has two.
 */
export type PastOverride = Override & {
  readonly endedAt: Instant
  readonly end: OverrideEnd
  readonly endedBy: string | null
}

/** The number of past overrides that are remembered. */
export const MAX_PAST_OVERRIDES = 200

/** The override, ended at `endedAt`, but never later than its own end. */
export function pastOverride(
  override: Override,
  endedAt: Instant,
  end: Exclude<OverrideEnd, 'expired'>,
  endedBy: string,
): PastOverride {
  if (endedAt >= override.until) return expired(override)
  return { ...override, endedAt: Math.max(endedAt, override.since), end, endedBy }
}

/** The override, ended because it expired. */
export function expired(override: Override): PastOverride {
  return { ...override, endedAt: override.until, end: 'expired', endedBy: null }
}

/** The author of an override that is declared in `override.file`. */
export const DECLARED_BY = 'override.file'

/** Whether the override is declared in `override.file`. An override set over HTTP outranks it. */
export function isDeclared({ by }: Override): boolean {
  return by === DECLARED_BY
}

/** An override as an operator requests it. */
export type OverrideRequest = {
  readonly state: OverrideState
  readonly reason: string
  readonly forSeconds: number
  /** Only with `open`. */
  readonly silent?: boolean
}

/** The longest override, one day: people forget to remove one. */
export const MAX_SECONDS = 86_400

/** The longest reason, in characters. */
export const MAX_REASON_LENGTH = 500

/** The override that is in force at `now`, if any: an override ends when its time has passed. */
export function inForce(override: Override | null, now: Instant): Override | null {
  return override !== null && now < override.until ? override : null
}

/** Parses the JSON value that an operator sent. The faults are sentences for people; all of them are listed. */
export function parseOverride(
  value: unknown,
):
  | { readonly ok: true; readonly request: OverrideRequest }
  | { readonly ok: false; readonly faults: readonly string[] } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return {
      ok: false,
      faults: ['expected a JSON object {"state":"open"|"closed","reason":"…","forSeconds":600}'],
    }
  }
  const members = new Map<string, unknown>(Object.entries(value))
  const state = members.get('state')
  const reason = members.get('reason')
  const forSeconds = members.get('forSeconds')
  const silent = members.get('silent') ?? false
  const faults: string[] = []
  if (!isOverrideState(state)) faults.push('state: expected "open" or "closed"')
  if (typeof reason !== 'string' || reason.trim() === '' || reason.length > MAX_REASON_LENGTH) {
    faults.push(`reason: expected text of 1 to ${MAX_REASON_LENGTH} characters`)
  }
  if (!Number.isInteger(forSeconds) || Number(forSeconds) < 1 || Number(forSeconds) > MAX_SECONDS) {
    faults.push(`forSeconds: expected a whole number from 1 to ${MAX_SECONDS}`)
  }
  if (typeof silent !== 'boolean') faults.push('silent: expected true or false')
  else if (silent && state === 'closed') faults.push('silent: allowed only with state "open"')
  for (const name of members.keys()) {
    if (!['state', 'reason', 'forSeconds', 'silent'].includes(name))
      faults.push(`${name.slice(0, 64)}: unknown member`)
  }
  if (faults.length > 0 || !isOverrideState(state) || typeof reason !== 'string') {
    return { ok: false, faults }
  }
  return {
    ok: true,
    request: {
      ...{ state, reason: reason.trim(), forSeconds: Number(forSeconds) },
      ...(silent === true && { silent }),
    },
  }
}

/** Parses the content of `override.file`. The faults are sentences for people; all of them are listed. */
export function parseDeclaredOverride(
  value: unknown,
  now: Instant,
):
  | { readonly ok: true; readonly override: Override }
  | { readonly ok: false; readonly faults: readonly string[] } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return { ok: false, faults: ['expected the members state, reason and until'] }
  }
  const { until, ...others } = { until: undefined, ...value }
  const parsed = parseOverride({ ...others, forSeconds: 1 })
  const faults = parsed.ok ? [] : [...parsed.faults]
  if ('forSeconds' in value) faults.push('forSeconds: unknown member; use until')
  const end = typeof until === 'string' ? instantOf(until) : Number.NaN
  if (Number.isNaN(end)) faults.push('until: expected a time like 2026-01-31T08:30:00Z')
  if (!parsed.ok || faults.length > 0) return { ok: false, faults }
  const { forSeconds: _, ...request } = parsed.request
  return { ok: true, override: { ...request, since: now, until: end, by: DECLARED_BY } }
}

/** The instant of an RFC 3339 time; NaN for any other text, and for a day that its month does not have. */
function instantOf(text: string): Instant {
  const day = RFC_3339.exec(text)?.[1]
  if (day === undefined || Number.isNaN(Date.parse(day))) return Number.NaN
  // `Date.parse` turns 31 February into 3 March.
  return new Date(day).toISOString().startsWith(day) ? Date.parse(text) : Number.NaN
}

const RFC_3339 = /^(\d{4}-\d\d-\d\d)T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/

/**
 * An override from before a restart, with its times corrected. They may come from a clock that was ahead: the override starts
 * now at the latest, and lasts no longer than it was set for.
 */
export function correctedOverride(override: Override, now: Instant): Override {
  const { since, until } = override
  // The end of a declared override is written in a file, and does not come from our clock.
  if (isDeclared(override)) return { ...override, since: Math.min(since, now) }
  const lengthMs = Math.max(0, Math.min(until - since, MAX_SECONDS * 1000))
  return { ...override, since: Math.min(since, now), until: Math.min(until, now + lengthMs) }
}

/** An override from before a restart with its times corrected, or null if it has expired. */
export function resumed(override: Override, now: Instant): Override | null {
  return inForce(correctedOverride(override, now), now)
}

/** The override as it is sent in JSON. */
export function overrideAsJson({ state, reason, since, until, by, silent = false }: Override) {
  return { state, reason, since: rfc3339(since), until: rfc3339(until), by, silent }
}

/** A past override as it is sent in JSON. */
export function pastOverrideAsJson({ endedAt, end, endedBy, ...override }: PastOverride) {
  return { ...overrideAsJson(override), endedAt: rfc3339(endedAt), end, endedBy }
}

function isOverrideState(value: unknown): value is OverrideState {
  return OVERRIDE_STATES.some(state => state === value)
}
