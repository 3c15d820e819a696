import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { connect, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type ConnectionLimits, Connections, whenOver } from '../../src/server/connection.js'
import { until } from '../support/harness.js'
import { portOf, rawClient } from '../support/raw.js'

/** A request that is being served. */
type Served = { readonly request: IncomingMessage; readonly response: ServerResponse }

const get = (path: string | number) => `GET /${path} HTTP/1.1\r\nHost: a\r\n\r\n`
const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)

/** A bare server that serves pipelined requests in turn, and what it has received. */
async function setUp(t: TestContext, listener: RequestListener, limits: Partial<ConnectionLimits> = {}) {
  const connections = new Connections({
    maxRequestsPerConnection: 0,
    responsePauseTimeoutMs: 0,
    bodyTimeoutMs: 0,
    ...limits,
  })
  const served: Served[] = []
  const sockets: Socket[] = []
  let arrived = 0
  const serve = connections.inTurn((request, response) => {
    served.push({ request, response })
    listener(request, response)
  })
  const server = createServer(serve)
  server.on('checkContinue', serve)
  server.on('request', () => {
    arrived += 1
  })
  server.on('connection', socket => sockets.push(socket))
  connections.follow(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    connections.stop()
    connections.closeAll()
    server.close()
  })
  const paths = () => served.map(({ request }) => request.url)
  return { connections, served, paths, sockets, arrived: () => arrived, port: portOf(server) }
}

/** Responds with the path at once. */
const echo: RequestListener = (request, response) => response.end(`<${request.url}>`)
/** Leaves the response to the test. */
const keep: RequestListener = () => undefined

const bodiesIn = (text: string) => [...text.matchAll(/<(\/\w+)>/g)].map(([, path]) => path)

test('pipelined requests are served one at a time, each after the previous one has been answered', async t => {
  const { served, paths, port, arrived } = await setUp(t, keep)
  const client = await rawClient(t, port)
  client.send(get('a') + get('b') + get('c'))
  await until(() => arrived() === 3)
  for (const [index, path] of ['/a', '/b', '/c'].entries()) {
    await until(() => served.length > index)
    assert.deepEqual(paths(), ['/a', '/b', '/c'].slice(0, index + 1))
    served[index]?.response.end(`<${path}>`)
    await client.until(new RegExp(`<${path}>`))
  }
  assert.deepEqual(bodiesIn(client.text), ['/a', '/b', '/c'])
})

test('2,000 pipelined requests are all answered, in order', async t => {
  const { port, served } = await setUp(t, (request, response) => {
    // Some at once, some later.
    if (Number(request.url?.slice(1)) % 3 === 0) setImmediate(() => echo(request, response))
    else echo(request, response)
  })
  const client = await rawClient(t, port)
  client.send(numbers(2000).map(get).join(''))
  await client.until(/<\/1999>/)
  assert.equal(served.length, 2000)
  assert.deepEqual(
    bodiesIn(client.text),
    numbers(2000).map(number => `/${number}`),
  )
})

// Node resumes a socket at the end of each message, so that a pause within its request listener does not last.
test('a connection is paused while many requests wait on it, and read again afterwards', async t => {
  const COUNT = 4000
  const { port, served, arrived, sockets } = await setUp(t, (request, response) => {
    if (request.url !== '/0') echo(request, response)
  })
  const client = await rawClient(t, port)
  client.send(get(0))
  await until(() => served.length === 1)
  // More than fits into one read of a connection.
  for (const number of numbers(COUNT).slice(1)) {
    client.send(`GET /${number} HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(1000)}\r\n\r\n`)
  }
  await until(() => sockets[0]?.isPaused(), { timeoutMs: 2000 })
  for (let turn = 0; turn < 200; turn += 1) await nextTurn()
  assert.ok(arrived() < COUNT / 10, `${arrived()} requests were taken`)
  served[0]?.response.end('</0>')
  await client.until(/<\/3999>/)
  assert.equal(served.length, COUNT)
  assert.deepEqual(
    bodiesIn(client.text),
    numbers(COUNT).map(number => `/${number}`),
  )
})

