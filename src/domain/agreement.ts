import { afterReading, type Knowledge, type ReadingRules } from './knowledge.js'
import type { Override } from './override.js'
import type { Reading } from './reading.js'
import type { Instant } from './time.js'

/** What a replica sends to the others. Its times are those of the clock that the replicas share. */
export type Message =
  | { readonly kind: 'reading'; readonly reading: Reading; readonly isCounted: boolean }
  | ({ readonly kind: 'override' } & OverrideChange)
  /**
   * What a replica has learned while no other replica wrote to the log. It replaces the state of the log if the newest reading
   * there is still the one at `extends`.
   */
  | { readonly kind: 'knowledge'; readonly knowledge: Knowledge; readonly extends: Instant }
  /** A probe request: a guarded request failed in a way that may come from the fiber. */
  | { readonly kind: 'probe-request' }

/** The override that was set last, or null if it was removed; when that happened, and who did it. */
export type OverrideChange = {
  readonly override: Override | null
  readonly at: Instant
  readonly by: string
}

/** A message in the log, which all replicas read in the same order. */
export type Entry = {
  /** The process that wrote it: a new id for each start. */
  readonly origin: string
  /** Counts the messages of this process from 1. If an entry is written twice, both copies have the same number. */
  readonly sequence: number
  readonly message: Message
}

/** The state that results from the log. It is the same for all replicas that have read the same part of the log. */
export type Shared = {
  readonly knowledge: Knowledge
  readonly overridden: OverrideChange
  /** The last number of each process, least recent writer first. */
  readonly sequences: readonly (readonly [origin: string, sequence: number])[]
}

/**
 * The state that one replica acts on: the state of the log, and its own messages that it acts on before it has read them back.
 *
 * Those are failed readings and overrides. A ready reading takes effect only through the log, so that the last reading of a
 * replica that was paused or cut off admits nothing.
 */
export type Agreement = {
  /** False for a replica that does not reach the log: `shared` is then what it has learned on its own. */
  readonly isJoined: boolean
  readonly shared: Shared
  readonly pending: readonly Entry[]
  /** The newest reading in the log when the replica last read the log; null if it never has. */
  readonly agreedAt: Instant | null
}

/** The number of processes whose last number is remembered. Each start of a replica is a new process. */
const MAX_ORIGINS = 100

/** The state of a replica before it has read or sent anything. */
export function unshared(knowledge: Knowledge, override: Override | null = null): Shared {
  const overridden = { override, at: override?.since ?? 0, by: override?.by ?? '' }
  return { knowledge, overridden, sequences: [] }
}

/** The state of the log after one more entry. An entry that repeats an earlier one changes nothing. */
export function afterEntry(shared: Shared, entry: Entry, rules: ReadingRules): Shared {
  if (isRepeated(shared, entry)) return shared
  const others = shared.sequences.filter(([origin]) => origin !== entry.origin)
  const sequences = [...others.slice(-(MAX_ORIGINS - 1)), [entry.origin, entry.sequence] as const]
  return { ...afterMessage(shared, entry.message, rules), sequences }
}

/** Whether the log already contains this entry. */
export function isRepeated({ sequences }: Shared, { origin, sequence }: Entry): boolean {
  return sequence <= (sequences.find(([other]) => other === origin)?.[1] ?? 0)
}

/** A replica that has not reached the log yet. */
export function notJoined(shared: Shared): Agreement {
  return { isJoined: false, shared, pending: [], agreedAt: null }
}

/** A replica that no longer reaches the log: it continues with its own readings. */
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
 * The messages that a joining replica has to send because the log does not contain them. What the log already contains is not
 * sent again, because it would be counted twice.
 *
 * @param shared the state of the log.
 * @param before the replica's state so far.
 * @param last the replica's own last reading.
 * @param isLeft whether all replicas that wrote the log have been gone for a long time, so that its state is out of date.
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
  // A process that has just started knows nothing, which is still better than an old state.
  const isOutdated = isLeft && (isNewer || knowledge.reading === null)
  if (isOutdated || wereAllAway || isEmpty) messages.push({ kind: 'knowledge', knowledge, extends: newestAt })
  else if (last !== undefined && last.reading.at > newestAt) messages.push(last)
  return messages
}

/** A replica that has read one more entry of the log. */
export function received(agreement: Agreement, entry: Entry, rules: ReadingRules): Agreement {
  const shared = afterEntry(agreement.shared, entry, rules)
  return { ...agreement, shared, pending: without(agreement.pending, entry) }
}

/** A replica that sends this entry, or would send it if it reached the log. */
export function sent(agreement: Agreement, entry: Entry, rules: ReadingRules): Agreement {
  const { message } = entry
  if (!agreement.isJoined) return { ...agreement, shared: afterMessage(agreement.shared, message, rules) }
  return actsAtOnce(message) ? { ...agreement, pending: [...agreement.pending, entry] } : agreement
}

/** A replica whose entry the log did not accept, because another replica has become the prober. */
export function rejected(agreement: Agreement, entry: Entry): Agreement {
  return { ...agreement, pending: agreement.pending.filter(other => !isSame(other, entry)) }
}

/** Whether the replica acts on its own entry before it has read it back from the log. */
export function isPending({ pending }: Agreement, entry: Entry): boolean {
  return pending.some(other => isSame(other, entry))
}

/** The state that the replica acts on now. */
export function effective({ shared, pending }: Agreement, rules: ReadingRules): Shared {
  return pending.reduce((sofar, { message }) => afterMessage(sofar, message, rules), shared)
}

/** Whether a message takes effect before it has come back from the log. */
export function actsAtOnce(message: Message): boolean {
  return message.kind === 'reading' ? message.reading.kind !== 'ready' : message.kind !== 'probe-request'
}

function afterMessage(shared: Shared, message: Message, rules: ReadingRules): Shared {
  if (message.kind === 'probe-request') return shared
  if (message.kind === 'override') {
    const { override, at, by } = message
    // An override that was set while its replica was cut off may arrive after a later one.
    if (at < shared.overridden.at) return shared
    return { ...shared, overridden: { override, at, by } }
  }
  if (message.kind === 'reading') return afterNews(shared, message.reading, message.isCounted, rules)
  const { knowledge } = message
  if (shared.knowledge.newestAt === message.extends) return { ...shared, knowledge }
  // Another replica was faster. Only the last reading of this message still counts.
  return knowledge.reading === null ? shared : afterNews(shared, knowledge.reading, true, rules)
}

function afterNews(shared: Shared, reading: Reading, isCounted: boolean, rules: ReadingRules): Shared {
  if (isKnown(shared.knowledge, reading)) return shared
  return { ...shared, knowledge: afterReading(shared.knowledge, reading, isCounted, rules) }
}

/** Whether it is the last reading again: its replica sent it before it was cut off, and again when it joined. */
function isKnown({ reading: last }: Knowledge, { at, source, kind }: Reading): boolean {
  return last !== null && last.at === at && last.source === source && last.kind === kind
}

function isSame(one: Entry, other: Entry): boolean {
  return one.origin === other.origin && one.sequence === other.sequence
}

/** The log keeps the order of one process: earlier messages of it are in the log, or were lost. */
function without(pending: readonly Entry[], { origin, sequence }: Entry): readonly Entry[] {
  return pending.filter(other => other.origin !== origin || other.sequence > sequence)
}
