import type { Store } from '../../src/outages/keeper.js'

/** What earlier processes left, by kind. The keys are those of the file. */
export type Left = Readonly<Record<string, readonly (readonly [key: string, record: object])[]>>

/** A store in memory that holds records of earlier processes, and which of them have changed. */
export function heldStore(left: Left): Store & { readonly changed: readonly string[] } {
  const changed: string[] = []
  return {
    isKeeping: true,
    isInUse: false,
    changed,
    join: keeper => {
      const records = (left[keeper.kind] ?? []).map(([key, record]) => [key, record] as const)
      // A test gives records as they stand in the file.
      keeper.resume(records as never, Number.POSITIVE_INFINITY)
      const note = (key: string) => {
        changed.push(`${keeper.kind} ${key}`)
      }
      return { changed: note, changedNow: note }
    },
  }
}
