import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { until } from '../support/harness.js'
import { exchange, field, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'

test('the target reaches the upstream byte for byte', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const targets = [
    '/',
    '/a//b/./c/../d',
    '/%zz/%2e%2e/%',
    '/a;b=1?x=%00&y=%zz&y=2&&=',
    '/metrics',
    '/status',
    '/health?',
    "/it's(all)[here]|{too}\\",
    '/a?b?c#d',
    `/${'x'.repeat(8000)}`,
  ]
  for (const target of targets) {
    const answer = await exchange(t, proxy, `GET ${target} HTTP/1.1\r\n${CLOSE}\r\n`)
    assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/, target)
    assert.equal(received.at(-1)?.head.split('\r\n')[0], `GET ${target} HTTP/1.1`)
  }
})

test('a base path is removed if present, and the path of the upstream is prepended', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}/inner/`, {
    basePath: '/outer',
    'probe.path': '/x',
  })
  const expected = {
    '/outer/channels?a=1': '/inner/channels?a=1',
    '/channels': '/inner/channels',
    '/outer': '/inner/',
    '/outer?a=1': '/inner/?a=1',
    '/outerspace': '/inner/outerspace',
    'http://else.example/outer/ack': '/inner/ack',
  }
  for (const [sent, arrived] of Object.entries(expected)) {
    await exchange(t, proxy, `GET ${sent} HTTP/1.1\r\n${CLOSE}\r\n`)
    assert.equal(received.at(-1)?.head.split('\r\n')[0], `GET ${arrived} HTTP/1.1`)
  }
})

test('headers arrive as they were sent, without hop-by-hop headers and with those of a gateway', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const fields = [
    'Host: client.example:81',
    'X-Twice: one',
    'X-Twice: two',
    'x-bytes: caf\xe9 \xc3\xa9',
    'Authorization: Bearer abc',
    'Accept-Encoding: gzip',
    'Connection: close, X-Private, keep-alive',
    'X-Private: mine',
    'Keep-Alive: timeout=5',
    'Proxy-Connection: keep-alive',
    'Proxy-Authorization: Basic abc',
    'TE: trailers',
    'X-Forwarded-For: 203.0.113.9',
    'X-Forwarded-Proto: https',
    'Forwarded: for=203.0.113.9',
    'Via: 1.0 elsewhere',
    'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
  ]
  await exchange(t, proxy, `GET /ack HTTP/1.1\r\n${fields.join('\r\n')}\r\n\r\n`)
  assert.deepEqual(received[0]?.head.split('\r\n'), [
    'GET /ack HTTP/1.1',
    `host: 127.0.0.1:${port}`,
    'connection: keep-alive',
    'X-Twice: one',
    'X-Twice: two',
    'x-bytes: caf\xe9 \xc3\xa9',
    'Authorization: Bearer abc',
    'Accept-Encoding: gzip',
    'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    'X-Forwarded-For: 127.0.0.1',
    'X-Forwarded-Proto: http',
    'X-Forwarded-Host: client.example:81',
    'Via: 1.0 elsewhere, 1.1 focus-breaker',
  ])
})

test('the forwarding headers of a trusted gateway are used and extended', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.trustProxy': '[loopback]' })
  const earlier =
    'X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: lab.example\r\nForwarded: for=203.0.113.9;proto=https\r\n'
  await exchange(t, proxy, `GET /ack HTTP/1.1\r\n${CLOSE}${earlier}\r\n`)
  const head = received[0]?.head ?? ''
  assert.equal(field(head, 'x-forwarded-for'), '203.0.113.9, 127.0.0.1')
  assert.equal(field(head, 'x-forwarded-proto'), 'https')
  assert.equal(field(head, 'x-forwarded-host'), 'lab.example')
  assert.equal(field(head, 'forwarded'), 'for=203.0.113.9;proto=https, for=127.0.0.1;proto=http')
})

test('interim responses are forwarded with their headers, except to HTTP/1.0 clients', async t => {
  const interim =
    'HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Hint: a\r\nX-Hint: b\r\nKeep-Alive: timeout=5\r\n\r\n'
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(interim + response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, `GET /ack HTTP/1.1\r\n${CLOSE}\r\n`)
  const [processing, hints, final] = answer.split('\r\n\r\n')
  assert.equal(processing, 'HTTP/1.1 102 Processing\r\nvia: 1.1 focus-breaker')
  assert.equal(hints, 'HTTP/1.1 103 Early Hints\r\nx-hint: a\r\nx-hint: b\r\nvia: 1.1 focus-breaker')
  assert.match(final ?? '', /^HTTP\/1\.1 200 OK\r\n/)
  assert.match(await exchange(t, proxy, `GET /ack HTTP/1.0\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 200 OK\r\n/)
})

