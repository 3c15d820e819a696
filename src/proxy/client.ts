import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import type { FastifyRequest } from 'fastify'
import type { Client } from '../breaker/events.js'
import { pathOf } from '../domain/guarded-route.js'

/** How much is kept of texts that anybody can make as long as a head may be. */
const MAX_AGENT_LENGTH = 200
const MAX_REQUEST_LENGTH = 200

/** The field by which a test run names itself: at most 64 characters that are safe in a path and a log. */
const RUN_FIELD = 'x-test-run'
const RUN = /^[A-Za-z0-9._-]{1,64}$/

/** A request, as far as it tells one that is tried again from another one. */
export type Asked = Pick<IncomingMessage, 'method' | 'url'>

/**
 * Who sends this request: behind trusted gateways the address that they tell. `asked` is what the client wants,
 * where that is another request than this one.
 */
export function clientOf({ ip, raw }: FastifyRequest, asked: Asked = raw): Client {
  const { headers } = raw
  const request = `${asked.method ?? ''} ${pathOf(asked.url ?? '')} ${headers['content-length'] ?? ''}`
  return {
    // A trusted gateway hands on what its client wrote, which may be anything.
    address: isIP(ip) === 0 ? (raw.socket.remoteAddress ?? '') : ip,
    userAgent: (headers['user-agent'] ?? '').slice(0, MAX_AGENT_LENGTH),
    request: request.slice(-MAX_REQUEST_LENGTH),
    run: runOf(raw),
  }
}

/** The test run that a request says to belong to; undefined where it says none, or none that is fit to show. */
export function runOf({ headers }: IncomingMessage): string | undefined {
  const run = headers[RUN_FIELD]
  return typeof run === 'string' && RUN.test(run) ? run : undefined
}
