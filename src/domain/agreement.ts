import { afterReading, type Knowledge, type ReadingRules } from './knowledge.js'
import type { Override } from './override.js'
import type { Reading } from './reading.js'

/** What a replica tells the others. Its times are those of the log's clock, as the replica estimates it. */
export type Message =
  | { readonly kind: 'reading'; readonly reading: Reading; readonly isCounted: boolean }
  /** The override that was set; null when it was removed. */
  | { readonly kind: 'override'; readonly override: Override | null; readonly by: string }
  /** A guarded request failed in a way that may come from the fiber: the replica that probes is to look at it now. */
  | { readonly kind: 'doubt' }

/** A message as it stands in the log, which all replicas read in the same order. */
export type Entry = {
  /** The process that wrote it: a new id for each start. */
  readonly origin: string
  /** Counts the messages of this process from 1. An entry that was written twice has the same number twice. */
  readonly sequence: number
  readonly message: Message
}

/** What the log says: the same for all replicas that have read the same part of it. */
export type Shared = {
  readonly knowledge: Knowledge
  readonly override: Override | null
  /** The last number of each process, those that wrote longest ago first. */
  readonly sequences: readonly (readonly [origin: string, sequence: number])[]
}

/**
 * What one replica goes by: what the log says, and its own messages that it has not read there yet and acts on at once.
 *
 * Those are failed readings and overrides. A ready reading acts through the log alone, so that the last one of a replica
 * that was paused or cut off lets nothing in.
 */
export type Agreement = {
  /** False for one that does not reach the log: what is shared is then what it has found out alone. */
  readonly isJoined: boolean
  readonly shared: Shared
  readonly pending: readonly Entry[]
}

/** How many processes are remembered by their numbers. Each start of a replica is one. */
const MAX_ORIGINS = 100

/** What the log says after one more entry. An entry that repeats an earlier one changes nothing. */
export function afterEntry(shared: Shared, entry: Entry, rules: ReadingRules): Shared {
  const known = shared.sequences.find(([origin]) => origin === entry.origin)?.[1] ?? 0
  if (entry.sequence <= known) return shared
  const others = shared.sequences.filter(([origin]) => origin !== entry.origin)
  const sequences = [...others.slice(-(MAX_ORIGINS - 1)), [entry.origin, entry.sequence] as const]
  return { ...afterMessage(shared, entry.message, rules), sequences }
}

/** A replica before it has reached the log, or that reaches it no more: it goes on by its own readings. */
export function alone(agreement: Agreement, rules: ReadingRules): Agreement {
  return { isJoined: false, shared: effective(agreement, rules), pending: [] }
}

/** A replica that has read the log up to its end. */
export function joined(shared: Shared): Agreement {
  return { isJoined: true, shared, pending: [] }
}

/** A replica that has read one more entry of the log. */
export function heard(agreement: Agreement, entry: Entry, rules: ReadingRules): Agreement {
  const shared = afterEntry(agreement.shared, entry, rules)
  return { ...agreement, shared, pending: without(agreement.pending, entry) }
}

/** A replica that writes this entry, or would if it reached the log. */
export function told(agreement: Agreement, entry: Entry, rules: ReadingRules): Agreement {
  const { message } = entry
  if (!agreement.isJoined) return { ...agreement, shared: afterMessage(agreement.shared, message, rules) }
  return actsAtOnce(message) ? { ...agreement, pending: [...agreement.pending, entry] } : agreement
}

/** A replica whose entry the log did not take, because another one has become the prober. */
export function rejected(agreement: Agreement, entry: Entry): Agreement {
  const isOther = (other: Entry) => other.origin !== entry.origin || other.sequence !== entry.sequence
  return { ...agreement, pending: agreement.pending.filter(isOther) }
}

/** What the replica goes by at this moment. */
export function effective({ shared, pending }: Agreement, rules: ReadingRules): Shared {
  return pending.reduce((sofar, { message }) => afterMessage(sofar, message, rules), shared)
}

function afterMessage(shared: Shared, message: Message, rules: ReadingRules): Shared {
  if (message.kind === 'doubt') return shared
  if (message.kind === 'override') return { ...shared, override: message.override }
  const { reading, isCounted } = message
  return { ...shared, knowledge: afterReading(shared.knowledge, reading, isCounted, rules) }
}

function actsAtOnce(message: Message): boolean {
  return message.kind === 'override' || (message.kind === 'reading' && message.reading.kind !== 'ready')
}

/** The log keeps the order of one process: what it wrote before this entry is there, or was lost. */
function without(pending: readonly Entry[], { origin, sequence }: Entry): readonly Entry[] {
  return pending.filter(other => other.origin !== origin || other.sequence > sequence)
}