const bodies: readonly {
  readonly name: string
  readonly method: string
  readonly fields: string
  readonly body: string
}[] = [
  { name: 'JSON', method: 'POST', fields: 'Content-Type: application/json\r\n', body: '{"a": 1.0}' },
  { name: 'broken JSON', method: 'POST', fields: 'Content-Type: application/json\r\n', body: '{"a": ' },
  {
    name: 'text in another charset',
    method: 'POST',
    fields: 'Content-Type: text/plain; charset=iso-8859-1\r\n',
    body: 'caf\xe9',
  },
  { name: 'an invalid media type', method: 'PUT', fields: 'Content-Type: ;;\r\n', body: 'x' },
  { name: 'no media type', method: 'PATCH', fields: '', body: '\x00\x01\xff' },
  { name: 'a DELETE with a body', method: 'DELETE', fields: '', body: 'x' },
  { name: 'a GET with a body', method: 'GET', fields: '', body: 'x' },
  { name: 'a WebDAV method', method: 'PROPFIND', fields: 'Content-Type: text/xml\r\n', body: '<a/>' },
]
for (const { name, method, fields, body } of bodies) {
  test(`a request body is forwarded unchanged: ${name}`, async t => {
    const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
    const answer = await exchange(
      t,
      proxy,
      `${method} /any HTTP/1.1\r\n${CLOSE}${fields}Content-Length: ${body.length}\r\n\r\n${body}`,
    )
    assert.match(answer, /^HTTP\/1\.1 200 OK/)
    assert.equal(received[0]?.body, body)
    const media = /Content-Type: (.*)\r\n/.exec(fields)?.[1]
    assert.equal(field(received[0]?.head ?? '', 'content-type'), media)
  })
}

test('bodies stream in both directions, without waiting for their end', async t => {
  const { port, server } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  const arrives = once(server, 'connection')
  client.send(`POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n`)
  const [socket] = await arrives
  let text = ''
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  await until(() => text.includes('first'))
  client.send('6\r\nsecond\r\n0\r\n\r\n')
  await until(() => text.endsWith('0\r\n\r\n'))
  socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n')
  await client.until(/one/)
  socket.write('3\r\ntwo\r\n0\r\n\r\n')
  await client.until(/two\r\n0\r\n\r\n$/)
})

const answers: readonly { readonly name: string; readonly sent: string; readonly comes: RegExp }[] = [
  {
    name: '200 without a body and media type',
    sent: 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
    comes:
      /^HTTP\/1\.1 200 OK\r\ncontent-length: 0\r\nvia: [^\r]*\r\nDate: [^\r]*\r\nConnection: close\r\n\r\n$/,
  },
  {
    name: '201 with its own reason phrase',
    sent: response('201 Made', 'x'),
    comes: /^HTTP\/1\.1 201 Made\r\n[\s\S]*\r\n\r\nx$/,
  },
  { name: '208', sent: response('208 Already Reported', 'x'), comes: /^HTTP\/1\.1 208 Already Reported\r\n/ },
  { name: '204', sent: 'HTTP/1.1 204 No Content\r\n\r\n', comes: /^HTTP\/1\.1 204 No Content\r\n/ },
  {
    name: '304 with a length',
    sent: 'HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: "a"\r\n\r\n',
    comes: /^HTTP\/1\.1 304 Not Modified\r\n[\s\S]*etag: "a"/,
  },
  {
    name: '206',
    sent: response('206 Partial Content', 'bc', 'Content-Range: bytes 1-2/9'),
    comes: /content-range: bytes 1-2\/9\r\n[\s\S]*bc$/,
  },
  {
    name: '404 with JSON',
    sent: response('404 Not Found', '{"error":"Invalid job_id"}', 'Content-Type: application/json'),
    comes:
      /^HTTP\/1\.1 404 [\s\S]*content-type: application\/json\r\n[\s\S]*\r\n\r\n\{"error":"Invalid job_id"\}$/,
  },
  { name: '599', sent: response('599 Odd', ''), comes: /^HTTP\/1\.1 599 Odd\r\n/ },
  {
    name: 'several cookies',
    sent: response('200 OK', '', 'Set-Cookie: a=1', 'Set-Cookie: b=2'),
    comes: /set-cookie: a=1\r\nset-cookie: b=2\r\n/,
  },
  {
    name: 'non-ASCII bytes in a header',
    sent: response('200 OK', '', 'X-Name: caf\xe9 \xc3\xa9'),
    comes: /x-name: caf\xe9 \xc3\xa9\r\n/,
  },
  {
    name: 'a body that ends with the connection',
    sent: 'HTTP/1.0 200 OK\r\n\r\nto the end',
    comes: /to the end/,
  },
  {
    name: 'a gzip body',
    sent: response('200 OK', '\xff\x8b\xfe', 'Content-Encoding: gzip'),
    comes: /content-encoding: gzip\r\n[\s\S]*\xff\x8b\xfe$/,
  },
]
for (const { name, sent, comes } of answers) {
  test(`a response is forwarded unchanged: ${name}`, async t => {
    const { port } = await rawUpstream(t, ({ socket }) => {
      socket.write(Buffer.from(sent, 'latin1'))
      if (sent.startsWith('HTTP/1.0')) socket.end()
    })
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
    assert.match(await exchange(t, proxy, `GET /x HTTP/1.1\r\n${CLOSE}\r\n`), comes)
  })
}

