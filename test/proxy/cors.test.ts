import assert from 'node:assert/strict'
import { test } from 'node:test'
import { exchange, field, proxyTo, rawUpstream, response } from '../support/raw.js'

const PAGE = 'https://page.example'
const ALLOWED = [
  `Access-Control-Allow-Origin: ${PAGE}`,
  'Access-Control-Allow-Credentials: true',
  'Vary: Origin',
]

/** Every unsuccessful response of our own to a script, and those of the routes that a page waits on. */
const OWN: readonly (readonly [that: string, request: string, status: number])[] = [
  ['a refusal', 'POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n', 503],
  [
    'a refusal after a wait',
    'POST /configure HTTP/1.1\r\nHost: a\r\nPrefer: wait=1\r\nContent-Length: 2\r\n',
    503,
  ],
  [
    'a refusal as problem+json',
    'POST /configure HTTP/1.1\r\nHost: a\r\nAccept: application/problem+json\r\n',
    503,
  ],
  ['a 502', 'GET /reset HTTP/1.1\r\nHost: a\r\n', 502],
  ['a 504', 'GET /silent HTTP/1.1\r\nHost: a\r\n', 504],
  ['a 413', 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n', 413],
  ['a 400', 'GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n', 400],
  ['a 508', `GET /x HTTP/1.1\r\nHost: a\r\nVia: ${'1.1 focus-breaker, '.repeat(9)}\r\n`, 508],
  ['a 405', 'TRACE /x HTTP/1.1\r\nHost: a\r\n', 405],
  ['a 404 of our own', 'GET /-/nothing HTTP/1.1\r\nHost: a\r\n', 404],
  ['a 405 of our own', 'PATCH /-/status HTTP/1.1\r\nHost: a\r\n', 405],
  ['a 400 of our own', 'GET /-/wait?timeout=x HTTP/1.1\r\nHost: a\r\n', 400],
  ['a 401', 'DELETE /-/override HTTP/1.1\r\nHost: a\r\n', 401],
  ['/-/fiber', 'GET /-/fiber HTTP/1.1\r\nHost: a\r\n', 503],
  ['/-/wait', 'GET /-/wait?timeout=1s HTTP/1.1\r\nHost: a\r\n', 503],
  ['/-/decision', 'GET /-/decision HTTP/1.1\r\nHost: a\r\n', 503],
]

test('every refusal and error of our own is readable by the pages that focus-server allows, and by no others', async t => {
  const fiber = { there: false }
  const upstream = await rawUpstream(
    t,
    ({ head, socket }) => {
      if (head.startsWith('GET /reset')) socket.destroy()
      else if (!head.startsWith('GET /silent')) {
        socket.write(response('204 No Content', '', ...(field(head, 'origin') === PAGE ? ALLOWED : [])))
      }
    },
    fiber,
  )
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, {
    'server.maxBodyBytes': '1000',
    'upstream.headersTimeoutMs': '300',
    'admin.token': 'a-token-of-the-operator',
  })
  const ask = (request: string, origin?: string) =>
    exchange(
      t,
      port,
      `${request}${origin === undefined ? '' : `Origin: ${origin}\r\n`}Connection: close\r\n\r\n${request.includes('Length: 2') ? '{}' : ''}`,
    )
  const check = async (origin: string | undefined, isAllowed: boolean) => {
    for (const [that, request, status] of OWN) {
      const answer = await ask(request, origin)
      assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), that)
      assert.equal(field(answer, 'access-control-allow-origin'), isAllowed ? origin : undefined, that)
      assert.equal(field(answer, 'access-control-allow-credentials'), isAllowed ? 'true' : undefined, that)
      const exposed = field(answer, 'access-control-expose-headers')
      assert.equal(exposed?.includes('Retry-After'), isAllowed ? true : undefined, that)
      assert.equal(field(answer, 'vary')?.includes('origin'), origin === undefined ? undefined : true, that)
    }
  }
  await check(PAGE, false)
  const preflight = `OPTIONS /configure HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Method: POST\r\n`
  for (const origin of [PAGE, 'https://other.example']) {
    assert.match(await ask(preflight, origin), /^HTTP\/1\.1 204 /)
  }
  assert.match(upstream.received.at(-1)?.head ?? '', /^OPTIONS \/configure /)
  await check(PAGE, true)
  await check('https://other.example', false)
  await check('null', false)
  await check(undefined, false)
})

test('a forwarded response has only the CORS headers of focus-server', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '', ...ALLOWED)))
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, { 'guard.mode': 'observe' })
  for (const path of ['/x', '/x', '/live_metadata']) {
    const answer = await exchange(
      t,
      port,
      `GET ${path} HTTP/1.1\r\nHost: a\r\nOrigin: ${PAGE}\r\nConnection: close\r\n\r\n`,
    )
    if (path === '/live_metadata') assert.doesNotMatch(answer, /access-control/i)
    else assert.equal(answer.match(/access-control|vary/gi)?.length, 3)
  }
  const status = await exchange(
    t,
    port,
    `GET /-/status HTTP/1.1\r\nHost: a\r\nOrigin: ${PAGE}\r\nConnection: close\r\n\r\n`,
  )
  assert.doesNotMatch(status, /access-control/i)
})

test('a page that waits can read the success too', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '', ...ALLOWED)))
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`)
  for (const path of ['/x', '/-/wait?timeout=1s', '/-/fiber']) {
    const answer = await exchange(
      t,
      port,
      `GET ${path} HTTP/1.1\r\nHost: a\r\nOrigin: ${PAGE}\r\nConnection: close\r\n\r\n`,
    )
    assert.match(answer, /^HTTP\/1\.1 200 /)
    assert.equal(field(answer, 'access-control-allow-origin'), PAGE)
  }
})
