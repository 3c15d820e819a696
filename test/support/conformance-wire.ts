import { createHash, type Hash } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** A header as received: its name in lower case, its value as Latin-1. */
export type Field = readonly [name: string, value: string]

/** A request or a response as received over the wire. */
export interface Message {
  /** The request line or the status line. */
  readonly line: string
  readonly fields: readonly Field[]
  readonly length: number
  readonly sha256: string
  /** The first 4 KiB of the body. */
  readonly text: string
  readonly trailers: readonly Field[]
  /** Whether the body reached the end that its framing announced. */
  readonly whole: boolean
}

/** The status of a response; NaN if the line is not a status line. */
export function statusOf({ line }: Message): number {
  return Number(/^HTTP\/1\.[01] (\d{3})/.exec(line)?.[1])
}

const EXCERPT_BYTES = 4096
const CRLF = Buffer.from('\r\n')

class Draft {
  readonly line: string
  readonly fields: readonly Field[]
  readonly #hash: Hash = createHash('sha256')
  length = 0
  text = ''
  trailers: readonly Field[] = []

  constructor(head: string) {
    const [line = '', ...fields] = head.split('\r\n')
    this.line = line
    this.fields = fieldsOf(fields)
  }

  add(piece: Buffer): void {
    this.#hash.update(piece)
    this.length += piece.length
    if (this.text.length < EXCERPT_BYTES) this.text += piece.toString('latin1', 0, EXCERPT_BYTES)
  }

  message(whole: boolean): Message {
    const { line, fields, length, text, trailers } = this
    return { line, fields, length, sha256: this.#hash.digest('hex'), text, trailers, whole }
  }
}

function fieldsOf(lines: readonly string[]): readonly Field[] {
  return lines.map(line => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const
  })
}

/** The events of a reader. */
export interface Listener {
  /** The headers of a message are complete. */
  head?(message: Pick<Message, 'line' | 'fields'>): void
  /** A message has ended, complete or truncated. */
  message(message: Message): void
  /** Bytes after an upgrade. */
  tunnel?(bytes: Buffer): void
}

type Stage = 'head' | 'length' | 'size' | 'chunk' | 'chunk-end' | 'trailers' | 'to-the-end' | 'tunnel'

/** Reads HTTP/1 messages of any size as they arrive, neither as lenient nor as strict as a library. */
export class WireReader {
  readonly #listener: Listener
  /** The methods whose responses are read, in order; undefined if requests are read. */
  readonly #methods: string[] | undefined
  #stage: Stage = 'head'
  #pending: Buffer = Buffer.alloc(0)
  #left = 0
  #draft: Draft | undefined

  constructor(listener: Listener, methods?: readonly string[]) {
    this.#listener = listener
    this.#methods = methods && [...methods]
  }

  /** Everything after this is not HTTP. */
  upgrade(): void {
    this.#stage = 'tunnel'
  }

  feed(bytes: Buffer): void {
    this.#pending = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes])
    while (this.#pending.length > 0 && this.#advance());
  }

  /** The connection has ended: the message in progress is complete only if the end of the connection marks its end. */
  end(): void {
    if (this.#draft !== undefined) this.#finish(this.#stage === 'to-the-end')
  }

  #advance(): boolean {
    switch (this.#stage) {
      case 'head': {
        const end = this.#pending.indexOf('\r\n\r\n')
        if (end === -1) return false
        const head = this.#take(end).toString('latin1')
        this.#take(4)
        this.#begin(new Draft(head))
        return true
      }
      case 'size':
      case 'trailers': {
        const end = this.#pending.indexOf(CRLF)
        if (end === -1) return false
        const line = this.#take(end).toString('latin1')
        this.#take(2)
        if (this.#stage === 'size') {
          this.#left = Number.parseInt(line, 16)
          this.#stage = this.#left === 0 ? 'trailers' : 'chunk'
        } else if (line === '') this.#finish(true)
        else if (this.#draft) this.#draft.trailers = [...this.#draft.trailers, ...fieldsOf([line])]
        return true
      }
      case 'chunk-end':
        if (this.#pending.length < 2) return false
        this.#take(2)
        this.#stage = 'size'
        return true
      case 'length':
      case 'chunk': {
        const piece = this.#take(Math.min(this.#left, this.#pending.length))
        this.#left -= piece.length
        this.#draft?.add(piece)
        if (this.#left === 0) {
          if (this.#stage === 'chunk') this.#stage = 'chunk-end'
          else this.#finish(true)
        }
        return true
      }
      case 'to-the-end':
        this.#draft?.add(this.#take(this.#pending.length))
        return true
      case 'tunnel':
        this.#listener.tunnel?.(this.#take(this.#pending.length))
        return true
    }
  }

  #begin(draft: Draft): void {
    this.#draft = draft
    // A listener may declare that a tunnel follows.
    const last = (name: string) => draft.fields.findLast(field => field[0] === name)?.[1]
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(draft.line)?.[1])
    const isAnswer = this.#methods !== undefined
    const isInterim = isAnswer && status < 200 && status !== 101
    const method = isAnswer && !isInterim ? this.#methods?.shift() : undefined
    const isBodiless = isAnswer && (status < 200 || status === 204 || status === 304 || method === 'HEAD')
    const length = last('content-length')
    this.#listener.head?.(draft)
    if (isAnswer && (status === 101 || (method === 'CONNECT' && status < 300))) {
      this.#finish(true)
      this.#stage = 'tunnel'
    } else if (this.#stage === 'tunnel') this.#finish(true, 'tunnel')
    else if (isBodiless) this.#finish(true)
    else if (/chunked/i.test(last('transfer-encoding') ?? '')) this.#stage = 'size'
    else if (length !== undefined && Number(length) > 0) {
      this.#left = Number(length)
      this.#stage = 'length'
    } else if (length === undefined && isAnswer) this.#stage = 'to-the-end'
    else this.#finish(true)
  }

  #finish(whole: boolean, next: Stage = 'head'): void {
    const draft = this.#draft
    this.#draft = undefined
    this.#stage = next
    if (draft !== undefined) this.#listener.message(draft.message(whole))
  }

  #take(count: number): Buffer {
    const taken = this.#pending.subarray(0, count)
    this.#pending = this.#pending.subarray(count)
    return taken
  }
}

/** One step of a sender: send bytes (Latin-1), send many, wait, wait for something, stop reading, or end. */
export type Step =
  | string
  | { readonly bytes: number }
  | { readonly pauseMs: number }
  | { readonly until: RegExp }
  | { readonly stopReadingMs: number }
  | { readonly end: 'half' | 'reset' }

const PIECE = Buffer.alloc(65_536, 'x')

/** Runs the steps on a connection, respecting backpressure; stops when the connection has ended. */
export async function perform(
  socket: Socket,
  steps: readonly Step[],
  received: () => string = () => '',
  isAnswered: () => boolean = () => false,
): Promise<void> {
  for (const step of steps) {
    if (socket.destroyed) return
    if (typeof step === 'string') socket.write(Buffer.from(step, 'latin1'))
    else if ('bytes' in step) await sendMany(socket, step.bytes)
    else if ('pauseMs' in step) await delay(step.pauseMs)
    else if ('until' in step) {
      const deadline = performance.now() + QUIET_MS
      const isHopeless = () => performance.now() >= deadline || socket.destroyed || isAnswered()
      while (!step.until.test(received()) && !isHopeless()) await delay(5)
    } else if ('stopReadingMs' in step) {
      socket.pause()
      await delay(step.stopReadingMs)
      socket.resume()
    } else if (step.end === 'half') socket.end()
    else socket.resetAndDestroy()
  }
}

async function sendMany(socket: Socket, bytes: number): Promise<void> {
  for (let left = bytes; left > 0 && !socket.destroyed; left -= PIECE.length) {
    if (socket.write(PIECE.subarray(0, Math.min(left, PIECE.length)))) continue
    await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => undefined)
  }
}