test('hop-by-hop headers of the upstream are not forwarded', async t => {
  const hops = [
    'Connection: close, X-Hop',
    'X-Hop: 1',
    'Keep-Alive: timeout=1',
    'Proxy-Authenticate: Basic',
    'Upgrade: h2c',
  ]
  const { port } = await rawUpstream(t, ({ socket }) => socket.end(response('200 OK', 'x', ...hops)))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  const head = await client.send('GET /x HTTP/1.1\r\nHost: a\r\n\r\n').until(/\r\n\r\nx$/)
  assert.doesNotMatch(head, /x-hop|proxy-authenticate|upgrade|timeout=1\r|connection: close/i)
})

test('the response to a HEAD has the length and no body', async t => {
  const { port } = await rawUpstream(t, ({ socket }) =>
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'),
  )
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, `HEAD /x HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(answer, /^HTTP\/1\.1 200 OK\r\ncontent-length: 5\r\n/)
  assert.ok(answer.endsWith('\r\n\r\n'))
})

test('a GET with a 503 response is sent once, and its Retry-After is forwarded', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) =>
    socket.write(response('503 Busy', 'no', 'Retry-After: 1')),
  )
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, `GET /x HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(answer, /^HTTP\/1\.1 503 Busy\r\n[\s\S]*retry-after: 1\r\n/)
  assert.equal(received.length, 1)
})

test('a POST whose connection closes is not sent again', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.destroy())
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, `POST /configure HTTP/1.1\r\n${CLOSE}Content-Length: 2\r\n\r\n{}`)
  assert.match(
    answer,
    /^HTTP\/1\.1 502 Bad Gateway\r\n[\s\S]*proxy-status: focus-breaker; error=connection_terminated/,
  )
  assert.equal(received.length, 1)
})

test('redirects of the upstream to itself are rewritten to the address that the client used', async t => {
  let location = ''
  const { port } = await rawUpstream(t, ({ socket }) =>
    socket.write(response('307 Go', '', `Location: ${location}`)),
  )
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}/inner`, { basePath: '/outer' })
  const rows = [
    ['/outer/a', `http://127.0.0.1:${port}/inner/b?c=1`, 'http://client.example/outer/b?c=1'],
    ['/a', `https://127.0.0.1:${port}/inner/b`, `https://127.0.0.1:${port}/inner/b`],
    ['/a', `//127.0.0.1:${port}/inner/b`, 'http://client.example/b'],
    ['/outer/a', '/inner/b', '/outer/b'],
    ['/outer/a', 'b/c', 'b/c'],
    ['/outer/a', 'http://elsewhere.example/inner/b', 'http://elsewhere.example/inner/b'],
    ['/outer/a', '//elsewhere.example/b', '//elsewhere.example/b'],
    ['/outer/a', `http://127.0.0.1:${port}/innermost`, 'http://client.example/outer/innermost'],
  ] as const
  for (const [asked, sent, comes] of rows) {
    location = sent
    assert.equal(
      field(await exchange(t, proxy, `GET ${asked} HTTP/1.1\r\n${CLOSE}\r\n`), 'location'),
      comes,
      sent,
    )
  }
})

test('a client that disconnects ends its upstream request', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  client.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
  await until(() => received.length === 1)
  client.socket.destroy()
  await until(() => received[0]?.socket.destroyed)
})

