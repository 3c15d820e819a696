import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fchmodSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'

/** Only the owner can read and write the file. */
const PRIVATE = 0o600

/** A temporary file younger than this may belong to a process that is still writing it. */
const LEFT_OVER_AFTER_MS = 60_000

/**
 * Replaces a file as a whole: after a crash, it contains either the old text or the new one.
 *
 * The new text is first written to a temporary file in the same directory. That file is created exclusively, under a random
 * name, so that a link or file placed there by another user is never written to. The file keeps its mode; a new one is
 * private. A symbolic link stays one.
 *
 * @throws if that fails; the file is then unchanged, and the temporary file is removed.
 */
export function replaceFile(file: string, text: string | Uint8Array): void {
  const { target, mode } = targetOf(file)
  const temporary = `${target}.${randomBytes(8).toString('hex')}.new`
  // `wx` is O_CREAT with O_EXCL, which does not follow a link.
  const descriptor = openSync(temporary, 'wx', PRIVATE)
  try {
    try {
      // Not `writeSync`: when the disk fills up, it writes only a part and reports success.
      writeFileSync(descriptor, text)
      fchmodSync(descriptor, mode)
      // The old file is replaced only after the new one is on disk.
      fsyncSync(descriptor)
    } finally {
      closeSync(descriptor)
    }
    renameSync(temporary, target)
  } catch (error) {
    // The disk may be full.
    removeQuietly(temporary)
    throw error
  }
}

/**
 * Removes the temporary files that `replaceFile` leaves if the process is killed: only regular files of this user with such
 * a name. Errors are ignored.
 */
export function removeLeftovers(file: string, now: number): void {
  try {
    const { target } = targetOf(file)
    const start = `${basename(target)}.`
    for (const name of readdirSync(dirname(target))) {
      if (!name.startsWith(start) || !/^[0-9a-f]{16}\.new$/.test(name.slice(start.length))) continue
      const path = join(dirname(target), name)
      const stats = lstatSync(path)
      const isOurs = stats.isFile() && stats.uid === process.getuid?.()
      if (isOurs && now - stats.mtimeMs > LEFT_OVER_AFTER_MS) unlinkSync(path)
    }
  } catch {}
}

/** The file that links resolve to, and its mode. */
function targetOf(file: string): { readonly target: string; readonly mode: number } {
  try {
    const target = realpathSync(file)
    const stats = statSync(target)
    // A device must not be replaced by a file.
    if (!stats.isFile()) throw new Error(`${file} is not a regular file`)
    return { target, mode: stats.mode & 0o777 }
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
    return { target: file, mode: PRIVATE }
  }
}

function removeQuietly(file: string): void {
  try {
    rmSync(file, { force: true })
  } catch {}
}
