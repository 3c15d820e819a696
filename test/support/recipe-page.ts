import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { repositoryRoot } from './harness.js'

/** The folder of the pages. */
export const RECIPES = join(repositoryRoot, 'docs/how-to')

/** A fenced block of a page; a comment in its first line names its file. */
type Block = { readonly language: string; readonly file: string | undefined; readonly text: string }

/** A page whose blocks a test takes one by one; none may be left over. */
export class Page {
  readonly text: string
  readonly #name: string
  #left: readonly Block[]

  constructor(name: string) {
    this.#name = name
    this.text = readFileSync(join(RECIPES, name), 'utf8')
    this.#left = blocksOf(this.text)
  }

  /** The first block of this file or language that has not been taken yet. */
  take(what: string): string {
    const block = this.#left.find(({ language, file }) => file === what || language === what)
    assert.ok(block, `${this.#name} has no (further) block of ${what}`)
    this.#left = this.#left.filter(other => other !== block)
    return block.text
  }

  /** The content of a block that no test uses is unchecked. */
  assertAllTaken(): void {
    assert.deepEqual(this.#left, [], `${this.#name} has blocks that no test uses`)
  }
}

function blocksOf(page: string): readonly Block[] {
  return [...page.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language = '', text = '']) => ({
    language,
    file: /^(?:#|\/\/) (\S+\.(?:py|ini|ya?ml|mjs|cs|ps1))$/m.exec(text.split('\n')[0] ?? '')?.[1],
    text,
  }))
}

/** What differs from a page under test: an address or time of the example, and its replacement. */
export type Examples = Readonly<Record<string, string>>

/** The text with every example replaced; an unknown one fails. */
export function substitute(text: string, examples: Examples): string {
  let result = text
  for (const [example, real] of Object.entries(examples)) result = result.replaceAll(example, real)
  assert.doesNotMatch(result, /\bexample\b|:\/\/focus-/, 'an example address without a replacement')
  return result
}

/**
 * Asserts that each line that a page shows was printed, in this order. `…` matches anything. Times and durations may
 * differ, and so may all numbers if `anyNumber` is set.
 */
export function assertOutput(
  printed: string,
  shown: string,
  options: { readonly anyNumber?: boolean } = {},
): void {
  const lines = printed.split('\n')
  let from = 0
  for (const line of shown.trimEnd().split('\n')) {
    const pattern = patternOf(line, options.anyNumber === true)
    const found = lines.findIndex((one, index) => index >= from && pattern.test(one))
    assert.notEqual(found, -1, `the page shows\n  ${line}\nbut there is no such line in\n${printed}`)
    from = found + 1
  }
}

function patternOf(line: string, anyNumber: boolean): RegExp {
  let pattern = line
    .trim()
    .replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
    .replaceAll('…', '.*')
    .replace(/=====/g, '=+')
    .replace(/\d{4}-\d\d-\d\dT[\d:]+\\\.\d+Z/g, '<time>')
    .replace(/\b\d+(?: (?:ms|s|min|h)\b)/g, '<span>')
    .replace(/\b\d+\\\.\d+s\b/g, '<seconds>')
    .replace(/(\.py:)\d+/g, '$1<number>')
  if (anyNumber) pattern = pattern.replace(/\b\d+\b/g, '<number>')
  pattern = pattern
    .replaceAll('<time>', '\\S+Z')
    .replaceAll('<span>', '\\d+(?:\\.\\d+)? (?:ms|s|min|h)')
    .replaceAll('<seconds>', '\\d+\\.\\d+s')
    .replaceAll('<number>', '\\d+')
  return new RegExp(`^\\s*${pattern}\\s*$`)
}
