import { readFileSync, type Stats, statSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'

/** The text of each followed file by path. A file that does not exist has no entry. */
export type Contents = ReadonlyMap<string, string>

/** Files that belong together, such as a certificate and its key, and the functions to call when they change. */
export type FollowedFiles = {
  readonly files: readonly string[]
  /** Applies all contents together. Throws if they cannot be used; the previous contents then stay in force. */
  readonly use: (contents: Contents) => void
  /** Called after changed contents have been applied. */
  readonly renewed: () => void
  /** Called when changed contents cannot be read or used, but only once while the reason stays the same. */
  readonly failed: (error: Error) => void
  /** Whether the files may be missing, or unusable at the start. */
  readonly isOptional?: boolean
}

/** How often the files are checked. A check costs one `stat` for each file. */
const CHECK_EVERY_MS = 5000

/**
 * Follows files on disk, so that changed contents are applied without a restart.
 *
 * The files are polled by path. `fs.watch` does not report updates of a mounted Kubernetes volume: its files are
 * symbolic links through `..data`, and only that link is replaced.
 */
export class FileFollower {
  readonly #groups = new Set<Group>()
  readonly #timer: NodeJS.Timeout
  #checking: Promise<unknown> = Promise.resolve()

  constructor(checkEveryMs = CHECK_EVERY_MS) {
    this.#timer = setInterval(() => void this.checkNow(), checkEveryMs).unref()
  }

  /**
   * Applies the contents now, and again whenever they change.
   *
   * @returns a function that stops following these files.
   * @throws if the contents cannot be read or used now, unless they are optional.
   */
  follow(files: FollowedFiles): () => void {
    const group = new Group(files)
    this.#groups.add(group)
    return () => {
      group.close()
      this.#groups.delete(group)
    }
  }

  /** Checks every file now. Resolves with the files whose changed contents have been applied. */
  checkNow(): Promise<readonly string[]> {
    const check = this.#checking.then(async () => {
      const renewed: string[] = []
      for (const group of this.#groups) renewed.push(...(await group.check()))
      return renewed
    })
    this.#checking = check
    return check
  }

  /** Stops following all files. */
  close(): void {
    clearInterval(this.#timer)
    for (const group of this.#groups) group.close()
    this.#groups.clear()
  }
}

/** The state of one group of files. */
class Group {
  readonly #followed: FollowedFiles
  /** The contents in force. */
  #contents: Contents | undefined
  /** The file metadata when the files were last read. */
  #fingerprint = ''
  /** Why the last contents could not be used. */
  #problem: string | undefined
  #isClosed = false

  constructor(followed: FollowedFiles) {
    this.#followed = followed
    try {
      const contents = new Map<string, string>()
      for (const file of followed.files) {
        const text = this.#orMissing(() => {
          mustBeRegular(statSync(file, { throwIfNoEntry: false }))
          return readFileSync(file, 'utf8')
        })
        if (text !== undefined) contents.set(file, text)
      }
      followed.use(contents)
      this.#contents = contents
    } catch (error) {
      if (followed.isOptional !== true) throw error
      this.#fail(error)
    }
  }

  /** Returns the files if their contents have changed and were applied. */
  async check(): Promise<readonly string[]> {
    const fingerprint = await this.#takeFingerprint()
    if (fingerprint === this.#fingerprint || this.#isClosed) return []
    try {
      const contents = await this.#read()
      // A file is being written, or the link was replaced between two reads. The next check reads the result.
      if ((await this.#takeFingerprint()) !== fingerprint || this.#isClosed) return []
      this.#fingerprint = fingerprint
      if (this.#contents !== undefined && isSame(contents, this.#contents)) {
        this.#problem = undefined
        return []
      }
      this.#followed.use(contents)
      this.#contents = contents
      this.#problem = undefined
    } catch (error) {
      this.#fingerprint = fingerprint
      this.#fail(error)
      return []
    }
    this.#followed.renewed()
    return this.#followed.files
  }

  close(): void {
    this.#isClosed = true
  }

  #fail(cause: unknown): void {
    const error = cause instanceof Error ? cause : new Error(String(cause))
    if (error.message === this.#problem) return
    this.#problem = error.message
    this.#followed.failed(error)
  }

  async #read(): Promise<Contents> {
    const contents = new Map<string, string>()
    for (const file of this.#followed.files) {
      try {
        // `readFile` throws the error of a file that `stat` cannot find.
        mustBeRegular(await stat(file).catch(() => undefined))
        contents.set(file, await readFile(file, 'utf8'))
      } catch (error) {
        if (!this.#mayBeMissing(error)) throw error
      }
    }
    return contents
  }

  #orMissing<T>(read: () => T): T | undefined {
    try {
      return read()
    } catch (error) {
      if (this.#mayBeMissing(error)) return undefined
      throw error
    }
  }

  #mayBeMissing(error: unknown): boolean {
    return (
      this.#followed.isOptional === true &&
      error instanceof Error &&
      'code' in error &&
      error.code === 'ENOENT'
    )
  }

  async #takeFingerprint(): Promise<string> {
    const parts = this.#followed.files.map(async file => {
      try {
        const { dev, ino, size, mtimeNs, ctimeNs, mode } = await stat(file, { bigint: true })
        return [dev, ino, size, mtimeNs, ctimeNs, mode].join()
      } catch (error) {
        return error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
      }
    })
    return (await Promise.all(parts)).join('\n')
  }
}

/**
 * Rejects a pipe: reading it would wait for its writer and block all other followed files. Reading a directory fails at
 * once.
 */
function mustBeRegular(stats: Stats | undefined): void {
  if (stats !== undefined && !stats.isFile() && !stats.isDirectory())
    throw new Error('a followed file is not a regular file')
}

function isSame(left: Contents, right: Contents): boolean {
  return left.size === right.size && [...left].every(([file, text]) => right.get(file) === text)
}
