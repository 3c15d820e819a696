import type { IncomingMessage, ServerResponse } from 'node:http'
import { whenOver } from './connection.js'

/** What was read of a body: all of it, or what came until it was too large, too late, or broken off. */
export type ReadBody = { readonly kind: 'whole' | 'too-large' | 'late' | 'broken'; readonly bytes: Buffer }

/** How much of a body is read; times in milliseconds. */
export type ReadLimits = {
  readonly maxBytes: number
  /** For the whole body. 0 for any time. */
  readonly timeoutMs: number
  /** From one piece to the next. 0 for any time. */
  readonly pauseMs?: number
}

const NOTHING = Buffer.alloc(0)

/** Whether a request has a body, as far as its head says. */
export function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** Whether the client waits to be told to go on before it sends its body; HTTP/1.0 knows no such thing. */
export function awaitsContinue({ headers, httpVersionMinor }: IncomingMessage): boolean {
  return headers.expect !== undefined && httpVersionMinor >= 1
}

/** Tells a client that waits for it to go on, once. */
export function askForBody(response: ServerResponse): void {
  const { req, headersSent } = response
  if (!awaitsContinue(req) || headersSent) return
  response.writeContinue()
  delete req.headers.expect
}

/** The body of a request that has come whole already, without waiting; undefined for any other. */
export function bodyAtHand(received: IncomingMessage): Buffer | undefined {
  if (!received.complete) return undefined
  const bytes: Buffer | null = received.read()
  // Reads the end as well, without which the connection would not go on to the next request.
  received.resume()
  return bytes ?? NOTHING
}

/**
 * Reads a request's body, within limits. Never rejects.
 *
 * Of a body that was not read to its end the bytes are put back, and the stream is left paused: it can be
 * piped from its beginning, or drained by `resume()`.
 */
export function readBody(response: ServerResponse, limits: ReadLimits): Promise<ReadBody> {
  const { maxBytes, timeoutMs, pauseMs = 0 } = limits
  const received = response.req
  if (Number(received.headers['content-length'] ?? 0) > maxBytes) {
    return Promise.resolve({ kind: 'too-large', bytes: NOTHING })
  }
  askForBody(response)
  return new Promise(resolve => {
    const chunks: Buffer[] = []
    let length = 0
    let hasEnded = false
    const end = (kind: ReadBody['kind']) => {
      if (hasEnded) return
      hasEnded = true
      clearTimeout(timer)
      clearTimeout(pause)
      received.off('data', onData).off('end', onEnd)
      const bytes = Buffer.concat(chunks)
      if (kind !== 'whole') received.pause()
      if (kind !== 'whole' && kind !== 'broken' && length > 0) received.unshift(bytes)
      resolve({ kind, bytes })
    }
    const onData = (chunk: Buffer) => {
      chunks.push(chunk)
      length += chunk.length
      pause?.refresh()
      if (length > maxBytes) end('too-large')
    }
    const onEnd = () => end('whole')
    const timer = timeoutMs > 0 ? setTimeout(() => end('late'), timeoutMs).unref() : undefined
    const pause = pauseMs > 0 ? setTimeout(() => end('late'), pauseMs).unref() : undefined
    received.on('data', onData).on('end', onEnd).resume()
    whenOver(response, () => end('broken'))
  })
}
