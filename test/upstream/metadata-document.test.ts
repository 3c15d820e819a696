import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { type TestContext, test } from 'node:test'
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import { liveMetadata } from '../../src/simulator/samples.js'
import { portOf } from '../support/raw.js'
import { findingOf, readerOf } from '../support/read-metadata.js'

type Fields = Readonly<Record<string, string>>

/** A server with this request handler, a reader of its metadata, and the requests that it received. */
async function reading(
  t: TestContext,
  answer: RequestListener,
  options: Parameters<typeof readerOf>[2] = {},
) {
  const received: IncomingMessage[] = []
  let connections = 0
  const server = createServer((request, response) => {
    received.push(request)
    answer(request, response)
  })
  server.on('connection', () => {
    connections += 1
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const { read, reader, observed } = readerOf(t, `http://127.0.0.1:${portOf(server)}`, options)
  return { read, reader, observed, received, connections: () => connections }
}

/** The finding for a response with these bytes. */
async function findingIn(t: TestContext, body: string | Buffer, fields: Fields = {}, status = 200) {
  const { read } = await reading(t, (_, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...fields }).end(body)
  })
  return (await read()).finding
}

async function problemIn(...given: Parameters<typeof findingIn>): Promise<string> {
  const finding = await findingIn(...given)
  assert.equal(finding.kind, 'unreachable')
  return finding.kind === 'unreachable' ? finding.problem : ''
}

const utf16be = (text: string) => Buffer.from(text, 'utf16le').swap16()

const CHARSETS: Readonly<Record<string, readonly [bytes: (text: string) => Buffer, contentType: string]>> = {
  'UTF-8': [text => Buffer.from(text), 'application/json'],
  'UTF-8 with a byte order mark': [text => Buffer.from(`\ufeff${text}`), 'application/json'],
  'little-endian UTF-16 with a byte order mark': [
    text => Buffer.from(`\ufeff${text}`, 'utf16le'),
    'application/json',
  ],
  'big-endian UTF-16 with a byte order mark': [text => utf16be(`\ufeff${text}`), 'application/json'],
  'little-endian UTF-16 without a byte order mark': [
    text => Buffer.from(text, 'utf16le'),
    'application/json',
  ],
  'big-endian UTF-16 without a byte order mark': [utf16be, 'application/json; charset=utf-16'],
  'Latin-1': [text => Buffer.from(text, 'latin1'), 'application/json; charset=iso-8859-1'],
}

const CODINGS: Readonly<Record<string, (body: Buffer) => Buffer>> = {
  identity: body => body,
  gzip: body => gzipSync(body),
  'x-gzip': body => gzipSync(body),
  deflate: body => deflateSync(body),
  'deflate (raw)': body => deflateRawSync(body),
  br: body => brotliCompressSync(body),
  'gzip, br': body => brotliCompressSync(gzipSync(body)),
}

