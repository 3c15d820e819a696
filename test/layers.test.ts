import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from './support/harness.js'

/** The folders that each folder of `src/` may import besides itself, from the bottom up. `app` is the file `app.ts`. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  domain: [],
  config: ['domain'],
  upstream: ['domain'],
  breaker: ['domain'],
  outages: ['domain', 'breaker'],
  // Its counts survive restarts: each counter keeps its records in the history file.
  observability: ['domain', 'breaker', 'outages'],
  // Webhooks fail like the upstream, and only `upstream/failure` knows what a socket error means.
  notifications: ['domain', 'breaker', 'outages', 'upstream'],
  // The records of keepers are shared by all replicas.
  replicas: ['domain', 'breaker', 'outages', 'observability'],
  server: ['domain'],
  // It emits the events of each exchange.
  proxy: ['domain', 'upstream', 'breaker', 'observability', 'server'],
  routes: ['domain', 'breaker', 'outages', 'observability', 'server', 'proxy'],
  assembly: [
    ...['domain', 'config', 'upstream', 'breaker', 'outages', 'observability', 'notifications'],
    ...['replicas', 'server', 'proxy', 'routes'],
  ],
  app: ['config', 'breaker', 'server', 'routes', 'assembly'],
  simulator: ['domain'],
  cli: [
    ...['domain', 'config', 'upstream', 'breaker', 'outages', 'observability', 'replicas', 'server', 'proxy'],
    ...['routes', 'simulator', 'app'],
  ],
}

/** `import … from 'x'`, `import 'x'`, `export … from 'x'`, `import('x')`; a local export has none. */
const IMPORTS =
  /^import\s+(?:[^'";]*?\sfrom\s+)?'([^']+)'|^export\s+(?:type\s+)?[*{][^'";]*?\sfrom\s+'([^']+)'|\bimport\(\s*['"`]([^'"`]+)/gm

/** Globals that the domain may not use: it has no clock, no random numbers and no I/O. */
const IMPURE =
  /\b(Date\.now|new Date\(\)|performance|Math\.random|setTimeout|setInterval|setImmediate|queueMicrotask|process|console|globalThis|fetch|Buffer)\b/

const sources = readdirSync(join(repositoryRoot, 'src'), { recursive: true, encoding: 'utf8' })
  .map(file => file.replaceAll('\\', '/'))
  .filter(file => file.endsWith('.ts'))
  .map(file => ({ file, text: readFileSync(join(repositoryRoot, 'src', file), 'utf8') }))

test('every source file is in a folder of the table of layers', () => {
  assert.ok(sources.length > 20, `only ${sources.length} source files were found`)
  assert.deepEqual(
    sources.map(({ file }) => file).filter(file => MAY_IMPORT[layerOf(file)] === undefined),
    [],
  )
})

test('a folder imports only itself and the folders in its row of the table, and the domain imports no packages', () => {
  const arrows = sources.flatMap(({ file, text }) =>
    importsOf(text).flatMap(specifier => {
      const from = layerOf(file)
      if (!specifier.startsWith('.')) {
        return from === 'domain' ? [`src/${file} imports '${specifier}': the domain imports no packages`] : []
      }
      const to = layerOf(posix.join(posix.dirname(file), specifier))
      return to === from || MAY_IMPORT[from]?.includes(to)
        ? []
        : [`src/${file} imports '${specifier}': ${from} may not import ${to}`]
    }),
  )
  assert.deepEqual(arrows, [])
})

test('docs/explanation/architecture.md has the same table', () => {
  const page = readFileSync(join(repositoryRoot, 'docs/explanation/architecture.md'), 'utf8')
  const rows = [...page.matchAll(/^\| `src\/([a-z]+)(?:\.ts)?` \| [^|]+ \| ([^|]+) \|$/gm)]
  const table = rows.map(([, layer = '', imports = '']) => [
    layer,
    imports === '–' ? [] : imports.split(', ').toSorted(),
  ])
  const expected = Object.entries(MAY_IMPORT).map(([layer, imports]) => [layer, imports.toSorted()])
  assert.deepEqual(table, expected)
})

test('no two source files have the same name', () => {
  const names = sources.map(({ file }) => posix.basename(file))
  assert.deepEqual(
    sources.map(({ file }) => file).filter((file, index) => names.indexOf(posix.basename(file)) !== index),
    [],
  )
})

test('the domain has no clock, no timers and no random numbers', () => {
  assert.deepEqual(
    sources
      .filter(({ file }) => layerOf(file) === 'domain')
      .flatMap(({ file, text }) => {
        const found = IMPURE.exec(withoutComments(text))
        return found === null ? [] : [`src/${file} uses ${found[0]}`]
      }),
    [],
  )
})

test('every form of an import is found', () => {
  const text = [
    "import a from 'one'",
    "import {\n  type B,\n  c,\n} from './two.js'",
    "import 'three'",
    "import type D from '../four.js'",
    "export { e } from './five.js'",
    "export type { F } from './six.js'",
    "export * from 'seven'",
    "const g = await import('./eight.js')",
    "export const h = 'nothing'",
    "export type I = { readonly from: 'nothing' }",
    "// import j from 'nothing'",
  ].join('\n')
  assert.deepEqual(importsOf(text), [
    'one',
    './two.js',
    'three',
    '../four.js',
    './five.js',
    './six.js',
    'seven',
    './eight.js',
  ])
})

function importsOf(text: string): readonly string[] {
  return [...withoutComments(text).matchAll(IMPORTS)].map(
    ([, imported, exported, dynamic]) => imported ?? exported ?? dynamic ?? '',
  )
}

function withoutComments(text: string): string {
  return text.replace(/^\s*(\/\/.*|\/\*[\s\S]*?\*\/)$/gm, '')
}

/** `proxy` of `proxy/guard.ts`, `app` of `app.ts`. */
function layerOf(file: string): string {
  return file.includes('/') ? file.slice(0, file.indexOf('/')) : file.replace(/\.[jt]s$/, '')
}
