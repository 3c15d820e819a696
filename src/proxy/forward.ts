import { type IncomingHttpHeaders, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Dispatcher } from 'undici'
import type { Breaker, Outcome } from '../breaker/breaker.js'
import { isHistoric } from '../domain/configure-request.js'
import type { Instant } from '../domain/time.js'
import type { ExchangeEvents } from '../observability/exchange-events.js'
import { whenOver } from '../server/connection.js'
import type { CorsPolicy } from '../server/cors.js'
import { errorResponse, type OwnResponse, respond, tooLarge } from '../server/error-response.js'
import { hasBody } from '../server/read-body.js'
import { failureOf, interimError, statusError } from '../upstream/failure.js'
import { noLongerWaiting, type UpstreamQueue } from '../upstream/queue.js'
import type { Exchange } from './exchange.js'
import { failureResponse, overloadedResponse } from './failure-response.js'
import { fiberEvidence, ResponseExcerpt, wholeText } from './fiber-evidence.js'
import { refuse } from './guard.js'
import {
  clientView,
  type Forwarding,
  headerOf,
  type RawHeaders,
  requestHeaders,
  responseHeaders,
  writeHead,
} from './headers.js'
import { forwardThroughHttpProxy } from './http-proxy.js'
import type { Refusals } from './refusal.js'
import { type BodyFault, type BodyLimits, RequestBodyError, receiveBody, streamBody } from './request-body.js'

/** What forwarding needs. */
export type ForwardOptions = BodyLimits &
  Forwarding & {
    readonly breaker: Breaker
    readonly agent: Dispatcher
    readonly refusals: Refusals
    readonly queue: UpstreamQueue
    readonly events: ExchangeEvents
    readonly cors: CorsPolicy
    /** The target under which the metadata is found at the upstream. */
    readonly metadataTarget: string
    /** Given each metadata document that a client gets, and when it was asked for. */
    readonly onMetadata: (text: string, askedAt: Instant) => void
    readonly clock: () => Instant
  }

/**
 * How many interim responses (RFC 9110, 15.2) are passed on; an upstream that sends more never comes to its response.
 */
const MAX_INTERIM_RESPONSES = 100

/** The last phase: sends each exchange to focus-server, in its turn, and the response to the client. */
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
  return errorResponse(id, 408, 'Request Timeout', "The request's body stalled, or took too long.")
}

