import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { startHaproxy } from '../support/haproxy.js'
import { at, requireOrSkip, startProxy, until } from '../support/harness.js'
import { exchange, field, type Received, rawClient, rawUpstream, response } from '../support/raw.js'

async function inFrontOf(
  t: TestContext,
  answer: (received: Received) => void,
  options: { readonly env?: Readonly<Record<string, string>>; readonly there?: boolean } = {},
) {
  const upstream = await rawUpstream(t, answer, { there: options.there ?? true })
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${upstream.port}`,
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '60000', ...options.env },
  })
  return { ...upstream, proxy, proxyPort: Number(new URL(proxy.url).port) }
}

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'
const OK = response('200 OK', 'ok')

describe('while the server drains', () => {
  const KINDS = [
    ['a forwarded request', 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1\.1 200 /],
    ['a refusal', 'POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n', /^HTTP\/1\.1 503 /],
    ['a route of its own', 'GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1\.1 200 /],
    ['an error', 'GET * HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1\.1 400 /],
  ] as const

  for (const [kind, request, comes] of KINDS) {
    test(`the response to ${kind} closes its connection, and before the drain it does not`, async t => {
      const { proxy, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK), {
        there: false,
        env: { FOCUS_BREAKER_SERVER_DRAIN_DELAY_MS: '3000' },
      })
      const [before, during] = [await rawClient(t, proxyPort), await rawClient(t, proxyPort)]
      before.send(request)
      const kept = await before.until(/\r\n\r\n[\s\S]*(ok|\})/)
      assert.match(kept, comes)
      assert.equal(field(kept, 'connection'), 'keep-alive')
      process.kill(proxy.pid, 'SIGTERM')
      await until(() => proxy.logs().some(({ msg }) => msg === 'retiring'))
      const text = await during.send(request).closed()
      assert.match(text, comes)
      assert.equal(field(text, 'connection'), 'close')
    })
  }

  test('the response to a request that was in flight closes its connection', async t => {
    const { proxy, received, proxyPort } = await inFrontOf(t, () => undefined)
    const client = await rawClient(t, proxyPort)
    client.send('GET /x HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => received.length === 1)
    process.kill(proxy.pid, 'SIGTERM')
    await until(() => proxy.logs().some(({ msg }) => msg === 'draining'))
    received[0]?.socket.write(OK)
    assert.equal(field(await client.closed(), 'connection'), 'close')
  })

  test('the last of several pipelined requests closes the connection', async t => {
    const { proxy, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK), {
      env: { FOCUS_BREAKER_SERVER_DRAIN_DELAY_MS: '3000' },
    })
    const client = await rawClient(t, proxyPort)
    process.kill(proxy.pid, 'SIGTERM')
    await until(() => proxy.logs().some(({ msg }) => msg === 'retiring'))
    client.send('GET /x HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(3))
    const texts = (await client.closed()).split(/(?=HTTP\/1\.1)/)
    assert.deepEqual(
      texts.map(text => field(text, 'connection')),
      ['keep-alive', 'keep-alive', 'close'],
    )
  })
})

/** Requests for focus-server, each with the line and headers of a request. */
const WAYS = {
  'a request': `GET /x HTTP/1.1\r\n${CLOSE}\r\n`,
  'a job': `POST /configure HTTP/1.1\r\n${CLOSE}Content-Length: 2\r\n\r\n{}`,
  'a handshake': 'GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
} as const

describe('a response whose framing cannot be forwarded', () => {
  const FRAMES = {
    'Transfer-Encoding: gzip, chunked': 502,
    'Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked': 502,
    'Transfer-Encoding: gzip': 502,
    'Transfer-Encoding: identity': 502,
    'Transfer-Encoding: chunked, gzip': 502,
    'Transfer-Encoding: Chunked': 200,
    'Content-Length: 9007199254740993': 502,
    'Content-Length: 18446744073709551615': 502,
    'Content-Length: 1\r\nContent-Length: 2': 502,
  } as const

  test('is a 502', async t => {
    let frame = ''
    const { proxyPort } = await inFrontOf(t, ({ socket }) =>
      socket.end(`HTTP/1.1 200 OK\r\n${frame}\r\n\r\n2\r\nok\r\n0\r\n\r\n`),
    )
    for (const [each, status] of Object.entries(FRAMES)) {
      for (const [way, request] of Object.entries(WAYS)) {
        frame = each
        const text = await exchange(t, proxyPort, request)
        assert.ok(text.startsWith(`HTTP/1.1 ${status} `), `${each}, ${way}: ${text}`)
        if (status === 502)
          assert.match(text, /error=http_protocol_error[\s\S]*"requestId"/, `${each}, ${way}`)
      }
    }
  })

  test('is a 502 from HAProxy, too', async t => {
    if (!requireOrSkip(t, 'haproxy')) return
    const { port } = await rawUpstream(t, ({ socket }) =>
      socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'),
    )
    const text = await exchange(t, await startHaproxy(t, port), `GET /x HTTP/1.1\r\n${CLOSE}\r\n`)
    assert.match(text, /^HTTP\/1\.\d 502 /)
  })
})

/** Where a request may go: forwarded, guarded, and to one of our own routes. */
const TARGETS = ['GET /x', 'POST /configure', 'GET /-/status', 'GET /live_metadata'] as const

test('a Host header that is not a host with an optional port is a 400', async t => {
  const { received, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK))
  const good = [
    ...['client.example', 'client.example:80', 'client.example:', 'a_b', 'a-b.c', '127.0.0.1:8080', '[::1]'],
    ...['[2001:db8::1]:81', 'caf%C3%A9.example', "!$&'()*+,;=", '[v1.x:y]', '', '1.2.3', 'x.'],
  ]
  const bad = [
    ...[
      'a b',
      'a/b',
      'a?b',
      'a#b',
      'who@a',
      'http://a',
      'a:b',
      'a:80:80',
      'a:-1',
      'a:65536',
      ':80',
      '[::1',
      '::1',
    ],
    ...[
      '[::1]x',
      '[::1%25lo]',
      '[]',
      '[g::1]',
      '[127.0.0.1]',
      'a%',
      'a%zz',
      'a\\b',
      'a"b',
      'a<b>',
      'a[b]',
      'a{b}',
      'a^b',
    ],
    ...['a`b', 'a|b', 'caf\xe9', 'a\tb', '*/', 'a, b', '[fe80::1%lo]'],
  ]
  for (const target of TARGETS) {
    for (const host of [...good, ...bad]) {
      const text = await exchange(
        t,
        proxyPort,
        `${target} HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
      )
      if (good.includes(host)) assert.match(text, /^HTTP\/1\.1 200 /, `${target} ${host}`)
      else assert.match(text, /^HTTP\/1\.1 400 [\s\S]*"requestId"/, `${target} ${host}`)
    }
  }
  assert.equal(received.length, 2 * good.length)
})

test('the host of an absolute target is checked as well, without its credentials', async t => {
  const { proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK))
  for (const [target, status] of [
    ['http://else.example/x', 200],
    ['http://who:secret@else.example:81/x', 200],
    ['http://[::1]/x', 200],
    ['http:///x', 400],
    ['http://:80/x', 400],
    ['http://a:99999/x', 400],
    ['http://[::1/x', 400],
    ['http://a[b]/x', 400],
  ] as const) {
    const text = await exchange(t, proxyPort, `GET ${target} HTTP/1.1\r\n${CLOSE}\r\n`)
    assert.ok(text.startsWith(`HTTP/1.1 ${status} `), `${target}: ${text}`)
  }
})

test('the target * is for OPTIONS only', async t => {
  const { received, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK))
  for (const [line, status] of [
    ['OPTIONS *', 204],
    ['GET *', 400],
    ['HEAD *', 400],
    ['POST *', 400],
    ['PROPFIND *', 400],
    ['OPTIONS *x', 400],
    ['GET */configure', 400],
    ['OPTIONS /x', 200],
  ] as const) {
    const text = await exchange(t, proxyPort, `${line} HTTP/1.1\r\n${CLOSE}Content-Length: 0\r\n\r\n`)
    assert.ok(text.startsWith(`HTTP/1.1 ${status} `), `${line}: ${text}`)
  }
  assert.equal(received.length, 1)
})

test('a Content-Length too large to be counted exactly is a 400', async t => {
  const { received, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK))
  for (const line of ['POST /x', 'POST /configure', 'PUT /-/override']) {
    for (const length of [
      '9007199254740992',
      '9007199254740993',
      '18446744073709551615',
      '18446744073709551616',
      '1e3',
      '-1',
      '+1',
    ]) {
      const client = await rawClient(t, proxyPort)
      client.send(`${line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ${length}\r\n\r\n`)
      assert.match(await client.until(/\}$/), /^HTTP\/1\.1 400 /, `${line} ${length}`)
      client.socket.destroy()
    }
  }
  assert.equal(received.length, 0)
})

/** Names that every JavaScript object already has. */
const ODD_NAMES = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'valueOf',
  '__defineGetter__',
]

test('a header is forwarded whatever its name, in both directions and as a trailer', async t => {
  const lines = (prefix: string) => ODD_NAMES.map(name => `${name}: ${prefix}-${name}\r\n`).join('')
  const { received, proxyPort } = await inFrontOf(t, ({ socket }) =>
    socket.write(
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n${lines('head')}\r\n2\r\nok\r\n0\r\n${lines('trailer')}\r\n`,
    ),
  )
  for (const [way, request] of Object.entries(WAYS)) {
    const text = await exchange(t, proxyPort, request.replace('\r\n\r\n', `\r\n${lines('asked')}\r\n`))
    for (const name of ODD_NAMES) {
      assert.match(
        received.at(-1)?.head ?? '',
        new RegExp(`^${name}: asked-${name}$`, 'im'),
        `${way}: ${name}`,
      )
      assert.match(text, new RegExp(`^${name}: head-${name}\r$`, 'im'), `${way}: ${name}`)
      assert.match(text, new RegExp(`^${name}: trailer-${name}\r$`, 'im'), `${way}: ${name}`)
    }
  }
})

