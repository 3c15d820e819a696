import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { request } from 'undici'
import { at, startProxy, until } from '../support/harness.js'
import { exchange, field, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'
const UPGRADE = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n'

/** The proxy in its own process, which must survive everything. */
async function alive(t: Parameters<typeof startProxy>[0], port: number) {
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}` })
  const url = new URL(proxy.url)
  return {
    port: Number(url.port),
    stillResponds: async () => assert.equal((await fetch(`${proxy.url}/-/live`)).status, 200),
  }
}

test('an upgrade pipelined after an unanswered request does not get mixed up with its response', async t => {
  const { port } = await rawUpstream(t, ({ head, socket }) => {
    if (head.startsWith('GET /slow')) setTimeout(() => socket.write(response('200 OK', 'slow')), 100)
    else socket.write(response('404 Not Found', 'none'))
  })
  const proxy = await alive(t, port)
  for (const wish of [UPGRADE, UPGRADE.replace('websocket', 'h2c')]) {
    const client = await rawClient(t, proxy.port)
    client.send(`GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /ws HTTP/1.1\r\nHost: a\r\n${wish}\r\n`)
    assert.match(await client.closed(), /^HTTP\/1\.1 200 OK\r\n[\s\S]*slow$/)
  }
  await proxy.stillResponds()
})

test('a CONNECT that is dropped at once has no effect on other requests', async t => {
  const { port } = await rawUpstream(t, () => undefined)
  const proxy = await alive(t, port)
  await Promise.all(
    Array.from({ length: 20 }, async () => {
      const socket = connect(proxy.port, '127.0.0.1')
      socket.on('error', () => undefined)
      socket.write('CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n', () => socket.resetAndDestroy())
      await new Promise(resolve => socket.once('close', resolve))
    }),
  )
  await proxy.stillResponds()
})

test('the proxy responds whatever status line the upstream sends', async t => {
  let line = ''
  const { port } = await rawUpstream(t, ({ socket }) => {
    socket.write(Buffer.from(`HTTP/1.1 ${line}\r\nContent-Length: 0\r\nconstructor: mine\r\n\r\n`, 'latin1'))
  })
  const proxy = await alive(t, port)
  const rows = [
    ['200 ok\xe9', /^HTTP\/1\.1 200 /],
    ['200 \xe2\x9c\x93', /^HTTP\/1\.1 200 /],
    ['299 Nearly', /^HTTP\/1\.1 299 Nearly\r\n[\s\S]*constructor: mine\r\n/],
    ['600 Beyond', /^HTTP\/1\.1 502 [\s\S]*error=http_protocol_error/],
    ['999 Beyond', /^HTTP\/1\.1 502 /],
  ] as const
  for (const [sent, comes] of rows) {
    line = sent
    assert.match(await exchange(t, proxy.port, `GET /x HTTP/1.1\r\n${CLOSE}\r\n`), comes, sent)
  }
  await proxy.stillResponds()
})

test('metadata with an invalid HTTP status counts as unreachable and does not crash the process', async t => {
  const { port, server } = await rawUpstream(t, () => undefined)
  server.prependListener('connection', socket => {
    socket.removeAllListeners('data')
    socket.on('data', () => socket.write('HTTP/1.1 999 Beyond\r\nContent-Length: 0\r\n\r\n'))
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await request(`http://127.0.0.1:${proxy}/live_metadata`)
  assert.equal(answer.statusCode, 502)
  await answer.body.dump()
  const status: unknown = await (await request(`http://127.0.0.1:${proxy}/-/status`)).body.json()
  assert.match(String(at(status, 'reading', 'problem')), /999/)
})

test('a stalled body is aborted, and its slot is released', async t => {
  const { port } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.bodyPauseTimeoutMs': '200' })
  const client = await rawClient(t, proxy)
  client.send('POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc')
  assert.match(await client.until(/stalled/), /^HTTP\/1\.1 408 /)
  await until(async () => {
    const status: unknown = await (await request(`http://127.0.0.1:${proxy}/-/status`)).body.json()
    return at(status, 'inFlight') === 0
  })
})

test('the slot of a guarded request is released when its response starts, however slowly the client reads', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => {
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun')
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  await client.send('POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}').until(/begun/)
  const status: unknown = await (await request(`http://127.0.0.1:${proxy}/-/status`)).body.json()
  assert.equal(at(status, 'inFlight'), 0)
})

