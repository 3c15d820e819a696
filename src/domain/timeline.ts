import type { Override } from './override.js'
import type { Instant } from './time.js'
import type { Cause, CircuitState, OverrideState, Phase } from './vocabulary.js'

/** The part of an override that a timeline shows. */
export type TimelineOverride = { readonly state: OverrideState; readonly silent: boolean }

/** What was in force from one moment until the next entry. */
export type TimelineEntry = {
  readonly from: Instant
  /** Null while focus-breaker was not running. */
  readonly state: CircuitState | null
  /** Null when the circuit is closed, or its state not known. */
  readonly cause: Cause | null
  readonly override: TimelineOverride | null
}

/** The phase: an override outranks the circuit, and a process that was not running outranks both. */
export function phaseOf({ state, cause, override }: Omit<TimelineEntry, 'from'>): Phase {
  if (state === null) return 'not-running'
  if (override?.state === 'closed') return 'let-through'
  if (override?.state === 'open') return override.silent ? 'maintenance' : 'stopped'
  if (state === 'closed') return 'ready'
  return state === 'half-open' ? 'recovering' : (cause ?? 'starting')
}

/** The override as a timeline shows it. */
export function inTimeline(override: Override | null): TimelineOverride | null {
  return override && { state: override.state, silent: override.silent === true }
}

/**
 * The timeline, oldest first, after the cause of the open circuit has changed at `since`. That may be earlier than the last
 * entries, because a change of cause is dated by the first of the readings that lead to it.
 */
export function withCause(
  entries: readonly TimelineEntry[],
  since: Instant,
  cause: Cause,
): readonly TimelineEntry[] {
  const before = entries.filter(({ from }) => from < since)
  const after = entries
    .filter(({ from }) => from >= since)
    .map(entry => (entry.state === 'open' ? { ...entry, cause } : entry))
  if (after[0]?.from === since) return [...before, ...after]
  const last = before.at(-1)
  return [...before, { from: since, state: 'open', cause, override: last?.override ?? null }, ...after]
}

/** The timeline, oldest first, without entries that change nothing. */
export function withoutRepeats(entries: readonly TimelineEntry[]): readonly TimelineEntry[] {
  return entries.filter((entry, index) => {
    const before = entries[index - 1]
    return before === undefined || !isSame(entry, before)
  })
}

function isSame(one: TimelineEntry, other: TimelineEntry): boolean {
  return (
    one.state === other.state &&
    one.cause === other.cause &&
    one.override?.state === other.override?.state &&
    one.override?.silent === other.override?.silent
  )
}
