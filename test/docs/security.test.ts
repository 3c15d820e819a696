import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from '../support/harness.js'

const read = (path: string) => readFileSync(join(repositoryRoot, path), 'utf8')

/** A test as SECURITY.md names it: its file and, after a colon, its title or the start of its title. */
const NAMED = /`(test\/[\w./-]+)`: “([^”]+)”/g

const section =
  read('SECURITY.md')
    .split('\n## ')
    .find(text => text.startsWith('Promises')) ?? ''
const promises = section.split('\n').filter(line => line.startsWith('- **'))

/** The tests that SECURITY.md names for one promise. */
function testsOf(promise: string): readonly { readonly file: string; readonly title: string }[] {
  const start = section.indexOf(promise)
  const end = section.indexOf('\n- **', start + 1)
  const text = section.slice(start, end === -1 ? undefined : end).replace(/\n\s+/g, ' ')
  return [...text.matchAll(NAMED)].map(([, file = '', title = '']) => ({ file, title }))
}

test('SECURITY.md names a test for each of its promises', () => {
  assert.ok(promises.length >= 10, `only ${promises.length} promises were found`)
  assert.deepEqual(
    promises.filter(promise => testsOf(promise).length === 0),
    [],
  )
})

test('every test that SECURITY.md names exists', () => {
  const missing = promises
    .flatMap(testsOf)
    .filter(
      ({ file, title }) => !new RegExp(`(?:test|it|describe)\\(\\s*['"\`]${escaped(title)}`).test(read(file)),
    )
  assert.deepEqual(missing, [])
})

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
