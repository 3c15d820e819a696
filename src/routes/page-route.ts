import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { extname } from 'node:path'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { sendError } from '../server/error-response.js'
import { weightsOf } from './response-format.js'

/** A file of the folder `page`, as it is sent. */
type PageFile = { readonly bytes: Buffer; readonly etag: string; readonly type: string }

/** A document of the folder `page`, with its file for each language that it declares. */
export type PageDocument = { readonly policy: string; readonly files: ReadonlyMap<Language, PageFile> }

/**
 * The languages of the page with their directions, and the codes that clients use for them; `page/language.js` has the
 * same languages. A client that accepts none of them gets the first.
 */
const LANGUAGES = [
  { language: 'en', direction: 'ltr', codes: ['en'] },
  // `iw` is the code that Hebrew had until 1989. Older Java and Android clients send it.
  { language: 'he', direction: 'rtl', codes: ['he', 'iw'] },
] as const

type Language = (typeof LANGUAGES)[number]['language']

/** The start of each document, in the language in which its file is written. */
const ROOT = '<html lang="en" dir="ltr">'

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
}

/**
 * A document may load its own style, run its one inline script and what that loads, and send requests to the proxy. No script may turn text into HTML or code; the inline script creates the only trusted type. Scripts are not
 * allowed by their origin, because focus-server's responses have the same origin.
 */
function policyFor(html: string): string {
  const hashes = [...html.matchAll(/<script[^>]*>(.*?)<\/script>/gs)].map(
    ([, script = '']) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`,
  )
  return [
    "default-src 'none'",
    "style-src 'self'",
    `script-src ${[...hashes, "'strict-dynamic'"].join(' ')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    'trusted-types boot',
  ].join('; ')
}

/**
 * `GET /-/`, the status page for people, and `GET /-/page/<file>`, its style and scripts. All files are read once.
 *
 * @throws when the package lacks the page, or a file that the page names.
 */
export function dashboard(app: FastifyInstance): void {
  const document = readDocument('index.html')
  const parts = new Map(
    readdirSync(pageFolder())
      .filter(name => ['.css', '.js'].includes(extname(name)))
      .map(name => [name, pageFile(name, readBytes(name))]),
  )
  // `/-` is routed here, too. The relative URLs on the page need the trailing slash.
  const schema = { summary: 'The status page for people.', mediaTypes: ['text/html'] }
  app.get('/-/', { schema }, (request, reply) => {
    const path = request.originalUrl.replace(/[?#].*$/, '')
    if (!path.endsWith('/')) return reply.code(308).header('location', '-/').send()
    return sendDocument(request, reply, document)
  })
  app.get<{ Params: { file: string } }>(
    '/-/page/:file',
    { schema: { summary: 'Style and scripts of the pages.', mediaTypes: ['text/css', 'text/javascript'] } },
    (request, reply) => {
      const part = parts.get(request.params.file)
      if (part !== undefined) return sendPageFile(request, reply, part)
      return sendError(reply, 404, 'Not Found', 'The page has no such file.')
    },
  )
}

/**
 * Reads a document of the folder `page`, once for each language.
 *
 * @throws when it cannot be read, does not start as the documents of the page do, or names a file that is missing.
 */
export function readDocument(name: string): PageDocument {
  const html = readBytes(name).toString()
  if (!html.includes(ROOT)) throw new Error(`page/${name} does not contain ${ROOT}.`)
  for (const [, part = ''] of html.matchAll(/["']page\/([^"']+)["']/g)) {
    if (!existsSync(new URL(part, pageFolder()))) {
      throw new Error(`The status page is incomplete: page/${part} is missing.`)
    }
  }
  const files = LANGUAGES.map(({ language, direction }) => {
    const root = `<html lang="${language}" dir="${direction}">`
    return [language, pageFile(name, Buffer.from(html.replace(ROOT, root)))] as const
  })
  return { policy: policyFor(html), files: new Map(files) }
}

/**
 * Sends a document in the language that the client prefers. Only the root element differs: the texts are in the
 * scripts, which follow it unless the visitor has chosen another language.
 */
export function sendDocument(
  request: FastifyRequest,
  reply: FastifyReply,
  document: PageDocument,
): FastifyReply {
  const language = languageFor(request.headers['accept-language'])
  const file = document.files.get(language)
  if (file === undefined) throw new Error(`The page is missing in the language ${language}.`)
  const vary = reply.getHeader('vary')
  reply.header('vary', vary === undefined ? 'accept-language' : `${vary}, accept-language`)
  reply.headers({ 'content-language': language, 'content-security-policy': document.policy })
  return sendPageFile(request, reply, file)
}

/** The preferred language of the page. `he-IL` counts as `he`, and `*` as each language that the header does not name. */
function languageFor(acceptLanguage: string | undefined): Language {
  const ranges = [...weightsOf(acceptLanguage ?? '')]
  const offered = LANGUAGES.map(({ language, codes }) => {
    const named = ranges.filter(([range]) =>
      codes.some(code => range === code || range.startsWith(`${code}-`)),
    )
    const matching = named.length > 0 ? named : ranges.filter(([range]) => range === '*')
    const weight = Math.max(0, ...matching.map(([, each]) => each))
    const [first] = matching
    return { language, weight, place: first === undefined ? -1 : ranges.indexOf(first) }
  })
  const [best] = offered
    .filter(({ weight }) => weight > 0)
    .sort((one, other) => other.weight - one.weight || one.place - other.place)
  return best?.language ?? LANGUAGES[0].language
}

/** @throws when the file cannot be read. */
function readBytes(name: string): Buffer {
  const file = new URL(name, pageFolder())
  try {
    return readFileSync(file)
  } catch (error) {
    throw new Error(`The status page is missing: ${file.pathname} could not be read.`, { cause: error })
  }
}

function pageFile(name: string, bytes: Buffer): PageFile {
  const hash = createHash('sha256').update(bytes).digest('base64url').slice(0, 22)
  return { bytes, etag: `"${hash}"`, type: TYPES[extname(name)] ?? 'application/octet-stream' }
}

/**
 * Sends a file of the page, or 304 to a client that has it. Caches revalidate every time, so that after an update all
 * files of a page are of one version.
 */
function sendPageFile(request: FastifyRequest, reply: FastifyReply, file: PageFile): FastifyReply {
  // A 304 has them, too: its headers replace the stored ones.
  reply.headers({ 'cache-control': 'no-cache', etag: file.etag })
  if (isCurrent(request.headers['if-none-match'], file.etag)) return reply.code(304).send()
  return reply.header('content-type', file.type).send(file.bytes)
}

/** The folder `page` in the root of the package, from wherever the compiled code runs. */
function pageFolder(): URL {
  let folder = new URL('.', import.meta.url)
  while (!existsSync(new URL('package.json', folder))) {
    const parent = new URL('..', folder)
    if (parent.href === folder.href) throw new Error('The status page is missing: no package.json was found.')
    folder = parent
  }
  return new URL('page/', folder)
}

/** Whether the client's copy is current (RFC 9110, 13.1.2). A gateway that compresses makes an entity tag weak. */
function isCurrent(ifNoneMatch: string | undefined, etag: string): boolean {
  return ifNoneMatch?.split(',').some(tag => ['*', etag, `W/${etag}`].includes(tag.trim())) ?? false
}
