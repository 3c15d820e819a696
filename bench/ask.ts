import { request as httpRequest } from 'node:http'

/** A whole response. */
export type Answer = {
  readonly status: number
  /** Names and values alternately, as received. */
  readonly headers: readonly string[]
  readonly body: Buffer
}

/** How long one response may take. */
const TIMEOUT_MS = 10_000

/**
 * Sends one request on its own connection and reads the whole response.
 *
 * @throws if the connection fails or the response is not complete within 10 s.
 */
export function ask(url: string, method: string, path: string, body: string | Buffer = ''): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers =
      body.length === 0
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    httpRequest(`${url}${path}`, { method, headers, agent: false, signal }, response => {
      const chunks: Buffer[] = []
      response.on('data', chunk => chunks.push(chunk))
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.rawHeaders,
          body: Buffer.concat(chunks),
        }),
      )
      response.on('error', reject)
    })
      .on('error', error =>
        reject(new Error(`${method} ${url}${path} failed: ${error.message}`, { cause: error })),
      )
      .end(body)
  })
}

/** The value of a header of a response, or undefined. */
export function headerOf({ headers }: Answer, name: string): string | undefined {
  const index = headers.findIndex((each, at) => at % 2 === 0 && each.toLowerCase() === name)
  return index === -1 ? undefined : headers[index + 1]
}

/** The value at a path of keys in a JSON text, or undefined if one of the keys is missing. */
export function jsonAt(text: Buffer, ...keys: readonly string[]): unknown {
  let found: unknown = JSON.parse(text.toString())
  for (const key of keys) {
    if (typeof found !== 'object' || found === null) return undefined
    found = Reflect.get(found, key)
  }
  return found
}