test('a client that disconnects does not end the work of its guarded request', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  client.send('POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}')
  await until(() => received.length === 1)
  client.socket.destroy()
  const other = await exchange(t, proxy, `GET /-/live HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(other, /200 OK/)
  assert.equal(received[0]?.socket.destroyed, false)
  const inFlight = async () =>
    /"inFlight":(\d+)/.exec(await exchange(t, proxy, `GET /-/status HTTP/1.1\r\n${CLOSE}\r\n`))?.[1]
  assert.equal(await inFlight(), '1')
  received[0]?.socket.write(response('200 OK', '{}'))
  await until(async () => (await inFlight()) === '0')
})

test('a response that the upstream aborts is aborted at the client too', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => {
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
    setTimeout(() => socket.destroy(), 50)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n')
  assert.match(answer, /content-length: 10\r\n[\s\S]*\r\n\r\nhalf$/)
})

const failures: readonly {
  readonly name: string
  readonly answer?: string
  readonly status: string
  readonly error: string
}[] = [
  { name: 'no response in time', status: '504 Gateway Timeout', error: 'http_response_timeout' },
  {
    name: 'invalid HTTP',
    answer: 'SSH-2.0-OpenSSH_9.2\r\n\r\n',
    status: '502 Bad Gateway',
    error: 'http_protocol_error',
  },
  { name: 'a closed connection', answer: '', status: '502 Bad Gateway', error: 'connection_terminated' },
]
for (const { name, answer, status, error } of failures) {
  test(`${name} from the upstream becomes ${status}, without an address`, async t => {
    const { port } = await rawUpstream(t, ({ socket }) => {
      if (answer === '') socket.destroy()
      else if (answer !== undefined) socket.write(answer)
    })
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'upstream.headersTimeoutMs': '300' })
    const came = await exchange(t, proxy, `GET /x HTTP/1.1\r\n${CLOSE}\r\n`)
    assert.ok(came.startsWith(`HTTP/1.1 ${status}\r\n`), came)
    assert.equal(field(came, 'proxy-status'), `focus-breaker; error=${error}`)
    assert.equal(field(came, 'content-type'), 'application/json')
    assert.doesNotMatch(came, /127\.0\.0\.1/)
    assert.equal(typeof JSON.parse(came.slice(came.indexOf('\r\n\r\n') + 4)).error, 'string')
  })
}

test('a name that does not resolve becomes 502', async t => {
  const proxy = await proxyTo(t, 'http://focus-server.invalid:5000')
  const came = await exchange(t, proxy, `GET /x HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(came, /^HTTP\/1\.1 502 Bad Gateway\r\n[\s\S]*error=dns_error/)
})

test('an HTTP/1.0 client gets its response and the end of its connection', async t => {
  const { port } = await rawUpstream(t, ({ socket }) =>
    socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'),
  )
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const answer = await exchange(t, proxy, 'GET /x HTTP/1.0\r\n\r\n')
  assert.match(answer, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\nok$/)
  assert.doesNotMatch(answer, /chunked/i)
})

test('pipelined requests are answered in order', async t => {
  const { port } = await rawUpstream(t, ({ head, socket }) => {
    const target = head.split(' ')[1] ?? ''
    setTimeout(() => socket.write(response('200 OK', target)), target === '/1' ? 60 : 0)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const one = 'GET /1 HTTP/1.1\r\nHost: a\r\n\r\n'
  const answer = await exchange(t, proxy, `${one}GET /2 HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(answer, /\r\n\r\n\/1HTTP\/1\.1 200[\s\S]*\r\n\r\n\/2$/)
})

test('a response that arrives before the body is complete reaches a client that is still sending', async t => {
  const { port, server } = await rawUpstream(t, () => undefined)
  server.on('connection', socket => socket.once('data', () => socket.end(response('413 Too Large', 'no'))))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  client.send(`POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n${'a'.repeat(1000)}`)
  await client.until(/^HTTP\/1\.1 413 [\s\S]*no$/)
  client.send('b'.repeat(999_000))
  client.send(`GET /-/live HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(await client.closed(), /no(HTTP\/1\.1 200 OK[\s\S]*)$/)
})

test('two Host headers, TRACE and CONNECT are rejected', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const two = await exchange(t, proxy, `GET /x HTTP/1.1\r\nHost: a\r\n${CLOSE}\r\n`)
  assert.match(two, /^HTTP\/1\.1 400 /)
  const trace = await exchange(t, proxy, `TRACE /x HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(trace, /^HTTP\/1\.1 405 [\s\S]*does not forward TRACE/)
  const tunnel = await exchange(t, proxy, 'CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n')
  assert.match(tunnel, /^HTTP\/1\.1 405 /)
  assert.equal(received.length, 0)
})

test("the proxy's own paths are never forwarded, in any spelling", async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { basePath: '/focus-server' })
  for (const path of ['/-/live', '/focus-server/-/live', '/-/live?x=-', '/-/', '/focus-server/-/']) {
    assert.match(await exchange(t, proxy, `GET ${path} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 200 OK/, path)
  }
  for (const path of [
    ...['/-/nothing', '/-/%zz', '/-/%ff%00'],
    ...['/%2d/live', '//-//live', '/x/../-/live', '/%2d/'],
  ]) {
    assert.match(await exchange(t, proxy, `GET ${path} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 404 /, path)
  }
  assert.equal(received.length, 0)
})
