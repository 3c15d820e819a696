import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'

/** A complete response of our own. `headers` alternates names and values. */
export type OwnResponse = {
  readonly statusCode: number
  readonly headers: readonly string[]
  readonly body: string | Buffer
  /** The text is ASCII. Node then writes it together with the head, without checking each character. */
  readonly isAscii?: boolean
}

/**
 * Sends a complete response without Fastify, whose overhead costs more than the response itself.
 *
 * @param marks additional headers: alternating names and values.
 */
export function respond(response: ServerResponse, own: OwnResponse, marks: readonly string[] = []): void {
  const { statusCode, body, isAscii = false } = own
  const headers = own.headers.concat(marks)
  headers.push('content-length', String(isAscii ? body.length : Buffer.byteLength(body)))
  response.writeHead(statusCode, headers)
  if (isAscii) response.end(body, 'latin1')
  else response.end(body)
}

/** An error response of our own. All of them have this one JSON format. */
export function errorResponse(
  requestId: string,
  statusCode: number,
  error: string,
  message: string,
  headers: readonly string[] = [],
): OwnResponse {
  return {
    statusCode,
    headers: [...headers, 'cache-control', 'no-store', 'content-type', 'application/json'],
    body: JSON.stringify({ error, message, statusCode, requestId }),
  }
}

/** The error for a request body that exceeds the configured limit. */
export function tooLarge(requestId: string, maxBodyBytes: number): OwnResponse {
  return errorResponse(requestId, 413, 'Content Too Large', `The request body exceeds ${maxBodyBytes} bytes.`)
}

/** Answers one of our own routes with an error. */
export function sendError(reply: FastifyReply, statusCode: number, error: string, message: string): void {
  reply
    .code(statusCode)
    .header('cache-control', 'no-store')
    .header('content-type', 'application/json')
    .send(Buffer.from(JSON.stringify({ error, message, statusCode, requestId: reply.request.id })))
}

/** The same error as raw text, for a connection without a valid request. The connection is closed after it. */
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
