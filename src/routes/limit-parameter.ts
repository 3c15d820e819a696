import type { FastifyReply, FastifyRequest } from 'fastify'
import { sendError } from '../server/error-response.js'

const DEFAULT_LIMIT = 100
const MAX_LIMIT = 1000

/** The query parameter `limit`, for the schema of a route. */
export const LIMIT_PARAMETER = {
  limit: { description: `Maximum number of items, up to ${MAX_LIMIT}.`, example: String(DEFAULT_LIMIT) },
}

/** How many items of a list to send, from 1 to 1000. Undefined if the value is invalid; a 400 has then been sent. */
export function limitOf(request: FastifyRequest, reply: FastifyReply): number | undefined {
  const text = new URLSearchParams(request.url.split('?')[1]).get('limit')
  const limit = text === null ? DEFAULT_LIMIT : Number(text)
  if (Number.isInteger(limit) && limit >= 1 && limit <= MAX_LIMIT) return limit
  const message = `limit: expected a whole number from 1 to ${MAX_LIMIT}; given ${text?.slice(0, 64)}.`
  sendError(reply, 400, 'Bad Request', message)
  return undefined
}
