import type { Duplex } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { sendError } from './errors.js'
import { FORWARDED_METHODS } from './proxy.js'
import type { Routing } from './routing.js'

/** What HTTP asks of a server before anything is routed, and the answers to what has no route. */
export function protocol(app: FastifyInstance, { routing }: { readonly routing: Routing }): void {
  app.addHook('onRequest', (request, reply, done) => {
    if (hasTwoHosts(request.raw.rawHeaders)) {
      // Two parties that each believe another one are how a request is smuggled (RFC 9112, 3.2).
      return sendError(reply, 400, 'Bad Request', 'The request has more than one Host field.')
    }
    done()
  })
  // Whoever asks before sending a body is told to go on when the body is wanted, and not before.
  app.server.on('checkContinue', (request, response) => app.routing(request, response))
  app.server.on('connect', (_request, socket: Duplex) => {
    socket.end('HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
  })
  app.setNotFoundHandler((request, reply) => {
    if (routing.targetOf(request.raw) === undefined) {
      return sendError(reply, 404, 'Not Found', 'focus-breaker has no such route; /-/status is one.')
    }
    reply.header('allow', FORWARDED_METHODS.join(', '))
    sendError(reply, 405, 'Method Not Allowed', `focus-breaker does not forward ${request.method}.`)
  })
  app.setErrorHandler((error, request, reply) => {
    request.log.error({ err: error, requestId: request.id }, 'a request failed by a fault of focus-breaker')
    sendError(reply, 500, 'Internal Server Error', 'focus-breaker failed; its log has more.')
  })
}

function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts += 1
  }
  return hosts > 1
}
