import type { FastifyReply } from 'fastify'
import type { UpstreamFailure } from '../upstream/failure.js'

/** Answers that no connection, no answer or no HTTP came from the upstream: 504 where time ran out, else 502. */
export function sendFailure(reply: FastifyReply, failure: UpstreamFailure): void {
  if (failure.kind === 'proxy_internal_error') {
    sendError(reply, 500, 'Internal Server Error', 'focus-breaker failed; its log has more.')
    return
  }
  const isTimeout = failure.kind === 'connection_timeout' || failure.kind === 'http_response_timeout'
  reply.header('proxy-status', `focus-breaker; error=${failure.kind}`)
  sendError(
    reply,
    isTimeout ? 504 : 502,
    isTimeout ? 'Gateway Timeout' : 'Bad Gateway',
    failure.kind === 'http_response_timeout'
      ? 'focus-server did not answer in time.'
      : `focus-server could not be reached: ${failure.words}.`,
  )
}

/** Answers with a small JSON object, the one form of every error of our own. */
export function sendError(reply: FastifyReply, statusCode: number, error: string, message: string): void {
  reply
    .code(statusCode)
    .header('cache-control', 'no-store')
    .header('content-type', 'application/json')
    .send(Buffer.from(JSON.stringify({ error, message, statusCode, requestId: reply.request.id })))
}
