import type { IncomingMessage, ServerResponse } from 'node:http'
import { PassThrough, type Readable } from 'node:stream'
import { whenOver } from '../server/connection.js'
import { askForBody, bodyAtHand, hasBody, readBody } from '../server/read-body.js'
import type { Exchange } from './exchange.js'

/** Limits of a request body; 0 for no limit. Times in milliseconds. */
export type BodyLimits = {
  readonly maxBodyBytes: number
  /** Between two chunks of the body. */
  readonly bodyPauseTimeoutMs: number
  /** For the whole body of a guarded request. */
  readonly bodyTimeoutMs: number
}

/** Why a body is incomplete: the client paused or took too long, the body is too large, or the client is gone. */
export type BodyFault = 'stalled' | 'too-large' | 'gone'

/** A request body is incomplete. This says nothing about focus-server. */
export class RequestBodyError extends Error {
  override readonly name = 'RequestBodyError'
  readonly fault: BodyFault

  constructor(fault: BodyFault) {
    super(`incomplete request body: ${fault}`)
    this.fault = fault
  }
}

/**
 * A guarded request's body up to this size is read completely before any resource is taken for the request; that of a
 * configure request has about 200 bytes. It is the amount that Node buffers of an unread body:
 * https://nodejs.org/api/stream.html#buffering.
 */
const SMALL_BODY_BYTES = 16_384

/** Whether a body is known to be small. */
export function hasSmallBody({ headers }: IncomingMessage): boolean {
  return (
    headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) <= SMALL_BODY_BYTES
  )
}

/**
 * Prepares the body of an exchange for sending. A small body that has already arrived is stored in `exchange.body`. So
 * is every small body of a guarded request that has no slot yet, so that a client that trickles it occupies nothing in
 * the meantime. Any other body is streamed later.
 *
 * @param next called when the body is ready, or with the fault that prevents forwarding.
 */
export function receiveBody(
  exchange: Exchange,
  response: ServerResponse,
  { bodyPauseTimeoutMs, bodyTimeoutMs }: BodyLimits,
  next: (fault?: BodyFault) => void,
): void {
  const { received, guarded, permit } = exchange
  if (exchange.body !== undefined || !hasBody(received) || !hasSmallBody(received)) {
    next()
    return
  }
  const isRequired = guarded && permit === undefined
  // A body that arrived together with the head is parsed after the current call stack.
  process.nextTick(() => {
    exchange.body = bodyAtHand(received)
    if (exchange.body !== undefined || !isRequired || exchange.isClientGone) return next()
    const limits = { maxBytes: SMALL_BODY_BYTES, timeoutMs: bodyTimeoutMs, pauseMs: bodyPauseTimeoutMs }
    readBody(response, limits).then(({ kind, bytes }) => {
      if (kind !== 'whole') {
        received.resume()
        return next(kind === 'broken' ? 'gone' : 'stalled')
      }
      exchange.body = bytes
      next()
    })
  })
}

/**
 * The body to send, as a separate stream. undici destroys a stream that it could not send completely; destroying the
 * request itself would also close the connection that the response needs.
 */
export function streamBody(exchange: Exchange, response: ServerResponse, limits: BodyLimits): Readable {
  const { received, guarded } = exchange
  askForBody(response)
  const body = new PassThrough()
  // While it is queued in undici nothing else listens, and an unhandled error would terminate the process.
  body.on('error', () => undefined)
  const fail = (fault: BodyFault) => body.destroy(new RequestBodyError(fault))
  whenOver(response, () => {
    if (!received.readableEnded) fail('gone')
  })
  received.pipe(body)
  const { bodyPauseTimeoutMs, bodyTimeoutMs, maxBodyBytes } = limits
  const timers: NodeJS.Timeout[] = []
  const stop = () => {
    for (const timer of timers) clearTimeout(timer)
  }
  if (maxBodyBytes > 0) {
    let length = 0
    received.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > maxBodyBytes) fail('too-large')
    })
  }
  if (bodyPauseTimeoutMs > 0) {
    // undici waits for a body without a time limit and blocks one of its connections.
    const timer = setTimeout(() => {
      // The received data has not been taken yet: the upstream is pausing, and it has its own limit.
      if (body.writableNeedDrain) timer.refresh()
      else fail('stalled')
    }, bodyPauseTimeoutMs).unref()
    timers.push(timer)
    received.on('data', () => timer.refresh())
  }
  if (guarded && bodyTimeoutMs > 0) timers.push(setTimeout(() => fail('stalled'), bodyTimeoutMs).unref())
  received.once('end', stop)
  body.once('close', () => {
    stop()
    // The unread rest must be drained from the connection, because the next request follows it. This listener runs
    // after pipe's own, which pauses.
    received.resume()
  })
  return body
}
