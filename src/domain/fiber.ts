import type { EQUALITY_OPERATORS, NUMBER_OPERATORS } from './vocabulary.js'

/** A condition on one field of the metadata: any comparison of a number, or equality of text or a boolean. */
export type Predicate =
  | {
      readonly field: string
      readonly operator: (typeof NUMBER_OPERATORS)[number]
      readonly value: number
    }
  | {
      readonly field: string
      readonly operator: (typeof EQUALITY_OPERATORS)[number]
      readonly value: string | boolean
    }

/** The fields of focus-server's metadata that tell about the fiber, as it sent them; long text is cut. */
export type Metadata = Readonly<Record<string, string | number | boolean | null>>

/**
 * What a metadata document says about the fiber.
 *
 * `waiting` names the field that decided in `missing`; `unreadable` says in `problem` why the document
 * cannot be judged, for people.
 */
export type Judgement =
  | { readonly kind: 'ready'; readonly metadata: Metadata }
  | { readonly kind: 'waiting'; readonly metadata: Metadata; readonly missing: readonly string[] }
  | { readonly kind: 'unreadable'; readonly problem: string }

/** The rule of focus-server's users: it waits when `prr <= 0` or `sw_version` is "waiting for fiber". */
export const DEFAULT_READY_WHEN: readonly Predicate[] = [
  { field: 'prr', operator: '>', value: 0 },
  { field: 'sw_version', operator: '!=', value: 'waiting for fiber' },
]

const MAX_TEXT_LENGTH = 200

/**
 * Judges a metadata document, as parsed from JSON.
 *
 * Predicates are asked in their order and the first that fails decides. A field that is absent or null is
 * a missing one: focus-server sends `null` for what it does not know yet. A field of another type than its
 * predicate's value makes the whole document unreadable, because `"2000"` is as likely a fault as a fiber.
 */
export function judge(document: unknown, readyWhen: readonly Predicate[]): Judgement {
  if (typeof document !== 'object' || document === null || Array.isArray(document)) {
    return { kind: 'unreadable', problem: `expected a JSON object, got ${nameOfType(document)}` }
  }
  const fields = new Map<string, unknown>(Object.entries(document))
  let missing: string | undefined
  for (const { field, operator, value: wanted } of readyWhen) {
    const given = fields.get(field)
    // 1e999 is a number of JSON and none of ours.
    const isRightType = typeof given === typeof wanted && given !== Number.POSITIVE_INFINITY
    if (given !== undefined && given !== null && !isRightType) {
      const problem = `${field}: expected a ${typeof wanted}, got ${nameOfType(given)}`
      return { kind: 'unreadable', problem }
    }
    if (missing === undefined && !holds(given, operator, wanted)) missing = field
  }
  const metadata = excerpt(fields, readyWhen)
  return missing === undefined
    ? { kind: 'ready', metadata }
    : { kind: 'waiting', metadata, missing: [missing] }
}

function holds(given: unknown, operator: Predicate['operator'], wanted: Predicate['value']): boolean {
  if (typeof given === 'number' && typeof wanted === 'number') {
    switch (operator) {
      case '>':
        return given > wanted
      case '>=':
        return given >= wanted
      case '<':
        return given < wanted
      case '<=':
        return given <= wanted
      case '==':
        return given === wanted
      case '!=':
        return given !== wanted
    }
  }
  if (typeof given === 'string' && typeof wanted === 'string') {
    return (fold(given) === fold(wanted)) === (operator === '==')
  }
  if (typeof given === 'boolean') return (given === wanted) === (operator === '==')
  return false
}

/** Text as it is compared: without case, and without the white space around it. */
function fold(text: string): string {
  return text.trim().toLowerCase()
}

/** The fields that were judged, and focus-server's own words about the fiber. */
function excerpt(fields: ReadonlyMap<string, unknown>, readyWhen: readonly Predicate[]): Metadata {
  const metadata: Record<string, string | number | boolean | null> = {}
  for (const field of [...readyWhen.map(predicate => predicate.field), 'fiber_description']) {
    const value = fields.get(field)
    if (typeof value === 'string') metadata[field] = value.slice(0, MAX_TEXT_LENGTH)
    else if (typeof value === 'number' || typeof value === 'boolean' || value === null)
      metadata[field] = value
  }
  return metadata
}

function nameOfType(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'an object'
  return `a ${typeof value}`
}
