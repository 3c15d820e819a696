import type { FastifyReply, FastifyRequest } from 'fastify'

/** The body of a request as text; empty without one. */
export function bodyText(request: FastifyRequest): string {
  return Buffer.isBuffer(request.body) ? request.body.toString() : ''
}

/** The path of a request without its query. */
export function pathOf(request: FastifyRequest): string {
  return request.url.replace(/\?.*/s, '')
}

/** Sends the body as bytes. For a string, Fastify would add a charset to the content type, unlike FastAPI. */
export function sendBytes(
  reply: FastifyReply,
  status: number,
  contentType: string,
  body: string | Uint8Array,
): FastifyReply {
  return reply.code(status).header('content-type', contentType).send(Buffer.from(body))
}

/** Sends a value as JSON. */
export function sendJson(reply: FastifyReply, status: number, value: unknown): FastifyReply {
  return sendBytes(reply, status, 'application/json', JSON.stringify(value))
}
