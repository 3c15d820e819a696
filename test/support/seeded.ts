/** A random number generator that repeats its numbers for the same seed. */
export interface Random {
  /** In [0, 1). */
  next(): number
  /** An integer from `least` to `most`, inclusive. */
  integer(least: number, most: number): number
  chance(probability: number): boolean
  pick<T>(from: readonly T[]): T
}

/** The seed of this run: `SEED` from the environment, so that a run can be repeated, or a random one. */
export function seedOfRun(): number {
  const { SEED } = process.env
  const seed = SEED === undefined ? Date.now() % 2 ** 32 : Number(SEED)
  if (!Number.isInteger(seed)) throw new RangeError(`SEED: expected a whole number, given ${SEED}`)
  return seed
}

/** An integer from the environment; `fallback` if it is not set. */
export function amountOf(variable: string, fallback: number): number {
  const given = process.env[variable]
  const amount = given === undefined ? fallback : Number(given)
  if (!Number.isInteger(amount) || amount < 0) {
    throw new RangeError(`${variable}: expected a whole number of 0 or more, given ${given}`)
  }
  return amount
}

/** Mulberry32 with a hashed seed, so that neighbouring streams of one seed are independent. */
export function seeded(seed: number, stream = 0): Random {
  let state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(stream + 0x7f4a7c15, 0xc2b2ae35)
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  for (let warm = 0; warm < 4; warm += 1) next()
  const integer = (least: number, most: number) => least + Math.floor(next() * (most - least + 1))
  return {
    next,
    integer,
    chance: probability => next() < probability,
    pick: from => {
      const picked = from[integer(0, from.length - 1)]
      if (picked === undefined) throw new RangeError('nothing to pick from')
      return picked
    },
  }
}
