/** The value of a JSON text, or the position of the first unexpected character. */
export type Parsed =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly position: number }

/** Deeper nesting is rejected: the fields that are needed are not nested at all. */
const MAX_DEPTH = 500

const SPACE = /[ \t\n\r]*/y
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/sy
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y

/** The literals of JSON; the last three are written only by Python. */
const WORDS: readonly (readonly [word: string, value: unknown])[] = [
  ['true', true],
  ['false', false],
  ['null', null],
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['-Infinity', Number.NEGATIVE_INFINITY],
]

/** Parses JSON; also accepts `NaN`, `Infinity` and `-Infinity`, which Python's `json` writes. */
export function parseLoosely(text: string): Parsed {
  try {
    return { ok: true, value: JSON.parse(text) }
  } catch {
    return new Parser(text).parse()
  }
}

/** Thrown where the text stops being JSON. */
class NotJsonError extends Error {
  override readonly name = 'NotJsonError'
}

/** A slower parser for documents that `JSON.parse` rejects, because its errors do not always give a position. */
class Parser {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  parse(): Parsed {
    try {
      const value = this.#value(0)
      if (this.#at < this.#text.length) throw new NotJsonError()
      return { ok: true, value }
    } catch {
      return { ok: false, position: this.#at }
    }
  }

  #value(depth: number): unknown {
    this.#token(SPACE)
    const value = this.#inner(depth)
    this.#token(SPACE)
    return value
  }

  #inner(depth: number): unknown {
    if (depth > MAX_DEPTH) throw new NotJsonError()
    if (this.#skip('{')) return this.#object(depth)
    if (this.#skip('[')) return this.#list(depth)
    if (this.#text[this.#at] === '"') return this.#string()
    for (const [word, value] of WORDS) if (this.#skip(word)) return value
    return Number(this.#token(NUMBER))
  }

  #object(depth: number): unknown {
    const members: [string, unknown][] = []
    this.#token(SPACE)
    if (this.#skip('}')) return {}
    do {
      this.#token(SPACE)
      const name = this.#string()
      this.#token(SPACE)
      if (!this.#skip(':')) throw new NotJsonError()
      members.push([name, this.#value(depth + 1)])
    } while (this.#skip(','))
    if (!this.#skip('}')) throw new NotJsonError()
    return Object.fromEntries(members)
  }

  #list(depth: number): unknown {
    const items: unknown[] = []
    this.#token(SPACE)
    if (this.#skip(']')) return items
    do items.push(this.#value(depth + 1))
    while (this.#skip(','))
    if (!this.#skip(']')) throw new NotJsonError()
    return items
  }

  #string(): string {
    const start = this.#at
    try {
      return String(JSON.parse(this.#token(STRING)))
    } catch {
      this.#at = start
      throw new NotJsonError()
    }
  }

  #skip(word: string): boolean {
    if (!this.#text.startsWith(word, this.#at)) return false
    this.#at += word.length
    return true
  }

  #token(pattern: RegExp): string {
    pattern.lastIndex = this.#at
    const [token] = pattern.exec(this.#text) ?? []
    if (token === undefined) throw new NotJsonError()
    this.#at += token.length
    return token
  }
}
