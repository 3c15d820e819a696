import { promisify } from 'node:util'
import { brotliDecompress, gunzip, inflate, inflateRaw } from 'node:zlib'

/** A response as text, and a description of how it was decoded, for error messages. */
export type MetadataText = { readonly text: string; readonly readAs: string }

/** Headers by lower-case name, as undici returns them. */
export type ResponseHeaders = Readonly<Record<string, string | string[] | undefined>>

/** The maximum number of stacked content codings that are decoded. */
const MAX_CODINGS = 3

const decompress = {
  gzip: promisify(gunzip),
  deflate: promisify(inflate),
  br: promisify(brotliDecompress),
} as const

/** Some servers send a raw deflate stream as `deflate` (RFC 9110, 8.4.1.2). */
const decompressRaw = promisify(inflateRaw)

/** A response that cannot be decoded. `problem` is for people. */
export class CodingError extends Error {
  override readonly name = 'CodingError'
  readonly problem: string

  constructor(problem: string) {
    super(problem)
    this.problem = problem
  }
}

/**
 * Decodes a response to text: removes its content codings and detects its character encoding.
 *
 * @param maxBytes the maximum size after decoding.
 * @throws CodingError
 */
export async function textOf(
  body: Buffer,
  headers: ResponseHeaders,
  maxBytes: number,
): Promise<MetadataText> {
  const codings = namesIn(headers['content-encoding'])
  const decoded = await withoutCodings(body, codings, maxBytes)
  const contentType = headers['content-type']?.toString() ?? ''
  const charset = charsetOf(decoded, contentType)
  const [mediaType = ''] = contentType.split(';', 1)
  const type = /^[\w.+-]{1,60}\/[\w.+-]{1,60}$/.test(mediaType.trim()) ? mediaType.trim() : 'none'
  const coding = codings.length > 0 ? `, content coding ${codings.join(', ')}` : ''
  return {
    text: new TextDecoder(charset).decode(decoded),
    readAs: `content type ${type}${coding}, read as ${charset}`,
  }
}

async function withoutCodings(body: Buffer, codings: readonly string[], maxBytes: number): Promise<Buffer> {
  if (codings.length > MAX_CODINGS) throw new CodingError('returned too many content codings')
  let decoded = body
  // The last coding was applied last (RFC 9110, 8.4).
  for (const coding of codings.toReversed()) {
    const name = coding === 'x-gzip' ? 'gzip' : coding
    if (name !== 'gzip' && name !== 'deflate' && name !== 'br') {
      throw new CodingError(`returned the unsupported content coding ${coding}`)
    }
    const options = { maxOutputLength: maxBytes }
    const isRaw = name === 'deflate' && ((decoded[0] ?? 0) & 0x0f) !== 8
    try {
      decoded = await (isRaw ? decompressRaw(decoded, options) : decompress[name](decoded, options))
    } catch (error) {
      const isTooLarge = error instanceof RangeError
      throw new CodingError(
        isTooLarge ? 'returned more than 1 MiB' : `returned a body that is not valid ${name}`,
      )
    }
  }
  return decoded
}

/** The content codings of a header, without `identity`. Unexpected characters are removed, because names are shown. */
function namesIn(header: string | string[] | undefined): readonly string[] {
  return [header ?? []]
    .flat()
    .join(',')
    .split(',')
    .map(name =>
      name
        .replace(/[^\w-]/g, '')
        .slice(0, 30)
        .toLowerCase(),
    )
    .filter(name => name !== '' && name !== 'identity')
}

/** The encoding by byte order mark, content type, position of zero bytes (RFC 4627, 3); otherwise UTF-8. */
function charsetOf(body: Buffer, contentType: string): string {
  const [first, second] = body
  if (first === 0xff && second === 0xfe) return 'utf-16le'
  if (first === 0xfe && second === 0xff) return 'utf-16be'
  if (first === 0xef && second === 0xbb) return 'utf-8'
  const [, named] = /;\s*charset\s*=\s*"?([\w.:-]+)/i.exec(contentType) ?? []
  if (first === 0 && second !== undefined && second !== 0) return 'utf-16be'
  if (first !== undefined && first !== 0 && second === 0) return 'utf-16le'
  if (named === undefined) return 'utf-8'
  try {
    return new TextDecoder(named).encoding
  } catch {
    return 'utf-8'
  }
}
