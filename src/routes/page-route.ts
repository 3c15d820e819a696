import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { extname } from 'node:path'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { sendError } from '../server/error-response.js'

/** A file of the folder `page`, as it is sent. */
export type PageFile = { readonly bytes: Buffer; readonly etag: string; readonly type: string }

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
}

/**
 * What a document of ours may do: load its own style and scripts, and ask the proxy. Nothing in it is inline, and no
 * script may make HTML or code out of text.
 */
const POLICY = [
  "default-src 'none'",
  "style-src 'self'",
  "script-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ')

/**
 * `GET /-/`, the status page for people, and `GET /-/page/<file>`, its style and scripts. All files are read once.
 *
 * @throws when the package lacks the page, or a file that the page names.
 */
export function dashboard(app: FastifyInstance): void {
  const document = readPageFile('index.html')
  const parts = new Map(
    readdirSync(pageFolder())
      .filter(name => ['.css', '.js'].includes(extname(name)))
      .map(name => [name, readPageFile(name)]),
  )
  for (const [, name = ''] of document.bytes.toString().matchAll(/(?:src|href)="page\/([^"]+)"/g)) {
    if (!parts.has(name)) throw new Error(`The status page is incomplete: page/${name} is missing.`)
  }
  // `/-` is routed here, too. The relative URLs on the page need the slash at the end.
  const schema = { summary: 'The status page for people.', mediaTypes: ['text/html'] }
  app.get('/-/', { schema }, (request, reply) => {
    const path = request.originalUrl.replace(/[?#].*$/, '')
    if (!path.endsWith('/')) return reply.code(308).header('location', '-/').send()
    return sendPageFile(request, reply, document)
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
 * Reads a file of the folder `page`.
 *
 * @throws when it cannot be read.
 */
export function readPageFile(name: string): PageFile {
  const file = new URL(name, pageFolder())
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch (error) {
    throw new Error(`The status page is missing: ${file.pathname} could not be read.`, { cause: error })
  }
  const hash = createHash('sha256').update(bytes).digest('base64url').slice(0, 22)
  return { bytes, etag: `"${hash}"`, type: TYPES[extname(name)] ?? 'application/octet-stream' }
}

/**
 * Sends a file of the page, or 304 to a client that has it. A cache asks each time, so that the files of a page are
 * all of one version after an update.
 */
export function sendPageFile(request: FastifyRequest, reply: FastifyReply, file: PageFile): FastifyReply {
  // On a 304 as well: its headers replace the stored ones.
  reply.headers({ 'content-security-policy': POLICY, 'cache-control': 'no-cache', etag: file.etag })
  if (isCurrent(request.headers['if-none-match'], file.etag)) return reply.code(304).send()
  return reply.header('content-type', file.type).send(file.bytes)
}

/** In the root of the package, from wherever the compiled code runs. */
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