/** One request at focus-server: undici's handler of it, which writes the response straight to the client. */
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
  #interims = 0
  #statusCode = 0
  /** Bytes of the body that are still to come, where its length is known. */
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
    const { received, target } = exchange
    const { agent, upstreamUrl } = this.#options
    exchange.forwarded()
    if (exchange.body === undefined && hasBody(received)) {
      this.#body = streamBody(exchange, this.#response, this.#options)
    }
    this.#release = exchange.hold(() => this.#stop())
    const method = received.method ?? 'GET'
    const headers = requestHeaders(received, exchange, this.#options)
    const body = exchange.body ?? this.#body ?? null
    const request = { origin: upstreamUrl.origin, path: target, method, headers, body }
    agent.dispatch(request, this)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    // Work that nobody waits for is not begun; begun on a guarded route, it is let finish.
    if (this.#exchange.hasEnded || this.#exchange.isClientGone) controller.abort(new ClientGoneError())
    else if (this.#exchange.guarded) this.#finished = this.#exchange.finishFirst()
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    _headers: IncomingHttpHeaders,
    statusMessage = '',
  ): void {
    const headers = Array.isArray(controller.rawHeaders) ? controller.rawHeaders : NO_HEADERS
    // A 101 was not asked for, and 100 is for undici.
    if (statusCode > 101 && statusCode < 200) {
      this.#passInterim(controller, statusCode, headers)
      return
    }
    if (statusCode < 200 || statusCode > 599) {
      controller.abort(statusError(statusCode))
      return
    }
    this.#statusCode = statusCode
    this.#watch(headers)
    this.#learnCors(statusCode, headers)
    this.#writeHead(statusCode, statusMessage, headers)
    const { guarded } = this.#exchange
    // Its work is done: a client that reads slowly does not hold a place in flight.
    if (guarded && statusCode < 300)
      this.#settle({ kind: 'answered', statusCode, isHistoric: this.#isHistoric })
    // Neither has a body, whatever length the upstream gives (RFC 9110, 8.6); undici would wait for it.
    if (statusCode === 204 || statusCode === 304) this.#complete({})
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#excerpt?.write(chunk)
    const response = this.#response
    if (response.destroyed) return
    this.#remaining -= chunk.length
    // The last piece and the end go out together.
    if (this.#remaining === 0) response.end(chunk)
    else if (!response.write(chunk)) {
      controller.pause()
      this.#resumeWhenDrained(controller)
    }
  }

  onResponseEnd(_controller: Dispatcher.DispatchController, trailers: IncomingHttpHeaders): void {
    this.#complete(trailers)
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#isComplete) return
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
      // What has come of the response may still say that the fiber is missing.
      this.#leaveQueue()
      this.#release?.()
    } else {
      this.#settle({ kind: isOurs ? 'nothing-learned' : 'failed' })
      exchange.fail()
    }
    // A response that has begun can only break off.
    if (response.headersSent) response.destroy()
    else if (fault !== undefined)
      answer(exchange, response, bodyFaultResponse(exchange, fault, this.#options), this.#options)
    else if (!isOurs) answer(exchange, response, failureResponse(exchange.id, failure), this.#options)
  }

  /** Ends what is under way, because the exchange has ended. */
  #stop(): void {
    if (!this.#isComplete) this.#controller?.abort(new ClientGoneError())
    // undici leaves a body alone for which it got no connection, and behind it the next request would wait.
    this.#body?.destroy()
  }

  #writeHead(statusCode: number, statusMessage: string, received: RawHeaders): void {
    const exchange = this.#exchange
    const response = this.#response
    if (response.destroyed) return
    const { upstreamUrl, trusts } = this.#options
    const view = () => clientView(exchange.received, exchange, trusts)
    const headers = responseHeaders(
      statusCode === 204 ? withoutLength(received) : received,
      upstreamUrl,
      view,
    )
    if (exchange.marks.length > 0) headers.push(...exchange.marks)
    const length = headerOf(received, 'content-length')
    if (length !== undefined && exchange.received.method !== 'HEAD') this.#remaining = Number(length)
    exchange.statusCode = statusCode
    writeHead(response, statusCode, statusMessage, headers)
  }

  /** Notes whether a page of the client's origin may read focus-server's responses: then it may read ours. */
  #learnCors(statusCode: number, headers: RawHeaders): void {
    const { origin } = this.#exchange.received.headers
    if (origin === undefined) return
    this.#options.cors.learn(origin, {
      statusCode,
      allowOrigin: headerOf(headers, 'access-control-allow-origin'),
      credentials: headerOf(headers, 'access-control-allow-credentials') === 'true',
    })
  }

  /** Reads along where the response may say something about the fiber: a guarded request that failed, or the metadata. */
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
      this.#excerpt = new ResponseExcerpt(
        coding(),
        wholeText(text => onMetadata(text, this.#askedAt)),
      )
    }
  }

  #complete(trailers: IncomingHttpHeaders): void {
    if (this.#isComplete) return
    this.#isComplete = true
    const response = this.#response
    // Trailers need chunks; a response with a length has no place for them.
    if (Object.keys(trailers).length > 0 && !response.writableEnded) response.addTrailers(singly(trailers))
    if (!response.writableEnded && !response.destroyed) response.end()
    this.#excerpt?.end()
    this.#leaveQueue()
    this.#release?.()
  }

  /** Whether the request was a historic job, where its body was read as a whole. */
  get #isHistoric(): boolean {
    return isHistoric(this.#exchange.body?.toString('utf8') ?? '')
  }

  /** What came of a guarded request, once that is known: its place in flight is free, and it may end. */
  #settle(outcome: Outcome): void {
    this.#exchange.permit?.settle(outcome)
    this.#finished?.()
  }

  #resumeWhenDrained(controller: Dispatcher.DispatchController): void {
    if (this.#isWaitingForDrain) return
    this.#isWaitingForDrain = true
    const resume = () => controller.resume()
    this.#response.on('drain', resume)
    // Without its client it has nothing to wait for, where it goes on at all.
    whenOver(this.#response, resume)
  }

  /** Passes an interim response on (RFC 9110, 15.2). Node itself writes a 103 with `Link`, and no other. */
  #passInterim(controller: Dispatcher.DispatchController, statusCode: number, received: RawHeaders): void {
    this.#interims += 1
    if (this.#interims > MAX_INTERIM_RESPONSES) {
      controller.abort(interimError())
      return
    }
    const { socket, headersSent, req } = this.#response
    // HTTP/1.0 knows none of these. A client that does not read gets none: they are of no use later.
    if (socket === null || headersSent || req.httpVersion !== '1.1' || socket.writableLength > 0) return
    const { upstreamUrl, trusts } = this.#options
    const exchange = this.#exchange
    const headers = responseHeaders(received, upstreamUrl, () => clientView(req, exchange, trusts))
    let text = `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode] ?? ''}\r\n`
    for (let index = 0; index + 1 < headers.length; index += 2)
      text += `${headers[index]}: ${headers[index + 1]}\r\n`
    socket.write(`${text}\r\n`, 'latin1')
  }
}

const NO_HEADERS: RawHeaders = []

/** A 204 has no length (RFC 9110, 8.6), whatever the upstream says. */
function withoutLength(headers: RawHeaders): RawHeaders {
  return headers.filter((_, index) => {
    const name = headers[index - (index % 2)]
    return name?.toString('latin1').toLowerCase() !== 'content-length'
  })
}

/** The client is gone, and nobody waits for the response. */
class ClientGoneError extends Error {
  override readonly name = 'ClientGoneError'

  constructor() {
    super('the client is gone')
  }
}

/** Headers with one value each, as Node takes trailers. */
function singly(headers: IncomingHttpHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(', ') : (value ?? ''),
    ]),
  )
}
