import { createServer, type Socket } from 'node:net'
import { startSimulator } from '../src/simulator/focus-server.js'
import { type Answer, ask } from './ask.js'
import { contentLength, MessageReader } from './message-reader.js'
import { serve } from './own-server.js'
import { CONFIGURE_BODY } from './requests.js'

/**
 * The upstream of the bench. It sends the responses of the simulated focus-server at a fraction of the cost, so that
 * the proxies limit the load and not their upstream.
 *
 * It requests each response once from the simulator and repeats it. A `POST /configure` gets 400 unless its body is
 * exactly the bench's, so a proxy that loses part of a body fails the bench. The argument is the state of the fiber,
 * `present` or `missing`.
 */
const fiber = process.argv[2] === 'missing' ? 'missing' : 'present'

const simulator = await startSimulator({ fiber, latency: 'none' })
const responses = new Map<string, Buffer>([
  ['GET /channels', bytesOf(await ask(simulator.url, 'GET', '/channels'))],
  ['GET /live_metadata', bytesOf(await ask(simulator.url, 'GET', '/live_metadata'))],
  ['POST /configure', bytesOf(await ask(simulator.url, 'POST', '/configure', CONFIGURE_BODY))],
])
await simulator.close()

const BAD_BODY = Buffer.from('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n')
const NOT_FOUND = Buffer.from('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n')

const counts = new Map<string, number>()

serve(createServer({ noDelay: true }, answer))

function answer(socket: Socket): void {
  let route = ''
  let body: Buffer[] = []
  const requests = new MessageReader({
    head: head => {
      route = head.slice(0, head.indexOf(' HTTP/'))
      body = []
      counts.set(route, (counts.get(route) ?? 0) + 1)
      const length = contentLength(head) ?? 0
      if (route === 'POST /bench/echo') socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${length}\r\n\r\n`)
      return length
    },
    body: part => {
      if (route !== 'POST /bench/echo') body.push(part)
      else if (!socket.write(part)) socket.pause()
    },
    end: () => {
      if (route !== 'POST /bench/echo') socket.write(responseTo(route, body))
    },
  })
  socket.on('drain', () => socket.resume())
  socket.on('data', chunk => requests.read(chunk))
  // Proxies may reset connections.
  socket.on('error', () => socket.destroy())
}

function responseTo(route: string, body: readonly Buffer[]): Buffer {
  if (route === 'GET /bench/counts') {
    const text = JSON.stringify(Object.fromEntries(counts))
    return Buffer.from(`HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${text}`)
  }
  if (route === 'POST /configure' && Buffer.concat(body).toString() !== CONFIGURE_BODY) return BAD_BODY
  return responses.get(route) ?? NOT_FOUND
}

/** A response as focus-server sends it, without the connection headers that Node adds. */
function bytesOf({ status, headers, body }: Answer): Buffer {
  const lines = headers.flatMap((name, index) =>
    index % 2 === 1 || ['connection', 'keep-alive'].includes(name.toLowerCase())
      ? []
      : [`${name}: ${headers[index + 1]}`],
  )
  return Buffer.concat([Buffer.from(`HTTP/1.1 ${status} \r\n${lines.join('\r\n')}\r\n\r\n`), body])
}
