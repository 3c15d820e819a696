import type { FastifyReply, FastifyRequest } from 'fastify'
import { sendError } from '../server/error-response.js'

/** The formats of our responses, with their media types. */
const MEDIA_TYPES = { csv: 'text/csv', json: 'application/json', html: 'text/html' } as const

/** A format of a response. */
export type ResponseFormat = keyof typeof MEDIA_TYPES

/** The query parameter `format`, for the schema of a route. */
export function formatParameter(offered: readonly ResponseFormat[]) {
  return {
    format: {
      description: `One of ${offered.join(', ')}. Takes precedence over Accept.`,
      example: offered[0] ?? 'json',
    },
  }
}

/**
 * The format to send: the query parameter `format` (for links), otherwise the format with the highest weight in
 * `Accept`, otherwise JSON. Undefined if the parameter is invalid; a 400 has then been sent.
 *
 * @param offered the available formats. Among formats of equal weight, the first one is sent. Wildcards mean JSON.
 */
export function formatOf(
  request: FastifyRequest,
  reply: FastifyReply,
  offered: readonly ResponseFormat[],
): ResponseFormat | undefined {
  reply.header('vary', 'accept')
  const text = new URLSearchParams(request.url.split('?')[1]).get('format')
  if (text !== null) {
    const named = offered.find(format => format === text)
    if (named === undefined) {
      const message = `format: expected one of ${offered.join(', ')}; given ${text.slice(0, 64)}.`
      sendError(reply, 400, 'Bad Request', message)
    }
    return named
  }
  const weights = weightsOf(request.headers.accept ?? '')
  let best: ResponseFormat = 'json'
  let bestWeight = 0
  for (const format of offered) {
    const weight = weights.get(MEDIA_TYPES[format]) ?? 0
    if (weight > bestWeight) [best, bestWeight] = [format, weight]
  }
  return best
}

/** The weight of each media type or language in the header, in lower case (RFC 9110, 12.4.2). */
export function weightsOf(accept: string): ReadonlyMap<string, number> {
  return new Map(
    accept.split(',').map(range => {
      const [type = '', ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
      const weight = Number(parameters.find(parameter => parameter.startsWith('q='))?.slice(2) ?? 1)
      return [type, Number.isFinite(weight) ? weight : 0]
    }),
  )
}
