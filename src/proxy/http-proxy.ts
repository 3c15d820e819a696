import httpProxy from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { FORWARDED_METHODS } from '../server/methods.js'
import { UPSTREAM_ROUTE } from './classify.js'
import type { Exchange } from './exchange.js'

/** Sends an exchange to focus-server and the response to the client. */
export type SendExchange = (exchange: Exchange, reply: FastifyReply) => void

/**
 * Uses @fastify/http-proxy to register the route for every forwarded method. The plugin runs each request through
 * reply-from down to the HTTP client that it is given. That client is ours.
 *
 * The plugin must never decide whether, what or how often to send, what the client receives, or what an error means.
 * The exchange decides all of that. Our client accepts only the request that was handed over for the current call. A
 * request that reply-from would send on its own, such as a retry or a request without an exchange, is an error and is
 * not sent.
 */
export function forwardThroughHttpProxy(app: FastifyInstance, upstreamUrl: URL, send: SendExchange): void {
  for (const method of FORWARDED_METHODS) {
    // Fastify then does not touch any body: its media types, limits and parsers do not apply to focus-server.
    app.addHttpMethod(method, { hasBody: false, overrideExisting: true })
  }
  let handed: { readonly exchange: Exchange; readonly reply: FastifyReply } | undefined
  function request(options: unknown): Promise<never>
  function request(options: unknown, callback: unknown): void
  function request(): Promise<never> | undefined {
    if (handed === undefined) throw new ExchangeLostError()
    const { exchange, reply } = handed
    handed = undefined
    // reply-from's callback is never called: `send` writes the response itself.
    send(exchange, reply)
    return undefined
  }
  // The request is built from the exchange. Without headers reply-from has little to copy.
  const replyOptions = { rewriteRequestHeaders: () => ({}) }
  app.register(httpProxy, {
    upstream: upstreamUrl.origin,
    routes: [UPSTREAM_ROUTE],
    httpMethods: [...FORWARDED_METHODS],
    undici: { request },
    retryMethods: [],
    disableRequestLogging: true,
    // reply-from logs a line for every failure; ours are summarised.
    logLevel: 'silent',
    // Runs before the plugin's own handler, which would check the path with three URL parsers. In our router the path
    // is always the same, and the plugin never sees the real target.
    preHandler: ({ exchange }, reply) => {
      if (exchange === null) throw new ExchangeLostError()
      handed = { exchange, reply }
      try {
        // reply-from calls our client before this returns.
        reply.from(UPSTREAM_ROUTE, replyOptions)
      } finally {
        handed = undefined
      }
    },
    handler: () => {
      throw new ExchangeLostError()
    },
  })
}

/**
 * A request reached the upstream client without its exchange. This is a bug in focus-breaker; the request is not sent.
 */
class ExchangeLostError extends Error {
  override readonly name = 'ExchangeLostError'

  constructor() {
    super('a request without an exchange was not sent')
  }
}
