import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { at, until } from '../support/harness.js'
import {
  appFor,
  exchange,
  portOf,
  proxyTo,
  RawClient,
  rawClient,
  rawUpstream,
  response,
} from '../support/raw.js'

const get = (target: string, ...fields: readonly string[]) =>
  [`GET ${target} HTTP/1.1`, 'Host: a', ...fields, '', ''].join('\r\n')
const CLOSE = 'Connection: close'

/** Responds with the target of the request, after a delay. */
const echoLate = ({
  head,
  socket,
}: {
  readonly head: string
  readonly socket: { write(text: string): unknown }
}) => {
  setTimeout(() => socket.write(response('200 OK', head.split(' ')[1] ?? '')), 300)
}

test('requests pipelined after one with an unknown expectation are answered', { timeout: 5000 }, async t => {
  const { port } = await rawUpstream(t, echoLate)
  const client = await rawClient(t, await proxyTo(t, `http://127.0.0.1:${port}`))
  client.send(get('/first') + get('/second', 'Expect: something') + get('/third'))
  await client.until(/\/first[\s\S]*417[\s\S]*\/third/)
})

test('one client port may have connections to two of our addresses', { timeout: 5000 }, async t => {
  const { port } = await rawUpstream(t, echoLate)
  const app = appFor(`http://127.0.0.1:${port}`)
  t.after(() => app.close())
  await app.listen({ host: '0.0.0.0', port: 0 })
  const open = async (host: string, localPort?: number) => {
    const to = { host, port: portOf(app.server), localAddress: '127.0.0.1' }
    const socket = connect(localPort === undefined ? to : { ...to, localPort })
    t.after(() => socket.destroy())
    await once(socket, 'connect')
    return socket
  }
  const socket = await open('127.0.0.1')
  const client = new RawClient(socket)
  client.send(get('/first'))
  await delay(50)
  await open('127.0.0.2', socket.localPort)
  await client.until(/\/first/)
})

test('a body that becomes invalid HTTP ends its upstream request', { timeout: 8000 }, async t => {
  let hasArrived = false
  let isClosed = false
  const upstream = createServer(socket => {
    t.after(() => socket.destroy())
    socket.on('error', () => undefined)
    socket.on('data', chunk => {
      const isProbe = chunk.toString().startsWith('GET /live_metadata')
      if (isProbe) socket.write(response('200 OK', '{"prr":2000.0,"sw_version":"1"}'))
      else if (!hasArrived) {
        hasArrived = true
        socket.once('close', () => {
          isClosed = true
        })
      }
    })
  }).listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  t.after(() => upstream.close())
  const proxy = await proxyTo(t, `http://127.0.0.1:${portOf(upstream)}`)
  // The client gets the 400 and leaves its own half open.
  const socket = connect({ host: '127.0.0.1', port: proxy, allowHalfOpen: true })
  t.after(() => socket.destroy())
  const client = new RawClient(socket)
  client.send('POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n')
  await until(() => hasArrived)
  client.send('zzz\r\n')
  await client.until(/400 Bad Request/)
  await until(() => isClosed, { timeoutMs: 3000, what: 'the request has ended at the upstream' })
})

test('the forbidden Content-Length of a 204 is not forwarded', { timeout: 5000 }, async t => {
  const { port } = await rawUpstream(t, ({ socket }) =>
    socket.write('HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n'),
  )
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, get('/x', CLOSE))
  assert.match(answer, /^HTTP\/1\.1 204 /)
  assert.doesNotMatch(answer, /content-length/i)
})

for (const status of ['101', '099']) {
  test(`an unsolicited ${status} from the upstream is not forwarded to the client`, {
    timeout: 5000,
  }, async t => {
    const { port } = await rawUpstream(t, ({ socket }) => socket.write(`HTTP/1.1 ${status} X\r\n\r\n`))
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'upstream.headersTimeoutMs': '1000' })
    assert.match(await exchange(t, proxy, get('/x', CLOSE)), /^HTTP\/1\.1 50[24] /)
  })
}

test('an internal error reveals nothing about its cause', { timeout: 5000 }, async t => {
  const app = appFor('http://127.0.0.1:1')
  t.after(() => app.close())
  app.get('/-/fault', () => {
    throw new Error('secret of the program')
  })
  const { body, headers } = await app.inject('/-/fault')
  assert.doesNotMatch(body, /secret/)
  assert.equal(headers['cache-control'], 'no-store')
  assert.ok(at(JSON.parse(body), 'requestId'))
})

test('encoded evidence counts even if its response is aborted', { timeout: 8000 }, async t => {
  const words = gzipSync('{"detail":"Missing required fiber metadata fields: prr"}')
  const { port } = await rawUpstream(t, ({ socket }) => {
    const head = `HTTP/1.1 500 Error\r\nContent-Encoding: gzip\r\nContent-Length: ${words.length + 9}\r\n\r\n`
    socket.end(Buffer.concat([Buffer.from(head), words]))
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const job = `POST /configure HTTP/1.1\r\nHost: a\r\n${CLOSE}\r\nContent-Length: 2\r\n\r\n{}`
  await exchange(t, proxy, job)
  await delay(200)
  assert.match(await exchange(t, proxy, get('/-/status', CLOSE)), /"state":"open"/)
})
