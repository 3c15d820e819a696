import {
  type IncomingHttpHeaders,
  type IncomingMessage,
  METHODS,
  type ServerResponse,
  STATUS_CODES,
} from 'node:http'
import { Readable } from 'node:stream'
import httpProxy from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Agent, Dispatcher } from 'undici'
import { type Breaker, NothingLearnedError, type Outcome, RefusedError } from '../breaker/breaker.js'
import { missingFiberFields } from '../domain/configure-request.js'
import type { Instant } from '../domain/time.js'
import type { Exchanged } from '../observability/metrics.js'
import { sendBusy, sendError, sendFailure, sendTooLarge } from '../server/error-response.js'
import { failureOf, type UpstreamFailure } from '../upstream/failure.js'
import type { Lane, LaneRefusal } from '../upstream/queue.js'
import { type Routing, UPSTREAM_ROUTE, type UpstreamTarget } from './classify.js'
import { clientOf } from './client.js'
import {
  clientView,
  fieldsFrom,
  type ResponseFields,
  requestFields,
  responseFields,
  type TrustsPeer,
} from './headers.js'
import { type RefusalOptions, refuse } from './refusal.js'
import { type BodyLimits, BodyTooLargeError, bodyOf, StalledBodyError } from './request-body.js'

/** What forwarding needs. */
export type ProxyOptions = BodyLimits & {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly agent: Agent
  readonly upstreamUrl: URL
  readonly trusts: TrustsPeer
  readonly refusal: RefusalOptions
  /** The way to the upstream, bounded. */
  readonly lane: Lane
  /** Told of each exchange that is begun, and of each that the upstream failed. */
  readonly onForwarded: (received: IncomingMessage) => void
  readonly onFailure: (failure: UpstreamFailure, error: Error) => void
  /** Told of each exchange that was begun, when its client has its answer or has left. */
  readonly onExchanged: (exchange: Exchanged) => void
  /** Told of each exchange for which there was no room. */
  readonly onBusy: () => void
  /** The target under which the metadata is found at the upstream. */
  readonly metadataTarget: string
  /** Given each metadata document that a client gets, and when it was asked for. */
  readonly onMetadata: (text: string, askedAt: Instant) => void
  readonly clock: () => Instant
}

/** How much of an answer is looked at, at the most; all of it reaches the client. */
const MAX_EXCERPT_BYTES = 65_536

/** Methods that no gateway forwards: a tunnel, and an echo of what may be secret. */
const REFUSED_METHODS: ReadonlySet<string> = new Set(['CONNECT', 'TRACE'])

/** The methods that are forwarded: all that Node's parser knows but those. */
export const FORWARDED_METHODS: readonly string[] = METHODS.filter(method => !REFUSED_METHODS.has(method))

/**
 * Forwards every request that is not one of our own routes, through @fastify/http-proxy.
 *
 * Of its defaults these are set right here: no request is sent twice, bodies are never parsed, the target is
 * sent as the client spelled it, hop-by-hop fields stay behind, and failures become 502 and 504.
 */
export function proxy(app: FastifyInstance, options: ProxyOptions): void {
  for (const method of FORWARDED_METHODS) {
    // Fastify then leaves every body alone: its media types, limits and parsers are not focus-server's.
    app.addHttpMethod(method, { hasBody: false, overrideExisting: true })
  }
  app.register(httpProxy, {
    upstream: options.upstreamUrl.origin,
    routes: [UPSTREAM_ROUTE],
    httpMethods: [...FORWARDED_METHODS],
    undici: options.agent.compose(forwarding(options)),
    retryMethods: [],
    disableRequestLogging: true,
    // reply-from writes a line for every failure; ours are summed.
    logLevel: 'silent',
    handler: (request, reply) => {
      const target = options.routing.targetOf(request.raw)
      if (target === undefined) return sendError(reply, 404, 'Not Found', 'No such route of focus-breaker.')
      const exchange = new Exchange(request, reply, target)
      return reply.from(UPSTREAM_ROUTE, {
        rewriteRequestHeaders: () => ({ [exchangeKey]: exchange }),
        rewriteHeaders: () => exchange.answer,
        onResponse: ({ raw }, _reply, answer) => {
          // reply-from closes the connection of a client that is still sending, who would never read the answer.
          if (!raw.complete) reply.removeHeader('connection')
          reply.send(answer.stream)
        },
        onError: (_, { error }) => fail(exchange, error, options),
      })
    },
  })
}

