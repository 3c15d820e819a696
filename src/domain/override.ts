import type { Instant } from './time.js'

/** An operator's word, which outranks the readings until it ends. `open` refuses, `closed` admits. */
export type Override = {
  readonly state: 'open' | 'closed'
  readonly reason: string
  readonly since: Instant
  readonly until: Instant
  /** The address that it was set from. */
  readonly by: string
}

/** What an operator asks for. */
export type OverrideRequest = {
  readonly state: 'open' | 'closed'
  readonly reason: string
  readonly forSeconds: number
}

/** An override is forgotten sooner than it is taken back, so none lasts longer than a day. */
export const MAX_SECONDS = 86_400

/** How many characters a reason has at most. */
export const MAX_REASON_LENGTH = 500

/** The override that stands at `now`, if any: it ends by itself. */
export function standing(override: Override | null, now: Instant): Override | null {
  return override !== null && now < override.until ? override : null
}

/** Reads the JSON value that an operator has sent; the faults are for people, and all of them are named. */
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
  const faults: string[] = []
  if (state !== 'open' && state !== 'closed') faults.push('state: expected "open" or "closed"')
  if (typeof reason !== 'string' || reason.trim() === '' || reason.length > MAX_REASON_LENGTH) {
    faults.push(`reason: expected a text of 1 to ${MAX_REASON_LENGTH} characters`)
  }
  if (!Number.isInteger(forSeconds) || Number(forSeconds) < 1 || Number(forSeconds) > MAX_SECONDS) {
    faults.push(`forSeconds: expected a whole number from 1 to ${MAX_SECONDS}`)
  }
  for (const name of members.keys()) {
    if (!['state', 'reason', 'forSeconds'].includes(name))
      faults.push(`${name.slice(0, 64)}: expected no such member`)
  }
  if (faults.length > 0 || (state !== 'open' && state !== 'closed') || typeof reason !== 'string') {
    return { ok: false, faults }
  }
  return { ok: true, request: { state, reason: reason.trim(), forSeconds: Number(forSeconds) } }
}
