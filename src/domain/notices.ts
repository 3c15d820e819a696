import type { Instant } from './time.js'

/** An outage as a group of replicas reports it. */
export type Notice = {
  /** Its start according to the replica that noted it first. All replicas report the outage under this key. */
  readonly key: Instant
  readonly endedAt: Instant | null
  /** When a replica last noted that it was in progress. */
  readonly seenAt: Instant
  /** When its start was reported; null if it was not. */
  readonly openedAt: Instant | null
  /** Whether `outage.lasting` was reported. */
  readonly isLasting: boolean
  /** Whether the cooldown prevented a notification about its start. */
  readonly isHeld: boolean
  /** Whether it was in progress when the first replica of the group started. */
  readonly isFound: boolean
}

/** What the replicas of a group have reported, oldest first. */
export type Notices = readonly Notice[]

/** What one replica knows about an outage. */
export type Noted = Omit<Notice, 'key' | 'seenAt'> & {
  readonly startedAt: Instant
  /** The key under which this replica has reported it. */
  readonly key?: Instant
}

/** The number of outages that are remembered. */
export const MAX_NOTICES = 50

/** An outage in progress is noted again after this time. */
const TOUCH_MS = 10_000

/** An outage that no replica has noted for longer than this ended while no replica was running or reached Redis. */
const STALE_MS = 60_000

/**
 * The group's record of this outage: the one with its key, else the latest that overlaps in time. A replica that was cut off
 * from the others may have seen the same outage start and end at other times.
 */
export function noticeOf(
  notices: Notices,
  { key, startedAt, endedAt }: Pick<Noted, 'key' | 'startedAt' | 'endedAt'>,
): Notice | undefined {
  const named = key ?? startedAt
  return (
    notices.find(notice => notice.key === named) ??
    notices.findLast(
      notice => startedAt < endOf(notice) && notice.key < (endedAt ?? Number.POSITIVE_INFINITY),
    )
  )
}

/** What the group has reported, after one replica has added what it knows. Returns the same array if nothing is new. */
export function noted(notices: Notices, outage: Noted, now: Instant): Notices {
  const known = noticeOf(notices, outage)
  const { startedAt, key = startedAt, endedAt, openedAt, isLasting, isHeld, isFound } = outage
  if (known === undefined) {
    const added = { key, endedAt, seenAt: endedAt ?? now, openedAt, isLasting, isHeld, isFound }
    return [...notices, added].toSorted((one, other) => one.key - other.key).slice(-MAX_NOTICES)
  }
  const isTouched = endedAt === null && now - known.seenAt >= TOUCH_MS
  const next: Notice = {
    key: known.key,
    endedAt,
    seenAt: isTouched ? now : known.seenAt,
    openedAt: known.openedAt ?? openedAt,
    isLasting: known.isLasting || isLasting,
    isHeld: known.isHeld || isHeld,
    isFound: known.isFound && isFound,
  }
  return isSame(known, next) ? notices : notices.map(each => (each === known ? next : each))
}

/** When the start of an outage was last reported; null if never. */
export function lastOpenedAt(notices: Notices): Instant | null {
  return notices.reduce<Instant | null>(
    (latest, { openedAt }) =>
      openedAt === null || (latest !== null && latest > openedAt) ? latest : openedAt,
    null,
  )
}

/** The number of outages since the last reported one whose notification the cooldown suppressed. */
export function unreportedIn(notices: Notices): number {
  const since = lastOpenedAt(notices) ?? Number.NEGATIVE_INFINITY
  return notices.filter(
    ({ isHeld, isFound, openedAt, endedAt }) =>
      isHeld && !isFound && openedAt === null && endedAt !== null && endedAt > since,
  ).length
}

/** The result when a replica claims a notification that other replicas may claim as well. */
export type Claim =
  /** This replica sends it; for some time, no other replica does. */
  | { readonly kind: 'won' }
  /** Another replica sends it, and has this much time left to report that it has, or that it is still trying. */
  | { readonly kind: 'taken'; readonly forMs: number }
  /** It was sent or given up. */
  | { readonly kind: 'done' }
  /** The other replicas could not be reached. */
  | { readonly kind: 'unreached' }

/** What a replica does next with a notification. */
export type NextStep =
  | { readonly kind: 'send' }
  | { readonly kind: 'drop' }
  | { readonly kind: 'check-again'; readonly inMs: number; readonly waiting: Waiting }

/** The shortest and the longest pause between two checks of another replica's claim. */
const FIRST_PAUSE_MS = 250
const LONGEST_PAUSE_MS = 2000

/** What a replica remembers while it waits for another: how often it has checked, and until when the claim is valid. */
export type Waiting = { readonly checks: number; readonly takenUntil: Instant }

/** The state before the first check. */
export const NOT_WAITING: Waiting = { checks: 0, takenUntil: Number.NEGATIVE_INFINITY }

/**
 * What a replica does after its claim. If another replica has the claim, it waits, and takes over when that claim expires.
 * If it cannot reach the others, it sends the notification itself, after the last known claim has expired: a notification may
 * be sent twice but is never lost.
 */
export function afterClaim(claim: Claim, { checks, takenUntil }: Waiting, now: Instant): NextStep {
  const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(checks, 10))
  switch (claim.kind) {
    case 'won':
      return { kind: 'send' }
    case 'done':
      return { kind: 'drop' }
    case 'taken': {
      const inMs = Math.max(1, Math.min(claim.forMs + 1, pauseMs))
      return { kind: 'check-again', inMs, waiting: { checks: checks + 1, takenUntil: now + claim.forMs } }
    }
    case 'unreached': {
      if (takenUntil <= now) return { kind: 'send' }
      const inMs = Math.max(1, Math.min(takenUntil - now, pauseMs))
      return { kind: 'check-again', inMs, waiting: { checks: checks + 1, takenUntil } }
    }
  }
}

function endOf({ endedAt, seenAt }: Notice): Instant {
  return endedAt ?? seenAt + STALE_MS
}

function isSame(one: Notice, other: Notice): boolean {
  return (
    one.endedAt === other.endedAt &&
    one.seenAt === other.seenAt &&
    one.openedAt === other.openedAt &&
    one.isLasting === other.isLasting &&
    one.isHeld === other.isHeld &&
    one.isFound === other.isFound
  )
}
