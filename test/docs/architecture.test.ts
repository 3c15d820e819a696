import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from '../support/harness.js'

/** The pages that explain how it works, file by file. */
const HOW_IT_WORKS = ['architecture', 'request-life', 'circuit', 'replicas'].map(
  name => `docs/explanation/${name}.md`,
)

/** The pages that lead a reader through the source. */
const PAGES = [
  ...HOW_IT_WORKS,
  ...readdirSync(join(repositoryRoot, 'docs/adr')).map(name => `docs/adr/${name}`),
  ...['CONTRIBUTING.md', 'SECURITY.md'],
]

const FOLDERS = readdirSync(join(repositoryRoot, 'src'), { withFileTypes: true })
  .filter(entry => entry.isDirectory())
  .map(({ name }) => name)

/** A path from the root of the repository: `src/app.ts`, `test/server`. */
const PATH = /(?<![\w./-])(?:src|test|docs|bench|config|deploy|page|clients|examples)\/[\w./-]*\w/g

/** A source file by its folder and its name: `proxy/guard` is `src/proxy/guard.ts`. */
const SOURCE = new RegExp(`(?<![\\w./-])(?:${FOLDERS.join('|')})/[\\w-]+(?![\\w/.-]*[\\w/])`, 'g')

/** The target of a link to another file of the repository. */
const LINK = /\]\((?!https?:)([^)#]+)/g

/** Every file that a page names and that does not exist. */
function missingFiles(page: string, text: string): readonly string[] {
  const exists = (path: string) => existsSync(join(repositoryRoot, path))
  const paths = [...text.matchAll(PATH)].map(([path]) => path)
  const sources = [...text.matchAll(SOURCE)].map(([name]) => name)
  const links = [...text.matchAll(LINK)].map(([, target = '']) => join(dirname(page), target))
  return [
    ...[...paths, ...links].filter(path => !exists(path)),
    ...sources.filter(name => !exists(`src/${name}.ts`) && !exists(name)),
  ]
}

for (const page of PAGES) {
  test(`every file that ${page} names exists`, () => {
    assert.deepEqual(missingFiles(page, readFileSync(join(repositoryRoot, page), 'utf8')), [])
  })
}

test('the pages that explain how it works name each file on the path of a request', () => {
  const text = HOW_IT_WORKS.map(page => readFileSync(join(repositoryRoot, page), 'utf8')).join('\n')
  const named = new Set([...text.matchAll(SOURCE)].map(([name]) => name))
  const onThePath = ['assembly', 'breaker', 'proxy', 'server', 'upstream'].flatMap(folder =>
    readdirSync(join(repositoryRoot, 'src', folder)).map(file => `${folder}/${file.replace(/\.ts$/, '')}`),
  )
  /** Files that others use for a small part of their work. */
  const inPassing = [
    ...['breaker/events', 'server/methods', 'server/pseudonym'],
    ...['upstream/clock', 'upstream/credentials'],
  ]
  assert.deepEqual(
    onThePath.filter(name => !named.has(name) && !inPassing.includes(name)),
    [],
  )
})

test('a name of a file that does not exist is found, in each way of writing it', () => {
  const text = [
    'the files src/nothing.ts and `src/app.ts`, and `test/nowhere`',
    'in a picture: a["proxy/lost<br/>words"] and b["proxy/guard<br/>words"]',
    '`server/gone`: and `server/tls`, [a link](adr/0000-none.md), [another](adr/README.md#decisions)',
    'no files: https://example.com/proxy/x, `routes/…`, a/server/x, `server/`',
  ].join('\n')
  assert.deepEqual(missingFiles('docs/page.md', text), [
    'src/nothing.ts',
    'test/nowhere',
    'docs/adr/0000-none.md',
    'proxy/lost',
    'server/gone',
  ])
})
