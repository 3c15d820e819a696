import fc from 'fast-check'
import type { RefusalBatch, RefusalCounts } from '../../src/domain/refusal-counts.js'

/** Any refusals within one minute: of a few clients or of very many, some with a test run. */
export const anyBatch: fc.Arbitrary<RefusalBatch> = fc
  .record({
    at: fc.integer({ min: 0, max: 40 * 24 * 3_600_000 }),
    attempts: fc.array(
      fc.record({
        client: fc.nat(60),
        run: fc.option(fc.nat(40)),
        enforced: fc.boolean(),
        isSpared: fc.boolean(),
        count: fc.integer({ min: 1, max: 5 }),
      }),
      { maxLength: 40 },
    ),
  })
  .map(({ at, attempts }) => {
    const clients = new Map<number, RefusalBatch['clients'][number]>()
    const runs = new Map<number, RefusalBatch['runs'][number]>()
    let [refused, wouldRefuse, spared] = [0, 0, 0]
    for (const { client, run, enforced, isSpared, count } of attempts) {
      const more: RefusalCounts = { refused: enforced ? count : 0, wouldRefuse: enforced ? 0 : count }
      refused += more.refused
      wouldRefuse += more.wouldRefuse
      if (enforced && isSpared) spared += count
      const address = `192.0.2.${client}`
      const known = clients.get(client) ?? {
        ...{ address, userAgent: 'test', first: at, last: at },
        ...{ refused: 0, wouldRefuse: 0 },
      }
      clients.set(client, { ...known, ...sum(known, more) })
      if (run === null) continue
      const knownRun = runs.get(run) ?? { run: `run-${run}`, refused: 0, wouldRefuse: 0 }
      runs.set(run, { ...knownRun, ...sum(knownRun, more) })
    }
    return { at, refused, wouldRefuse, spared, clients: [...clients.values()], runs: [...runs.values()] }
  })

/** Refusals of one client at one time. */
export function batchOf(
  at: number,
  { refused = 0, wouldRefuse = 0, spared = 0, address = '192.0.2.7', userAgent = 'test', run = '' } = {},
): RefusalBatch {
  const counts = { refused, wouldRefuse }
  return {
    ...{ at, spared, ...counts },
    clients: [{ ...counts, address, userAgent, first: at, last: at }],
    runs: run === '' ? [] : [{ ...counts, run }],
  }
}

function sum(one: RefusalCounts, other: RefusalCounts): RefusalCounts {
  return { refused: one.refused + other.refused, wouldRefuse: one.wouldRefuse + other.wouldRefuse }
}