for (const [charset, [bytes, contentType]] of Object.entries(CHARSETS)) {
  test(`${charset} is read in every content coding`, async t => {
    for (const [coding, encode] of Object.entries(CODINGS)) {
      const text = '{"prr":2000.0,"sw_version":"11","fiber_description":"Zürich"}'
      const fields = { 'content-type': contentType, 'content-encoding': coding.replace(/ \(.*/, '') }
      assert.deepEqual(
        await findingIn(t, encode(bytes(text)), fields),
        { kind: 'ready', metadata: { prr: 2000, sw_version: '11', fiber_description: 'Zürich' } },
        coding,
      )
    }
  })
}

test('a content coding that cannot be decoded is named', async t => {
  const coded = (coding: string, body: Buffer) => problemIn(t, body, { 'content-encoding': coding })
  const body = Buffer.from(liveMetadata.present)
  assert.equal(await coded('zstd', body), 'returned the unsupported content coding zstd')
  for (const coding of ['gzip', 'br']) {
    assert.equal(await coded(coding, body), `returned a body that is not valid ${coding}`)
    const half = CODINGS[coding]?.(body).subarray(0, 20) ?? Buffer.alloc(0)
    assert.equal(await coded(coding, half), `returned a body that is not valid ${coding}`)
  }
  assert.equal(await coded('gzip, gzip, gzip, gzip', body), 'returned too many content codings')
})

test('a small response that decodes to a large one is not decoded completely', async t => {
  for (const coding of ['gzip', 'deflate', 'br']) {
    const bomb = CODINGS[coding]?.(Buffer.alloc(64 * 2 ** 20, ' ')) ?? Buffer.alloc(0)
    assert.equal(await problemIn(t, bomb, { 'content-encoding': coding }), 'returned more than 1 MiB', coding)
  }
})

test('NaN and Infinity are ignored in other fields and reported in required ones', async t => {
  for (const word of ['NaN', 'Infinity', '-Infinity']) {
    assert.equal((await findingIn(t, `{"prr":2000.0,"sw_version":"11","dx":${word}}`)).kind, 'ready')
    assert.equal(
      await problemIn(t, `{"prr":${word},"sw_version":"11"}`),
      `prr: expected a number, got ${word}`,
    )
    assert.deepEqual(await findingIn(t, `{"prr":1,"sw_version":"11","fiber_description":${word}}`), {
      kind: 'ready',
      metadata: { prr: 1, sw_version: '11' },
    })
  }
})

test('invalid JSON is described by its content type, its coding and the position', async t => {
  const wrong = 'returned something that is not JSON: content type'
  assert.equal(
    await problemIn(t, '{"prr":1,}'),
    `${wrong} application/json, read as utf-8, error at position 9`,
  )
  assert.equal(
    await problemIn(t, gzipSync('<html>'), {
      'content-type': 'text/html; charset=utf-8',
      'content-encoding': 'gzip',
    }),
    `${wrong} text/html, content coding gzip, read as utf-8, error at position 0`,
  )
  assert.equal(
    await problemIn(t, '[', { 'content-type': '<script>' }),
    `${wrong} none, read as utf-8, error at position 1`,
  )
})

test('JSON that is not metadata is reported as such, with the requested path', async t => {
  for (const body of ['{}', '{"status":"UP"}']) {
    assert.equal(
      await problemIn(t, body),
      "returned JSON that does not look like focus-server's metadata: none of the fields prr, sw_version; requested path: /live_metadata",
    )
  }
  assert.equal((await findingIn(t, '{"number_of_channels":2337}')).kind, 'waiting')
  assert.equal((await findingIn(t, '{"sw_version":null}')).kind, 'waiting')
})

test('the problem of a redirect or a login page contains Location, without possible secrets', async t => {
  const location = 'https://user:word@login.example/realms/a?state=secret#b'
  const ending = '; Location: https://login.example/realms/a'
  assert.equal(await problemIn(t, '', { location }, 302), `returned 302, expected 200${ending}`)
  assert.match(await problemIn(t, '<html>', { location }), new RegExp(`position 0${ending}$`))
  assert.equal(
    await problemIn(t, '', { location: '/login?next=a' }, 307),
    'returned 307, expected 200; Location: /login',
  )
  // For an address on the upstream only the path is shown.
  const { read } = await reading(t, (request, response) => {
    response.writeHead(301, { location: `http://${request.headers.host}/live_metadata/` }).end()
  })
  assert.deepEqual((await read()).finding, {
    kind: 'unreachable',
    problem: 'returned 301, expected 200; Location: /live_metadata/',
  })
})

test('each request uses a new connection, and asks for an uncached, uncompressed response', async t => {
  const { read, received, connections } = await reading(t, (_, response) =>
    response.end(liveMetadata.present),
  )
  for (let round = 1; round <= 3; round += 1) {
    assert.equal((await read()).finding.kind, 'ready')
    assert.equal(connections(), round)
  }
  for (const { headers } of received) {
    assert.equal(headers['cache-control'], 'no-cache')
    assert.equal(headers['accept-encoding'], 'identity')
  }
})

test('the Age of a response dates its reading', async t => {
  const AGES: readonly (readonly [age: string, seconds: number])[] = [
    ['30', 30],
    ['0', 0],
    ['7, 9', 7],
    ['-1', 0],
    ['1.5', 0],
    ['abc', 0],
    ['', 0],
    ['99999999999999999999', 2 ** 31],
  ]
  for (const [age, seconds] of AGES) {
    const start = 10_000_000_000_000
    const options = { clock: () => start }
    const { read } = await reading(
      t,
      (_, response) => response.setHeader('age', age).end(liveMetadata.present),
      options,
    )
    assert.equal((await read()).result.reading.at, start - seconds * 1000, age)
  }
})

test('Retry-After is reported for a 429, in seconds or as a date, and for no other status', async t => {
  const waitOf = async (status: number, retryAfter?: string) => {
    const { read } = await reading(t, (_, response) => {
      if (retryAfter !== undefined) response.setHeader('retry-after', retryAfter)
      response.writeHead(status).end('{}')
    })
    const { result: found } = await read()
    const { kind, ...finding } = findingOf(found)
    assert.equal(kind, 'unreachable')
    return { ...finding, ms: found.retryAfterMs }
  }
  assert.deepEqual(await waitOf(429, '30'), {
    problem: 'returned 429, expected 200; Retry-After: 30 s',
    ms: 30_000,
  })
  assert.deepEqual(await waitOf(429), { problem: 'returned 429, expected 200', ms: undefined })
  assert.deepEqual(await waitOf(429, 'soon'), { problem: 'returned 429, expected 200', ms: undefined })
  assert.deepEqual(await waitOf(503, '30'), { problem: 'returned 503, expected 200', ms: undefined })
  const { ms = 0 } = await waitOf(429, new Date(Date.now() + 20_000).toUTCString())
  assert.ok(ms > 10_000 && ms <= 20_000, `${ms} ms`)
})

/** Blocks the event loop. */
function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
}

test('a limited number of requests that were lost while the event loop was blocked are not counted', async t => {
  const lost: string[] = []
  // The connection is gone when the event loop runs again.
  const { read, observed } = await reading(
    t,
    (request, _response) => {
      block(600)
      request.socket.destroy()
    },
    { timeoutMs: 100, onNotCounted: why => lost.push(why) },
  )
  for (let round = 1; round <= 5; round += 1) {
    assert.equal((await read()).result.notCounted, 'stalled')
    assert.deepEqual([lost.length, observed.length], [round, 0])
  }
  assert.equal((await read()).result.notCounted, undefined)
  assert.equal(observed.length, 1)
})
