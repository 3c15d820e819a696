import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'

/** How a client reads. */
export type Reading = 'at once' | 'slowly' | 'not at all'

const SLOW_BYTES = 512 * 1024
const SLOW_PAUSE_MS = 25

const PIECES = 8
const PIECE_PAUSE_MS = 40

/** How much of the beginning and of the end of the received data is kept. */
const KEPT_CHARACTERS = 4096

/** A client that reads at any rate, sends at any rate, and leaves in a chosen manner. */
export class PacedClient {
  /** What was received. */
  bytes = 0
  isClosed = false
  readonly #socket: Socket
  /** The TCP connection below TLS, or the same socket. */
  readonly #tcp: Socket
  #start = ''
  #end = ''
  #untilPause = SLOW_BYTES
  #pause: NodeJS.Timeout | undefined

  private constructor(socket: Socket, tcp: Socket, reading: Reading) {
    this.#socket = socket
    this.#tcp = tcp
    for (const each of [socket, tcp]) each.on('error', () => undefined)
    socket.once('close', () => {
      this.isClosed = true
      clearTimeout(this.#pause)
    })
    if (reading === 'not at all') socket.pause()
    else socket.on('data', chunk => this.#receive(chunk, reading))
  }

  /** Connects, optionally over TLS without checking the certificate. */
  static async connect(
    t: TestContext,
    url: string,
    options: { readonly reading?: Reading; readonly localAddress?: string } = {},
  ): Promise<PacedClient> {
    const { reading = 'at once', localAddress = '127.0.0.1' } = options
    const { protocol, port } = new URL(url)
    const tcp = connect({ port: Number(port), host: '127.0.0.1', localAddress, noDelay: true })
    t.after(() => tcp.destroy())
    const isSecure = protocol === 'https:'
    const socket = isSecure ? connectTls({ socket: tcp, rejectUnauthorized: false }) : tcp
    const client = new PacedClient(socket, tcp, reading)
    await once(socket, isSecure ? 'secureConnect' : 'connect')
    return client
  }

  send(text: string): void {
    this.#socket.write(text, 'latin1')
  }

  /** Sends the text in eight pieces with pauses between them, or only the first of these. */
  async sendSlowly(text: string, pieces = PIECES): Promise<void> {
    const length = Math.ceil(text.length / PIECES)
    for (let piece = 0; piece < pieces && !this.isClosed; piece += 1) {
      if (piece > 0) await delay(PIECE_PAUSE_MS)
      this.send(text.slice(piece * length, (piece + 1) * length))
    }
  }

  /** Whether this text is at the beginning or at the end of the received data. */
  has(text: string): boolean {
    return this.#start.includes(text) || this.#end.includes(text)
  }

  /** What was received, for an assertion message. */
  get summary(): string {
    return `${this.bytes} bytes${this.isClosed ? ', closed' : ''}: ${JSON.stringify(this.#start.slice(0, 600))}`
  }

  /** Closes the connection, or resets it. */
  leave(how: 'closes' | 'resets'): void {
    if (how === 'closes') this.#socket.destroy()
    else this.#tcp.resetAndDestroy()
  }

  /** Sends its FIN, and continues to read. */
  halfClose(): void {
    this.#socket.end()
  }

  #receive(chunk: Buffer, reading: Reading): void {
    this.bytes += chunk.length
    if (this.#start.length < KEPT_CHARACTERS) this.#start += chunk.toString('latin1', 0, KEPT_CHARACTERS)
    this.#end = (this.#end + chunk.toString('latin1', Math.max(0, chunk.length - KEPT_CHARACTERS))).slice(
      -KEPT_CHARACTERS,
    )
    if (reading !== 'slowly') return
    this.#untilPause -= chunk.length
    if (this.#untilPause > 0) return
    this.#untilPause = SLOW_BYTES
    this.#socket.pause()
    this.#pause = setTimeout(() => this.#socket.resume(), SLOW_PAUSE_MS)
  }
}
