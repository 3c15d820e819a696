import type { Duplex } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { sendError } from './errors.js'
import { PSEUDONYM } from './fields.js'
import { FORWARDED_METHODS } from './proxy.js'
import type { Routing } from './routing.js'

/** The methods of our own routes. */
const OWN_METHODS = ['GET', 'HEAD', 'PUT', 'DELETE'] as const

/** As many proxies of our name may stand in a row; a request that has passed more runs in a circle. */
const MAX_HOPS = 8

/** What HTTP asks of a server before anything is routed, and the answers to what has no route. */
export function protocol(app: FastifyInstance, { routing }: { readonly routing: Routing }): void {
  app.addHook('onRequest', (request, reply, done) => {
    if (hasTwoHosts(request.raw.rawHeaders)) {
      // Two parties that each believe another one are how a request is smuggled (RFC 9112, 3.2).
      return sendError(reply, 400, 'Bad Request', 'The request has more than one Host field.')
    }
    if (isLoop(request.headers.via)) {
      const message = 'The request has come by here before: upstream.url leads back to this proxy.'
      return sendError(reply, 508, 'Loop Detected', message)
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
      const url = request.url.replace(/\?.*$/, '')
      const methods = OWN_METHODS.filter(method => app.hasRoute({ method, url }))
      if (methods.length === 0) {
        return sendError(reply, 404, 'Not Found', 'focus-breaker has no such route; /-/status is one.')
      }
      reply.header('allow', methods.join(', '))
      return sendError(reply, 405, 'Method Not Allowed', `This route takes ${methods.join(', ')}.`)
    }
    reply.header('allow', FORWARDED_METHODS.join(', '))
    sendError(reply, 405, 'Method Not Allowed', `focus-breaker does not forward ${request.method}.`)
  })
  app.setErrorHandler((error, request, reply) => {
    request.log.error({ err: error, requestId: request.id }, 'a request failed by a fault of focus-breaker')
    sendError(reply, 500, 'Internal Server Error', 'focus-breaker failed; its log has more.')
  })
}

function isLoop(via: string | undefined): boolean {
  return via !== undefined && via.split(PSEUDONYM).length > MAX_HOPS
}

function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts += 1
  }
  return hosts > 1
}
