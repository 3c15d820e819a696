import type { IncomingMessage } from 'node:http'
import { PassThrough, type Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { NothingLearnedError } from '../breaker/breaker.js'

/** What was read of a body: all of it, or what came until it was too large, too late, or broken off. */
export type ReadBody = { readonly kind: 'whole' | 'too-large' | 'late' | 'broken'; readonly bytes: Buffer }

/** Whether the client waits to be told to go on before it sends its body; HTTP/1.0 knows no such thing. */
export function awaitsContinue({ headers, httpVersionMinor }: IncomingMessage): boolean {
  return headers.expect !== undefined && httpVersionMinor >= 1
}

/**
 * Tells a client that waits for it to go on. Before its turn Node would put the 100 between the head and the body of
 * the answer that it precedes.
 */
function askForBody(raw: IncomingMessage, { raw: response }: FastifyReply): void {
  if (!awaitsContinue(raw)) return
  if (response.socket === null)
    response.once('socket', () => response.headersSent || response.writeContinue())
  else response.writeContinue()
}

/**
 * Reads a request's body, at most `maxBytes` of it and for at most `timeoutMs`. Never rejects.
 *
 * Of a body that was not read to its end the bytes are put back, and the stream is left paused: it can be
 * piped from its beginning, or drained by `resume()`.
 */
export function readBody(reply: FastifyReply, maxBytes: number, timeoutMs: number): Promise<ReadBody> {
  const { raw } = reply.request
  if (Number(raw.headers['content-length'] ?? 0) > maxBytes) {
    return Promise.resolve({ kind: 'too-large', bytes: Buffer.alloc(0) })
  }
  askForBody(raw, reply)
  return new Promise(resolve => {
    const chunks: Buffer[] = []
    let length = 0
    const end = (kind: ReadBody['kind']) => {
      clearTimeout(timer)
      raw.off('data', onData).off('end', onEnd).off('close', onClose)
      const bytes = Buffer.concat(chunks)
      if (kind !== 'whole') raw.pause()
      if (kind !== 'whole' && kind !== 'broken' && length > 0) raw.unshift(bytes)
      resolve({ kind, bytes })
    }
    const onData = (chunk: Buffer) => {
      chunks.push(chunk)
      length += chunk.length
      if (length > maxBytes) end('too-large')
    }
    const onEnd = () => end('whole')
    const onClose = () => end('broken')
    const timer = setTimeout(() => end('late'), timeoutMs).unref()
    raw.on('data', onData).on('end', onEnd).on('close', onClose)
  })
}

/** How long a client's body may pause between two pieces, and how long it may be; 0 for any. */
export type BodyLimits = { readonly bodyPauseTimeoutMs: number; readonly maxBodyBytes: number }

/** A client has begun a body and not gone on with it: as little learned as from one that left. */
export class StalledBodyError extends NothingLearnedError {
  override readonly name = 'StalledBodyError'
}

/** A body without a length is longer than it may be. */
export class BodyTooLargeError extends NothingLearnedError {
  override readonly name = 'BodyTooLargeError'
}

/**
 * The body to send, if the request has one. A stream of its own, because undici destroys what it could not
 * send to the end, and with the request itself would go the connection on which its answer is due.
 */
export function bodyOf(raw: IncomingMessage, reply: FastifyReply, limits: BodyLimits): Readable | null {
  const { 'content-length': length, 'transfer-encoding': encoding } = raw.headers
  if (encoding === undefined && (length === undefined || Number(length) === 0)) return null
  askForBody(raw, reply)
  const body = new PassThrough()
  // While it waits inside of undici nobody else listens, and an error that nobody hears ends the process.
  body.on('error', () => undefined)
  const left = () => body.destroy(new NothingLearnedError('the client left before its request was complete'))
  raw.once('error', error => body.destroy(error))
  raw.once('aborted', left)
  // It left while the request waited for its turn; a pipelined answer has no connection yet that tells so.
  if (raw.destroyed && !raw.readableEnded) left()
  raw.pipe(body)
  const { bodyPauseTimeoutMs, maxBodyBytes } = limits
  if (maxBodyBytes > 0) {
    let length = 0
    raw.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > maxBodyBytes) body.destroy(new BodyTooLargeError('the body is too large'))
    })
  }
  if (bodyPauseTimeoutMs > 0) {
    // undici waits for a body without end, and with it one of its connections and a place in a recovery.
    const timer = setTimeout(() => {
      // What has come is not taken yet: it is the upstream that pauses, and it has a limit of its own.
      if (body.writableNeedDrain) timer.refresh()
      else body.destroy(new StalledBodyError('the body stalled'))
    }, bodyPauseTimeoutMs).unref()
    raw.on('data', () => timer.refresh())
    raw.once('end', () => clearTimeout(timer))
    body.once('close', () => clearTimeout(timer))
  }
  // What nobody reads any more still has to be taken from the connection, for the next request on it. This
  // listener comes after pipe's own, which pauses.
  body.once('close', () => raw.resume())
  return body
}
