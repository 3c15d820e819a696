import { constants, createBrotliDecompress, createGunzip, createInflate } from 'node:zlib'
import { missingFiberFields } from '../domain/configure-request.js'

/** How many bytes of a decompressed response are searched. The client receives the whole response. */
export const MAX_EXCERPT_BYTES = 65_536

/** The words by which `missingFiberFields` recognises focus-server's text, in lower case. */
const WORDS = 'missing required fiber metadata field'

/** The words, followed only by characters that may belong to an unfinished list of fields. */
const MAY_CONTINUE = /^missing required fiber metadata field(s?|s?:[\w.,\s]*)$/i

/** The maximum length of the list of missing fields: 32 names of 64 characters, with separators. */
const MAX_LIST_LENGTH = 3000

/** Decodes as much as possible of a truncated body. */
const PARTIAL = { finishFlush: constants.Z_SYNC_FLUSH }
const gzip = () => createGunzip(PARTIAL)

/** Decoders of the supported content codings (RFC 9110, 8.4.1). */
const DECODERS = {
  gzip,
  'x-gzip': gzip,
  deflate: () => createInflate(PARTIAL),
  br: () => createBrotliDecompress({ finishFlush: constants.BROTLI_OPERATION_FLUSH }),
} as const

/** Receives the start of a body; `end` is called when there is no more of it. */
type Reader = { readonly write: (piece: Buffer) => void; readonly end: () => void }

/** Decodes the start of a response body while it is forwarded. */
export class ResponseExcerpt {
  readonly #reader: Reader
  readonly #decoder: ReturnType<(typeof DECODERS)[keyof typeof DECODERS]> | undefined
  #length = 0
  #encodedLength = 0
  #hasEnded = false

  /** @param coding the response's `Content-Encoding`. A body that cannot be decoded counts as empty. */
  constructor(coding: string | undefined, reader: Reader) {
    this.#reader = reader
    const name = coding?.trim().toLowerCase() ?? 'identity'
    if (name === 'identity' || name === '') return
    const decoder = isDecodable(name) ? DECODERS[name]() : undefined
    this.#decoder = decoder
    if (decoder === undefined) this.#end()
    decoder?.on('data', (piece: Buffer) => this.#take(piece))
    decoder?.on('end', () => this.#end())
    decoder?.on('error', () => this.#end())
  }

  /** False once the rest of the body is not needed. */
  get isReading(): boolean {
    return !this.#hasEnded
  }

  /** Reads one more chunk. */
  write(piece: Buffer): void {
    if (this.#hasEnded) return
    if (this.#decoder === undefined) {
      this.#take(piece)
      return
    }
    // The same limit as for a plain body. More input than the decoder needs would only fill its buffer.
    const part = piece.subarray(0, MAX_EXCERPT_BYTES - this.#encodedLength)
    if (part.length === 0) return
    this.#encodedLength += part.length
    this.#decoder.write(part)
    if (this.#encodedLength >= MAX_EXCERPT_BYTES) this.#decoder.end()
  }

  /** Call when the body has ended or was aborted. */
  end(): void {
    if (this.#decoder === undefined) this.#end()
    else if (!this.#hasEnded && !this.#decoder.writableEnded) this.#decoder.end()
  }

  /** Stops reading, because the rest is not needed. */
  stop(): void {
    this.#end()
  }

  #take(piece: Buffer): void {
    if (this.#hasEnded) return
    const part = piece.subarray(0, MAX_EXCERPT_BYTES - this.#length)
    this.#length += part.length
    this.#reader.write(part)
    if (this.#length >= MAX_EXCERPT_BYTES) this.#end()
  }

  #end(): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#decoder?.destroy()
    this.#reader.end()
  }
}

/**
 * Searches for focus-server's text about missing fiber metadata. The time depends on the length of the text, not on the
 * number of chunks: no part is searched twice.
 *
 * @param done called once: with the missing fields as soon as they are known, or with undefined at the end.
 */
export function fiberEvidence(done: (missing: readonly string[] | undefined) => void): Reader {
  /** Starts with the words, or with what may be their start. */
  let text = ''
  let isDone = false
  const finish = (missing: readonly string[] | undefined) => {
    if (isDone) return
    isDone = true
    done(missing)
  }
  const search = () => {
    for (
      let start = text.toLowerCase().indexOf(WORDS);
      start !== -1;
      start = text.toLowerCase().indexOf(WORDS)
    ) {
      text = text.slice(start)
      if (text.length < MAX_LIST_LENGTH && MAY_CONTINUE.test(text)) return
      const missing = missingFiberFields(text)
      if (missing !== undefined) return finish(missing)
      text = text.slice(WORDS.length)
    }
    text = text.slice(Math.max(0, text.length - WORDS.length + 1))
  }
  return {
    write(piece) {
      if (isDone) return
      // The words are ASCII, whatever the rest of the text is.
      text += piece.toString('latin1')
      search()
    },
    end() {
      finish(missingFiberFields(text))
    },
  }
}

/** Collects the whole text of a small document. */
export function wholeText(done: (text: string) => void): Reader {
  const pieces: Buffer[] = []
  return {
    write(piece) {
      pieces.push(piece)
    },
    end() {
      done(Buffer.concat(pieces).toString('utf8'))
    },
  }
}

function isDecodable(name: string): name is keyof typeof DECODERS {
  return Object.hasOwn(DECODERS, name)
}
