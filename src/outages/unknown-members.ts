import { isObject } from './history-text.js'

/**
 * Checks whether a record has members that its schema does not define, and whether `Date` can parse its times. The format
 * `date-time` allows leap seconds, which `Date` cannot parse.
 */
export function inspect(
  schema: unknown,
  record: unknown,
): { readonly hasUnknown: boolean; readonly hasTimes: boolean } {
  let hasUnknown = false
  let hasTimes = true
  const visit = (of: unknown, value: unknown): void => {
    if (typeof value === 'string') {
      if (isTimeSchema(of)) hasTimes &&= Number.isFinite(Date.parse(value))
    } else if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) visit(itemSchema(of, index), item)
    } else if (isObject(value)) {
      for (const [name, member] of Object.entries(value)) {
        const known = memberSchema(of, name)
        if (known === undefined) hasUnknown = true
        else visit(known, member)
      }
    }
  }
  visit(schema, record)
  return { hasUnknown, hasTimes }
}

/** A record with those members of its earlier version that the schema does not define. */
export function withUnknown(schema: unknown, record: unknown, earlier: unknown): unknown {
  if (!isObject(record) || !isObject(earlier)) return record
  const members = Object.entries(earlier).flatMap(([name, member]) => {
    const known = memberSchema(schema, name)
    if (known === undefined) return name in record ? [] : [[name, member] as const]
    return name in record ? [[name, withUnknown(known, record[name], member)] as const] : []
  })
  return { ...record, ...Object.fromEntries(members) }
}

/** The alternatives of a schema; a nullable value has two. */
function alternatives(schema: unknown): readonly Readonly<Record<string, unknown>>[] {
  if (!isObject(schema)) return []
  return Array.isArray(schema.anyOf) ? schema.anyOf.flatMap(alternatives) : [schema]
}

/** The schema of a member. A schema without `properties` accepts every member; that of a map has one schema for all. */
function memberSchema(schema: unknown, name: string): unknown {
  for (const { properties, patternProperties } of alternatives(schema)) {
    if (isObject(properties) && Object.hasOwn(properties, name)) return properties[name]
    if (isObject(patternProperties)) return Object.values(patternProperties)[0]
  }
  return alternatives(schema).some(({ properties }) => isObject(properties)) ? undefined : {}
}

function itemSchema(schema: unknown, index: number): unknown {
  const items = alternatives(schema).find(alternative => 'items' in alternative)?.items
  return Array.isArray(items) ? items[index] : items
}

function isTimeSchema(schema: unknown): boolean {
  if (!isObject(schema)) return false
  return schema.format === 'date-time' || alternatives(schema).some(({ format }) => format === 'date-time')
}
