import httpProxy from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { FORWARDED_METHODS } from '../server/methods.js'
import { UPSTREAM_ROUTE } from './classify.js'
import type { Exchange } from './exchange.js'

/** Sends an exchange to focus-server, and its response to the client. */
export type SendExchange = (exchange: Exchange, reply: FastifyReply) => void

/**
 * What @fastify/http-proxy is used for: it registers the route of every forwarded method, and runs each request through
 * reply-from down to the client that is given to it. That client is ours.
 *
 * What it must never decide: what is sent, whether, and how often; what the client gets; what an error means. All of that
 * stands in the exchange. The client takes no request but the one that was handed to it for the present call: what
 * reply-from would send by itself, a retry or a request that lost its exchange, is an error and is not sent.
 */
export function forwardThroughHttpProxy(app: FastifyInstance, upstreamUrl: URL, send: SendExchange): void {
  for (const method of FORWARDED_METHODS) {
    // Fastify then leaves every body alone: its media types, limits and parsers are not focus-server's.
    app.addHttpMethod(method, { hasBody: false, overrideExisting: true })
  }
  let handed: { readonly exchange: Exchange; readonly reply: FastifyReply } | undefined
  function request(options: unknown): Promise<never>
  function request(options: unknown, callback: unknown): void
  function request(): Promise<never> | undefined {
    if (handed === undefined) throw new ExchangeLostError()
    const { exchange, reply } = handed
    handed = undefined
    // reply-from's callback is never called: the response does not come back this way.
    send(exchange, reply)
    return undefined
  }
  // The request is made of the exchange; without headers reply-from has little to copy.
  const replyOptions = { rewriteRequestHeaders: () => ({}) }
  app.register(httpProxy, {
    upstream: upstreamUrl.origin,
    routes: [UPSTREAM_ROUTE],
    httpMethods: [...FORWARDED_METHODS],
    undici: { request },
    retryMethods: [],
    disableRequestLogging: true,
    // reply-from writes a line for every failure; ours are summed.
    logLevel: 'silent',
    // Before the plugin's own handler, which would look for tricks in the path with three URL parsers. Inside of our router
    // the path is always the same, and the real target is never given to it.
    preHandler: ({ exchange }, reply) => {
      if (exchange === null) throw new ExchangeLostError()
      handed = { exchange, reply }
      try {
        // reply-from calls the client before this returns.
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

/** A request reached the upstream client without its exchange. A fault of focus-breaker: it is not sent. */
class ExchangeLostError extends Error {
  override readonly name = 'ExchangeLostError'

  constructor() {
    super('a request has lost its exchange, and was not sent')
  }
}
