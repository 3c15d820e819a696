import { type IncomingHttpHeaders, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex, Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Dispatcher } from 'undici'
import type { Breaker, Outcome } from '../breaker/breaker.js'
import { isHistoric } from '../domain/configure-request.js'
import type { Instant } from '../domain/time.js'
import type { ExchangeEvents } from '../observability/exchange-events.js'
import { breakOff, whenOver } from '../server/connection.js'
import type { CorsPolicy } from '../server/cors.js'
import { errorResponse, type OwnResponse, respond, tooLarge } from '../server/error-response.js'
import { hasBody } from '../server/read-body.js'
import { failureOf, framingError, interimError, isLocal, statusError } from '../upstream/failure.js'
import { ageMsOf } from '../upstream/metadata-reader.js'
import { noLongerWaiting, type UpstreamQueue } from '../upstream/queue.js'
import {
  RequestConnection,
  type RequestDispatcher,
  type UpstreamRequest,
} from '../upstream/request-connection.js'
import type { Exchange } from './exchange.js'
import { failureResponse, overloadedResponse } from './failure-response.js'
import { fiberEvidence, ResponseExcerpt, wholeText } from './fiber-evidence.js'
import { refuse } from './guard.js'
import {
  type Forwarding,
  headerOf,
  isFramed,
  isReasonPhrase,
  type RawHeaders,
  requestHeaders,
  responseHeaders,
  responseTrailers,
  writeHead,
} from './headers.js'
import { forwardThroughHttpProxy } from './http-proxy.js'
import type { Refusals } from './refusal.js'
import { type BodyFault, type BodyLimits, RequestBodyError, receiveBody, streamBody } from './request-body.js'
import { join } from './websocket.js'

/** Dependencies of the forward phase. */
export type ForwardOptions = BodyLimits &
  Forwarding & {
    readonly breaker: Breaker
    readonly agent: RequestDispatcher
    /** Like `agent`, with a new connection for each request. */
    readonly freshAgent: RequestDispatcher
    readonly refusals: Refusals
    readonly queue: UpstreamQueue
    readonly events: ExchangeEvents
    readonly cors: CorsPolicy
    /** The target of the metadata at the upstream. */
    readonly metadataTarget: string
    /** Called with each metadata document that is forwarded to a client, and the time of the request. */
    readonly onMetadata: (text: string, askedAt: Instant) => void
    readonly clock: () => Instant
  }

/** How many interim responses (RFC 9110, 15.2) are forwarded. An upstream that sends more is considered broken. */
const MAX_INTERIM_RESPONSES = 100

/** The last phase: sends each exchange to focus-server through the upstream queue, and the response to the client. */
export function forward(app: FastifyInstance, options: ForwardOptions): void {
  const { queue, breaker, events } = options
  const send = (exchange: Exchange, reply: FastifyReply) => {
    const response = reply.raw
    reply.hijack()
    receiveBody(exchange, response, options, fault => {
      if (exchange.hasEnded) return
      if (fault !== undefined)
        return answer(exchange, response, bodyFaultResponse(exchange, fault, options), options)
      if (exchange.guarded) {
        const refusal = exchange.admit(breaker)
        if (refusal !== undefined) return refuse(exchange, reply, refusal, options)
      }
      const { address } = exchange
      const start = () => {
        const leave = exchange.hold(() => queue.leave(address))
        new Sending(exchange, response, options, leave).start()
      }
      const rejected = () => {
        events.emit('overloaded')
        exchange.fail()
        answer(exchange, response, overloadedResponse(exchange.id), options)
      }
      const giveUp = queue.enter(start, rejected, address)
      if (giveUp !== noLongerWaiting) exchange.hold(giveUp)
    })
  }
  forwardThroughHttpProxy(app, options.upstreamUrl, send)
}

/** Answers an exchange with a response of our own. */
function answer(
  exchange: Exchange,
  response: ServerResponse,
  own: OwnResponse,
  { cors }: ForwardOptions,
): void {
  if (response.destroyed || response.headersSent) return
  exchange.statusCode = own.statusCode
  respond(response, own, [...exchange.marks, ...cors.headersFor(exchange.received.headers.origin)])
}

