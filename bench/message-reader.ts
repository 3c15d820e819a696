/** Callbacks for each HTTP message of a connection: the head, the parts of the body, the end. */
export type MessageHandler = {
  /** Receives the head without its final line breaks, and returns the length of the body. */
  readonly head: (head: string) => number
  readonly body?: (part: Buffer) => void
  readonly end: () => void
}

const NOTHING = Buffer.alloc(0)

const HEAD_END = '\r\n\r\n'

/**
 * Splits the bytes of a connection into HTTP messages, each with a head and a body of known length.
 *
 * It understands only what the load generator and the upstream need. A parser for all of HTTP costs more than some
 * of the servers that are measured, and with two cores the bench would then measure its own parser.
 */
export class MessageReader {
  readonly #handler: MessageHandler
  /** The beginning of a head that is not complete. */
  #head: Buffer = NOTHING
  /** Remaining bytes of the body; undefined between messages. */
  #bytesLeft: number | undefined

  constructor(handler: MessageHandler) {
    this.#handler = handler
  }

  /** Takes the next bytes of the connection. */
  read(chunk: Buffer): void {
    let rest = chunk
    while (rest.length > 0) rest = this.#bytesLeft === undefined ? this.#readHead(rest) : this.#readBody(rest)
  }

  #readHead(chunk: Buffer): Buffer {
    const received = this.#head.length === 0 ? chunk : Buffer.concat([this.#head, chunk])
    const end = received.indexOf(HEAD_END)
    this.#head = end === -1 ? received : NOTHING
    if (end === -1) return NOTHING
    this.#expect(this.#handler.head(received.toString('latin1', 0, end)))
    return received.subarray(end + HEAD_END.length)
  }

  #readBody(chunk: Buffer): Buffer {
    const part = chunk.subarray(0, this.#bytesLeft)
    this.#handler.body?.(part)
    this.#expect((this.#bytesLeft ?? 0) - part.length)
    return chunk.subarray(part.length)
  }

  #expect(bytes: number): void {
    this.#bytesLeft = bytes === 0 ? undefined : bytes
    if (bytes === 0) this.#handler.end()
  }
}

/** The value of `Content-Length` in a head, or undefined. */
export function contentLength(head: string): number | undefined {
  const digits = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1]
  return digits === undefined ? undefined : Number(digits)
}
