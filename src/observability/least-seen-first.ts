/** The minimum number of times that a key of each rank was seen. Keys are forgotten by rank first, then by last use. */
const RANKS = [1, 2, 10] as const

/** The share of all entries that is reserved for the keys of each lower rank, because they may be new ones. */
const SHARE = 0.1

/**
 * A map of bounded size whose keys come from clients.
 *
 * A flood of invented keys must not push out the real ones, so keys that were seen once are forgotten first, then keys
 * that were seen a few times. A tenth of the entries is reserved for each of these ranks: otherwise a new key would be
 * forgotten before it is seen again.
 */
export class LeastSeenFirst<Value> {
  readonly #max: number
  /** The keys of each rank, least recently seen first. */
  readonly #ranks = RANKS.map(() => new Map<string, { readonly value: Value; readonly seen: number }>())

  constructor(max: number) {
    this.#max = max
  }

  /** The value of a key; undefined if it is unknown or forgotten. */
  get(key: string): Value | undefined {
    return this.#ranks.find(rank => rank.has(key))?.get(key)?.value
  }

  /**
   * Sets the value of a key that was seen again.
   *
   * @param times how often it was seen, if more than once.
   * @returns the entry that was forgotten to make room, if any.
   */
  see(key: string, value: Value, times = 1): readonly [key: string, value: Value] | undefined {
    const known = this.#ranks.find(rank => rank.has(key))
    const seen = (known?.get(key)?.seen ?? 0) + times
    known?.delete(key)
    const index = RANKS.findLastIndex(least => seen >= least)
    this.#ranks[index]?.set(key, { value, seen })
    return known === undefined ? this.#forgetOne() : undefined
  }

  /** Forgets everything. */
  clear(): void {
    for (const rank of this.#ranks) rank.clear()
  }

  /** All keys with their values. */
  *entries(): Iterable<readonly [string, Value]> {
    for (const rank of this.#ranks) for (const [key, { value }] of rank) yield [key, value]
  }

  #forgetOne(): readonly [key: string, value: Value] | undefined {
    const size = this.#ranks.reduce((sum, rank) => sum + rank.size, 0)
    if (size <= this.#max) return undefined
    const rank = this.#ranks.find((candidate, index) => {
      const isHighest = index === RANKS.length - 1
      return isHighest ? candidate.size > 0 : candidate.size > this.#max * SHARE
    })
    // If the highest rank is empty, one of the others exceeds its share.
    const [[key, { value }] = [undefined, { value: undefined }]] = rank ?? []
    if (key === undefined || value === undefined) return undefined
    rank?.delete(key)
    return [key, value]
  }
}
