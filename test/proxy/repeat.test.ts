import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { createServer } from 'node:tls'
import { requireOrSkip, until } from '../support/harness.js'
import { portOf, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'
import { selfSigned } from '../support/self-signed.js'

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/** The part of its response that the upstream sends before it closes. */
const BEGINNINGS: Readonly<Record<string, string>> = {
  nothing: '',
  'a byte': 'H',
  'half a head': 'HTTP/1.1 200 OK\r\nX-Y',
  'an interim response': 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n',
  'a head': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n',
}

const GUARDED = { 'guard.routes': '[{"method":"GET","path":"/jobs"}]' }

/** An upstream that closes the connection of a request on demand, and the proxy in front of it. */
async function closing(t: TestContext, options: Readonly<Record<string, string>> = {}) {
  const counts = new Map<string, number>()
  let connections = 0
  const upstream = await rawUpstream(t, ({ head, socket }) => {
    const url = new URL(head.split(' ')[1] ?? '', 'http://a')
    const id = url.searchParams.get('id')
    if (id === null) return void socket.write(response('200 OK', 'ok'))
    const count = (counts.get(id) ?? 0) + 1
    counts.set(id, count)
    if (count > Number(url.searchParams.get('times'))) return void socket.write(response('200 OK', 'again'))
    const beginning = BEGINNINGS[url.searchParams.get('after') ?? ''] ?? ''
    const close = () => {
      if (url.searchParams.get('by') === 'reset') socket.resetAndDestroy()
      else socket.end()
    }
    if (beginning === '') close()
    // Otherwise the reset overtakes data that was sent before it.
    else socket.write(beginning, () => setTimeout(close, 20))
  })
  upstream.server.on('connection', () => {
    connections += 1
  })
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, options)
  const send = async (request: string) => await (await rawClient(t, port)).send(request).closed()
  /** Creates an idle connection to the upstream, if the proxy keeps any. */
  const warm = () => send('GET /warm HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  return { ...upstream, send, warm, counts, connections: () => connections }
}

const requestOf = (method: string, target: string, body: string) =>
  `${method} ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${body === '' ? '' : `Content-Length: ${body.length}\r\n`}\r\n${body}`

for (const isReused of [true, false]) {
  test(`on a ${isReused ? 'reused' : 'new'} connection nothing is sent twice${isReused ? ', except a GET or HEAD without a body before the first byte of the response' : ''}`, async t => {
    const { send, warm, counts } = await closing(t, isReused ? {} : { 'upstream.keepAliveMs': '0' })
    let id = 0
    for (const method of METHODS) {
      for (const body of ['', 'body!']) {
        for (const after of Object.keys(BEGINNINGS)) {
          for (const by of ['end', 'reset']) {
            id += 1
            await warm()
            await send(
              requestOf(method, `/a?id=${id}&times=9&by=${by}&after=${encodeURIComponent(after)}`, body),
            )
            const isSafe = (method === 'GET' || method === 'HEAD') && body === ''
            const expected = isReused && isSafe && after === 'nothing' ? 2 : 1
            assert.equal(counts.get(String(id)), expected, `${method} ${body} ${after} ${by}`)
          }
        }
      }
    }
  })
}

test('the client gets the response of the second attempt, which used a new connection', async t => {
  const { send, warm, connections } = await closing(t)
  for (const method of ['GET', 'HEAD']) {
    for (const by of ['end', 'reset']) {
      await warm()
      const before = connections()
      const text = await send(requestOf(method, `/a?id=${method}${by}&times=1&by=${by}`, ''))
      assert.match(text, /^HTTP\/1\.1 200 OK\r\n/)
      if (method === 'GET') assert.match(text, /\r\n\r\nagain$/)
      assert.equal(connections(), before + 1)
    }
  }
})

test('a new TLS connection without a response does not count as reused', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { certFile, keyFile } = selfSigned(t)
  let asked = 0
  const server = createServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, socket => {
    socket.on('error', () => undefined)
    socket.on('data', chunk => {
      if (/^GET \/live_metadata /.test(String(chunk))) return
      asked += 1
      socket.end()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const port = await proxyTo(t, `https://127.0.0.1:${portOf(server)}`, {
    'upstream.tls.caFile': certFile,
    'upstream.tls.serverName': 'localhost',
    'probe.timeoutMs': '100',
  })
  for (const count of [1, 2]) {
    const client = await rawClient(t, port)
    const text = await client.send('GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n').closed()
    assert.match(text, /^HTTP\/1\.1 502 /)
    assert.equal(asked, count)
  }
})

test('a request is repeated only once', async t => {
  const { send, warm, counts } = await closing(t)
  await warm()
  const text = await send(requestOf('GET', '/a?id=1&times=9', ''))
  assert.match(text, /^HTTP\/1\.1 502 Bad Gateway\r\n/)
  assert.equal(counts.get('1'), 2)
})

test('a request to a guarded route is sent once, whatever its method', async t => {
  const { send, warm, counts } = await closing(t, GUARDED)
  await warm()
  await send(requestOf('GET', '/jobs?id=1&times=9', ''))
  assert.equal(counts.get('1'), 1)
})

test('an idle connection is reused only for upstream.keepAliveMs', async t => {
  const { send, warm, server, connections } = await closing(t, { 'upstream.keepAliveMs': '300' })
  const connected = once(server, 'connection')
  const closed = connected.then(async ([socket]) => {
    const startedAt = performance.now()
    await once(socket, 'close')
    return performance.now() - startedAt
  })
  await warm()
  const openMs = await closed
  assert.ok(openMs < 2500, `${openMs} ms`)
  const before = connections()
  assert.match(await send(requestOf('GET', '/', '')), /^HTTP\/1\.1 200 /)
  assert.equal(connections(), before + 1)
})

test('a connection that has reached upstream.maxConnectionAgeMs is not reused', async t => {
  const { warm, connections } = await closing(t, { 'upstream.maxConnectionAgeMs': '300' })
  await warm()
  const before = connections()
  await warm()
  assert.equal(connections(), before)
  await until(
    async () => {
      await warm()
      return connections() > before
    },
    { what: 'traffic moves to a new connection', timeoutMs: 5000 },
  )
})
