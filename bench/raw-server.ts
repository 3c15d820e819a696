import { createServer } from 'node:http'
import { SERVER_OPTIONS, serve } from './own-server.js'

/**
 * The peer of a refusal: the minimum work for Node. It sends the same response to every request without reading the
 * request.
 *
 * The response is the only argument, as JSON: `{status, headers, body}`, where headers is a flat list of names
 * and values.
 */
const response: {
  readonly status: number
  readonly headers: readonly string[]
  readonly body: string
} = JSON.parse(process.argv[2] ?? '')

const headers = [...response.headers]
const body = Buffer.from(response.body)

serve(
  createServer(SERVER_OPTIONS, (_request, reply) => {
    reply.writeHead(response.status, headers)
    reply.end(body)
  }),
)
