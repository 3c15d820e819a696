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

/** The fields of focus-server's metadata that describe the fiber, as received; long text is cut. */
export type Metadata = Readonly<Record<string, string | number | boolean | null>>

/**
 * The state of the fiber according to a metadata document.
 *
 * `missing` names the field whose predicate failed. `problem` describes in words why the document cannot be judged.
 */
export type Judgement =
  | { readonly kind: 'ready'; readonly metadata: Metadata }
  | { readonly kind: 'waiting'; readonly metadata: Metadata; readonly missing: readonly string[] }
  | { readonly kind: 'unreadable'; readonly problem: string }

/** The default rule: the fiber is missing when `prr <= 0` or `sw_version` is "waiting for fiber". */
export const DEFAULT_READY_WHEN: readonly Predicate[] = [
  { field: 'prr', operator: '>', value: 0 },
  { field: 'sw_version', operator: '!=', value: 'waiting for fiber' },
]

const MAX_TEXT_LENGTH = 200

/**
 * Judges a metadata document, as parsed from JSON.
 *
 * Predicates are checked in order, and the first that fails decides. An absent field and a null field count as
 * missing: focus-server sends `null` for values that it does not know yet. If the type of a field differs from the type of
 * its predicate's value, the document is unreadable, because `"2000"` may be an error in the server.
 */
export function judge(document: unknown, readyWhen: readonly Predicate[]): Judgement {
  if (typeof document !== 'object' || document === null || Array.isArray(document)) {
    return { kind: 'unreadable', problem: `expected a JSON object, got ${nameOfType(document)}` }
  }
  const fields = new Map<string, unknown>(Object.entries(document))
  let missing: string | undefined
  for (const { field, operator, value: wanted } of readyWhen) {
    const given = fields.get(field)
    // JSON allows 1e999, which is parsed as infinity, and Python writes NaN and Infinity.
    const isRightType = typeof given === typeof wanted && (typeof given !== 'number' || isFiniteNumber(given))
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

/** The fields that focus-server's metadata has. */
const FIELDS: ReadonlySet<string> = new Set([
  ...['dx', 'prr', 'fiber_start_meters', 'fiber_length_meters', 'sw_version', 'number_of_channels'],
  'fiber_description',
])

/**
 * Whether a document may be focus-server's metadata: it has at least one of the usual fields, or one that a predicate names.
 * `{"status":"UP"}` comes from some other server.
 */
export function looksLikeMetadata(document: unknown, readyWhen: readonly Predicate[]): boolean {
  if (typeof document !== 'object' || document === null) return false
  return Object.keys(document).some(key => FIELDS.has(key) || readyWhen.some(({ field }) => field === key))
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

/** Text for a comparison: case and surrounding white space do not matter. */
function fold(text: string): string {
  return text.trim().toLowerCase()
}

/** The judged fields, and focus-server's own description of the fiber. */
function excerpt(fields: ReadonlyMap<string, unknown>, readyWhen: readonly Predicate[]): Metadata {
  const metadata: Record<string, string | number | boolean | null> = {}
  for (const field of [...readyWhen.map(predicate => predicate.field), 'fiber_description']) {
    const value = fields.get(field)
    if (typeof value === 'string') metadata[field] = value.slice(0, MAX_TEXT_LENGTH)
    else if (isFiniteNumber(value) || typeof value === 'boolean' || value === null) metadata[field] = value
  }
  return metadata
}

function nameOfType(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'an object'
  if (typeof value === 'number' && !isFiniteNumber(value)) return String(value)
  return `a ${typeof value}`
}

function isFiniteNumber(value: unknown): value is number {
  return Number.isFinite(value)
}
