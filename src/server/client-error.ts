import type { Duplex } from 'node:stream'
import type { Connections } from './connection.js'
import { rawError } from './error-response.js'

/** Responds to input that Node could not parse as a request: Fastify's `clientErrorHandler`. */
export function clientErrorHandler(
  connections: Connections,
): (error: Error & { readonly code?: string }, socket: Duplex) => void {
  return (error, socket) => {
    // After a TLS failure no response can be written.
    const isTls = /^(ERR_TLS|ERR_SSL|EPROTO)/.test(error.code ?? '')
    if (error.code === 'ECONNRESET' || isTls || socket.destroyed || !socket.writable) socket.destroy()
    else connections.answerLast(socket, responseTo(error.code))
  }
}

function responseTo(code: string | undefined): string {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return rawError(408, 'Request Timeout', 'The request headers did not arrive in time.')
    case 'HPE_HEADER_OVERFLOW':
      return rawError(431, 'Request Header Fields Too Large', 'The request headers are too large.')
    default:
      return rawError(400, 'Bad Request', 'The request is not valid HTTP/1.1.')
  }
}
