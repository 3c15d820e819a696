import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { until } from '../support/harness.js'
import { exchange, field, proxyTo, RawClient, rawClient, rawUpstream, response } from '../support/raw.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'
const LIVE = 'GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n'

/** Far above the limits that are set here, and far below their defaults. */
const SOON_MS = 5000

async function soon<T>(what: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing for ${SOON_MS} ms`)), SOON_MS)
  })
  return await Promise.race([what, late]).finally(() => clearTimeout(timer))
}

test('a head larger than maxHeaderBytes gets a 431, whether in its target, in one header or in many', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.maxHeaderBytes': '4096' })
  const heads = [
    `GET /${'x'.repeat(5000)} HTTP/1.1\r\n${CLOSE}\r\n`,
    `GET /x HTTP/1.1\r\n${CLOSE}X: ${'x'.repeat(5000)}\r\n\r\n`,
    `GET /x HTTP/1.1\r\n${CLOSE}${'X-Many: y\r\n'.repeat(1000)}\r\n`,
    `POST /configure HTTP/1.1\r\n${CLOSE}X: ${'x'.repeat(5000)}\r\nContent-Length: 2\r\n\r\n{}`,
  ]
  for (const head of heads) {
    const answer = await soon(exchange(t, proxy, head))
    assert.match(answer, /^HTTP\/1\.1 431 Request Header Fields Too Large\r\n/, head.slice(0, 30))
    assert.equal(field(answer, 'connection'), 'close')
  }
  assert.equal(received.length, 0)
  const fits = `GET /x HTTP/1.1\r\n${CLOSE}X: ${'x'.repeat(3900)}\r\n\r\n`
  assert.match(await soon(exchange(t, proxy, fits)), /^HTTP\/1\.1 200 OK\r\n/)
})

test('a head above the default limit gets a 431 too, and one below it is forwarded completely', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const many = (count: number) =>
    `GET /x HTTP/1.1\r\n${CLOSE}${Array.from({ length: count }, (_, index) => `X-${index}: y\r\n`).join('')}\r\n`
  assert.match(await soon(exchange(t, proxy, many(5000))), /^HTTP\/1\.1 431 /)
  assert.equal(received.length, 0)
  assert.match(await soon(exchange(t, proxy, many(1000))), /^HTTP\/1\.1 200 /)
  assert.equal(received[0]?.head.match(/^X-\d+: y$/gm)?.length, 1000)
})

test('with any number of headers none is silently dropped, and the body arrives', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const many = 'X: y\r\n'.repeat(3000)
  const answer = await soon(
    exchange(t, proxy, `POST /x HTTP/1.1\r\n${CLOSE}${many}X-Last: z\r\nContent-Length: 4\r\n\r\nbody`),
  )
  if (/^HTTP\/1\.1 431 /.test(answer)) return
  assert.match(answer, /^HTTP\/1\.1 200 /)
  const [request] = received
  assert.deepEqual([field(request?.head ?? '', 'x-last'), request?.body], ['z', 'body'])
})

for (const path of ['/x', '/configure']) {
  test(`a body larger than maxBodyBytes gets a 413, by its Content-Length or by counting: ${path}`, async t => {
    const { port, received, server } = await rawUpstream(t, ({ socket }) =>
      socket.write(response('200 OK', 'ok')),
    )
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.maxBodyBytes': '1000' })
    const post = (fields: string, body: string) => `POST ${path} HTTP/1.1\r\nHost: a\r\n${fields}\r\n${body}`
    const chunks = (count: number) => `64\r\n${'x'.repeat(100)}\r\n`.repeat(count)
    let began = 0
    server.on('connection', socket =>
      socket.on('data', chunk => {
        if (chunk.toString('latin1').startsWith('POST')) began += 1
      }),
    )
    const large = await rawClient(t, proxy)
    large.send(post('Content-Length: 1001\r\n', 'x'.repeat(1001)))
    const text = await soon(large.until(/\}$/))
    assert.match(text, /^HTTP\/1\.1 413 [\s\S]*1000 bytes/)
    assert.equal(field(text, 'content-type'), 'application/json')
    // The connection stays usable, and the rest of the body is not read as a request.
    large.send(LIVE)
    assert.match(await soon(large.until(/\{"status":"ok"\}$/)), /\}HTTP\/1\.1 200 OK\r\n/)
    assert.equal(began, 0, 'the upstream received the request')

    const expecting = await rawClient(t, proxy)
    expecting.send(post('Content-Length: 1001\r\nExpect: 100-continue\r\n', ''))
    assert.match(await soon(expecting.until(/\}$/)), /^HTTP\/1\.1 413 /, 'the client got 100 Continue')

    const chunked = await rawClient(t, proxy)
    chunked.send(post('Transfer-Encoding: chunked\r\n', `${chunks(11)}0\r\n\r\n`))
    assert.match(await soon(chunked.until(/\}$/)), /^HTTP\/1\.1 413 [\s\S]*1000 bytes/)
    chunked.send(LIVE)
    assert.match(await soon(chunked.until(/\{"status":"ok"\}$/)), /\}HTTP\/1\.1 200 OK\r\n/)
    assert.equal(received.length, 0, 'a whole request has arrived')

    // Its end never arrives, and is not waited for.
    const endless = await rawClient(t, proxy)
    endless.send(post('Transfer-Encoding: chunked\r\n', chunks(11)))
    assert.match(await soon(endless.until(/\}$/)), /^HTTP\/1\.1 413 /)
    assert.equal(received.length, 0)

    const fits = await rawClient(t, proxy)
    fits.send(post('Content-Length: 1000\r\n', 'x'.repeat(1000)))
    assert.match(await soon(fits.until(/ok$/)), /^HTTP\/1\.1 200 /)
    fits.send(post('Transfer-Encoding: chunked\r\n', `${chunks(10)}0\r\n\r\n`))
    await soon(fits.until(/okHTTP\/1\.1 200 [\s\S]*ok$/))
    assert.equal(received.length, 2)
  })
}

test('connections above maxConnections are closed at once, and a closed one makes room for another', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.maxConnections': '2' })
  const one = await rawClient(t, proxy)
  const two = await rawClient(t, proxy)
  for (const client of [one, two]) await client.send(LIVE).until(/ok/)
  for (let index = 0; index < 10; index += 1) {
    const socket = connect(proxy, '127.0.0.1')
    t.after(() => socket.destroy())
    assert.equal(await soon(new RawClient(socket).closed()), '')
  }
  one.send(LIVE)
  await soon(one.until(/ok[\s\S]*ok/))
  two.socket.destroy()
  await until(async () => {
    const socket = connect(proxy, '127.0.0.1')
    t.after(() => socket.destroy())
    const client = new RawClient(socket)
    await once(socket, 'connect')
    return await client.send(LIVE).until(/ok/)
  })
})

test('a head that does not arrive in time gets a 408: truncated, trickling, or not started', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.headTimeoutMs': '500' })
  const brokenOff = soon(exchange(t, proxy, 'GET /x HTTP/1.1\r\nHost: a\r\nX: '))
  const dripping = await rawClient(t, proxy)
  dripping.send('GET /x HTTP/1.1\r\nHost: a\r\n')
  const drip = setInterval(() => dripping.send('X: y\r\n'), 50)
  t.after(() => clearInterval(drip))
  const silent = soon((await rawClient(t, proxy)).closed())
  assert.match(await brokenOff, /^HTTP\/1\.1 408 Request Timeout\r\n/)
  assert.match(await soon(dripping.closed()), /^HTTP\/1\.1 408 Request Timeout\r\n/)
  assert.match(await silent, /^(HTTP\/1\.1 408 Request Timeout\r\n|$)/)
  assert.equal(received.length, 0)
  // The limit applies to the head, not to a body or a response.
  const slow = await rawClient(t, proxy)
  slow.send('POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n')
  for (const letter of 'body') {
    await new Promise(resolve => setTimeout(resolve, 300))
    slow.send(letter)
  }
  assert.match(await soon(slow.until(/ok$/)), /^HTTP\/1\.1 200 /)
  assert.equal(received[0]?.body, 'body')
})

test('a connection that is idle for keepAliveTimeoutMs is closed, and one in use is kept', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.keepAliveTimeoutMs': '300' })
  const idle = await rawClient(t, proxy)
  const busy = await rawClient(t, proxy)
  busy.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
  await until(() => received.length === 1)
  assert.match(await soon(idle.send(LIVE).closed()), /^HTTP\/1\.1 200 [\s\S]*ok/)
  assert.equal(busy.socket.destroyed, false)
  received[0]?.socket.write(response('200 OK', 'done'))
  assert.match(await soon(busy.closed()), /^HTTP\/1\.1 200 [\s\S]*done$/)
})

test('after maxRequestsPerConnection the connection is closed, as the last response announces', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.maxRequestsPerConnection': '3' })
  const client = await rawClient(t, proxy)
  for (let count = 1; count <= 3; count += 1) {
    client.send('GET /x HTTP/1.1\r\nHost: a\r\n\r\n')
    await soon(client.until(new RegExp(`^(HTTP/1.1 200 [\\s\\S]*?ok){${count}}$`)))
  }
  const answers = (await soon(client.closed())).split(/(?=HTTP\/1\.1)/)
  assert.deepEqual(
    answers.map(answer => field(answer, 'connection')),
    ['keep-alive', 'keep-alive', 'close'],
  )
  assert.equal(received.length, 3)
})

test('pipelined requests above maxRequestsPerConnection are neither forwarded nor refused', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.maxRequestsPerConnection': '3' })
  const text = await soon(exchange(t, proxy, 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(6)))
  assert.equal(text.match(/HTTP\/1\.1 200 /g)?.length, 3)
  assert.doesNotMatch(text, /HTTP\/1\.1 503 /)
  assert.equal(received.length, 3)
})

test('streams and waits behind an unanswered request take no slot that would never be released', async t => {
  const { port, received } = await rawUpstream(t, () => undefined, { there: false })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  const head = 'HTTP/1.1\r\nHost: a\r\n'
  client.send(
    `GET /held ${head}\r\nGET /-/events ${head}\r\nGET /-/wait?timeout=10ms ${head}\r\n` +
      `POST /configure ${head}Prefer: wait=60\r\nContent-Length: 2\r\n\r\n{}`,
  )
  await until(() => received.length === 1)
  received[0]?.socket.write(response('200 OK', 'held'))
  const answers = await soon(client.until(/(?:HTTP\/1\.1 [\s\S]*){4}"status":"waiting_for_fiber"[^\n]*$/))
  assert.deepEqual(
    [...answers.matchAll(/HTTP\/1\.1 (\d+)/g)].map(match => match[1]),
    ['200', '400', '503', '503'],
  )
})