test('after a client has disconnected none of its requests is served, and the one in progress ends', async t => {
  const { served, arrived, paths, port } = await setUp(t, keep)
  const client = await rawClient(t, port)
  client.send(get('a') + get('b') + get('c'))
  await until(() => arrived() === 3)
  const first = served[0]
  assert.ok(first)
  const overs: boolean[] = []
  whenOver(first.response, hasResponse => overs.push(hasResponse))
  client.socket.destroy()
  await until(() => overs.length > 0)
  first.response.end('too late')
  for (let turn = 0; turn < 20; turn += 1) await nextTurn()
  assert.deepEqual([paths(), overs], [['/a'], [false]])
})

test('a response ends once, when its client has received it', async t => {
  const overs: boolean[] = []
  const { port } = await setUp(t, (request, response) => {
    whenOver(response, hasResponse => overs.push(hasResponse))
    echo(request, response)
  })
  const client = await rawClient(t, port)
  await client.send(get('a')).until(/<\/a>/)
  await until(() => overs.length > 0)
  client.socket.destroy()
  assert.deepEqual(overs, [true])
})

test('a request is pipelined if it arrived after an unanswered one, or if another one has arrived after it', async t => {
  const { connections, served, arrived, port } = await setUp(t, keep)
  const client = await rawClient(t, port)
  const isPipelined = (index: number) => {
    const { request } = served[index] ?? {}
    assert.ok(request)
    return connections.isPipelined(request)
  }
  client.send(get('a'))
  await until(() => served.length === 1)
  assert.equal(isPipelined(0), false)
  client.send(get('b'))
  await until(() => arrived() === 2)
  assert.equal(isPipelined(0), true)
  served[0]?.response.end('<a>')
  await until(() => served.length === 2)
  assert.equal(isPipelined(1), true)
  served[1]?.response.end('<b>')
  await client.until(/<b>/)
  client.send(get('c'))
  await until(() => served.length === 3)
  assert.equal(isPipelined(2), false)
})

test('whenFollowed calls its listener when data arrives after that request, and not after another one', async t => {
  const { connections, served, arrived, port } = await setUp(t, keep)
  const client = await rawClient(t, port)
  const follow = (index: number) => {
    let calls = 0
    const { request } = served[index] ?? {}
    assert.ok(request)
    connections.whenFollowed(request, () => {
      calls += 1
    })
    return () => calls
  }
  client.send(get('a'))
  await until(() => served.length === 1)
  const first = follow(0)
  served[0]?.response.end('<a>')
  await client.until(/<a>/)
  client.send(get('b'))
  await until(() => served.length === 2)
  const second = follow(1)
  assert.deepEqual([first(), second()], [0, 0])
  client.send(get('c'))
  await until(() => arrived() === 3)
  assert.deepEqual([first(), second()], [0, 1])
  served[1]?.response.end('<b>')
  await until(() => served.length === 3)
  client.send(get('d'))
  await until(() => arrived() === 4)
  assert.deepEqual([first(), second()], [0, 1])
})

test('the last request that a connection may have closes it, and no later one is served', async t => {
  const { served, port } = await setUp(t, echo, { maxRequestsPerConnection: 3 })
  for (const send of [
    async (client: Awaited<ReturnType<typeof rawClient>>) => {
      client.send(numbers(5).map(get).join(''))
    },
    async (client: Awaited<ReturnType<typeof rawClient>>) => {
      for (const number of numbers(3)) await client.send(get(number)).until(new RegExp(`</${number}>`))
    },
  ]) {
    const before = served.length
    const client = await rawClient(t, port)
    await send(client)
    const text = await client.closed()
    assert.deepEqual(bodiesIn(text), ['/0', '/1', '/2'])
    assert.deepEqual(
      [...text.matchAll(/^connection: ([\w-]+)/gim)].map(([, value]) => value),
      ['keep-alive', 'keep-alive', 'close'],
    )
    assert.equal(served.length - before, 3)
  }
})

