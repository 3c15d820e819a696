import type { IncomingMessage, ServerResponse } from 'node:http'
import { whenOver } from './connection.js'

/** The bytes that were read: the whole body, or those received until it was too large, too late, or aborted. */
export type ReadBody = { readonly kind: 'whole' | 'too-large' | 'late' | 'broken'; readonly bytes: Buffer }

/** Limits on reading a body; times in milliseconds. */
export type ReadLimits = {
  readonly maxBytes: number
  /** For the whole body. 0 for no limit. */
  readonly timeoutMs: number
  /** Between two chunks. 0 for no limit. */
  readonly pauseMs?: number
}

const NOTHING = Buffer.alloc(0)

/** Whether a request has a body, according to its headers. */
export function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** Whether the client waits for 100 Continue before it sends its body. HTTP/1.0 has no such mechanism. */
export function awaitsContinue({ headers, httpVersionMinor }: IncomingMessage): boolean {
  return headers.expect !== undefined && httpVersionMinor >= 1
}

/** Sends 100 Continue once, if the client waits for it. */
export function askForBody(response: ServerResponse): void {
  const { req, headersSent } = response
  if (!awaitsContinue(req) || headersSent) return
  response.writeContinue()
  delete req.headers.expect
}

/** Returns the body of a request that has already arrived completely; undefined for any other. */
export function bodyAtHand(received: IncomingMessage): Buffer | undefined {
  if (!received.complete) return undefined
  const bytes: Buffer | null = received.read()
  // This also reads the end; without it the connection would never continue with the next request.
  received.resume()
  return bytes ?? NOTHING
}

/**
 * Reads a request body within limits. Never rejects.
 *
 * If the body was not read to its end, the bytes are put back and the stream is left paused: it can be piped from the
 * start, or drained with `resume()`.
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
