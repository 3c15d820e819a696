import type { Instant } from './time.js'

/** A replica, as the others know it. */
export type ReplicaMember = {
  readonly name: string
  readonly version: string
  /** Since when it is one of these replicas, by the clock that they have in common. */
  readonly since: Instant
  readonly heardAt: Instant
  /** False for one that has not reported for some seconds: it was stopped or killed, or does not reach Redis. */
  readonly isPresent: boolean
  /** How many guarded requests it may have in flight; null where nothing limits them. */
  readonly share: number | null
  readonly inFlight: number
  readonly isProber: boolean
  readonly isSelf: boolean
}

/** The replicas of one focus-server, for those who show them. */
export type ReplicaGroup = {
  /** By which people tell this replica from the others. */
  readonly name: string
  readonly namespace: string
  /** Whether this replica reaches the others; if not, it goes on by its own readings. */
  readonly isJoined: boolean
  /** Why it does not reach them; null while it does. */
  readonly problem: string | null
  /** Since when it reaches them, or does not. */
  readonly since: Instant
  readonly members: readonly ReplicaMember[]
  /** Whether there are several. While this one does not reach the others, whether there were. */
  readonly areSeveral: boolean
  /** Whether this replica probes. */
  readonly isProber: boolean
  /** How many entries were malformed or of another version, and were skipped. */
  readonly skippedEntries: number
}

/** How many replicas are known to be there. One that does not reach the others knows of itself only. */
export function replicaCount({ isJoined, members }: ReplicaGroup): number {
  return isJoined ? Math.max(1, members.filter(({ isPresent }) => isPresent).length) : 1
}

/** The name of this replica, where that tells it from others. */
export function nameAmongSeveral(group: ReplicaGroup | undefined): string | undefined {
  return group?.areSeveral === true ? group.name : undefined
}