test('repeated trailers stay repeated, and none of them changes the message framing', async t => {
  const trailers = 'Set-Cookie: a=1, b\r\nX-Sum: 1\r\nset-cookie: c=2\r\nHost: b\r\nKeep-Alive: 1\r\n'
  const { proxyPort } = await inFrontOf(t, ({ socket }) =>
    socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n${trailers}\r\n`),
  )
  const text = await exchange(t, proxyPort, WAYS['a request'])
  assert.equal(
    text.slice(text.indexOf('0\r\n')),
    '0\r\nset-cookie: a=1, b\r\nx-sum: 1\r\nset-cookie: c=2\r\n\r\n',
  )
})

/** Headers in which gateways name their client. */
const IDENTITIES = [
  ...['X-Client-IP', 'True-Client-IP', 'CF-Connecting-IP', 'X-Real-IP', 'Forwarded', 'X-Forwarded-For'],
  ...[
    'X-Forwarded-Host',
    'X-Forwarded-Anything',
    'X-Forwarded',
    'Forwarded-For',
    'Client-IP',
    'X-Cluster-Client-IP',
  ],
  ...['Fastly-Client-IP', 'X-Original-Forwarded-For', 'X-Envoy-External-Address'],
] as const

for (const isTrusted of [false, true]) {
  test(`headers that only a gateway may set are ${isTrusted ? 'forwarded from a trusted peer' : 'removed if the peer is not trusted'}`, async t => {
    const { received, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(OK), {
      env: { FOCUS_BREAKER_SERVER_TRUST_PROXY: isTrusted ? '[loopback]' : '[]' },
    })
    for (const [way, request] of Object.entries(WAYS)) {
      for (const name of IDENTITIES) {
        for (const spelling of [
          name,
          name.toUpperCase(),
          name.replaceAll('-', '_'),
          name.replace('-', '_'),
        ]) {
          await exchange(t, proxyPort, request.replace('\r\n\r\n', `\r\n${spelling}: 203.0.113.9\r\n\r\n`))
          const head = received.at(-1)?.head ?? ''
          const arrived = head.split('\r\n').filter(line => line.includes('203.0.113.9')).length > 0
          // No gateway writes an underscore; and Forwarded has a grammar.
          const passes = isTrusted && !spelling.includes('_') && spelling.toLowerCase() !== 'forwarded'
          assert.equal(arrived, passes, `${way}: ${spelling}`)
        }
      }
      await exchange(t, proxyPort, request.replace('\r\n\r\n', '\r\nX_Other: 203.0.113.9\r\n\r\n'))
      assert.match(received.at(-1)?.head ?? '', /^X_Other: 203\.0\.113\.9$/m)
    }
  })
}

test('response headers that are too large are reported as such, and the limit is an option', async t => {
  const answer = `HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Large: ${'x'.repeat(20_000)}\r\n\r\nok`
  for (const [limit, status] of [
    ['16384', 502],
    ['65536', 200],
  ] as const) {
    const { proxyPort } = await inFrontOf(t, ({ socket }) => socket.end(answer), {
      env: { FOCUS_BREAKER_UPSTREAM_MAX_HEADER_BYTES: limit },
    })
    for (const [way, request] of Object.entries(WAYS)) {
      const text = await exchange(t, proxyPort, request)
      assert.ok(text.startsWith(`HTTP/1.1 ${status} `), `${way}: ${text}`)
      if (status === 502) {
        assert.match(text, /error=http_response_header_section_size[\s\S]*upstream\.maxHeaderBytes/, way)
      }
    }
  }
})

test('an IPv4 client of a listener on every address is shown as IPv4', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(OK), { there: false })
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, args: ['--host', '::'] })
  const port = Number(new URL(proxy.url).port)
  for (const request of Object.values(WAYS)) await exchange(t, port, request)
  assert.equal(field(upstream.received[0]?.head ?? '', 'x-forwarded-for'), '127.0.0.1')
  const clients: unknown = await (await fetch(`http://127.0.0.1:${port}/-/clients`)).json()
  assert.equal(at(clients, 'clients', 0, 'address'), '127.0.0.1')
  await exchange(t, port, WAYS['a request'].replace('\r\n\r\n', '\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n'))
  await until(() => proxy.logs().some(({ peer }) => peer === '127.0.0.1'))
})
