import { errorResponse, type OwnResponse } from '../server/error-response.js'
import { isLocal, type UpstreamFailure } from '../upstream/failure.js'

/**
 * The response if focus-server sent no usable one: 504 after a timeout, 503 if this machine lacked the resources to
 * connect, otherwise 502. No details beyond this response are shown outside the log.
 */
export function failureResponse(requestId: string, failure: UpstreamFailure): OwnResponse {
  const { kind, words } = failure
  if (kind === 'proxy_internal_error') {
    const message = 'focus-breaker failed; see its log for details.'
    return errorResponse(requestId, 500, 'Internal Server Error', message)
  }
  const proxyStatus = ['proxy-status', `focus-breaker; error=${kind}`]
  if (isLocal(failure)) {
    const message = `The request was not sent to focus-server: ${words}. Please try again in a moment.`
    const headers = ['retry-after', '1', ...proxyStatus]
    return errorResponse(requestId, 503, 'Service Unavailable', message, headers)
  }
  const isTimeout = kind === 'connection_timeout' || kind === 'http_response_timeout'
  const statusCode = isTimeout ? 504 : 502
  const error = isTimeout ? 'Gateway Timeout' : 'Bad Gateway'
  const message = `focus-server sent no usable response: ${words}.`
  return errorResponse(requestId, statusCode, error, message, proxyStatus)
}

/** The response when the upstream queue is full. */
export function overloadedResponse(requestId: string): OwnResponse {
  return {
    statusCode: 503,
    headers: [
      ...['retry-after', '1'],
      ...['proxy-status', 'focus-breaker; error=connection_limit_reached'],
      ...['cache-control', 'no-store'],
      ...['content-type', 'application/json'],
    ],
    body: JSON.stringify({
      error: 'Service Unavailable: overloaded',
      message: 'The upstream queue is full. Please try again in a moment.',
      status: 'overloaded',
      forwarded: false,
      retryAfterSeconds: 1,
      requestId,
    }),
  }
}
