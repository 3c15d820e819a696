/** Prefix of the names of all our environment variables. */
export const PREFIX = 'FOCUS_BREAKER_'

/** One error in a configuration, and where it is. */
export type Fault = {
  /** Dotted name of the option, or of the unknown key; '' if the fault concerns no option. */
  readonly option: string
  /** Origin of the value: `config.yaml:12`, a variable, a flag; '' if no value was given. */
  readonly source: string
  readonly expected: string
  /** The given value, for people; secrets are masked. */
  readonly given: string
}

/** The faults as a heading and one line each, as `serve` prints them before it exits with 2. */
export function explain(faults: readonly Fault[]): string {
  const lines = faults.map(({ option, source, expected, given }) => {
    const where = [source, option].filter(part => part !== '').join(': ')
    return printable(`  ${where}: expected ${expected}${given === '' ? '' : `; given ${given}`}`)
  })
  const heading =
    faults.length === 1 ? 'Invalid configuration:' : `Invalid configuration (${faults.length} errors):`
  return [heading, ...lines].join('\n')
}

/** `http://user:secret@host/` → `http://***@host/`. Any other text is returned unchanged. */
export function withoutCredentials(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/?#]*@/i, '$1***@')
}

/** ` (did you mean probe.periodMs?)` if one of the names is similar, otherwise an empty text. */
export function suggestion(given: string, names: readonly string[]): string {
  const own = (name: string) => name.toLowerCase().replace(PREFIX.toLowerCase(), '')
  const wanted = own(given)
  const near = names
    .map(name => ({
      name,
      distance: editDistance(wanted, own(name)),
      isTail: /[._]/.test(own(name).at(-wanted.length - 1) ?? '') && own(name).endsWith(wanted),
    }))
    .filter(({ name, distance, isTail }) => isTail || distance <= Math.max(2, own(name).length / 4))
    .sort((a, b) => a.distance - b.distance)[0]
  return near === undefined ? '' : ` (did you mean ${near.name}?)`
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

/** Marks a number that JSON cannot represent, until its quotation marks are removed. */
const NO_JSON = '\u{F0000}'

/** Formats an invalid value for people. Text up to the last `@` is masked, because it may be credentials. */
export function show(value: unknown): string {
  const json: string | undefined = JSON.stringify(value, (_, part) => {
    if (typeof part === 'number' && !Number.isFinite(part)) return NO_JSON + inYaml(part)
    return typeof part === 'string' ? part.replace(/^.*@/s, '***@') : part
  })
  const text = json?.replace(/"\u{F0000}([^"]*)"/gu, '$1') ?? 'nothing'
  return text.length > 120 ? `${text.slice(0, 117)}…` : text
}

function inYaml(number: number): string {
  if (Number.isNaN(number)) return '.nan'
  return number > 0 ? '.inf' : '-.inf'
}

/**
 * Escapes control characters, line breaks and bidirectional marks. Paths and keys may contain any of them, and must not
 * break the line.
 */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, character => {
    const [, name] = /^"(.*)"$/.exec(JSON.stringify(character)) ?? []
    if (name !== undefined && name !== character) return name
    return `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`
  })
}

/** The kind of a value given instead of a group. The text itself is not shown, because it may be a secret. */
export function kindOf(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'string' ? 'a string' : String(value)
}

/** The message of an error. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
