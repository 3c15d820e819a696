import { type Circuit, type OutageUnderWay, startingCircuit, step, type Thresholds } from './circuit.js'
import type { Reading } from './reading.js'
import type { Recovery } from './recovery.js'
import type { Instant } from './time.js'

/** Everything that readings have shown so far, as plain data. */
export type Knowledge = {
  readonly circuit: Circuit
  /** The newest reading, whether it was counted or not; null before the first one. */
  readonly reading: Reading | null
  /** The number of readings of its kind in a row, including it; 0 before the first one. */
  readonly streak: number
  readonly lastReadyAt: Instant | null
  /** The time of the newest reading; before the first reading, the time of what an earlier process left. */
  readonly newestAt: Instant
  /** The time of the newest reading that counted towards the thresholds. */
  readonly countedAt: Instant
}

/** The settings by which readings move the circuit. */
export type ReadingRules = { readonly thresholds: Thresholds; readonly recovery: Recovery }

/** What is known before the first reading. @param underWay the outage in progress when the previous process stopped. */
export function startingKnowledge(now: Instant, underWay?: OutageUnderWay): Knowledge {
  const circuit = startingCircuit(now, underWay)
  const { judgedAt } = circuit
  return { circuit, reading: null, streak: 0, lastReadyAt: null, newestAt: judgedAt, countedAt: judgedAt }
}

/** Whether a reading is at least as new as every known one. An older one changes neither the circuit nor what is shown. */
export function isNewest(knowledge: Knowledge, reading: Reading): boolean {
  // Compared with every reading, not only the counted ones: an earlier probe does not overturn a later one.
  return reading.at >= knowledge.newestAt
}

/** What is known after one more reading. @param isCounted false for a reading that is shown but does not move the circuit. */
export function afterReading(
  knowledge: Knowledge,
  reading: Reading,
  isCounted: boolean,
  { thresholds, recovery }: ReadingRules,
): Knowledge {
  const lastReadyAt =
    reading.kind === 'ready' ? Math.max(knowledge.lastReadyAt ?? 0, reading.at) : knowledge.lastReadyAt
  if (!isNewest(knowledge, reading)) return { ...knowledge, lastReadyAt }
  const streak = knowledge.reading?.kind === reading.kind ? knowledge.streak + 1 : 1
  const seen = { ...knowledge, reading, streak, lastReadyAt, newestAt: reading.at }
  if (!isCounted) return seen
  return { ...seen, countedAt: reading.at, circuit: step(knowledge.circuit, reading, thresholds, recovery) }
}
