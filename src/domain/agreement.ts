import { afterReading, type Knowledge, type ReadingRules } from './knowledge.js'
import type { Override } from './override.js'
import type { Reading } from './reading.js'
import type { Instant } from './time.js'

/** What a replica tells the others. Its times are those of the clock that the replicas have in common. */
export type Message =
  | { readonly kind: 'reading'; readonly reading: Reading; readonly isCounted: boolean }
  | ({ readonly kind: 'override' } & OverrideChange)
  /**
   * What a replica has found out while no other one wrote to the log. It takes the place of what the log says, if its newest
   * reading is still the one of `extends`.
   */
  | { readonly kind: 'knowledge'; readonly knowledge: Knowledge; readonly extends: Instant }
  /** A probe request: a guarded request failed in a way that may come from the fiber. */
  | { readonly kind: 'doubt' }

/** The override that was set last, or null when it was removed; when that was, and who did it. */
export type OverrideChange = {
  readonly override: Override | null
  readonly at: Instant
  readonly by: string
}

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
  readonly overridden: OverrideChange
  /** The last number of each process, those that wrote longest ago first. */
  readonly sequences: readonly (readonly [origin: string, sequence: number])[]
}

/**
 * What one replica goes by: what the log says, and its own messages that it has not read there yet and acts on at once.
 *
 * Those are failed readings and overrides. A ready reading acts through the log only, so that the last one of a replica
 * that was paused or cut off lets nothing in.
 */
export type Agreement = {
  /** False for one that does not reach the log: what is shared is then what it has found out alone. */
  readonly isJoined: boolean
  readonly shared: Shared
  readonly pending: readonly Entry[]
  /** The newest reading in the log when the replica last read it; null if it never did. */
  readonly agreedAt: Instant | null
}

/** How many processes are remembered by their numbers. Each start of a replica is one. */
const MAX_ORIGINS = 100

/** What a replica knows before it has read or told anything. */
export function unshared(knowledge: Knowledge, override: Override | null = null): Shared {
  const overridden = { override, at: override?.since ?? 0, by: override?.by ?? '' }
  return { knowledge, overridden, sequences: [] }
}

/** What the log says after one more entry. An entry that repeats an earlier one changes nothing. */
export function afterEntry(shared: Shared, entry: Entry, rules: ReadingRules): Shared {
  if (isRepeated(shared, entry)) return shared
  const others = shared.sequences.filter(([origin]) => origin !== entry.origin)
  const sequences = [...others.slice(-(MAX_ORIGINS - 1)), [entry.origin, entry.sequence] as const]
  return { ...afterMessage(shared, entry.message, rules), sequences }
}

/** Whether the log has had this entry before. */
export function isRepeated({ sequences }: Shared, { origin, sequence }: Entry): boolean {
  return sequence <= (sequences.find(([other]) => other === origin)?.[1] ?? 0)
}

/** A replica that has not reached the log yet. */
export function notJoined(shared: Shared): Agreement {
  return { isJoined: false, shared, pending: [], agreedAt: null }
}

/** A replica that does not reach the log any more: it goes on by its own readings. */
export function alone(agreement: Agreement, rules: ReadingRules): Agreement {
  const { isJoined, shared, agreedAt } = agreement
  return {
    ...{ isJoined: false, shared: effective(agreement, rules), pending: [] },
    agreedAt: isJoined ? shared.knowledge.newestAt : agreedAt,
  }
}

/** A replica that has read the log up to its end. */
export function joined(shared: Shared): Agreement {
  return { isJoined: true, shared, pending: [], agreedAt: null }
}

/**
 * What a replica that joins has to tell, because the log does not know of it. What the log knows already is not told again: it
 * would count twice.
 *
 * @param shared what the log says.
 * @param before the replica until now.
 * @param last its own last reading.
 * @param isLeft whether the log is what replicas have left that are all gone for long: then it says nothing of now.
 */
export function news(
  shared: Shared,
  before: Agreement,
  last: Extract<Message, { kind: 'reading' }> | undefined,
  isLeft: boolean,
): readonly Message[] {
  const { knowledge, overridden } = before.shared
  const messages: Message[] = []
  if (overridden.at > shared.overridden.at) messages.push({ kind: 'override', ...overridden })
  const { newestAt } = shared.knowledge
  const isNewer = knowledge.reading !== null && knowledge.newestAt > newestAt
  const wereAllAway = isNewer && before.agreedAt !== null && newestAt <= before.agreedAt
  const isEmpty = isNewer && shared.knowledge.reading === null
  // A process that has just started knows nothing, and that is more than what was true long ago.
  const isOutdated = isLeft && (isNewer || knowledge.reading === null)
  if (isOutdated || wereAllAway || isEmpty) messages.push({ kind: 'knowledge', knowledge, extends: newestAt })
  else if (last !== undefined && last.reading.at > newestAt) messages.push(last)
  return messages
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
  return { ...agreement, pending: agreement.pending.filter(other => !isSame(other, entry)) }
}

/** Whether the replica acts on its own entry already, before it has read it in the log. */
export function isPending({ pending }: Agreement, entry: Entry): boolean {
  return pending.some(other => isSame(other, entry))
}

/** What the replica goes by at this moment. */
export function effective({ shared, pending }: Agreement, rules: ReadingRules): Shared {
  return pending.reduce((sofar, { message }) => afterMessage(sofar, message, rules), shared)
}

/** Whether a message acts before it has come back from the log. */
export function actsAtOnce(message: Message): boolean {
  return message.kind === 'reading' ? message.reading.kind !== 'ready' : message.kind !== 'doubt'
}

function afterMessage(shared: Shared, message: Message, rules: ReadingRules): Shared {
  if (message.kind === 'doubt') return shared
  if (message.kind === 'override') {
    const { override, at, by } = message
    // One that was set while its replica was alone may come after a later one.
    if (at < shared.overridden.at) return shared
    return { ...shared, overridden: { override, at, by } }
  }
  if (message.kind === 'reading') return afterNews(shared, message.reading, message.isCounted, rules)
  const { knowledge } = message
  if (shared.knowledge.newestAt === message.extends) return { ...shared, knowledge }
  // Another one was faster. Of this one its last reading remains.
  return knowledge.reading === null ? shared : afterNews(shared, knowledge.reading, true, rules)
}

function afterNews(shared: Shared, reading: Reading, isCounted: boolean, rules: ReadingRules): Shared {
  if (isKnown(shared.knowledge, reading)) return shared
  return { ...shared, knowledge: afterReading(shared.knowledge, reading, isCounted, rules) }
}

/** Whether it is the last reading once more: its replica told it before it was cut off, and again when it joined. */
function isKnown({ reading: last }: Knowledge, { at, source, kind }: Reading): boolean {
  return last !== null && last.at === at && last.source === source && last.kind === kind
}

function isSame(one: Entry, other: Entry): boolean {
  return one.origin === other.origin && one.sequence === other.sequence
}

/** The log keeps the order of one process: what it wrote before this entry is there, or was lost. */
function without(pending: readonly Entry[], { origin, sequence }: Entry): readonly Entry[] {
  return pending.filter(other => other.origin !== origin || other.sequence > sequence)
}
