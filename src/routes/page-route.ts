import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'

/** The page as it is sent: one document that needs nothing else, and the policy that allows it nothing else. */
type Page = { readonly bytes: Buffer; readonly etag: string; readonly policy: string }

/**
 * `GET /-/`: the status page for people. It is read once, and what its policy allows follows from what it holds.
 *
 * @throws when the package lacks the page, or the page is not what the policy can be made for.
 */
export function dashboard(app: FastifyInstance): void {
  const page = readPage(pageFile())
  // `/-` comes here, too; what is relative on the page needs the slash at the end.
  const schema = { summary: 'The status page for people.', mediaTypes: ['text/html'] }
  app.get('/-/', { schema }, (request, reply) => {
    const path = request.originalUrl.replace(/[?#].*$/, '')
    if (!path.endsWith('/')) return reply.code(308).header('location', '-/').send()
    // On 304 too: the fields of that take the place of the stored ones.
    reply.headers({
      'content-security-policy': page.policy,
      'cache-control': 'no-cache',
      etag: page.etag,
    })
    if (isCurrent(request.headers['if-none-match'], page.etag)) return reply.code(304).send()
    return reply.header('content-type', 'text/html; charset=utf-8').send(page.bytes)
  })
}

/** In the root of the package, from wherever the compiled code runs. */
function pageFile(): URL {
  let folder = new URL('.', import.meta.url)
  while (!existsSync(new URL('package.json', folder))) {
    const parent = new URL('..', folder)
    if (parent.href === folder.href) throw new Error('The status page is missing: no package.json was found.')
    folder = parent
  }
  return new URL('page/index.html', folder)
}

function readPage(file: URL): Page {
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch (error) {
    throw new Error(`The status page is missing: ${file.pathname} could not be read.`, { cause: error })
  }
  const html = bytes.toString('utf8')
  const hashOf = (element: 'style' | 'script') => {
    const found = [...html.matchAll(new RegExp(`<${element}>([^]*?)</${element}>`, 'g'))]
    const [only] = found
    if (only?.[1] === undefined || found.length > 1) {
      throw new Error(`${file.pathname}: expected one <${element}>, found ${found.length}.`)
    }
    return `'sha256-${createHash('sha256').update(only[1]).digest('base64')}'`
  }
  const policy = [
    "default-src 'none'",
    `style-src ${hashOf('style')}`,
    `script-src ${hashOf('script')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
  return { bytes, etag: `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`, policy }
}

/** Whether the client's copy is the present one (RFC 9110, 13.1.2); a gateway that compresses makes a tag weak. */
function isCurrent(ifNoneMatch: string | undefined, etag: string): boolean {
  return ifNoneMatch?.split(',').some(tag => ['*', etag, `W/${etag}`].includes(tag.trim())) ?? false
}