function fail({ request, reply, target }: Exchange, error: Error, options: ProxyOptions): void {
  const refused = refusalOf(error)
  if (refused !== undefined) {
    options.breaker.refused(refused.decision, clientOf(request))
    reply.removeHeader('preference-applied')
    refuse(request, reply, refused.decision, target.clientPrefix, options.refusal)
    return
  }
  // Whoever left has nobody to tell, and it is not the upstream's failure.
  if (reply.raw.destroyed) return
  const chain = causes(error)
  const has = (kind: typeof BusyError | typeof StalledBodyError | typeof BodyTooLargeError) =>
    chain.some(cause => cause instanceof kind)
  if (has(StalledBodyError)) sendError(reply, 408, 'Request Timeout', 'The body of the request stalled.')
  else if (has(BodyTooLargeError)) sendTooLarge(reply, options.maxBodyBytes)
  else if (has(BusyError)) {
    options.onBusy()
    sendBusy(reply)
  } else {
    const failure = failureOf(error)
    options.onFailure(failure, error)
    sendFailure(reply, failure)
  }
}

function refusalOf(error: Error): RefusedError | undefined {
  return causes(error).find(cause => cause instanceof RefusedError)
}

/** An error, its cause, the cause of that, and so on. */
function causes(error: unknown): readonly unknown[] {
  return error instanceof Error ? [error, ...causes(error.cause)] : []
}

/** One request on its way through reply-from. */
class Exchange {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly target: UpstreamTarget
  /** The fields of the answer, once its head is here. */
  answer: ResponseFields = {}

  constructor(request: FastifyRequest, reply: FastifyReply, target: UpstreamTarget) {
    this.request = request
    this.reply = reply
    this.target = target
  }
}

/** The exchange travels through reply-from to undici among the headers, under a key that is no field. */
const exchangeKey = Symbol('exchange')

function exchangeOf(headers: unknown): Exchange | undefined {
  if (typeof headers !== 'object' || headers === null || !(exchangeKey in headers)) return undefined
  const exchange = headers[exchangeKey]
  return exchange instanceof Exchange ? exchange : undefined
}

/**
 * An undici interceptor that sends what the client sent, and nothing that reply-from has made of it; that
 * runs guarded requests through the breaker; and that ends the exchange of a client that has left.
 */
function forwarding(options: ProxyOptions): Dispatcher.DispatcherComposeInterceptor {
  const { breaker, lane, onForwarded, onExchanged, trusts, upstreamUrl } = options
  return dispatch => (request, handler) => {
    const exchange = exchangeOf(request.headers)
    if (exchange === undefined) return dispatch(request, handler)
    const { target, request: received, reply } = exchange
    const forward = (ended: Ended) => {
      const start = () => {
        onForwarded(received.raw)
        const headers = requestFields(received.raw, target, upstreamUrl, trusts)
        const body = target.body ?? bodyOf(received.raw, reply, options)
        reply.raw.once('close', () => {
          const { headersSent, statusCode } = reply.raw
          const { guarded } = target
          onExchanged({ guarded, statusCode: headersSent ? statusCode : 0, durationMs: reply.elapsedTime })
        })
        const exchangeHandler = new ExchangeHandler(handler, exchange, options, ended, () => {
          lane.leave()
          // undici leaves a body alone for which it got no connection, and behind it the next request would wait.
          if (body instanceof Readable) body.destroy()
        })
        dispatch({ ...request, path: target.target, headers, body }, exchangeHandler)
      }
      const notSent = (error: Error) => {
        handler.onResponseError?.(NO_CONTROLLER, error)
        ended(error)
      }
      const giveUp = lane.enter(start, why => notSent(new BusyError(why)))
      reply.raw.once('close', () => {
        if (giveUp()) notSent(new NothingLearnedError('the client left before its turn'))
      })
    }
    if (!target.guarded) {
      forward(() => undefined)
      return true
    }
    const run = () =>
      new Promise<Outcome>((resolve, reject) => {
        forward(outcome => (outcome instanceof Error ? reject(outcome) : resolve(outcome)))
      })
    // Every failure but a refusal has reached the handler by itself.
    breaker.run(run, target.needsFiber).catch(refused => handler.onResponseError?.(NO_CONTROLLER, refused))
    return true
  }
}

