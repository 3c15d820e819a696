import { connect } from 'node:net'

/** An HTTP response as received over the wire. */
export interface RawAnswer {
  readonly status: number
  /** By lower-case name; the last value of a repeated header. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

const TIMEOUT_MS = 10_000

/**
 * Sends one request whose target does not pass through a URL parser, and reads until the server closes.
 *
 * Rejects if the response is not complete within ten seconds.
 */
export function rawRequest(
  url: string,
  request: { readonly method: string; readonly target: string; readonly body?: string },
): Promise<RawAnswer> {
  const { hostname, port, host } = new URL(url)
  const body = request.body ?? ''
  const head = [
    `${request.method} ${request.target} HTTP/1.1`,
    `Host: ${host}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  ]
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const socket = connect({ host: hostname, port: Number(port) })
    socket.setTimeout(TIMEOUT_MS, () => {
      const sofar = Buffer.concat(chunks).toString('latin1')
      socket.destroy(new Error(`${request.method} ${request.target} got no complete response: ${sofar}`))
    })
    socket.on('error', reject)
    socket.on('data', chunk => chunks.push(chunk))
    // Both sides stay open until the server closes: these clients do not half-close.
    socket.on('end', () => resolve(parse(Buffer.concat(chunks).toString('utf8'))))
    socket.write(`${head.join('\r\n')}\r\n\r\n${body}`, 'latin1')
  })
}

function parse(answer: string): RawAnswer {
  const end = answer.indexOf('\r\n\r\n')
  const [statusLine = '', ...fields] = answer.slice(0, end).split('\r\n')
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine)?.[1])
  if (end < 0 || Number.isNaN(status)) throw new Error(`not an HTTP response: ${JSON.stringify(answer)}`)
  const headers = fields.map(field => {
    const colon = field.indexOf(':')
    return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()] as const
  })
  return { status, headers: Object.fromEntries(headers), body: answer.slice(end + 4) }
}
