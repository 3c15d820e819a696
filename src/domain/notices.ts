import type { Instant } from './time.js'

/** An outage as a group of replicas reports it. */
export type Notice = {
  /** Its start by the replica that noted it first: the name under which all replicas report it. */
  readonly key: Instant
  readonly endedAt: Instant | null
  /** When a replica last noted that it was under way. */
  readonly seenAt: Instant
  /** When its beginning was reported; null when it was not. */
  readonly openedAt: Instant | null
  /** Whether it was reported that it lasts. */
  readonly isLasting: boolean
  /** Whether the cooldown kept its beginning from being reported. */
  readonly isHeld: boolean
  /** Whether it was under way when the first replica of the group started. */
  readonly isFound: boolean
}

/** What the replicas of a group have reported, oldest first. */
export type Notices = readonly Notice[]

/** What one replica knows of an outage. */
export type Noted = Omit<Notice, 'key' | 'seenAt'> & {
  readonly startedAt: Instant
  /** The name under which this replica has reported it. */
  readonly key?: Instant
}

/** How many outages are remembered. */
export const MAX_NOTICES = 50

/** An outage under way is noted again after this time. */
const TOUCH_MS = 10_000

/** An outage that no replica has noted for longer has ended while none of them ran, or none reached Redis. */
const STALE_MS = 60_000

/**
 * The outage of the group that this one is: the one with its key, else the latest that overlaps in time. A replica that
 * did not reach the others may have seen the same outage begin and end at other times.
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

/** What the group has reported, after one replica has added what it knows. The same array when it knows nothing new. */
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

/** When the beginning of an outage was last reported; null when none was. */
export function lastOpenedAt(notices: Notices): Instant | null {
  return notices.reduce<Instant | null>(
    (latest, { openedAt }) =>
      openedAt === null || (latest !== null && latest > openedAt) ? latest : openedAt,
    null,
  )
}

/** How many outages since the last reported one the cooldown kept from being reported. */
export function unreportedIn(notices: Notices): number {
  const since = lastOpenedAt(notices) ?? Number.NEGATIVE_INFINITY
  return notices.filter(
    ({ isHeld, isFound, openedAt, endedAt }) =>
      isHeld && !isFound && openedAt === null && endedAt !== null && endedAt > since,
  ).length
}

/** What one replica learns when it wants to send a notification that others may send as well. */
export type Claim =
  /** It is to send it, and no other does for a time. */
  | { readonly kind: 'won' }
  /** Another one sends it, and has so much time left to say that it has, or that it goes on trying. */
  | { readonly kind: 'taken'; readonly forMs: number }
  /** It was sent, or given up. */
  | { readonly kind: 'done' }
  /** The others were not reached. */
  | { readonly kind: 'unreached' }

/** What a replica does next about a notification. */
export type NextStep =
  | { readonly kind: 'send' }
  | { readonly kind: 'drop' }
  | { readonly kind: 'look-again'; readonly inMs: number; readonly waiting: Waiting }

/** The pauses between two looks at a claim of another replica. */
const FIRST_LOOK_MS = 250
const LONGEST_LOOK_MS = 2000

/** What a replica remembers while it waits for another one: how often it has looked, and how long the claim stands. */
export type Waiting = { readonly looks: number; readonly takenUntil: Instant }

/** Before the first look. */
export const NOT_WAITING: Waiting = { looks: 0, takenUntil: Number.NEGATIVE_INFINITY }

/**
 * What a replica does after its claim. It waits for another one, and takes over when the time of that one is over.
 * Without the others it sends, after the time of the one that it knows of: a notification may come twice, and is never
 * lost.
 */
export function afterClaim(claim: Claim, { looks, takenUntil }: Waiting, now: Instant): NextStep {
  const pauseMs = Math.min(LONGEST_LOOK_MS, FIRST_LOOK_MS * 2 ** Math.min(looks, 10))
  switch (claim.kind) {
    case 'won':
      return { kind: 'send' }
    case 'done':
      return { kind: 'drop' }
    case 'taken': {
      const inMs = Math.max(1, Math.min(claim.forMs + 1, pauseMs))
      return { kind: 'look-again', inMs, waiting: { looks: looks + 1, takenUntil: now + claim.forMs } }
    }
    case 'unreached': {
      if (takenUntil <= now) return { kind: 'send' }
      const inMs = Math.max(1, Math.min(takenUntil - now, pauseMs))
      return { kind: 'look-again', inMs, waiting: { looks: looks + 1, takenUntil } }
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
