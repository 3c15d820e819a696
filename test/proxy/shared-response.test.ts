import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { type TestContext, test } from 'node:test'
import { until } from '../support/harness.js'
import { exchange, field, portOf, proxyTo } from '../support/raw.js'

const HOUR = { 'metadataCache.maxAgeMs': '3600000' }
const READY = '"prr":2000.0,"sw_version":"11.17.10513"'
const later = new Date(Date.now() + 3_600_000).toUTCString()
const earlier = new Date(Date.now() - 3_600_000).toUTCString()

/** A focus-server whose metadata has these headers and a different number in each response. */
async function numbering(t: TestContext, headers: string[] = [], status = 200) {
  const upstream = {
    headers,
    status,
    heads: [] as string[],
    /** While it is set, unfinished responses are collected here. */
    held: undefined as ServerResponse[] | undefined,
    port: 0,
  }
  const server = createServer((request, response) => {
    const { rawHeaders } = request
    const lines = rawHeaders.map((text, index) =>
      index % 2 === 0 ? `${text}: ${rawHeaders[index + 1]}` : '',
    )
    upstream.heads.push(lines.filter(line => line !== '').join('\r\n'))
    const { origin } = request.headers
    const cors = origin === undefined ? [] : ['Access-Control-Allow-Origin', origin, 'Vary', 'Origin']
    response.writeHead(upstream.status, [...upstream.headers, ...cors, 'Content-Type', 'application/json'])
    const text = `{${READY},"number":${upstream.heads.length}}`
    if (upstream.held === undefined) return response.end(text)
    response.write(text.slice(0, 5))
    upstream.held.push(response)
    response.once('release', () => response.end(text.slice(5)))
    return undefined
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  upstream.port = portOf(server)
  return upstream
}

function read(t: TestContext, port: number, header = '', method = 'GET'): Promise<string> {
  const [, body = ''] = header.split('\r\n\r\n')
  const lines = header === '' ? '' : `${header.split('\r\n\r\n')[0]}\r\n`
  const head = `${method} /live_metadata HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${lines}\r\n`
  return exchange(t, port, head + body)
}

const isHit = (answer: string) => field(answer, 'cache-status') === 'focus-breaker; hit'

/** Requests whose response may be for one client or one moment only. */
const PERSONAL = [
  ...['Origin: https://page.example', 'Origin: null', 'Cookie: a=b', 'Authorization: Bearer x'],
  ...['Range: bytes=0-1', 'If-Range: "x"', 'If-None-Match: "x"', 'If-Match: *'],
  ...[`If-Modified-Since: ${later}`, `If-Unmodified-Since: ${later}`],
  ...[
    'Cache-Control: no-cache',
    'Cache-Control: no-store',
    'Cache-Control: max-age=0',
    'Cache-Control: max-age=5',
  ],
  ...[
    'cache-control: Max-Age = "0"',
    'Cache-Control: min-fresh=5',
    'Cache-Control: x, NO-CACHE',
    'Pragma: no-cache',
  ],
  'Content-Length: 2\r\n\r\n{}',
]

/** Headers of a response that a shared cache may use for others. */
const SHARED: readonly (readonly string[])[] = [
  [],
  ['Cache-Control', 'max-age=600'],
  ['Cache-Control', 'public'],
  ['Cache-Control', 's-maxage=600, max-age=0'],
  ['Cache-Control', 'max-age="600", must-revalidate'],
  ['Cache-Control', 'no-transform, x="no-store, private"'],
  ['Cache-Control', 'max-age=600', 'Expires', earlier],
  ['Cache-Control', 'max-age=600', 'Age', '30'],
  ['Expires', later],
  ['Age', '30'],
  ['Vary', 'Origin'],
  ['Vary', 'Cookie, X-Anything'],
  ['Date', earlier],
]

/** Headers of a response that a shared cache may not reuse, or not without revalidation. */
const NOT_SHARED: readonly (readonly string[])[] = [
  ...[
    'no-store',
    'no-cache',
    'private',
    'max-age=600, Private',
    'private="x-a"',
    'no-cache="x-a", max-age=600',
  ],
  ...['max-age=0', 'max-age="0"', 's-maxage=0, max-age=600', 'max-age=abc', 'max-age=-1', 'max-age'],
  ...['max-age=600, max-age=700', 'public, max-age=0', 'immutable, max-age=0'],
]
  .map(control => ['Cache-Control', control])
  .concat([
    ['Cache-Control', 'max-age=600', 'Cache-Control', 'no-store'],
    ['Set-Cookie', 'a=b'],
    ['Set-Cookie', 'a=b', 'Cache-Control', 'public, max-age=600'],
    ['Vary', '*'],
    ['Vary', 'Origin', 'Vary', 'Accept'],
    ['Vary', 'user-agent'],
    ['Vary', 'X-Forwarded-Host'],
    ['Expires', '0'],
    ['Expires', '2099'],
    ['Expires', earlier],
    ['Pragma', 'no-cache'],
    ['Age', '7200'],
    ['Age', 'old'],
    ['Cache-Control', 'max-age=600', 'Age', '600'],
    ['Cache-Control', 'max-age=600', 'Date', earlier],
  ])

for (const headers of SHARED) {
  test(`metadata with ${headers.join(': ') || 'no header about caches'} is shared, but not with a personal request`, async t => {
    const upstream = await numbering(t, [...headers])
    const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, HOUR)
    const first = await read(t, port)
    assert.ok(isHit(first), first)
    for (const header of PERSONAL) {
      const before = upstream.heads.length
      const answer = await read(t, port, header)
      assert.ok(!isHit(answer), header)
      assert.equal(upstream.heads.length, before + 1, header)
      const [name = '', ...value] = header.split('\r\n')[0]?.split(': ') ?? []
      assert.equal(field(upstream.heads.at(-1) ?? '', name.toLowerCase()), value.join(': '), header)
      assert.match(answer, new RegExp(`"number":${before + 1}}`), header)
      if (name === 'Origin') assert.equal(field(answer, 'access-control-allow-origin'), value[0])
    }
    const before = upstream.heads.length
    assert.ok(isHit(await read(t, port, '', 'HEAD')))
    assert.ok(isHit(await read(t, port, 'Accept: */*\r\nAccept-Language: en\r\nUser-Agent: x')))
    assert.equal(upstream.heads.length, before)
  })
}

for (const headers of NOT_SHARED) {
  test(`metadata with ${headers.join(': ')} is requested again for each client`, async t => {
    const upstream = await numbering(t, [...headers])
    const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, HOUR)
    for (const header of [
      '',
      'Accept: text/html\r\nUser-Agent: x',
      '',
      'Origin: https://page.example',
      'Cookie: a=b',
    ]) {
      const before = upstream.heads.length
      const answer = await read(t, port, header)
      assert.equal(upstream.heads.length, before + 1, header)
      assert.match(answer, new RegExp(`"number":${before + 1}}`), header)
      assert.equal(field(answer, 'cache-status'), undefined)
    }
  })
}

