import assert from 'node:assert/strict'
import { test } from 'node:test'
import { until } from '../support/harness.js'
import { exchange, field, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'

const HANDSHAKE = [
  'Host: client.example',
  'Connection: keep-alive, Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  'Sec-WebSocket-Protocol: chat',
  'Authorization: Bearer abc',
  'Origin: http://client.example',
].join('\r\n')
const ACCEPTED =
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n'

test('a WebSocket is joined to the upstream, including its handshake and early bytes', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => {
    socket.write(`${ACCEPTED}early`)
    socket.removeAllListeners('data')
    socket.on('data', chunk => socket.write(`echo:${chunk}`))
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}/inner`, { basePath: '/outer' })
  const client = await rawClient(t, proxy)
  client.send(`GET /outer/stream?a=%zz HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`)
  await client.until(/^HTTP\/1\.1 101 Switching Protocols\r\n[\s\S]*Sec-WebSocket-Accept: x\r\n\r\nearly$/)
  client.send('ping')
  await client.until(/echo:ping$/)
  const head = received[0]?.head ?? ''
  assert.match(head, /^GET \/inner\/stream\?a=%zz HTTP\/1\.1\r\n/)
  for (const name of ['authorization', 'origin', 'sec-websocket-key', 'sec-websocket-protocol', 'upgrade']) {
    assert.ok(field(head, name) !== undefined, `${name} did not arrive`)
  }
  assert.equal(field(head, 'x-forwarded-for'), '127.0.0.1')
  client.socket.end()
  await client.closed()
})

test('the response of an upstream that rejects the upgrade is forwarded, and an absent upstream gives a 502', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('403 Forbidden', 'not you')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  assert.match(
    await exchange(t, proxy, `GET /s HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`),
    /^HTTP\/1\.1 403 Forbidden\r\n[\s\S]*not you$/,
  )
  const nowhere = await proxyTo(t, 'http://127.0.0.1:1')
  const gone = await exchange(t, nowhere, `GET /s HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`)
  assert.match(gone, /^HTTP\/1\.1 502 [\s\S]*error=connection_refused/)
})

test('a WebSocket occupies its slot until it ends', async t => {
  const { port } = await rawUpstream(t, ({ socket, head }) => {
    socket.write(/^upgrade:/im.test(head) ? ACCEPTED : response('200 OK', 'ok'))
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, {
    'upstream.maxConnections': '1',
    'upstream.maxQueued': '0',
  })
  const joined = await rawClient(t, proxy)
  joined.send(`GET /s HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`)
  await joined.until(/101 Switching Protocols/)
  const plain = 'GET /ack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
  for (const request of [`GET /s HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`, plain]) {
    assert.match(await exchange(t, proxy, request), /^HTTP\/1\.1 503 [\s\S]*"status":"overloaded"/)
  }
  joined.socket.end()
  await joined.closed()
  let answer = ''
  await until(async () => {
    answer = await exchange(t, proxy, plain)
    return answer.startsWith('HTTP/1.1 200')
  })
  // A failed handshake releases its slot too.
  const nowhere = await proxyTo(t, 'http://127.0.0.1:1', {
    'upstream.maxConnections': '1',
    'upstream.maxQueued': '0',
  })
  for (let time = 0; time < 2; time += 1) {
    const gone = await exchange(t, nowhere, `GET /s HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`)
    assert.match(gone, /^HTTP\/1\.1 502 /)
  }
})

test('a request to upgrade to HTTP/2 is served without the upgrade, with its body', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  const wish = 'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n'
  client.send(`POST /x HTTP/1.1\r\nHost: a\r\n${wish}Content-Length: 5\r\n\r\n123`)
  client.send('45')
  await client.until(/^HTTP\/1\.1 200 OK\r\n[\s\S]*ok$/)
  assert.equal(received[0]?.body, '12345')
  assert.doesNotMatch(received[0]?.head ?? '', /upgrade|http2-settings/i)
  client.send('GET /-/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  assert.match(await client.closed(), /\{"status":"ok"\}$/)
})

test('an unused Upgrade header does not change how long the connection stays open', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  for (const protocol of ['websocket', 'h2c']) {
    for (const [version, options, stays] of [
      ['1.0', 'Upgrade', false],
      ['1.0', 'Upgrade, , HTTP2-Settings', false],
      ['1.0', 'keep-alive, Upgrade', true],
      ['1.1', 'Upgrade, close', false],
      ['1.1', 'Upgrade', true],
    ] as const) {
      // That one is used.
      if (version === '1.1' && protocol === 'websocket') continue
      const client = await rawClient(t, proxy)
      client.send(
        `GET /x HTTP/${version}\r\nHost: a\r\nConnection: ${options}\r\nUpgrade: ${protocol}\r\n\r\n`,
      )
      await client.until(/ok$/)
      if (!stays) await client.closed()
      else {
        client.send('GET /-/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        assert.match(await client.closed(), /\{"status":"ok"\}$/)
      }
    }
  }
})

test('a guarded route cannot be bypassed with an upgrade', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(ACCEPTED), { there: false })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, {
    'guard.routes': '[{"method":"POST","path":"/configure"},{"method":"GET","path":"/stream"}]',
  })
  for (const line of ['POST /configure', 'GET /stream']) {
    const client = await rawClient(t, proxy)
    client.send(`${line} HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`)
    assert.match(await client.until(/\}$/), /^HTTP\/1\.1 503 [\s\S]*"status":"waiting_for_fiber"/)
  }
  assert.equal(received.length, 0)
})

test('an aborted response to a handshake ends only its own connection', async t => {
  const { port } = await rawUpstream(t, ({ head, socket }) => {
    if (!/^upgrade:/im.test(head)) return socket.write(response('200 OK', 'ok'))
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc')
    return setTimeout(() => socket.resetAndDestroy(), 50)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const broken = await exchange(t, proxy, `GET /s HTTP/1.1\r\n${HANDSHAKE}\r\n\r\n`)
  assert.match(broken, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\nabc$/)
  const plain = await exchange(t, proxy, 'GET /ack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  assert.match(plain, /^HTTP\/1\.1 200 OK\r\n[\s\S]*ok$/)
})
