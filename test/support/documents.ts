import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { repositoryRoot } from './harness.js'

/** A fenced block of a document; `language` is '' if the fence names none. */
export type Block = { readonly language: string; readonly text: string; readonly line: number }

/** A Markdown file of the repository, by its path from the root. */
export type Document = {
  readonly path: string
  readonly text: string
  /** The text without its fenced blocks; the lines keep their numbers. */
  readonly prose: string
  readonly blocks: readonly Block[]
}

/** Folders whose files do not belong to the repository, and package-lock.json. */
const FOREIGN =
  /^(?:\.git|\.build|\.packing|\.pytest_cache|\.stryker-tmp|node_modules|dist|build|reports|wheels|bin|__pycache__|.*\.egg-info|package-lock\.json)$/

/** Every file of the repository with one of these extensions, by its path from the root. */
export function filesOf(extensions: RegExp, folder = ''): readonly string[] {
  return readdirSync(join(repositoryRoot, folder), { withFileTypes: true }).flatMap(entry => {
    if (FOREIGN.test(entry.name)) return []
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`
    if (entry.isDirectory()) return filesOf(extensions, path)
    return entry.isFile() && extensions.test(entry.name) ? [path] : []
  })
}

/** Every Markdown file of the repository. */
export function documents(): readonly Document[] {
  return filesOf(/\.md$/).map(path => documentOf(path, readFileSync(join(repositoryRoot, path), 'utf8')))
}

/** The parts of a document. */
export function documentOf(path: string, text: string): Document {
  const blocks: Block[] = []
  const prose: string[] = []
  let open: { readonly fence: string; readonly language: string; readonly line: number } | undefined
  let lines: string[] = []
  for (const [index, line] of text.split('\n').entries()) {
    const [, indent = '', fence = '', language = ''] = /^( *)(```+)(\w*)/.exec(line) ?? []
    if (open !== undefined && line.trim() === open.fence) {
      blocks.push({ language: open.language, text: lines.join('\n'), line: open.line })
      open = undefined
    } else if (open !== undefined) lines.push(line)
    else if (fence !== '' && indent.length < 4) {
      open = { fence, language, line: index + 2 }
      lines = []
    }
    prose.push(open === undefined && fence === '' ? line : '')
  }
  // Markdown takes the rest of such a page for code.
  if (open !== undefined) throw new Error(`${path}:${open.line}: the block is not closed`)
  return { path, text, prose: prose.join('\n'), blocks }
}

/** The anchors of a document's headings, as GitHub generates them. */
export function anchorsOf({ prose }: Document): ReadonlySet<string> {
  const seen = new Map<string, number>()
  const anchors = new Set<string>()
  for (const [, heading = ''] of prose.matchAll(/^#{1,6} +(.+?) *#*$/gm)) {
    const slug = heading
      .replace(/!?\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/<[^>]+>/g, '')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '')
      .replaceAll(' ', '-')
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    anchors.add(count === 0 ? slug : `${slug}-${count}`)
  }
  for (const [, id = ''] of prose.matchAll(/<a (?:id|name)="([^"]+)"/g)) anchors.add(id)
  return anchors
}