test('two connections do not wait for each other', async t => {
  const { served, port } = await setUp(t, (request, response) => {
    if (request.url !== '/slow') echo(request, response)
  })
  const slow = await rawClient(t, port)
  slow.send(get('slow') + get('behind'))
  await until(() => served.length === 1)
  const other = await rawClient(t, port)
  await other.send(get('other')).until(/<\/other>/)
  served[0]?.response.end('</slow>')
  assert.deepEqual(bodiesIn(await slow.until(/<\/behind>/)), ['/slow', '/behind'])
})

test('a last response is sent after the pending responses, and closes the connection', async t => {
  const { connections, served, arrived, sockets, port } = await setUp(t, keep)
  const client = await rawClient(t, port)
  client.send(get('a') + get('b'))
  await until(() => arrived() === 2)
  const socket = sockets[0]
  assert.ok(socket)
  connections.answerLast(socket, 'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<last>')
  connections.answerLast(socket, 'never')
  served[0]?.response.end('<a>')
  await until(() => served.length === 2)
  assert.doesNotMatch(client.text, /last/)
  served[1]?.response.end('<b>')
  const text = await client.closed()
  assert.match(text, /<a>[\s\S]*<b>[\s\S]*<last>$/)
})

test('closeIdle closes idle connections and keeps those with a pending response', async t => {
  const { connections, served, port } = await setUp(t, keep)
  const [idle, busy] = [await rawClient(t, port), await rawClient(t, port)]
  idle.send(get('a'))
  await until(() => served.length === 1)
  served[0]?.response.end('<a>')
  await idle.until(/<a>/)
  busy.send(get('b'))
  await until(() => served.length === 2)
  connections.closeIdle()
  await idle.closed()
  served[1]?.response.end('<b>')
  await busy.until(/<b>/)
})

for (const [what, version, field] of [
  ['expects the connection to close after the response, as in HTTP/1.0,', '1.0', 'Accept: */*'],
  ['asks for the connection to be closed', '1.1', 'Connection: close'],
  ['sends Expect: 100-continue and then its body without waiting', '1.1', 'Expect: 100-continue'],
] as const) {
  test(`a client that ${what} gets the response although it is still sending its body`, async t => {
    const { port } = await setUp(t, echo)
    const socket = connect(port, '127.0.0.1')
    t.after(() => socket.destroy())
    const errors: string[] = []
    socket.on('error', error => errors.push(error.message))
    // A reset discards received data that has not been read.
    socket.pause()
    const length = 4_000_000
    socket.write(`POST /large HTTP/${version}\r\nHost: a\r\n${field}\r\nContent-Length: ${length}\r\n\r\n`)
    for (let sent = 0; sent < length && errors.length === 0; sent += 100_000) {
      const isTaken = socket.write('x'.repeat(100_000))
      if (!isTaken) await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => undefined)
      await nextTurn()
    }
    let text = ''
    socket.on('data', chunk => {
      text += chunk.toString()
    })
    socket.resume()
    if (!socket.closed) await once(socket, 'close').catch(() => undefined)
    assert.deepEqual(errors, [])
    assert.match(text, /^HTTP\/1\.1 200 [\s\S]*<\/large>/)
  })
}

test('a body that continues endlessly after its response does not keep the connection open', async t => {
  const { port } = await setUp(t, echo, { bodyTimeoutMs: 200 })
  for (const field of ['Content-Length: 1000000', 'Transfer-Encoding: chunked']) {
    const client = await rawClient(t, port)
    client.send(`POST /slow HTTP/1.1\r\nHost: a\r\n${field}\r\n\r\n`)
    const trickle = setInterval(() => client.send('1\r\nx\r\n'), 20)
    await client.closed().finally(() => clearInterval(trickle))
    assert.deepEqual(bodiesIn(client.text), ['/slow'])
    const whole = await rawClient(t, port)
    whole.send(`POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n`)
    await whole.until(/<\/a>/)
    await whole.send(`body${get('b')}`).until(/<\/b>/)
  }
})
