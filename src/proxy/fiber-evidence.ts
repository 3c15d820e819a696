import { constants, createBrotliDecompress, createGunzip, createInflate } from 'node:zlib'
import { missingFiberFields } from '../domain/configure-request.js'

/** How much of a response is looked at, after decompression; all of it reaches the client. */
export const MAX_EXCERPT_BYTES = 65_536

/** How `missingFiberFields` recognises focus-server's words, in lower case. */
const WORDS = 'missing required fiber metadata field'

/** The words with what may be the beginning of their list: nothing has followed that is no part of it. */
const MAY_GO_ON = /^missing required fiber metadata field(s?|s?:[\w.,\s]*)$/i

/** How long the list of missing fields can be: 32 names of 64 characters, and what separates them. */
const MAX_LIST_LENGTH = 3000

/** What has come of a body that breaks off is decoded all the same. */
const AS_FAR_AS_IT_GOES = { finishFlush: constants.Z_SYNC_FLUSH }
const gzip = () => createGunzip(AS_FAR_AS_IT_GOES)

/** Decoders of the content codings (RFC 9110, 8.4.1) that are read. */
const DECODERS = {
  gzip,
  'x-gzip': gzip,
  deflate: () => createInflate(AS_FAR_AS_IT_GOES),
  br: () => createBrotliDecompress({ finishFlush: constants.BROTLI_OPERATION_FLUSH }),
} as const

/** Takes the beginning of a body; `end` is called when no more of it comes. */
type Reader = { readonly write: (piece: Buffer) => void; readonly end: () => void }

/** Reads the beginning of a response's body, decoded, while it passes. */
export class ResponseExcerpt {
  readonly #reader: Reader
  readonly #decoder: ReturnType<(typeof DECODERS)[keyof typeof DECODERS]> | undefined
  #length = 0
  #encodedLength = 0
  #hasEnded = false

  /**
   * @param coding the response's `Content-Encoding`; what cannot be decoded is read as an empty body.
   */
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

  /** False as soon as nothing more of the body is of use. */
  get isReading(): boolean {
    return !this.#hasEnded
  }

  /** Reads one more piece. */
  write(piece: Buffer): void {
    if (this.#hasEnded) return
    if (this.#decoder === undefined) {
      this.#take(piece)
      return
    }
    // As much as is read of a plain body; the decoder must not be given more than it has taken.
    const part = piece.subarray(0, MAX_EXCERPT_BYTES - this.#encodedLength)
    if (part.length === 0) return
    this.#encodedLength += part.length
    this.#decoder.write(part)
    if (this.#encodedLength >= MAX_EXCERPT_BYTES) this.#decoder.end()
  }

  /** The body has ended, or broken off. */
  end(): void {
    if (this.#decoder === undefined) this.#end()
    else if (!this.#hasEnded && !this.#decoder.writableEnded) this.#decoder.end()
  }

  /** Stops reading, because nothing more is of use. */
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
 * Looks for focus-server's words about missing fiber metadata, in time that grows with the text and not with the number
 * of its pieces: what was searched once is not searched again.
 *
 * @param done is called once: with the missing fields as soon as they are known, or with undefined at the end.
 */
export function fiberEvidence(done: (missing: readonly string[] | undefined) => void): Reader {
  /** Begins with the words, or is what may be their beginning. */
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
      if (text.length < MAX_LIST_LENGTH && MAY_GO_ON.test(text)) return
      const missing = missingFiberFields(text)
      if (missing !== undefined) return finish(missing)
      text = text.slice(WORDS.length)
    }
    text = text.slice(Math.max(0, text.length - WORDS.length + 1))
  }
  return {
    write(piece) {
      if (isDone) return
      // The words are ASCII, whatever the rest is.
      text += piece.toString('latin1')
      search()
    },
    end() {
      finish(missingFiberFields(text))
    },
  }
}

/** Collects the text of a small document. */
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
