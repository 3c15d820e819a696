import type { FastifyReply } from 'fastify'
import type { UpstreamFailure } from '../upstream/failure.js'

/** An answer of our own about a failure: what stands in its body is all there is to know outside of the log. */
type FailureAnswer = {
  readonly statusCode: number
  readonly fields: Readonly<Record<string, string>>
  readonly body: { readonly error: string; readonly message: string; readonly statusCode: number }
}

/** What to answer when no usable answer came from the upstream: 504 where time ran out, else 502. */
export function failureAnswer({ kind, words }: UpstreamFailure): FailureAnswer {
  if (kind === 'proxy_internal_error') {
    const message = 'focus-breaker failed; its log has more.'
    return { statusCode: 500, fields: {}, body: { error: 'Internal Server Error', message, statusCode: 500 } }
  }
  const isTimeout = kind === 'connection_timeout' || kind === 'http_response_timeout'
  const statusCode = isTimeout ? 504 : 502
  const error = isTimeout ? 'Gateway Timeout' : 'Bad Gateway'
  const message = `No usable answer came from focus-server: ${words}.`
  return {
    statusCode,
    fields: { 'proxy-status': `focus-breaker; error=${kind}` },
    body: { error, message, statusCode },
  }
}

/** Answers that no usable answer came from the upstream. */
export function sendFailure(reply: FastifyReply, failure: UpstreamFailure): void {
  const { fields, body } = failureAnswer(failure)
  reply.headers(fields)
  sendError(reply, body.statusCode, body.error, body.message)
}

/** The answer when the way to the upstream is full. */
export const BUSY = {
  statusCode: 503,
  fields: {
    'retry-after': '1',
    'proxy-status': 'focus-breaker; error=connection_limit_reached',
    'cache-control': 'no-store',
  },
  body: {
    error: 'Service Unavailable: overloaded',
    message: 'As many requests as may wait for focus-server are waiting. Please try again in a moment.',
    status: 'overloaded',
    forwarded: false,
    retryAfterSeconds: 1,
  },
} as const

/** Answers that the way to the upstream is full. */
export function sendBusy(reply: FastifyReply): void {
  reply
    .code(BUSY.statusCode)
    .headers(BUSY.fields)
    .header('content-type', 'application/json')
    .send(Buffer.from(JSON.stringify({ ...BUSY.body, requestId: reply.request.id })))
}

/** Answers that a body is larger than this site allows. */
export function sendTooLarge(reply: FastifyReply, maxBodyBytes: number): void {
  sendError(reply, 413, 'Content Too Large', `A body has at most ${maxBodyBytes} bytes here.`)
}

/** Answers with a small JSON object, the one form of every error of our own. */
export function sendError(reply: FastifyReply, statusCode: number, error: string, message: string): void {
  reply
    .code(statusCode)
    .header('cache-control', 'no-store')
    .header('content-type', 'application/json')
    .send(Buffer.from(JSON.stringify({ error, message, statusCode, requestId: reply.request.id })))
}

/** The same on a connection where there is no request to answer; it is closed behind the answer. */
export function rawError(statusCode: number, error: string, message: string): string {
  const body = JSON.stringify({ error, message, statusCode })
  const head = [
    `HTTP/1.1 ${statusCode} ${error}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Cache-Control: no-store',
    'Connection: close',
  ]
  return `${head.join('\r\n')}\r\n\r\n${body}`
}
