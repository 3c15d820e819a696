import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parse } from 'yaml'
import { load } from '../../src/config/load.js'
import { describe } from '../../src/config/options.js'
import { type Document, documents } from '../support/documents.js'
import { at } from '../support/harness.js'

const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-examples-'))
after(() => rmSync(directory, { recursive: true }))

/** The changelog speaks of options that have gone. */
const all = documents().filter(({ path }) => path !== 'CHANGELOG.md')
const topNames: ReadonlySet<string> = new Set(
  [...describe().options, ...describe().sections].map(({ name }) => name.split('.')[0] ?? ''),
)

/** The faults of a part of a configuration. Files that it names do not exist here. */
function faultsOf(text: string): readonly string[] {
  const file = join(directory, 'focus-breaker.yaml')
  writeFileSync(file, text)
  const flags =
    at(parse(text), 'upstream', 'url') === undefined
      ? new Map([['upstream.url', { flag: '--upstream', value: 'http://127.0.0.1:5000' }]])
      : undefined
  const loaded = load({ file, environment: {}, ...(flags === undefined ? {} : { flags }) })
  return loaded.ok
    ? []
    : loaded.faults
        .filter(({ option }) => !/File$/.test(option))
        .map(({ option, expected, given }) => `${option}: expected ${expected}, given ${given}`)
}

/** A block, or a span in the text, that is a configuration: its file says so, or all of its keys are options. */
function configurations({ path, blocks, prose }: Document): readonly { place: string; text: string }[] {
  const isConfiguration = (text: string) => {
    const keys = [...text.matchAll(/^([a-zA-Z]+):/gm)].map(([, key = '']) => key)
    return keys.length > 0 && keys.every(key => topNames.has(key))
  }
  return [
    ...blocks
      .filter(({ language }) => language === 'yaml' || language === 'yml')
      .filter(({ text }) => text.startsWith('# focus-breaker.yaml') || isConfiguration(text))
      .map(({ line, text }) => ({
        place: `${path}:${line}`,
        // Options that an example shows behind `# ` are tried as well.
        text: text.replace(/^# ([a-zA-Z]+: (?:\{.*\}|\/\S+))$/gm, '$1'),
      })),
    ...[...prose.matchAll(/`([a-zA-Z]+: [{[][^`]*[}\]])`/g)]
      .map(([, text = '']) => ({ place: path, text }))
      .filter(({ text }) => isConfiguration(text)),
  ]
}

test('every example of a configuration is valid', () => {
  const found = all.flatMap(configurations)
  assert.ok(found.length >= 7, `only ${found.length} examples were found`)
  assert.deepEqual(
    found.flatMap(({ place, text }) => faultsOf(text).map(fault => `${place}: ${fault}`)),
    [],
  )
  for (const text of [
    'guard:\n  mood: observe',
    'guard:\n  mode: watching',
    'guard: { mode: watching }',
    'gaurd: {}',
  ]) {
    assert.equal(faultsOf(text).length, 1, text)
  }
})

test('every JSON example parses', () => {
  const shown = all.flatMap(({ path, blocks }) =>
    blocks.flatMap(({ language, text, line }) => [
      ...(language === 'json' ? [{ place: `${path}:${line}`, text }] : []),
      // The body of a request.
      ...[...text.matchAll(/ (?:-d|--data) '(\{[^']*\})'/g)].map(([, body = '']) => ({
        place: `${path}:${line}`,
        text: body,
      })),
    ]),
  )
  assert.ok(shown.length > 0, 'no example was found')
  for (const { place, text } of shown) assert.doesNotThrow(() => JSON.parse(text), place)
})
