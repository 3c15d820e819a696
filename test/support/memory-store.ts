import type { Store } from '../../src/outages/keeper.js'

/** The records that earlier processes left, by kind. The keys are those of the file. */
export type EarlierRecords = Readonly<Record<string, readonly (readonly [key: string, record: object])[]>>

/** An in-memory store with records of earlier processes, which also keeps track of changed records. */
export function memoryStore(earlier: EarlierRecords): Store & { readonly changed: readonly string[] } {
  const changed: string[] = []
  return {
    isKeeping: true,
    isInUse: false,
    changed,
    join: keeper => {
      const records = (earlier[keeper.kind] ?? []).map(([key, record]) => [key, record] as const)
      // A test passes records as they are in the file.
      keeper.resume(records as never, Number.POSITIVE_INFINITY)
      const note = (key: string) => {
        changed.push(`${keeper.kind} ${key}`)
      }
      return { changed: note, changedNow: note }
    },
  }
}
