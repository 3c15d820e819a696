import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from '../support/harness.js'
import { RECIPES } from '../support/recipe-page.js'

const pages = readdirSync(RECIPES).filter(name => name.endsWith('.md'))
const tests = ['test/recipes', 'test/deploy']
  .flatMap(folder =>
    readdirSync(join(repositoryRoot, folder)).map(name => join(repositoryRoot, folder, name)),
  )
  .filter(path => path.endsWith('.test.ts'))
  .map(path => readFileSync(path, 'utf8'))
  .join('')

test('the list of pages names every page once', () => {
  const linked = [...linksOf('README.md')].filter(target => !target.includes('/'))
  assert.deepEqual(linked.toSorted(), pages.filter(name => name !== 'README.md').toSorted())
})

for (const name of pages) {
  test(`${name}: each of its links has a target`, () => {
    for (const target of linksOf(name)) {
      // Its host is checked below.
      if (target.startsWith('https://')) continue
      const [path = '', fragment] = target.split('#')
      const file = join(RECIPES, path === '' ? name : path)
      assert.ok(existsSync(file), `${target} does not exist`)
      if (fragment === undefined) continue
      const headings = [...readFileSync(file, 'utf8').matchAll(/^#+ (.+)$/gm)].map(([, text = '']) =>
        text
          .toLowerCase()
          .replace(/[^\w -]/g, '')
          .replaceAll(' ', '-'),
      )
      assert.ok(headings.includes(fragment), `${dirname(target)} has no heading for ${target}`)
    }
  })

  test(`${name}: has only addresses reserved for examples`, () => {
    const hosts = [...readFileSync(join(RECIPES, name), 'utf8').matchAll(/https?:\/\/([^\s/:'"`)]+)/g)]
    for (const [url, host = ''] of hosts) {
      assert.match(
        host,
        /^(?:[\w-]+\.example\.com|focus-server(?:-b)?|focus-breaker|192\.0\.2\.\d+|events\.pagerduty\.com|www\.standardwebhooks\.com)$/,
        url,
      )
    }
  })

  if (name === 'README.md') continue
  test(`${name}: is run by a test`, () => assert.ok(tests.includes(`new Page('${name}')`)))
}

function linksOf(name: string): readonly string[] {
  const text = readFileSync(join(RECIPES, name), 'utf8')
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target)
}