function bodyFaultResponse({ id }: Exchange, fault: BodyFault, { maxBodyBytes }: BodyLimits): OwnResponse {
  if (fault === 'too-large') return tooLarge(id, maxBodyBytes)
  return errorResponse(id, 408, 'Request Timeout', 'The request body stalled or took too long.')
}

/** One request at focus-server: undici's handler, which writes the response directly to the client. */
class Sending implements Dispatcher.DispatchHandler {
  readonly #exchange: Exchange
  readonly #response: ServerResponse
  readonly #options: ForwardOptions
  readonly #leaveQueue: () => boolean
  readonly #askedAt: Instant
  #body: Readable | undefined
  #release: (() => boolean) | undefined
  #finished: (() => void) | undefined
  #controller: Dispatcher.DispatchController | undefined
  /** Set for a request that may be repeated, until it has been. */
  #connection: RequestConnection | undefined
  #request: UpstreamRequest | undefined
  #interims = 0
  #statusCode = 0
  /** Remaining bytes of the response body, if its length is known. */
  #remaining = Number.NaN
  #excerpt: ResponseExcerpt | undefined
  #isWaitingForDrain = false
  #isComplete = false
  #hasFailed = false

  constructor(
    exchange: Exchange,
    response: ServerResponse,
    options: ForwardOptions,
    leaveQueue: () => boolean,
  ) {
    this.#exchange = exchange
    this.#response = response
    this.#options = options
    this.#leaveQueue = leaveQueue
    this.#askedAt = options.clock()
  }

