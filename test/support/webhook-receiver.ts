import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { TestContext } from 'node:test'
import { until } from './harness.js'
import { portOf } from './raw.js'

/** A POST as it reached a receiver. */
export type Received = {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  /** As it was sent: a signature covers the bytes. */
  readonly text: string
  readonly body: unknown
  /** By `performance.now()`. */
  readonly atMs: number
}

/** What a receiver does with a POST: responds with a status, or as the function chooses, possibly never. */
export type Answer = number | ((response: ServerResponse) => void)

/** Accepts the request and never responds. */
export const hang: Answer = () => undefined

/** An external HTTP server on loopback that receives notifications about outages. */
export type Receiver = {
  readonly url: string
  readonly received: readonly Received[]
  /** The `type` of each message in the plain format, in the order of arrival. */
  readonly types: () => readonly unknown[]
  /** Waits until this many have arrived; returns the last one. */
  readonly nth: (count: number) => Promise<Received>
}

/**
 * Starts a receiver for the duration of a test.
 *
 * @param answer what to do with the POST with this index, counted from 0; 200 by default.
 */
export async function receiver(
  t: TestContext,
  answer: (index: number, path: string) => Answer = () => 200,
  port = 0,
): Promise<Receiver> {
  const received: Received[] = []
  const server = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', chunk => {
      text += chunk
    })
    request.once('end', () => {
      const { url: path = '', headers } = request
      const index =
        received.push({ path, headers, text, body: JSON.parse(text), atMs: performance.now() }) - 1
      const what = answer(index, path)
      if (typeof what === 'number') response.writeHead(what).end()
      else what(response)
    })
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${portOf(server)}`,
    received,
    types: () => received.map(({ body }) => typeOf(body)),
    nth: count =>
      until(() => received[count - 1], { what: `notification ${count} has arrived`, timeoutMs: 20_000 }),
  }
}

function typeOf(body: unknown): unknown {
  return typeof body === 'object' && body !== null && 'type' in body ? body.type : undefined
}
