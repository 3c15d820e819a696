import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { at, freePort, startProxy, statusOf, until } from '../support/harness.js'
import { exchange, field, type Received, rawClient, rawUpstream, response } from '../support/raw.js'

/*
 * A WebSocket handshake is a request like any other, with the same guarantees. Each test sends the same request both
 * ways.
 */

const UPGRADE = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'

const WAYS = [
  ['plain', 'Connection: close\r\n'],
  ['handshake', UPGRADE],
] as const

const request = (fields: string, target = '/x') =>
  `GET ${target} HTTP/1.1\r\nHost: client.example\r\n${fields}\r\n`

async function inFrontOf(
  t: TestContext,
  answer: (received: Received) => void,
  env: Readonly<Record<string, string>> = {},
) {
  const upstream = await rawUpstream(t, answer)
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${upstream.port}`,
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '60000', ...env },
  })
  return { ...upstream, proxy, proxyPort: Number(new URL(proxy.url).port) }
}

/** The body of a response, decoded if it is chunked. */
function bodyOf(text: string): string {
  const end = text.indexOf('\r\n\r\n') + 4
  if (!/^transfer-encoding: chunked/im.test(text.slice(0, end))) return text.slice(end)
  let body = ''
  for (let position = end; ; ) {
    const line = text.indexOf('\r\n', position)
    const size = Number.parseInt(text.slice(position, line), 16)
    if (line === -1 || !(size > 0)) return body
    body += text.slice(line + 2, line + 2 + size)
    position = line + size + 4
  }
}

/** How a response can mark the end of its body. */
const FRAMINGS = {
  length: 'Content-Length: 4\r\n\r\nbody',
  chunked: 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n',
  'the end of the connection': 'Connection: close\r\n\r\nbody',
} as const

/** Statuses, each with its expected outcome. */
const STATUSES: readonly (readonly [sent: string, becomes: string, body: 'body' | 'none' | 'error'])[] = [
  ['200 Fine', '200 Fine', 'body'],
  ['204 Nothing', '204 Nothing', 'none'],
  ['299 Nearly', '299 Nearly', 'body'],
  ['304 Same', '304 Same', 'none'],
  ['403 Not you', '403 Not you', 'body'],
  ['426 Upgrade it', '426 Upgrade it', 'body'],
  ['599 Last', '599 Last', 'body'],
  ...['000', '001', '099', '100', '101', '600', '999'].map(
    status => [`${status} Odd`, '502 Bad Gateway', 'error'] as const,
  ),
]

test('every status, however its body ends, is the same for a plain request and for a handshake', async t => {
  let answer = ''
  const { proxy, proxyPort } = await inFrontOf(t, ({ socket }) => socket.end(Buffer.from(answer, 'latin1')))
  for (const [sent, becomes, body] of STATUSES) {
    for (const [framing, rest] of Object.entries(FRAMINGS)) {
      for (const [way, fields] of WAYS) {
        answer = `HTTP/1.1 ${sent}\r\n${rest}`
        const text = await exchange(t, proxyPort, request(fields))
        const what = `${sent}, ${framing}, ${way}: ${text}`
        assert.ok(text.startsWith(`HTTP/1.1 ${becomes}\r\n`), what)
        if (body === 'error') {
          assert.equal(field(text, 'cache-control'), 'no-store', what)
          const error: unknown = JSON.parse(bodyOf(text))
          assert.match(String(at(error, 'requestId')), /^[0-9a-f-]{36}$/, what)
        } else assert.equal(bodyOf(text), body === 'body' ? 'body' : '', what)
      }
    }
  }
  assert.equal((await fetch(`${proxy.url}/-/live`)).status, 200)
})

test('a large response to a handshake arrives whole, although its client reads slowly', {
  timeout: 30_000,
}, async t => {
  const large = 'x'.repeat(4 * 2 ** 20)
  const { proxyPort } = await inFrontOf(t, ({ socket }) =>
    socket.write(response('403 Forbidden', `${large}end`)),
  )
  const client = await rawClient(t, proxyPort)
  client.socket.pause()
  client.send(request(UPGRADE))
  setTimeout(() => client.socket.resume(), 300)
  const text = await client.closed()
  assert.equal(bodyOf(text).length, large.length + 3)
  assert.ok(text.endsWith('end'))
})

/** Whether the other end has closed a socket. */
function isGone(socket: Socket | undefined): boolean {
  return socket?.destroyed === true || socket?.readableEnded === true
}

describe('a request that focus-server keeps open', () => {
  for (const [way, fields] of WAYS) {
    for (const leaves of ['ends', 'resets'] as const) {
      test(`ends when a client ${leaves} its connection: ${way}`, async t => {
        const { received, proxyPort, proxy } = await inFrontOf(t, () => undefined)
        const client = await rawClient(t, proxyPort)
        client.send(request(fields))
        await until(() => received.length === 1)
        if (leaves === 'resets') client.socket.resetAndDestroy()
        else if (way === 'handshake') client.socket.end()
        else client.socket.destroy()
        await until(() => isGone(received[0]?.socket), { what: 'the request at focus-server has ended' })
        assert.equal(at(await statusOf(proxy), 'totals', 'forwarded'), 1)
      })
    }

    test(`is a 504 if no headers arrive within headersTimeoutMs: ${way}`, async t => {
      const { proxyPort } = await inFrontOf(t, () => undefined, {
        FOCUS_BREAKER_UPSTREAM_HEADERS_TIMEOUT_MS: '300',
      })
      const text = await exchange(t, proxyPort, request(fields))
      assert.match(text, /^HTTP\/1\.1 504 [\s\S]*error=http_response_timeout/)
    })

    test(`is aborted and frees its slot if the body stalls for bodyTimeoutMs: ${way}`, async t => {
      const { received, proxyPort } = await inFrontOf(
        t,
        ({ socket, head }) =>
          head.startsWith('GET /whole')
            ? socket.write(response('200 OK', 'whole'))
            : socket.write('HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nbegun'),
        { FOCUS_BREAKER_UPSTREAM_BODY_TIMEOUT_MS: '300', FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '1' },
      )
      const text = await exchange(t, proxyPort, request(fields))
      assert.match(text, /^HTTP\/1\.1 403 Forbidden\r\n[\s\S]*begun$/)
      assert.ok(isGone(received[0]?.socket))
      assert.match(await exchange(t, proxyPort, request('Connection: close\r\n', '/whole')), /whole$/)
    })

    test(`is a 502 if interim responses never end: ${way}`, async t => {
      const { proxyPort } = await inFrontOf(t, ({ socket }) => {
        const more = () => {
          if (!socket.destroyed) socket.write('HTTP/1.1 102 Processing\r\n\r\n', () => setImmediate(more))
        }
        more()
      })
      const text = await exchange(t, proxyPort, request(fields))
      assert.match(text, /\r\n\r\nHTTP\/1\.1 502 [\s\S]*interim responses/)
    })

    test(`is cut if the client does not read the response: ${way}`, async t => {
      const large = response('403 Forbidden', 'x'.repeat(16 * 2 ** 20))
      const { received, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(large), {
        FOCUS_BREAKER_SERVER_RESPONSE_PAUSE_TIMEOUT_MS: '400',
      })
      const client = await rawClient(t, proxyPort)
      client.socket.pause()
      client.send(request(fields))
      await until(() => isGone(received[0]?.socket), { what: 'the request at focus-server has ended' })
    })

    test(`a proxy that leads to itself stops after eight rounds: ${way}`, async t => {
      const port = await freePort()
      const proxy = await startProxy(t, {
        upstream: `http://127.0.0.1:${port}`,
        env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '60000' },
        args: ['--port', String(port)],
      })
      const text = await exchange(t, port, request(fields))
      assert.match(text, /^HTTP\/1\.1 508 [\s\S]*Forwarding loop detected/)
      assert.equal(at(await statusOf(proxy), 'totals', 'forwarded'), 8)
    })

    test(`what HTTP forbids is rejected: ${way}`, async t => {
      const { received, proxyPort } = await inFrontOf(t, () => undefined)
      const text = `GET /x HTTP/1.1\r\nHost: not a host\r\n${fields}\r\n`
      assert.match(await exchange(t, proxyPort, text), /^HTTP\/1\.1 400 [\s\S]*Host/)
      assert.equal(received.length, 0)
    })
  }
})

