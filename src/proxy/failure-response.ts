import { errorResponse, type OwnResponse } from '../server/error-response.js'
import { isLocal, type UpstreamFailure } from '../upstream/failure.js'

/**
 * The response where no usable one came from focus-server: 504 when time ran out, 503 when this machine could not
 * even connect, else 502. What stands in it is all that is shown outside of the log.
 */
export function failureResponse(requestId: string, failure: UpstreamFailure): OwnResponse {
  const { kind, words } = failure
  if (kind === 'proxy_internal_error') {
    const message = 'focus-breaker failed; its log has more.'
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
  const message = `No usable answer came from focus-server: ${words}.`
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
