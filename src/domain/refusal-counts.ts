import type { Instant } from './time.js'

/** The number of guarded requests that were refused, and of those that were only marked in mode `observe`. */
export type RefusalCounts = { readonly refused: number; readonly wouldRefuse: number }

/** The refusals of one client: an address and a user agent. */
export type ClientRefusals = RefusalCounts & {
  readonly address: string
  /** Empty when the client sends none. */
  readonly userAgent: string
  readonly first: Instant
  readonly last: Instant
}

/** The refusals of one test run. */
export type RunRefusals = RefusalCounts & { readonly run: string }

/** The items with the most refusals, and the sum of all others. */
export type Tally<Item extends RefusalCounts> = {
  readonly items: readonly Item[]
  readonly others: RefusalCounts
}

/** How two items of a tally are distinguished and added. */
type Kind<Item extends RefusalCounts> = {
  readonly keyOf: (item: Item) => string
  readonly added: (one: Item, other: Item) => Item
}

/** Refusals that happened within one minute, added up. The sum of each list is at most the total. */
export type RefusalBatch = RefusalCounts & {
  /** The time of the first of them. */
  readonly at: Instant
  /** Refusals in an outage with the cause `waiting`: focus-server was up and did not have to reject these requests. */
  readonly spared: number
  readonly clients: readonly ClientRefusals[]
  /** Only requests that name a test run. */
  readonly runs: readonly RunRefusals[]
}

/** The number of clients, and of test runs, that are shown and kept on disk. */
export const MAX_LISTED = 20

/** The number of items tracked in memory, so that a client that starts late can still become one of the listed ones. */
const MAX_TRACKED = 200

/** No refusals. */
export const NO_REFUSALS: RefusalCounts = { refused: 0, wouldRefuse: 0 }

/** An empty tally. */
export const EMPTY_TALLY: Tally<never> = { items: [], others: NO_REFUSALS }

/** The sum of two counts. */
export function plus(one: RefusalCounts, other: RefusalCounts): RefusalCounts {
  return { refused: one.refused + other.refused, wouldRefuse: one.wouldRefuse + other.wouldRefuse }
}

/** The difference of two counts; never negative. */
export function minus(whole: RefusalCounts, part: RefusalCounts): RefusalCounts {
  return {
    refused: Math.max(0, whole.refused - part.refused),
    wouldRefuse: Math.max(0, whole.wouldRefuse - part.wouldRefuse),
  }
}

/** The sum of all counts. */
export function sumOf(counts: readonly RefusalCounts[]): RefusalCounts {
  return counts.reduce(plus, NO_REFUSALS)
}

/** The sum of a tally, others included. */
export function totalOf<Item extends RefusalCounts>({ items, others }: Tally<Item>): RefusalCounts {
  return plus(sumOf(items), others)
}

/**
 * All tallies of clients as one. Nothing is lost: a client that does not fit is counted with the others. Among clients
 * with equally many refusals, those of the later tallies stay, so that a flood of clients that are seen once does not keep
 * out a new one.
 */
export function addClients(tallies: readonly Tally<ClientRefusals>[]): Tally<ClientRefusals> {
  return addTallies(tallies, CLIENTS)
}

/** The same for test runs. */
export function addRuns(tallies: readonly Tally<RunRefusals>[]): Tally<RunRefusals> {
  return addTallies(tallies, RUNS)
}

/** The first items, and the sum of the rest. */
export function topOf<Item extends RefusalCounts>(
  { items, others }: Tally<Item>,
  max = MAX_LISTED,
): Tally<Item> {
  if (items.length <= max) return { items, others }
  return { items: items.slice(0, max), others: plus(others, sumOf(items.slice(max))) }
}

const CLIENTS: Kind<ClientRefusals> = {
  // An address contains no space, so keys are unambiguous.
  keyOf: ({ address, userAgent }) => `${address} ${userAgent}`,
  added: (one, other) => ({
    ...one,
    ...plus(one, other),
    first: Math.min(one.first, other.first),
    last: Math.max(one.last, other.last),
  }),
}

const RUNS: Kind<RunRefusals> = {
  keyOf: ({ run }) => run,
  added: (one, other) => ({ ...one, ...plus(one, other) }),
}

function addTallies<Item extends RefusalCounts>(
  tallies: readonly Tally<Item>[],
  { keyOf, added }: Kind<Item>,
): Tally<Item> {
  const byKey = new Map<string, Item>()
  for (const { items } of tallies.toReversed()) {
    for (const item of items) {
      const key = keyOf(item)
      const known = byKey.get(key)
      byKey.set(key, known === undefined ? item : added(item, known))
    }
  }
  const items = [...byKey.values()].sort((a, b) => weightOf(b) - weightOf(a))
  return topOf({ items, others: sumOf(tallies.map(({ others }) => others)) }, MAX_TRACKED)
}

function weightOf({ refused, wouldRefuse }: RefusalCounts): number {
  return refused + wouldRefuse
}
