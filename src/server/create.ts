import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import type { Logger } from 'pino'
import { clientErrorHandler } from './client-error.js'
import type { Connections } from './connection.js'
import { rawError } from './error-response.js'
import { createServer, type TlsFiles } from './tls.js'

/** Settings of the server; times in milliseconds. */
export type ServerSettings = {
  readonly tls: TlsFiles
  /** 0 for no limit. */
  readonly maxConnections: number
  readonly maxHeaderBytes: number
  readonly headTimeoutMs: number
  readonly keepAliveTimeoutMs: number
}

/** Dependencies of the server. */
export type ServerOptions = {
  readonly log: Logger
  /** Returns the path that Fastify's router sees for a request. */
  readonly rewrite: (request: IncomingMessage) => string
  /** Whether the forwarding headers of the peer at this address are trusted. */
  readonly trusts: (address: string) => boolean
  readonly connections: Connections
}

/** Creates Fastify without routes and without the defaults that do not suit a proxy. */
export function createApp(
  settings: ServerSettings,
  { log, rewrite, trusts, connections }: ServerOptions,
): FastifyInstance {
  const silent = log.child({}, { level: 'silent' })
  const app: FastifyInstance = fastify({
    loggerInstance: fastifyLogger(log),
    // Two log lines per request would cost more than all other work for it.
    logController: new LogController({ disableRequestLogging: true }),
    // A logger per request costs more than the few lines that use one are worth. reply-from's line per failure is
    // silenced by the log level of its route; the log summary counts failures.
    childLoggerFactory: (parent, _bindings, options) => (options.level === 'silent' ? silent : parent),
    genReqId: () => randomUUID(),
    clientErrorHandler: clientErrorHandler(connections),
    // The first reading is taken during this phase and has its own time limit.
    pluginTimeout: 0,
    rewriteUrl: rewrite,
    trustProxy: address => trusts(address),
    serverFactory: listener =>
      createServer(settings.tls, limitsOf(settings), settings.headTimeoutMs, connections.inTurn(listener)),
    // A request that arrives during the drain is served. Fastify's 503 would look like a refusal.
    return503OnClosing: false,
  })
  app.addHook('onRequest', (request, _reply, done) => {
    connections.keepOpenForWaiting(request.raw)
    done()
  })
  const { maxConnections } = settings
  app.server.maxConnections = maxConnections === 0 ? Number.MAX_SAFE_INTEGER : maxConnections
  // By default Node silently drops headers after the 2000th. The size is the limit here.
  app.server.maxHeadersCount = 0
  connections.follow(app.server)
  // A client that waits for 100 Continue gets it only when its body is needed.
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
    // After an unanswered request it gets no response: the connection closes.
    if (!connections.detach(socket)) return
    connections.answerLast(
      socket,
      rawError(405, 'Method Not Allowed', 'focus-breaker does not forward CONNECT.'),
    )
  })
  return app
}

/** Log level for Fastify: at least `warn`, because our own info lines replace Fastify's. */
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
    // Bodies have a limit of their own, on the time between two chunks.
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(30_000, headTimeoutMs),
  }
}