test('an open WebSocket is one forwarded request, and ends when either side ends', async t => {
  const accepted = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'
  const { received, proxy, proxyPort } = await inFrontOf(t, ({ socket }) => socket.write(accepted))
  for (const side of ['client', 'upstream'] as const) {
    const client = await rawClient(t, proxyPort)
    client.send(request(UPGRADE))
    await client.until(/^HTTP\/1\.1 101 [\s\S]*\r\n\r\n/)
    const upstream = received.at(-1)?.socket
    if (side === 'client') client.socket.destroy()
    else upstream?.destroy()
    await until(() => isGone(upstream) && (side === 'client' || client.socket.destroyed))
  }
  const metrics = await (await fetch(`${proxy.url}/-/metrics`)).text()
  assert.match(metrics, /forwarded_requests_total\{guarded="false",code_class="1xx"\} 2/)
})

test('an open WebSocket frees its slot when one side has ended and the other never does', async t => {
  const accepted = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'
  const onePlace = {
    FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '1',
    FOCUS_BREAKER_UPSTREAM_QUEUE_TIMEOUT_MS: '60000',
    FOCUS_BREAKER_SERVER_CLIENT_SHARE: '1',
  }
  const answer = ({ head, socket }: Received) => {
    // It continues after the other side has ended, and never ends by itself.
    socket.allowHalfOpen = true
    socket.write(/^upgrade:/im.test(head) ? accepted : response('200 OK', 'served'))
  }
  const { proxyPort } = await inFrontOf(t, answer, onePlace)
  const client = await rawClient(t, proxyPort)
  client.send(request(UPGRADE))
  await client.until(/^HTTP\/1\.1 101 [\s\S]*\r\n\r\n/)
  client.socket.end()
  assert.match(await exchange(t, proxyPort, request('Connection: close\r\n')), /^HTTP\/1\.1 200 OK/)
})
