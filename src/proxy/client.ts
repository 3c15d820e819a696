import type { IncomingMessage } from 'node:http'
import type { Client } from '../breaker/events.js'
import { pathOf } from '../domain/guarded-route.js'

/** Limits for strings that a client could otherwise make as long as a request head. */
const MAX_AGENT_LENGTH = 200
const MAX_REQUEST_LENGTH = 200

/** The header that names a test run: at most 64 characters that are safe in a path and in a log. */
const RUN_HEADER = 'x-test-run'
const RUN = /^[A-Za-z0-9._-]{1,64}$/

/** The parts of a request that distinguish a retry from a new request. */
export type Asked = Pick<IncomingMessage, 'method' | 'url'>

/**
 * Describes the client that sends a request.
 *
 * @param address as `clientView` returns it.
 * @param asked the request that the client wants to make; it may differ from `received`.
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

/** The test run that a request names; undefined without a name or with one that is not safe to show. */
export function runOf({ headers }: IncomingMessage): string | undefined {
  const run = headers[RUN_HEADER]
  return typeof run === 'string' && RUN.test(run) ? run : undefined
}
