import type { IncomingMessage, ServerResponse } from 'node:http'
import { PassThrough, type Readable } from 'node:stream'
import { whenOver } from '../server/connection.js'
import { askForBody, bodyAtHand, hasBody, readBody } from '../server/read-body.js'
import type { Exchange } from './exchange.js'

/** What limits the body of a request; 0 for no limit. Times in milliseconds. */
export type BodyLimits = {
  readonly maxBodyBytes: number
  /** From one piece of a body to the next. */
  readonly bodyPauseTimeoutMs: number
  /** For the whole body of a guarded request. */
  readonly bodyTimeoutMs: number
}

/** Why a body did not come whole: its client paused or took too long, it has too many bytes, or its client is gone. */
export type BodyFault = 'stalled' | 'too-large' | 'gone'

/** A body did not come whole. It says nothing about focus-server. */
export class RequestBodyError extends Error {
  override readonly name = 'RequestBodyError'
  readonly fault: BodyFault

  constructor(fault: BodyFault) {
    super(`the request's body did not come whole: ${fault}`)
    this.fault = fault
  }
}

/**
 * A body up to this size of a guarded request is read whole before anything is taken for the request; a configure has 200
 * bytes. It is what Node reads ahead of a body that is not read: https://nodejs.org/api/stream.html#buffering.
 */
const SMALL_BODY_BYTES = 16_384

/** Whether a body is known to be small. */
export function hasSmallBody({ headers }: IncomingMessage): boolean {
  return (
    headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) <= SMALL_BODY_BYTES
  )
}

/**
 * Gets the body of an exchange ready to be sent: a small one that has come already is `exchange.body` then, and so is
 * every small one of a guarded request that has not got its place in flight yet: a client that trickles it holds nothing
 * meanwhile. Any other body is streamed later.
 *
 * @param next is called with the fault that keeps the request from being forwarded, if there is one.
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
  // What came in one piece with the head is parsed when the present call stack has ended.
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
 * The body to send, as a stream. A stream of its own, because undici destroys what it could not send to the end, and
 * with the request itself would go the connection on which its response is due.
 */
export function streamBody(exchange: Exchange, response: ServerResponse, limits: BodyLimits): Readable {
  const { received, guarded } = exchange
  askForBody(response)
  const body = new PassThrough()
  // While it waits inside of undici nothing else listens, and an unhandled error ends the process.
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
    // undici waits for a body without end, and with it one of its connections.
    const timer = setTimeout(() => {
      // What has come is not taken yet: it is the upstream that pauses, and it has a limit of its own.
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
    // What is not read any more still has to be taken from the connection, for the next request on it. This
    // listener comes after pipe's own, which pauses.
    received.resume()
  })
  return body
}
