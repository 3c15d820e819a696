import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { test } from 'node:test'
import { anchorsOf, type Document, documentOf, documents, filesOf } from '../support/documents.js'
import { repositoryRoot } from '../support/harness.js'

/** A link or an image in Markdown, and the definition of a reference link. */
const LINK = /\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)|^\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)/gm

/** A link or a picture in HTML. */
const HTML_LINK = /<(?:a|img|source)\b[^>]*? (?:href|src|srcset)="([^"]+)"/g

/** A link whose target is defined elsewhere by its name. */
const NAMED_LINK = /\]\[([^\]]+)\]/g

/** A document by its path from the root, as sources, manifests and pages name it. */
const NAMED =
  /(?<![\w./:-])(?:docs\/[\w./-]+\.md|(?:README|CONTRIBUTING|SECURITY|CHANGELOG)\.md)(?:#([\w-]+))?/g

/** The targets of the links in a document that do not exist. */
function brokenLinks(document: Document, all: ReadonlyMap<string, Document>): readonly string[] {
  const prose = document.prose.replace(/`[^`\n]*`/g, '')
  const names = [...prose.matchAll(NAMED_LINK)].map(([, name = '']) => name)
  const undefinedNames = names.filter(name => !prose.includes(`\n[${name}]: `))
  const targets = [...prose.matchAll(LINK), ...prose.matchAll(HTML_LINK)].map(
    ([, inline, defined]) => inline ?? defined ?? '',
  )
  const broken = targets.flatMap(target => {
    if (/^[a-z][a-z+.-]*:/i.test(target)) return []
    const [file = '', anchor] = target.split('#')
    const path = file === '' ? document.path : posix.join(posix.dirname(document.path), decodeURI(file))
    return isThere(path, anchor, all) ? [] : [`${document.path}: ${target}`]
  })
  return [...broken, ...undefinedNames.map(name => `${document.path}: [${name}]`)]
}

function isThere(path: string, anchor: string | undefined, all: ReadonlyMap<string, Document>): boolean {
  const known = all.get(path)
  if (anchor === undefined && known !== undefined) return true
  if (known === undefined && (path.startsWith('../') || !existsSync(join(repositoryRoot, path)))) return false
  if (anchor === undefined) return true
  const document = known ?? all.get(posix.join(path, 'README.md'))
  return document !== undefined && anchorsOf(document).has(anchor)
}

const all = new Map(documents().map(document => [document.path, document]))

test('every link in a document leads to an existing file and heading', () => {
  assert.ok(all.size > 40, `only ${all.size} documents were found`)
  assert.deepEqual(
    [...all.values()].flatMap(document => brokenLinks(document, all)),
    [],
  )
})

test('every document in docs is linked from another one', () => {
  const linked = new Set(
    [...all.values()].flatMap(({ path, prose }) =>
      [...prose.matchAll(LINK)].flatMap(([, inline, defined]) => {
        const [file = ''] = (inline ?? defined ?? '').split('#')
        const target = posix.join(posix.dirname(path), file)
        return file === '' || target === path ? [] : [target, posix.join(target, 'README.md')]
      }),
    ),
  )
  assert.deepEqual(
    [...all.keys()].filter(path => path.startsWith('docs/') && !linked.has(path)),
    [],
  )
})

test('every document that another file of the repository names exists, with its heading', () => {
  const files = filesOf(/\.(?:[cm]?[jt]s|py|ya?ml|json|toml|html|css|service|conf|sh)$|^Dockerfile$/)
  const missing = files
    // Some tests name documents that intentionally do not exist.
    .filter(path => !path.startsWith('test/docs/'))
    .flatMap(path =>
      [...readFileSync(join(repositoryRoot, path), 'utf8').matchAll(NAMED)].flatMap(([name, anchor]) =>
        isThere(name.split('#')[0] ?? '', anchor, all) ? [] : [`${path}: ${name}`],
      ),
    )
  assert.deepEqual(missing, [])
})

test('a link that leads nowhere is found, in each way of writing it', () => {
  const text = [
    '# A page: `first` & *second*',
    '## Twice',
    '## Twice',
    '[a file](nothing.md), [a heading](#none), [both](../../README.md#none), ![a picture](none.png "title")',
    '[named][x]',
    '[x]: nowhere.md',
    '[named][y], <img alt="" src="gone.png">, <a href="../../README.md">right</a>',
    '[right](#a-page-first--second), [right](#twice-1), [right](../../README.md), [right](../), [right](https://a.b/c)',
    'no links: `[code](nothing.md)`',
    '```',
    '[a block](nothing.md)',
    '```',
  ].join('\n')
  assert.deepEqual(
    brokenLinks(
      documentOf('docs/how-to/page.md', text),
      new Map([['docs/how-to/page.md', documentOf('docs/how-to/page.md', text)], ...all]),
    ),
    [
      'docs/how-to/page.md: nothing.md',
      'docs/how-to/page.md: #none',
      'docs/how-to/page.md: ../../README.md#none',
      'docs/how-to/page.md: none.png',
      'docs/how-to/page.md: nowhere.md',
      'docs/how-to/page.md: gone.png',
      'docs/how-to/page.md: [y]',
    ],
  )
})