  start(): void {
    const exchange = this.#exchange
    const { received, target, handshake } = exchange
    const { agent, upstreamUrl } = this.#options
    exchange.forwarded()
    if (exchange.body === undefined && hasBody(received)) {
      this.#body = streamBody(exchange, this.#response, this.#options)
    }
    this.#release = exchange.hold(() => this.#stop())
    const method = received.method ?? 'GET'
    const headers = requestHeaders(received, exchange.view, this.#options)
    const body = exchange.body ?? this.#body ?? null
    const upgrade = handshake === undefined ? null : 'websocket'
    if (isSafe(method) && body === null && upgrade === null && !exchange.guarded) {
      this.#connection = new RequestConnection()
    }
    const connection = this.#connection
    this.#request = { origin: upstreamUrl.origin, path: target, method, headers, body, upgrade, connection }
    agent.dispatch(this.#request, this)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    this.#connection?.begin()
    // If the client is gone, do not start the work. Once started on a guarded route, it is allowed to finish.
    if (this.#exchange.hasEnded || this.#exchange.isClientGone) controller.abort(new ClientGoneError())
    else if (this.#exchange.guarded) this.#finished = this.#exchange.finishFirst()
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    _headers: IncomingHttpHeaders,
    statusMessage = '',
  ): void {
    const headers = rawOf(controller.rawHeaders)
    // 101 was not requested, and undici handles 100.
    if (statusCode > 101 && statusCode < 200) {
      this.#passInterim(controller, statusCode, statusMessage, headers)
      return
    }
    if (statusCode < 200 || statusCode > 599) {
      controller.abort(statusError(statusCode))
      return
    }
    if (!isFramed(headers)) {
      controller.abort(framingError())
      return
    }
    this.#statusCode = statusCode
    this.#watch(headers)
    this.#learnCors(statusCode, headers)
    this.#writeHead(statusCode, statusMessage, headers)
    const { guarded } = this.#exchange
    // The work is done, so a client that reads slowly does not occupy a slot.
    if (guarded && statusCode < 300)
      this.#settle({ kind: 'answered', statusCode, isHistoric: this.#isHistoric })
    // Neither has a body, whatever Content-Length the upstream sends (RFC 9110, 8.6). undici would wait for it.
    if (statusCode === 204 || statusCode === 304) this.#complete(NO_HEADERS)
  }

  onRequestUpgrade(
    { rawHeaders }: Dispatcher.DispatchController,
    _statusCode: number,
    _headers: IncomingHttpHeaders,
    upstream: Duplex,
  ): void {
    this.#isComplete = true
    const { handshake } = this.#exchange
    // undici rejects an upgrade that was not requested.
    if (handshake === undefined) upstream.destroy()
    else join(this.#exchange, handshake, rawOf(rawHeaders), upstream)
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#excerpt?.write(chunk)
    const response = this.#response
    if (response.destroyed) return
    this.#remaining -= chunk.length
    // Send the last chunk and the end together.
    if (this.#remaining === 0) response.end(chunk)
    else if (!response.write(chunk)) {
      controller.pause()
      this.#resumeWhenDrained(controller)
    }
  }

  onResponseEnd({ rawTrailers }: Dispatcher.DispatchController): void {
    this.#complete(rawOf(rawTrailers))
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#isComplete || this.#isSentAgain(error)) return
    this.#isComplete = true
    this.#hasFailed = true
    this.#excerpt?.end()
    const exchange = this.#exchange
    const response = this.#response
    const { events } = this.#options
    const fault = error instanceof RequestBodyError ? error.fault : undefined
    const isOurs = fault !== undefined || error instanceof ClientGoneError || exchange.isClientGone
    const failure = failureOf(error)
    if (!isOurs) events.emit('failed', failure.kind, error)
    if (this.#excerpt?.isReading === true) {
      // The received part of the response may still say that the fiber is missing.
      this.#leaveQueue()
      this.#release?.()
    } else {
      this.#settle({ kind: isOurs || isLocal(failure) ? 'nothing-learned' : 'failed' })
      exchange.fail()
    }
    // A response that has started can only be aborted.
    if (response.headersSent) breakOff(response)
    else if (fault !== undefined)
      answer(exchange, response, bodyFaultResponse(exchange, fault, this.#options), this.#options)
    else if (!isOurs) answer(exchange, response, failureResponse(exchange.id, failure), this.#options)
  }

  /**
   * Repeats a safe request once, on a new connection, if the upstream closed an idle connection just as the request was
   * sent. Such a request has had no effect, and the next idle connection may be just as old.
   */
  #isSentAgain(error: Error): boolean {
    const [connection, request] = [this.#connection, this.#request]
    this.#connection = undefined
    if (request === undefined || connection?.wasClosedWhileIdle(error) !== true) return false
    if (this.#exchange.hasEnded || this.#exchange.isClientGone) return false
    this.#options.events.emit('repeated')
    this.#options.freshAgent.dispatch(request, this)
    return true
  }

  /** Aborts the upstream request, because the exchange has ended. */
  #stop(): void {
    if (!this.#isComplete) this.#controller?.abort(new ClientGoneError())
    // undici does not touch a body for which it got no connection, and the client's next request would wait behind it.
    this.#body?.destroy()
  }

  #writeHead(statusCode: number, statusMessage: string, received: RawHeaders): void {
    const exchange = this.#exchange
    const response = this.#response
    if (response.destroyed) return
    const { upstreamUrl } = this.#options
    const forwarded = statusCode === 204 ? withoutLength(received) : received
    const headers = responseHeaders(forwarded, upstreamUrl, exchange.view)
    if (exchange.marks.length > 0) headers.push(...exchange.marks)
    const length = headerOf(received, 'content-length')
    if (length !== undefined && exchange.received.method !== 'HEAD') this.#remaining = Number(length)
    exchange.statusCode = statusCode
    writeHead(response, statusCode, statusMessage, headers)
  }

  /** Records whether focus-server allows the client's origin to read its responses. Our own responses follow that. */
  #learnCors(statusCode: number, headers: RawHeaders): void {
    const { origin } = this.#exchange.received.headers
    if (origin === undefined) return
    this.#options.cors.learn(origin, {
      statusCode,
      allowOrigin: headerOf(headers, 'access-control-allow-origin'),
      credentials: headerOf(headers, 'access-control-allow-credentials') === 'true',
    })
  }

  /** Reads responses that may reveal the state of the fiber: those of failed guarded requests, and the metadata. */
  #watch(headers: RawHeaders): void {
    const { guarded, target, received } = this.#exchange
    const { metadataTarget, onMetadata } = this.#options
    const coding = () => headerOf(headers, 'content-encoding')
    if (guarded) {
      if (this.#statusCode < 300) return
      const statusCode = this.#statusCode
      const evidence = fiberEvidence(missing => {
        if (missing !== undefined) this.#settle({ kind: 'missing-fiber', missing })
        else this.#settle(this.#hasFailed ? { kind: 'failed' } : { kind: 'answered', statusCode })
        this.#excerpt?.stop()
      })
      this.#excerpt = new ResponseExcerpt(coding(), evidence)
    } else if (target === metadataTarget && received.method === 'GET' && this.#statusCode === 200) {
      const ageMs = ageMsOf({ age: headerOf(headers, 'age') })
      this.#excerpt = new ResponseExcerpt(
        coding(),
        wholeText(text => onMetadata(text, Math.max(0, this.#askedAt - ageMs))),
      )
    }
  }

  #complete(trailers: RawHeaders): void {
    if (this.#isComplete) return
    this.#isComplete = true
    const response = this.#response
    // Trailers require chunked encoding; a response with a length cannot have them.
    if (trailers.length > 0 && !response.writableEnded) response.addTrailers(responseTrailers(trailers))
    if (!response.writableEnded && !response.destroyed) response.end()
    this.#excerpt?.end()
    this.#leaveQueue()
    this.#release?.()
  }

  /** Whether the request was a historic job, if its whole body was read. */
  get #isHistoric(): boolean {
    return isHistoric(this.#exchange.body?.toString('utf8') ?? '')
  }

  /** Reports the outcome of a guarded request: frees its slot and lets the exchange end. */
  #settle(outcome: Outcome): void {
    this.#exchange.permit?.settle(outcome)
    this.#finished?.()
  }

  #resumeWhenDrained(controller: Dispatcher.DispatchController): void {
    if (this.#isWaitingForDrain) return
    this.#isWaitingForDrain = true
    const resume = () => controller.resume()
    this.#response.on('drain', resume)
    // Without a client there is nothing to wait for, in case the request continues at all.
    whenOver(this.#response, resume)
  }

  /** Forwards an interim response (RFC 9110, 15.2). Node itself can write only a 103 with `Link`. */
  #passInterim(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    statusMessage: string,
    received: RawHeaders,
  ): void {
    this.#interims += 1
    if (this.#interims > MAX_INTERIM_RESPONSES) {
      controller.abort(interimError())
      return
    }
    const { socket, headersSent, req } = this.#response
    // HTTP/1.0 has no interim responses. A client that does not read gets none, because they are useless later.
    if (socket === null || headersSent || req.httpVersion !== '1.1' || socket.writableLength > 0) return
    const { upstreamUrl } = this.#options
    const headers = responseHeaders(withoutLength(received), upstreamUrl, this.#exchange.view)
    const phrase = isReasonPhrase(statusMessage) ? statusMessage : (STATUS_CODES[statusCode] ?? '')
    let text = `HTTP/1.1 ${statusCode} ${phrase}\r\n`
    for (let index = 0; index + 1 < headers.length; index += 2)
      text += `${headers[index]}: ${headers[index + 1]}\r\n`
    socket.write(`${text}\r\n`, 'latin1')
  }
}

const NO_HEADERS: RawHeaders = []

/** Safe methods (RFC 9110, 9.2.1) that never have a body. */
function isSafe(method: string): boolean {
  return method === 'GET' || method === 'HEAD'
}

/** Headers as undici received them; with HTTP/1.1 they are a list. */
function rawOf(headers: Dispatcher.DispatchController['rawHeaders']): RawHeaders {
  return Array.isArray(headers) ? headers : NO_HEADERS
}

/** Removes `Content-Length`, which a 204 and an interim response must not have (RFC 9110, 8.6). */
function withoutLength(headers: RawHeaders): RawHeaders {
  return headers.filter((_, index) => {
    const name = headers[index - (index % 2)]
    return name?.toString('latin1').toLowerCase() !== 'content-length'
  })
}

/** The client is gone, so the response is no longer needed. */
class ClientGoneError extends Error {
  override readonly name = 'ClientGoneError'

  constructor() {
    super('the client is gone')
  }
}
