import { connect, type Socket } from 'node:net'
import type { RawAnswer } from './raw-request.js'

const TIMEOUT_MS = 10_000

/** What to send, byte for byte (Latin-1). */
export interface KeptRequest {
  readonly method: string
  readonly target: string
  readonly fields?: readonly string[]
  readonly body?: string
}

/**
 * One connection for many sequential requests, none of which passes through a URL parser.
 *
 * It is reopened when the server closes it. A connection that is closed without a response gives status 0.
 */
export class KeepAlive {
  readonly #host: string
  readonly #port: number
  #socket: Socket | undefined
  #isUsed = false

  constructor(url: string) {
    const { hostname, port } = new URL(url)
    this.#host = hostname
    this.#port = Number(port)
  }

  async send(request: KeptRequest): Promise<RawAnswer> {
    const wasUsed = this.#isUsed && this.#socket?.destroyed === false
    const answer = await this.#exchange(request)
    // A server may close an idle connection at the moment of the next request: that reveals nothing about the request.
    return answer.status === 0 && wasUsed ? this.#exchange(request) : answer
  }

  close(): void {
    this.#socket?.destroy()
    this.#socket = undefined
  }

  #exchange({ method, target, fields = [], body = '' }: KeptRequest): Promise<RawAnswer> {
    if (this.#socket === undefined || this.#socket.destroyed || !this.#socket.writable) {
      this.#isUsed = false
      this.#socket = connect({ host: this.#host, port: this.#port, noDelay: true })
    }
    const socket = this.#socket
    return new Promise((resolve, reject) => {
      let text = ''
      const done = (answer: RawAnswer, reusable: boolean) => {
        clearTimeout(timer)
        socket.removeAllListeners()
        this.#isUsed = reusable
        if (!reusable) {
          socket.on('error', () => undefined)
          this.close()
        }
        resolve(answer)
      }
      const timer = setTimeout(() => {
        this.close()
        reject(new Error(`${JSON.stringify(`${method} ${target}`)} got no complete response: ${text}`))
      }, TIMEOUT_MS)
      socket.on('data', chunk => {
        text += chunk.toString('latin1')
        const answer = answerIn(text, false)
        if (answer !== undefined) done(answer, answer.headers.connection?.toLowerCase() !== 'close')
      })
      socket.on('error', () => undefined)
      socket.once('close', () => done(answerIn(text, true) ?? { status: 0, headers: {}, body: text }, false))
      const head = [
        `${method} ${target} HTTP/1.1`,
        `Host: ${this.#host}:${this.#port}`,
        'Content-Type: application/json',
        `Content-Length: ${Buffer.byteLength(body)}`,
        ...fields,
      ]
      socket.write(Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`, 'latin1'))
    })
  }
}

/** The response at the front of `text`, once it is complete. */
function answerIn(text: string, isEnd: boolean): RawAnswer | undefined {
  const end = text.indexOf('\r\n\r\n')
  if (end === -1) return undefined
  const [statusLine = '', ...lines] = text.slice(0, end).split('\r\n')
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine)?.[1] ?? 0)
  const headers = Object.fromEntries(
    lines.map(line => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
    }),
  )
  const rest = text.slice(end + 4)
  if (status === 204 || status === 304) return { status, headers, body: '' }
  if (headers['transfer-encoding'] === 'chunked') {
    const body = unchunked(rest)
    return body === undefined ? undefined : { status, headers, body }
  }
  const length = headers['content-length']
  if (length === undefined) return isEnd ? { status, headers, body: rest } : undefined
  return rest.length < Number(length) ? undefined : { status, headers, body: rest.slice(0, Number(length)) }
}

function unchunked(text: string): string | undefined {
  let body = ''
  for (let at = 0; ; ) {
    const line = /^([0-9a-f]+)[^\r]*\r\n/i.exec(text.slice(at, at + 100))
    if (line === null) return undefined
    const start = at + line[0].length
    const length = Number.parseInt(line[1] ?? '', 16)
    if (length === 0) return text.endsWith('\r\n\r\n') ? body : undefined
    body += text.slice(start, start + length)
    at = start + length + 2
  }
}

/** Sends every request over this many connections in parallel, and returns the responses in order. */
export async function sendAll(
  url: string,
  requests: readonly KeptRequest[],
  connections = 8,
): Promise<readonly RawAnswer[]> {
  const answers: RawAnswer[] = []
  let next = 0
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const connection = new KeepAlive(url)
      try {
        for (let index = next++; index < requests.length; index = next++) {
          const request = requests[index]
          if (request !== undefined) answers[index] = await connection.send(request)
        }
      } finally {
        connection.close()
      }
    }),
  )
  return answers
}
