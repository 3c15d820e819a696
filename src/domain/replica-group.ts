import type { Instant } from './time.js'

/** A replica as the others see it. */
export type ReplicaMember = {
  readonly name: string
  readonly version: string
  /** When it joined the group, by the clock that the replicas share. */
  readonly since: Instant
  readonly heardAt: Instant
  /** False for a replica that has not reported for some seconds: it was stopped or killed, or cannot reach Redis. */
  readonly isPresent: boolean
  /** The number of guarded requests that it may have in flight; null if there is no limit. */
  readonly share: number | null
  readonly inFlight: number
  readonly isProber: boolean
  readonly isSelf: boolean
}

/** The replicas of one focus-server, for the parts of the program that show them. */
export type ReplicaGroup = {
  /** Identifies this replica for people. */
  readonly name: string
  readonly namespace: string
  /** Whether this replica reaches the others; if not, it continues with its own readings. */
  readonly isJoined: boolean
  /** Why it does not reach them; null while it does. */
  readonly problem: string | null
  /** Since when it has reached them, or has not. */
  readonly since: Instant
  readonly members: readonly ReplicaMember[]
  /** Whether there are several replicas. While this one cannot reach the others: whether there were several. */
  readonly areSeveral: boolean
  /** Whether this replica is the prober. */
  readonly isProber: boolean
  /** The number of entries that were skipped because they were malformed or of another version. */
  readonly skippedEntries: number
}

/** The number of replicas that are known to run. A replica that cannot reach the others knows only of itself. */
export function replicaCount({ isJoined, members }: ReplicaGroup): number {
  return isJoined ? Math.max(1, members.filter(({ isPresent }) => isPresent).length) : 1
}

/** The name of this replica if there are several; otherwise undefined. */
export function nameAmongSeveral(group: ReplicaGroup | undefined): string | undefined {
  return group?.areSeveral === true ? group.name : undefined
}
