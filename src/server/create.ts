import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import type { Logger } from 'pino'
import { clientErrorHandler } from './client-error.js'
import type { Connections } from './connection.js'
import { rawError } from './error-response.js'
import { createServer, type TlsFiles } from './tls.js'

/** What the server goes by; times in milliseconds. */
export type ServerSettings = {
  readonly tls: TlsFiles
  /** 0 for any number. */
  readonly maxConnections: number
  readonly maxHeaderBytes: number
  readonly headTimeoutMs: number
  readonly keepAliveTimeoutMs: number
}

/** What the server asks about each request. */
export type ServerOptions = {
  readonly log: Logger
  /** The path under which our own router knows a request. */
  readonly rewrite: (request: IncomingMessage) => string
  /** Whether a peer's word about its clients is believed. */
  readonly trusts: (address: string) => boolean
  readonly connections: Connections
}

/** Fastify without routes, and without what of it gets in the way of a proxy. */
export function createApp(
  settings: ServerSettings,
  { log, rewrite, trusts, connections }: ServerOptions,
): FastifyInstance {
  const silent = log.child({}, { level: 'silent' })
  const app: FastifyInstance = fastify({
    loggerInstance: fastifyLogger(log),
    // Two lines for each request would cost more than everything else that is done for it.
    logController: new LogController({ disableRequestLogging: true }),
    // A logger for each request costs more than the few lines that use one are worth. reply-from's line for
    // each failure is silenced by the level of its route; the log summary counts them.
    childLoggerFactory: (parent, _bindings, options) => (options.level === 'silent' ? silent : parent),
    genReqId: () => randomUUID(),
    clientErrorHandler: clientErrorHandler(connections),
    // The first reading, which is taken then, has its own time limit.
    pluginTimeout: 0,
    rewriteUrl: rewrite,
    trustProxy: address => trusts(address),
    serverFactory: listener =>
      createServer(settings.tls, limitsOf(settings), settings.headTimeoutMs, connections.inTurn(listener)),
    // A request that comes while we drain is served; a 503 of Fastify's would look like a refusal.
    return503OnClosing: false,
  })
  app.addHook('onRequest', (request, _reply, done) => {
    connections.keepOpenForWaiting(request.raw)
    done()
  })
  const { maxConnections } = settings
  app.server.maxConnections = maxConnections === 0 ? Number.MAX_SAFE_INTEGER : maxConnections
  // By default Node drops what comes after the 2000th field, without a word; the size is the limit.
  app.server.maxHeadersCount = 0
  connections.follow(app.server)
  // A client that waits for 100 Continue gets it when its body is wanted, and not before.
  app.server.on(
    'checkContinue',
    connections.inTurn((request, response) => app.routing(request, response)),
  )
  app.server.on(
    'checkExpectation',
    connections.inTurn((_request, response) => {
      response.writeHead(417)
      response.end()
    }),
  )
  app.server.on('connect', (_request, socket) => {
    // Behind an unanswered request it gets no response: the connection closes.
    if (!connections.detach(socket)) return
    connections.answerLast(
      socket,
      rawError(405, 'Method Not Allowed', 'focus-breaker does not forward CONNECT.'),
    )
  })
  return app
}

/** Fastify's own info lines say what ours say better. */
export function fastifyLevel(log: Logger): string {
  return log.isLevelEnabled('warn') ? 'warn' : log.level
}

function fastifyLogger(log: Logger): FastifyBaseLogger {
  return log.child({}, { level: fastifyLevel(log) })
}

function limitsOf({ maxHeaderBytes, headTimeoutMs, keepAliveTimeoutMs }: ServerSettings) {
  return {
    maxHeaderSize: maxHeaderBytes,
    headersTimeout: headTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    // A body has a limit of its own, from one piece to the next.
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(30_000, headTimeoutMs),
  }
}
