/** @import { Cause, History, Outage, Phase, TimelineEntry } from './shapes.d.ts' */

/**
 * A span of time in one phase. `readings` is the phase according to the readings only: it differs while an override is
 * in force.
 *
 * @typedef {{ phase: Phase, readings: Phase, from: number, to: number, iso: string }} PhaseSpan
 */

/** The phases in the order of the legend. @type {readonly Phase[]} */
export const PHASES = [
  'ready',
  'waiting',
  'unreachable',
  'recovering',
  'starting',
  'stopped',
  'maintenance',
  'let-through',
  'not-running',
]

/**
 * The phase of a timeline entry.
 *
 * @param {TimelineEntry} entry
 * @returns {Phase}
 */
export const phaseOf = entry => {
  if (entry.state === null) return 'not-running'
  const { override } = entry
  if (override == null) return readingsPhaseOf(entry)
  if (override.state === 'closed') return 'let-through'
  return override.silent ? 'maintenance' : 'stopped'
}

/**
 * The phase of a timeline entry according to the readings only.
 *
 * @param {TimelineEntry} entry
 * @returns {Phase}
 */
const readingsPhaseOf = ({ state, cause }) => {
  if (state === null) return 'not-running'
  if (state === 'closed') return 'ready'
  return state === 'half-open' ? 'recovering' : (cause ?? 'unreachable')
}

/**
 * The entries of a timeline, each with its end, oldest first.
 *
 * @param {readonly TimelineEntry[]} entries
 * @param {number} end
 * @returns {readonly PhaseSpan[]}
 */
export const spansOf = (entries, end) =>
  entries.map((entry, index) => {
    const next = entries[index + 1]
    return {
      phase: phaseOf(entry),
      readings: readingsPhaseOf(entry),
      from: Date.parse(entry.from),
      to: next === undefined ? end : Date.parse(next.from),
      iso: entry.from,
    }
  })

/**
 * The causes of an outage, each with its span. An older focus-breaker sends only the last cause.
 *
 * @param {Pick<Outage, 'startedAt' | 'endedAt' | 'cause' | 'causes'>} outage
 * @returns {readonly { cause: Cause, from: string, to: string | null }[]}
 */
export const causesOf = ({ startedAt, endedAt, cause, causes }) =>
  causes === undefined || causes.length === 0 ? [{ cause, from: startedAt, to: endedAt }] : causes

/**
 * The spans of the last hours: those of the history, preceded by earlier outages.
 *
 * @param {History} history
 * @param {readonly Outage[]} outages newest first
 * @param {number} end
 * @returns {readonly PhaseSpan[]}
 */
export const pastOf = ({ from, states }, outages, end) => {
  const knownFrom = Date.parse(from)
  const earlier = [...outages]
    .reverse()
    .flatMap(causesOf)
    .map(({ cause, from: iso, to }) => ({
      ...{ phase: cause, readings: cause, from: Date.parse(iso), iso },
      to: Math.min(knownFrom, to === null ? knownFrom : Date.parse(to)),
    }))
    .filter(span => span.from < span.to)
  return [...earlier, ...spansOf(states, end)]
}

/**
 * How long each phase lasted between two times, in milliseconds. Phases that did not occur are left out.
 *
 * @param {readonly PhaseSpan[]} spans
 * @param {number} start
 * @param {number} end
 * @returns {ReadonlyMap<Phase, number>}
 */
export const lastedBy = (spans, start, end) => {
  /** @type {Map<Phase, number>} */
  const sums = new Map()
  for (const phase of PHASES) {
    const ms = spans
      .filter(span => span.phase === phase && span.to > start && span.from < end)
      .reduce((sum, span) => sum + Math.min(end, span.to) - Math.max(start, span.from), 0)
    if (ms > 0) sums.set(phase, ms)
  }
  return sums
}

/**
 * The number of outages according to the readings. An outage that continues with another cause, or after a failed
 * recovery, counts once.
 *
 * @param {readonly PhaseSpan[]} spans
 */
export const outagesIn = spans => {
  let number = 0
  let isInOutage = false
  for (const { readings } of spans) {
    const isBad = readings === 'waiting' || readings === 'unreachable'
    if (isBad && !isInOutage) number += 1
    // A process that is not running, or has just started, does not end an outage.
    if (isBad) isInOutage = true
    else if (readings === 'ready') isInOutage = false
  }
  return number
}
