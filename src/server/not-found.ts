import type { FastifyInstance, FastifyRequest } from 'fastify'
import { sendError } from './error-response.js'
import { FORWARDED_METHODS } from './methods.js'

/** Dependencies of the not-found handler. */
export type NotFoundOptions = {
  /** Whether a request belongs to focus-server. */
  readonly isForUpstream: (request: FastifyRequest) => boolean
}

/** Answers requests without a route: 404, or 405 with the allowed methods. */
export function notFound(app: FastifyInstance, { isForUpstream }: NotFoundOptions): void {
  const own: { readonly pattern: RegExp; readonly method: string }[] = []
  app.addHook('onRoute', ({ url, method }) => {
    if (!url.startsWith('/-/')) return
    const pattern = new RegExp(`^${url.replaceAll('.', '\\.').replace(/:\w+/g, '[^/]+')}$`)
    for (const each of [method].flat()) own.push({ pattern, method: each })
  })
  app.setNotFoundHandler((request, reply) => {
    if (isForUpstream(request)) {
      reply.header('allow', FORWARDED_METHODS.join(', '))
      return sendError(reply, 405, 'Method Not Allowed', `focus-breaker does not forward ${request.method}.`)
    }
    const path = request.url.replace(/\?.*$/, '')
    const methods = own.flatMap(({ pattern, method }) => (pattern.test(path) ? [method] : [])).join(', ')
    if (methods === '') {
      const message = 'No such route. Paths must match exactly, for example /-/status.'
      return sendError(reply, 404, 'Not Found', message)
    }
    reply.header('allow', methods)
    sendError(reply, 405, 'Method Not Allowed', `This route supports ${methods}.`)
  })
}
