import type { IncomingMessage } from 'node:http'
import type { FastifyReply } from 'fastify'

/** What was read of a body: all of it, or what came until it was too large, too late, or broken off. */
export type ReadBody = { readonly kind: 'whole' | 'too-large' | 'late' | 'broken'; readonly bytes: Buffer }

/** Whether the client waits to be told to go on before it sends its body; HTTP/1.0 knows no such thing. */
export function awaitsContinue({ headers, httpVersionMinor }: IncomingMessage): boolean {
  return headers.expect !== undefined && httpVersionMinor >= 1
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
  if (awaitsContinue(raw)) reply.raw.writeContinue()
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
