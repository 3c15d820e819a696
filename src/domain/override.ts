import type { Instant } from './time.js'

/** An operator's word, which outranks the readings until it ends. `open` refuses, `closed` admits. */
export type Override = {
  readonly state: 'open' | 'closed'
  readonly reason: string
  readonly since: Instant
  readonly until: Instant
}

/** The override that stands at `now`, if any: it ends by itself. */
export function standing(override: Override | null, now: Instant): Override | null {
  return override !== null && now < override.until ? override : null
}
