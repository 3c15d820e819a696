import type { Instant } from '../domain/time.js'

/** A stretch of time of which somebody knows what happened in it. */
export type Seen<Of> = { readonly from: Instant; readonly to: Instant; readonly of: Of }

/**
 * The fewest of these stretches that cover what all of them cover, oldest first, cut so that no time is in two of them.
 *
 * Replicas that run at the same time see the same, so what one of them has seen is enough for its time. Each piece belongs
 * to the one that goes on for longest; of equals to the one that began first, and then to the first of the list.
 */
export function covering<Of>(all: readonly Seen<Of>[]): readonly Seen<Of>[] {
  const left = all.toSorted((one, other) => one.from - other.from)
  const pieces: Seen<Of>[] = []
  let end = Number.NEGATIVE_INFINITY
  for (let index = 0; index < left.length; ) {
    const from = Math.max(end, left[index]?.from ?? end)
    let longest: Seen<Of> | undefined
    for (let next = left[index]; next !== undefined && next.from <= from; next = left[index]) {
      if (longest === undefined || next.to > longest.to) longest = next
      index += 1
    }
    if (longest === undefined || longest.to < from || (longest.to === end && pieces.length > 0)) continue
    pieces.push({ ...longest, from })
    end = longest.to
    // It may go on for longer than others that begin before its end.
    while (index < left.length && (left[index]?.to ?? 0) <= end) index += 1
  }
  return pieces
}
