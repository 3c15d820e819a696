/** Nested groups of values by key, as in a configuration file. */
export type Tree = { [key: string]: unknown }

/** Whether a value is a group. */
export function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The value under a dotted name; undefined if there is none. */
export function getIn(tree: Tree, name: string): unknown {
  let value: unknown = tree
  for (const key of name.split('.')) value = isTree(value) ? value[key] : undefined
  return value
}

/** Sets the value under a dotted name. Anything on the path that is not a group is replaced by one. */
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
