import { promisify } from 'node:util'
import { brotliDecompress, gunzip, inflate, inflateRaw } from 'node:zlib'

/** A response as text, and how it was read: for people who look for what is wrong with it. */
export type MetadataText = { readonly text: string; readonly readAs: string }

/** Headers by lower-case name, as undici gives them. */
export type Fields = Readonly<Record<string, string | string[] | undefined>>

/** More codings on top of each other than this are not decoded. */
const MAX_CODINGS = 3

const decompress = {
  gzip: promisify(gunzip),
  deflate: promisify(inflate),
  br: promisify(brotliDecompress),
} as const

/** Some servers mean the bare stream by `deflate` (RFC 9110, 8.4.1.2). */
const decompressRaw = promisify(inflateRaw)

/** A response whose coding cannot be undone; `problem` is for people. */
export class CodingError extends Error {
  override readonly name = 'CodingError'
  readonly problem: string

  constructor(problem: string) {
    super(problem)
    this.problem = problem
  }
}

/**
 * The text of a response, without its content coding, in whatever Unicode or other character coding it is.
 *
 * @param maxBytes the most that it may have when it is decoded.
 * @throws CodingError
 */
export async function textOf(body: Buffer, fields: Fields, maxBytes: number): Promise<MetadataText> {
  const codings = namesIn(fields['content-encoding'])
  const decoded = await withoutCodings(body, codings, maxBytes)
  const contentType = fields['content-type']?.toString() ?? ''
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
  if (codings.length > MAX_CODINGS) throw new CodingError('answered in too many content codings')
  let decoded = body
  // The last coding was applied last (RFC 9110, 8.4).
  for (const coding of codings.toReversed()) {
    const name = coding === 'x-gzip' ? 'gzip' : coding
    if (name !== 'gzip' && name !== 'deflate' && name !== 'br') {
      throw new CodingError(`answered in the content coding ${coding}, which cannot be read`)
    }
    const options = { maxOutputLength: maxBytes }
    const isRaw = name === 'deflate' && ((decoded[0] ?? 0) & 0x0f) !== 8
    try {
      decoded = await (isRaw ? decompressRaw(decoded, options) : decompress[name](decoded, options))
    } catch (error) {
      const isTooLarge = error instanceof RangeError
      throw new CodingError(
        isTooLarge ? 'answered more than 1 MiB' : `answered something that is not ${name}, as it says`,
      )
    }
  }
  return decoded
}

/** The names of a list, without `identity`, which is none; of an odd name only what may be shown. */
function namesIn(field: string | string[] | undefined): readonly string[] {
  return [field ?? []]
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

/** By its byte order mark, else by its content type, else by where its zeros are (RFC 4627, 3), else UTF-8. */
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