/** What was received on one connection. */
export interface Conversation {
  readonly answers: readonly Message[]
  /** The 1xx responses, in order. */
  readonly interim: readonly Message[]
  readonly tunnel: string
  /** Whether the server closed the connection as requested, within the time limit. */
  readonly closed: boolean
}

/** After this long without data, nothing more is expected. */
const QUIET_MS = 2000
/** How long a server may take to close the connection after a response that requires it. */
const CLOSE_MS = 1000

const LINE = /^([A-Z-]+) \S+ HTTP\/1\.\d/gm

/**
 * Sends the steps on one connection and reads until every request in them has a response. If the client asked for the
 * end of the connection, waits for that, too.
 */
export async function converse(port: number, steps: readonly Step[]): Promise<Conversation> {
  const sent = steps.filter(step => typeof step === 'string').join('')
  const methods = [...sent.matchAll(LINE)].map(match => match[1] ?? '')
  const asksToClose = /^connection:.*close/im.test(sent) || / HTTP\/1\.0\r\n/.test(sent)
  const answers: Message[] = []
  const interim: Message[] = []
  const tunnel: string[] = []
  let excerpt = ''
  let closed = false
  let heardAt = performance.now()
  const reader = new WireReader(
    {
      message: message => {
        const status = statusOf(message)
        if (status < 200 && status !== 101) interim.push(message)
        else answers.push(message)
      },
      tunnel: bytes => tunnel.push(bytes.toString('latin1')),
    },
    methods,
  )
  const socket = connect(port, '127.0.0.1')
  socket.setNoDelay(true)
  socket.on('error', () => undefined)
  socket.on('data', chunk => {
    heardAt = performance.now()
    if (excerpt.length < 65_536) excerpt += chunk.toString('latin1')
    reader.feed(chunk)
  })
  socket.once('close', () => {
    closed = true
    reader.end()
  })
  const isQuiet = (ms: number) => performance.now() - heardAt > ms
  try {
    let isDone = false
    const isTunnel = () => answers.some(answer => statusOf(answer) === 101)
    // However many are sent in total: nothing more comes for those already sent.
    const isAnswered = () => answers.length > 0 && !isTunnel()
    const done = perform(socket, steps, () => excerpt, isAnswered).then(() => {
      isDone = true
      heardAt = performance.now()
    })
    const isOver = () =>
      closed || (isDone && (isQuiet(QUIET_MS) || (!isTunnel() && answers.length >= methods.length)))
    while (!isOver()) await delay(3)
    heardAt = performance.now()
    if (asksToClose) while (!closed && !isQuiet(CLOSE_MS)) await delay(3)
    // Without a requested close nothing waits for it, so whether it has happened yet is chance.
    const heard = {
      answers: [...answers],
      interim,
      tunnel: tunnel.join(''),
      closed: asksToClose && closed,
    }
    socket.destroy()
    await done
    // A message that is cut off only now was in progress all along.
    return { ...heard, answers }
  } finally {
    socket.destroy()
  }
}