test('metadata that varies by a header is not shared with a client whose value differs from that of the probe', async t => {
  const upstream = await numbering(t, ['Vary', 'Accept-Encoding, X-Site'])
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, HOUR)
  for (const header of ['Accept-Encoding: gzip', 'X-Site: a', 'accept-encoding: br;q=1.0, gzip']) {
    const before = upstream.heads.length
    assert.ok(!isHit(await read(t, port, header)), header)
    assert.equal(upstream.heads.length, before + 1, header)
  }
})

test('the age of the metadata on arrival counts towards the maximum age', async t => {
  const upstream = await numbering(t, ['Age', '30'])
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, { 'metadataCache.maxAgeMs': '29000' })
  assert.ok(!isHit(await read(t, port)))
  const patient = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, {
    'metadataCache.maxAgeMs': '600000',
  })
  const hit = await read(t, patient)
  assert.ok(isHit(hit))
  assert.ok(Number(field(hit, 'age')) >= 30)
})

/** Requests that arrived while one was in flight. */
const TOGETHER: readonly (readonly [
  that: string,
  status: number,
  headers: readonly string[],
  isShared: boolean,
])[] = [
  ['says nothing about caches', 200, [], true],
  ['is a 404', 404, [], true],
  ['must not be stored', 200, ['Cache-Control', 'no-store'], false],
  ['is stale at once', 200, ['Cache-Control', 'max-age=0'], false],
  ['is for one client', 200, ['Set-Cookie', 'a=b'], false],
  ['varies by a header of the probe', 200, ['Vary', 'Accept'], false],
  ['is a 500', 500, [], false],
  ['is a 503', 503, ['Retry-After', '3'], false],
]

for (const [that, status, headers, isShared] of TOGETHER) {
  test(`a response that ${that} is ${isShared ? '' : 'not '}shared by the clients that waited for it`, async t => {
    const upstream = await numbering(t)
    const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, { 'metadataCache.maxAgeMs': '1' })
    const before = upstream.heads.length
    const held: ServerResponse[] = []
    Object.assign(upstream, { headers, status, held })
    const answers = [read(t, port), read(t, port), read(t, port)]
    await until(() => held.length === 1 && upstream.heads.length === before + 1)
    upstream.held = undefined
    // All three requests have arrived, because a later one on another connection has been answered.
    await exchange(t, port, 'GET /-/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
    for (const response of held) response.emit('release')
    const numbers = (await Promise.all(answers)).map(answer => /"number":(\d+)/.exec(answer)?.[1])
    assert.equal(new Set(numbers).size, isShared ? 1 : 3)
  })
}

test('credentials in the URL of focus-server do not prevent sharing of the metadata', async t => {
  const upstream = await numbering(t)
  const port = await proxyTo(t, `http://u:p@127.0.0.1:${upstream.port}`, HOUR)
  assert.ok(isHit(await read(t, port)))
})
