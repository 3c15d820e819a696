import type { IncomingMessage } from 'node:http'
import type { Client } from '../breaker/events.js'
import { pathOf } from '../domain/guarded-route.js'

/** How much is kept of texts that anybody can make as long as a head may be. */
const MAX_AGENT_LENGTH = 200
const MAX_REQUEST_LENGTH = 200

/** The header by which a test run names itself: at most 64 characters that are safe in a path and a log. */
const RUN_HEADER = 'x-test-run'
const RUN = /^[A-Za-z0-9._-]{1,64}$/

/** A request, as far as it tells one that is tried again from another one. */
export type Asked = Pick<IncomingMessage, 'method' | 'url'>

/**
 * Who sends a request.
 *
 * @param address as `clientView` gives it.
 * @param asked what the client wants, where that is another request than this one.
 */
export function clientOf(address: string, received: IncomingMessage, asked: Asked): Client {
  const { headers } = received
  const request = `${asked.method ?? ''} ${pathOf(asked.url ?? '')} ${headers['content-length'] ?? ''}`
  return {
    address,
    userAgent: (headers['user-agent'] ?? '').slice(0, MAX_AGENT_LENGTH),
    request: request.slice(-MAX_REQUEST_LENGTH),
    run: runOf(received),
  }
}

/** The test run that a request names; undefined where it names none, or none that is fit to show. */
export function runOf({ headers }: IncomingMessage): string | undefined {
  const run = headers[RUN_HEADER]
  return typeof run === 'string' && RUN.test(run) ? run : undefined
}