/** Told once how an exchange ended. */
type Ended = (outcome: Outcome | Error) => void

/** For a handler whose request was never dispatched. */
const NO_CONTROLLER: Dispatcher.DispatchController = {
  aborted: false,
  paused: false,
  reason: null,
  abort: () => undefined,
  pause: () => undefined,
  resume: () => undefined,
}

/** As many exchanges are under way, and as many wait, as may. */
class BusyError extends NothingLearnedError {
  override readonly name = 'BusyError'

  constructor(why: LaneRefusal) {
    super(why === 'full' ? 'no room to wait for the upstream' : 'no turn at the upstream in time')
  }
}

/** Passes everything on to reply-from's handler, and takes notice of it. */
class ExchangeHandler implements Dispatcher.DispatchHandler {
  readonly #handler: Dispatcher.DispatchHandler
  readonly #exchange: Exchange
  readonly #options: ProxyOptions
  readonly #ended: Ended
  /** Told once when nothing of the exchange is under way any more. */
  readonly #over: () => void
  readonly #askedAt: Instant
  #statusCode = 0
  /** The beginning of an answer that may tell about the fiber; undefined for any other. */
  #excerpt: Buffer[] | undefined
  #excerptBytes = 0
  #isComplete = false

  constructor(
    handler: Dispatcher.DispatchHandler,
    exchange: Exchange,
    options: ProxyOptions,
    ended: Ended,
    over: () => void,
  ) {
    this.#handler = handler
    this.#exchange = exchange
    this.#options = options
    this.#ended = ended
    this.#over = over
    this.#askedAt = options.clock()
  }

