import { isUtf8 } from 'node:buffer'
import { closeSync, openSync, readSync } from 'node:fs'

/**
 * The text of a file, or the problem: "does not exist (ENOENT)". It follows "a file that" or "x.yaml, which" in
 * messages.
 */
export type FileText =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly problem: string }

/** A larger file is not a configuration, and a device may have no end. */
const MAX_BYTES = 1_048_576

const PROBLEMS: ReadonlyMap<unknown, string> = new Map([
  ['ENOENT', 'does not exist'],
  ['ENOTDIR', 'does not exist, because part of its path is not a directory'],
  ['EISDIR', 'is a directory'],
  ['EACCES', 'this user may not read'],
  ['EPERM', 'this user may not read'],
  ['ELOOP', 'is in a loop of symbolic links'],
  ['ENAMETOOLONG', 'has a name that is too long'],
  ['ENXIO', 'is not a regular file'],
  ['ERR_INVALID_ARG_VALUE', 'has a NUL character in its path'],
])

/** Reads a file as UTF-8, with or without a byte order mark. */
export function readText(file: string): FileText {
  let bytes: Buffer
  try {
    bytes = readBytes(file)
  } catch (error) {
    return { ok: false, problem: problemOfReading(error) }
  }
  const problem = bytes.length > MAX_BYTES ? `has more than ${MAX_BYTES} bytes` : problemOfCoding(bytes)
  if (problem !== undefined) return { ok: false, problem }
  return { ok: true, text: bytes.toString('utf8').replace(/^\uFEFF/, '') }
}

/** Describes why a file cannot be read, without its path. */
export function problemOfReading(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  const known = PROBLEMS.get(code)
  if (known === undefined) return `cannot be read${code === undefined ? '' : ` (${code})`}`
  return code === 'ERR_INVALID_ARG_VALUE' ? known : `${known} (${code})`
}

function readBytes(file: string): Buffer {
  const descriptor = openSync(file, 'r')
  try {
    // The size is not known in advance, because the file may be a pipe.
    const buffer = Buffer.alloc(MAX_BYTES + 1)
    let length = 0
    for (;;) {
      const count = readSync(descriptor, buffer, length, buffer.length - length, null)
      length += count
      if (count === 0 || length === buffer.length) return buffer.subarray(0, length)
    }
  } finally {
    closeSync(descriptor)
  }
}

function problemOfCoding(bytes: Buffer): string | undefined {
  const [first, second] = bytes
  const hasMark = (first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)
  const isHalfZero = bytes.length >= 2 && (first === 0) !== (second === 0)
  if (hasMark || isHalfZero) return 'is in UTF-16, not UTF-8; save it as UTF-8'
  if (bytes.includes(0)) return 'is binary, not text'
  if (isUtf8(bytes)) return undefined
  // The first byte that differs is where the decoder inserted a replacement character.
  const decoded = Buffer.from(bytes.toString('utf8'))
  const at = bytes.findIndex((byte, index) => byte !== decoded[index])
  const before = bytes.subarray(0, at).toString('utf8').split('\n')
  const position = `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}`
  return `is not valid UTF-8 at ${position}; save it as UTF-8`
}