test('the guard cannot be bypassed with any spelling of a path that some server may resolve', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')), {
    there: false,
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const found = [
    '/x/y%5cz/../../configure',
    '/x/y\\z/../../configure',
    '/x%0a/../configure',
    '/%0a/../%63onfigure',
    '/configure/%0ax',
    '/x/y%5cz/../../configure%0a',
  ]
  for (const path of found) {
    assert.match(await exchange(t, proxy, `POST ${path} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 503 /, path)
  }
  assert.equal(received.length, 0)
  assert.match(await exchange(t, proxy, `GET /-/*/configure HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 404 /)
})

test('a guarded route with a parameter cannot be bypassed either', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')), {
    there: false,
  })
  const routes = '[{"method":"POST","path":"/config/:task"},{"method":"GET","path":"/job/:id"}]'
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'guard.routes': routes })
  for (const line of [
    'POST /config/.',
    'POST /config/%2e%2e',
    'POST /config/a%5cb',
    'POST /config/..%0a',
    'HEAD /job/1',
  ]) {
    assert.match(await exchange(t, proxy, `${line} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 503 /, line)
  }
  assert.equal(received.length, 0)
})

test('a forwarding loop is detected', async t => {
  const { port } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const via = Array.from({ length: 8 }, () => '1.1 focus-breaker').join(', ')
  assert.match(
    await exchange(t, proxy, `GET /x HTTP/1.1\r\n${CLOSE}Via: ${via}\r\n\r\n`),
    /^HTTP\/1\.1 508 Loop Detected/,
  )
})

test('invalid requests get an error in JSON', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const rows = [
    ['garbage\r\n\r\n', 400],
    [`GET / HTTP/1.1\r\n${CLOSE}X: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
    [`POST / HTTP/1.1\r\n${CLOSE}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc`, 400],
    [`POST / HTTP/1.1\r\n${CLOSE}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    [`POST / HTTP/1.1\r\n${CLOSE}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`, 501],
    [`GET / HTTP/1.1\r\nHost : a\r\n\r\n`, 400],
    [`GET / HTTP/1.1\r\n${CLOSE}X: a\r\n b\r\n\r\n`, 400],
  ] as const
  for (const [sent, status] of rows) {
    const answer = await exchange(t, proxy, sent)
    assert.ok(answer.startsWith(`HTTP/1.1 ${status} `), `${sent.slice(0, 60)} → ${answer.slice(0, 60)}`)
    assert.equal(field(answer, 'content-type'), 'application/json')
  }
  assert.equal(received.length, 0)
})

test('a wrong method on an own route gets the list of allowed methods', async t => {
  const { port } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, `POST /-/status HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(answer, /^HTTP\/1\.1 405 /)
  assert.equal(field(answer, 'allow'), 'GET, HEAD')
  for (const [target, allow] of [
    ['/-/runs/nightly', 'GET, HEAD'],
    ['/-/runs/:id', 'GET, HEAD'],
    ['/-/override?x', 'GET, HEAD, PUT, DELETE'],
  ] as const) {
    const other = await exchange(t, proxy, `POST ${target} HTTP/1.1\r\n${CLOSE}\r\n`)
    assert.match(other, /^HTTP\/1\.1 405 /, target)
    assert.deepEqual(field(other, 'allow')?.split(', ').sort(), allow.split(', ').sort(), target)
  }
  for (const target of ['/-/runs/', '/-/runs/a/b', '/-/*', '/-/statusX', '/-/:id', '/-/openapiXjson']) {
    assert.match(await exchange(t, proxy, `POST ${target} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 404 /)
  }
  assert.match(await exchange(t, proxy, `OPTIONS * HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 204 /)
})

test('forwarding headers of an untrusted client are not forwarded, nor are credentials in its target', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://user:pass@127.0.0.1:${port}`)
  const lies =
    'X-Forwarded-Prefix: /a\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 203.0.113.9\r\nForwarded: for=x\r\n'
  await exchange(t, proxy, `GET http://u:p@h.example/x HTTP/1.1\r\n${CLOSE}${lies}\r\n`)
  const head = received[0]?.head ?? ''
  assert.doesNotMatch(head, /x-forwarded-p(refix|ort)|x-real-ip|^forwarded/im)
  assert.equal(field(head, 'x-forwarded-host'), 'h.example')
  assert.equal(field(head, 'authorization'), `Basic ${Buffer.from('user:pass').toString('base64')}`)
  await exchange(t, proxy, `GET /x HTTP/1.1\r\n${CLOSE}Authorization: Bearer own\r\n\r\n`)
  assert.equal(field(received[1]?.head ?? '', 'authorization'), 'Bearer own')
})
