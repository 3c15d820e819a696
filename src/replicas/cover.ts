import type { Instant } from '../domain/time.js'

/** A stretch of time, and what one replica has observed in it. */
export type Seen<Of> = { readonly from: Instant; readonly to: Instant; readonly of: Of }

/**
 * The fewest stretches that cover the same time as all of them together, oldest first, cut so that they do not overlap.
 *
 * Replicas that run at the same time observe the same, so the record of one of them is enough for its time. Each piece is
 * taken from the stretch that ends last; among equals from the one that began first, and then from the first in the list.
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
    // Skip stretches that begin and end within this one.
    while (index < left.length && (left[index]?.to ?? 0) <= end) index += 1
  }
  return pieces
}