  onRequestStart(controller: Dispatcher.DispatchController, context: unknown): void {
    const { reply, target } = this.#exchange
    const left = () => controller.abort(new NothingLearnedError('the client left'))
    // Work that nobody waits for is not begun; begun on a guarded route, it is let finish: the job exists.
    if (reply.raw.destroyed) left()
    else if (!target.guarded) reply.raw.once('close', () => reply.raw.writableFinished || left())
    this.#handler.onRequestStart?.(controller, context)
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: IncomingHttpHeaders,
    statusMessage?: string,
  ): void {
    const { reply, request, target } = this.#exchange
    const { upstreamUrl, trusts } = this.#options
    if (statusCode > 599) {
      const code = 'FOCUS_BREAKER_STATUS'
      controller.abort(Object.assign(new Error(`the upstream answered with status ${statusCode}`), { code }))
      return
    }
    const { rawHeaders } = controller
    const received = fieldsFrom(Array.isArray(rawHeaders) ? rawHeaders : [])
    const fields = responseFields(received, upstreamUrl, clientView(request.raw, target, trusts))
    if (statusCode < 200) sendInterim(reply.raw, statusCode, fields)
    else {
      this.#statusCode = statusCode
      this.#exchange.answer = fields
      // Node throws at a phrase that it could not write.
      if (statusMessage && /^[\t\x20-\x7e]+$/.test(statusMessage)) reply.raw.statusMessage = statusMessage
      if (this.#isTelling() && received['content-encoding'] === undefined) this.#excerpt = []
    }
    this.#handler.onResponseStart?.(controller, statusCode, headers, statusMessage)
    // Its work is done: a client that reads slowly does not hold a place.
    if (target.guarded && statusCode >= 200 && statusCode < 300) this.#ended({ kind: 'answered', statusCode })
    // A 304 may tell the length of what it does not send (RFC 9110, 8.6); undici would wait for it.
    if (statusCode === 304) this.#complete(controller, {})
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#excerpt !== undefined && this.#excerptBytes < MAX_EXCERPT_BYTES) {
      const part = chunk.subarray(0, MAX_EXCERPT_BYTES - this.#excerptBytes)
      this.#excerptBytes += part.length
      // A copy: undici uses the memory again.
      this.#excerpt.push(Buffer.from(part))
      // Heard at once: the rest of the answer may be long in coming.
      this.#hearMissing()
    }
    this.#handler.onResponseData?.(controller, chunk)
  }

  onResponseEnd(controller: Dispatcher.DispatchController, trailers: IncomingHttpHeaders): void {
    this.#complete(controller, trailers)
  }

  onResponseError(controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#isComplete) return
    this.#isComplete = true
    this.#over()
    const isOurs = this.#exchange.reply.raw.destroyed || causes(error).some(isNothingLearned)
    // Without a head the failure becomes an answer, and is told then.
    if (this.#statusCode !== 0 && !isOurs) this.#options.onFailure(failureOf(error), error)
    this.#handler.onResponseError?.(controller, error)
    this.#ended(error)
  }

  /** Whether the answer may say something of the fiber: a guarded request that failed, or the metadata. */
  #isTelling(): boolean {
    const { guarded, target } = this.#exchange.target
    if (guarded) return this.#statusCode >= 300
    const isMetadata = this.#exchange.request.method === 'GET' && target === this.#options.metadataTarget
    return isMetadata && this.#statusCode === 200
  }

  #complete(controller: Dispatcher.DispatchController, trailers: IncomingHttpHeaders): void {
    if (this.#isComplete) return
    this.#isComplete = true
    this.#over()
    const { reply } = this.#exchange
    // Trailers need chunks; where the length was told there is no place for them.
    if (Object.keys(trailers).length > 0 && !reply.raw.writableEnded) reply.raw.addTrailers(singly(trailers))
    this.#handler.onResponseEnd?.(controller, trailers)
    const { guarded } = this.#exchange.target
    if (this.#excerpt !== undefined && !guarded && this.#excerptBytes < MAX_EXCERPT_BYTES) {
      this.#options.onMetadata(Buffer.concat(this.#excerpt).toString('utf8'), this.#askedAt)
    }
    this.#ended({ kind: 'answered', statusCode: this.#statusCode })
  }

  /** Ends the exchange, as far as the breaker is concerned, when the answer says that the fiber is missing. */
  #hearMissing(): void {
    if (this.#excerpt === undefined || !this.#exchange.target.guarded) return
    const missing = missingFiberFields(Buffer.concat(this.#excerpt).toString('utf8'))
    if (missing !== undefined) this.#ended({ kind: 'missing-fiber', missing })
  }
}

/**
 * Passes an interim answer on, as RFC 9110, 15.2, asks of a proxy. Node itself writes a 103 with `Link` alone,
 * and no other.
 */
function sendInterim(response: ServerResponse, statusCode: number, fields: ResponseFields): void {
  // Without a socket an earlier answer of the same connection is under way, and HTTP/1.0 knows none of these.
  if (response.socket === null || response.headersSent || response.req.httpVersion !== '1.1') return
  const lines = Object.entries(fields).flatMap(([name, value]) =>
    [value ?? []].flat().map(single => `${name}: ${single}\r\n`),
  )
  const phrase = STATUS_CODES[statusCode] ?? ''
  response.socket.write(`HTTP/1.1 ${statusCode} ${phrase}\r\n${lines.join('')}\r\n`, 'latin1')
}

function isNothingLearned(error: unknown): boolean {
  return error instanceof NothingLearnedError
}

/** Fields with one value each, as Node takes trailers. */
function singly(fields: IncomingHttpHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(', ') : (value ?? ''),
    ]),
  )
}
