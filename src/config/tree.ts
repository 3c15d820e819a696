/** Values by key, as a file has them: groups within groups. */
export type Tree = { [key: string]: unknown }

/** Whether a value is a group. */
export function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The value under a dotted name; undefined where there is none. */
export function getIn(tree: Tree, name: string): unknown {
  let value: unknown = tree
  for (const key of name.split('.')) value = isTree(value) ? value[key] : undefined
  return value
}

/** Puts a value under a dotted name; what is no group on the way becomes one. */
export function setIn(tree: Tree, name: string, value: unknown): void {
  const keys = name.split('.')
  const last = keys.pop()
  let parent = tree
  for (const key of keys) {
    const child = parent[key]
    const next: Tree = isTree(child) ? child : {}
    parent[key] = next
    parent = next
  }
  if (last !== undefined) parent[last] = value
}
