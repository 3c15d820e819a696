import { createServer } from 'node:http'
import { announce } from './children.js'

/**
 * The least that Node can do: answers every request with one fixed answer and reads nothing of it.
 *
 * The answer is the one argument, as JSON: `{status, headers, body}`, where headers is a flat list of names and
 * values.
 */
const answer: {
  readonly status: number
  readonly headers: readonly string[]
  readonly body: string
} = JSON.parse(process.argv[2] ?? '')

const headers = [...answer.headers]
const body = Buffer.from(answer.body)

// As in the proxy, so that both send the same `Keep-Alive` and neither closes a connection of the bench.
const options = { keepAliveTimeout: 72_000, requestTimeout: 0 }
const server = createServer(options, (_request, response) => {
  response.writeHead(answer.status, headers)
  response.end(body)
})
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (typeof address === 'object' && address !== null) announce(`http://127.0.0.1:${address.port}`)
})
