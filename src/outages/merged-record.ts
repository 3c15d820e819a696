import { isObject } from './history-text.js'

/**
 * Merges a record that two processes have changed since `base`. Numbers are counts; what both processes have counted is added
 * up. Anything else is taken from `ours`, unless only the other process has changed it.
 */
export function mergedRecord(base: unknown, theirs: unknown, ours: unknown): unknown {
  if (typeof ours === 'number' && typeof theirs === 'number') {
    return ours + theirs - (typeof base === 'number' ? base : 0)
  }
  if (isObject(ours) && isObject(theirs)) {
    const before = isObject(base) ? base : {}
    const names = [...new Set([...Object.keys(theirs), ...Object.keys(ours)])]
    return Object.fromEntries(
      names.flatMap(name => {
        const merged = mergedRecord(before[name], theirs[name], ours[name])
        return merged === undefined ? [] : [[name, merged] as const]
      }),
    )
  }
  return isSame(ours, base) ? theirs : ours
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}
