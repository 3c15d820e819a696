import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { type TestContext, test } from 'node:test'
import type { Predicate } from '../../src/domain/fiber.js'
import type { Finding } from '../../src/domain/reading.js'
import type { Fault } from '../../src/simulator/fault-injection.js'
import { liveMetadata } from '../../src/simulator/samples.js'
import type { Fiber } from '../../src/simulator/scenario.js'
import { readerOf } from '../support/read-metadata.js'
import { simulate, until } from '../support/simulate.js'

const ROUTE = 'GET /live_metadata'
const MIB = 1_048_576

const FIBERS: readonly (readonly [fiber: Fiber, finding: Finding])[] = [
  [
    'present',
    { kind: 'ready', metadata: { prr: 2000, sw_version: '11.17.10513', fiber_description: 'site A' } },
  ],
  [
    'partial',
    {
      kind: 'waiting',
      missing: ['sw_version'],
      metadata: { prr: 2000, sw_version: 'waiting for fiber', fiber_description: 'site A' },
    },
  ],
  [
    'missing',
    {
      kind: 'waiting',
      missing: ['prr'],
      metadata: { prr: 0, sw_version: 'waiting for fiber', fiber_description: 'waiting for fiber' },
    },
  ],
]

for (const [fiber, finding] of FIBERS) {
  test(`a fiber that is ${fiber} is ${finding.kind}`, async t => {
    const { simulator } = await simulate(t, { fiber })
    assert.deepEqual((await readerOf(t, simulator.url).read()).finding, finding)
  })
}

const json = (body: string): Fault => ({ kind: 'body', status: 200, contentType: 'application/json', body })

/** A document of exactly this many bytes that says ready. */
function ofBytes(bytes: number): string {
  const [start, end] = ['{"prr":2000.0,"sw_version":"11","padding":"', '"}']
  return start + 'x'.repeat(bytes - start.length - end.length) + end
}

const NOT_JSON = 'returned something that is not JSON'
const AS_JSON = 'content type application/json, read as utf-8'

const FAULTS: readonly (readonly [that: string, fault: Fault, problem: string])[] = [
  ['a 404', { kind: 'status', code: 404 }, 'returned 404, expected 200'],
  ['a 500', { kind: 'status', code: 500 }, 'returned 500, expected 200'],
  ['a 204', { kind: 'status', code: 204 }, 'returned 204, expected 200'],
  ['a redirect', { kind: 'status', code: 302 }, 'returned 302, expected 200'],
  [
    'a ready document with 203',
    { kind: 'body', status: 203, contentType: 'application/json', body: liveMetadata.present },
    'returned 203, expected 200',
  ],
  [
    'a 500 of many megabytes',
    { kind: 'body', status: 500, contentType: 'text/plain', body: 'x'.repeat(8 * MIB) },
    'returned 500, expected 200',
  ],
  [
    'an HTML page with 200',
    { kind: 'html' },
    `${NOT_JSON}: content type text/html, read as utf-8, error at position 0`,
  ],
  ['an empty body with 200', json(''), `${NOT_JSON}: ${AS_JSON}, error at position 0`],
  [
    'half of a document',
    json(liveMetadata.present.slice(0, 60)),
    `${NOT_JSON}: ${AS_JSON}, error at position 60`,
  ],
  ['NaN in a needed field', json('{"prr":NaN,"sw_version":"11"}'), 'prr: expected a number, got NaN'],
  ['a list', json('[]'), 'expected a JSON object, got a list'],
  ['a number as text', json('{"prr":"2000","sw_version":"11"}'), 'prr: expected a number, got a string'],
  ['a response of many megabytes', { kind: 'huge', bytes: 8 * MIB }, 'returned more than 1 MiB'],
  ['an endless response', { kind: 'huge' }, 'returned more than 1 MiB'],
  ['a response of one byte more than 1 MiB', json(ofBytes(MIB + 1)), 'returned more than 1 MiB'],
  ['a reset', { kind: 'reset' }, 'connection closed before the response'],
  ['a refusal', { kind: 'refuse' }, 'connection refused'],
  ['silence', { kind: 'hang' }, 'no complete response within 300 ms'],
]

for (const [that, fault, problem] of FAULTS) {
  test(`${that} is unreachable: ${problem}`, async t => {
    const { simulator } = await simulate(t)
    const { read } = readerOf(t, simulator.url, { timeoutMs: fault.kind === 'hang' ? 300 : 5000 })
    await simulator.setFault(ROUTE, fault)
    assert.deepEqual((await read()).finding, { kind: 'unreachable', problem })
    // A failure is not cached, and the next request works.
    await simulator.setFault(ROUTE, null)
    const { finding, durationMs } = await read()
    assert.equal(finding.kind, 'ready')
    assert.ok(durationMs < 2000, `it took ${durationMs} ms`)
  })
}

test('a response of exactly 1 MiB is read', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, json(ofBytes(MIB)))
  assert.equal((await readerOf(t, simulator.url).read()).finding.kind, 'ready')
})

test('a response that is too large is not read completely', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'huge' })
  await readerOf(t, simulator.url).read()
  await until(
    () => simulator.counters.aborted,
    aborted => aborted === 1,
  )
})

test('a slow response within the timeout is read', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 50 })
  const { durationMs, finding } = await readerOf(t, simulator.url).read()
  assert.equal(finding.kind, 'ready')
  assert.ok(durationMs >= 49, `${durationMs} ms`)
})

const UNENDING: readonly (readonly [that: string, answer: RequestListener])[] = [
  [
    'a head without a body',
    (_, response) => response.writeHead(200, { 'content-length': 10 }).flushHeaders(),
  ],
  [
    'an error without its body',
    (_, response) => response.writeHead(503, { 'content-length': 10 }).flushHeaders(),
  ],
  [
    'a body that trickles',
    (request, response) => {
      const drip = setInterval(() => response.write(' '), 20)
      request.once('close', () => clearInterval(drip))
    },
  ],
]

for (const [that, answer] of UNENDING) {
  test(`${that} is unreachable within the timeout for the whole response`, async t => {
    const { read } = readerOf(t, await serve(t, answer), { timeoutMs: 200 })
    const { durationMs, finding } = await read()
    assert.equal(finding.kind, 'unreachable')
    assert.ok(durationMs < 1000, `${durationMs} ms`)
  })
}

test('a truncated response is unreachable', async t => {
  const upstream = await serve(t, (_, response) => {
    response.writeHead(200, { 'content-length': 1000 })
    response.write(liveMetadata.present, () => response.destroy())
  })
  assert.deepEqual((await readerOf(t, upstream).read()).finding, {
    kind: 'unreachable',
    problem: 'connection closed before the response',
  })
})

test('callers that ask while a request is in flight share its result', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 30 })
  const { reader } = readerOf(t, simulator.url)
  const [first, ...others] = await Promise.all(Array.from({ length: 5 }, () => reader.read('probe')))
  assert.equal(first?.reading.kind, 'ready')
  for (const other of others) assert.equal(other, first)
  assert.equal(simulator.counters.byRoute[ROUTE], 1)
})

test('a caller that asks afterwards starts a new request', async t => {
  const { simulator } = await simulate(t)
  const { read } = readerOf(t, simulator.url)
  const first = await read()
  await simulator.setFiber('missing')
  const both = await Promise.all([read(), read()])
  assert.deepEqual(
    [first, ...both].map(({ finding }) => finding.kind),
    ['ready', 'waiting', 'waiting'],
  )
  assert.equal(simulator.counters.byRoute[ROUTE], 2)
})

test('a result is dated by when its request was sent', async t => {
  const { simulator } = await simulate(t)
  let now = 0
  const clock = () => {
    now += 5
    return now
  }
  const { reader, observed } = readerOf(t, simulator.url, { clock })
  const { at, receivedAt, reading } = await reader.read('probe')
  assert.deepEqual({ at, receivedAt, readingAt: reading.at }, { at: 5, receivedAt: 10, readingAt: 5 })
  assert.deepEqual(
    observed.map(({ at, durationMs }) => ({ at, durationMs })),
    [{ at: 5, durationMs: 5 }],
  )
})

test('each request is observed once, however many callers share it: as a probe if one of them was a probe', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 30 })
  const { reader, observed } = readerOf(t, simulator.url)
  for (const [sources, expected] of [
    [['client', 'probe', 'client'], 'probe'],
    [['client', 'client'], 'client'],
    [['probe', 'client'], 'probe'],
    [['client', 'probe'], 'probe'],
    [['client'], 'client'],
  ] as const) {
    const results = await Promise.all(sources.map(source => reader.read(source)))
    assert.deepEqual(
      results.map(({ reading }) => reading.source),
      sources.map(() => expected),
    )
    assert.equal(observed.at(-1)?.source, expected)
  }
  assert.deepEqual(
    observed.map(({ kind }) => kind),
    Array(5).fill('ready'),
  )
  assert.equal(simulator.counters.byRoute[ROUTE], 5)
})

test('a failed request is observed once too, and all its callers get the same result', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'hang' })
  const { reader, observed } = readerOf(t, simulator.url, { timeoutMs: 100 })
  const [first, second] = await Promise.all([reader.read('client'), reader.read('probe')])
  assert.equal(first, second)
  assert.deepEqual(
    observed.map(({ source, kind }) => [source, kind]),
    [['probe', 'unreachable']],
  )
})

test('a reading is observed before the callers get it', async t => {
  const { simulator } = await simulate(t)
  const { reader, observed } = readerOf(t, simulator.url)
  const { reading, at, receivedAt } = await reader.read('client')
  assert.deepEqual(observed, [{ ...reading, durationMs: receivedAt - at }])
})

test('the response is kept byte for byte, with its headers', async t => {
  // Bytes that JSON.parse and JSON.stringify, or decoding as UTF-8, would not preserve.
  const bytes = Buffer.concat([
    Buffer.from('{"prr" : 2000.0,\r\n "sw_version":"11","fiber_description":"Stra\u00dfe '),
    Buffer.from([0xff, 0xfe]),
    Buffer.from('","big":12345678901234567890}\n'),
  ])
  const upstream = await serve(t, (_, response) => {
    response.writeHead(200, {
      'content-type': 'application/json; charset=x',
      'x-of-upstream': ['a', 'b'],
      etag: '"5"',
    })
    response.end(bytes)
  })
  const { result, finding } = await readerOf(t, upstream).read('client')
  assert.equal(finding.kind, 'ready')
  assert.equal(result.response?.statusCode, 200)
  assert.deepEqual(result.response.body, bytes)
  const { 'content-type': type, 'x-of-upstream': several, etag } = result.response.headers
  assert.deepEqual([type, several, etag], ['application/json; charset=x', ['a', 'b'], '"5"'])
})

test('a complete response that is not metadata is kept too, whatever its status', async t => {
  const { simulator } = await simulate(t)
  const { reader } = readerOf(t, simulator.url)
  for (const [fault, statusCode, body] of [
    [{ kind: 'body', status: 404, contentType: 'text/plain', body: 'not yet' }, 404, 'not yet'],
    [{ kind: 'body', status: 500, contentType: 'text/plain', body: '' }, 500, ''],
    [{ kind: 'body', status: 200, contentType: 'text/html', body: '<html>' }, 200, '<html>'],
  ] as const satisfies readonly (readonly [Fault, number, string])[]) {
    await simulator.setFault(ROUTE, fault)
    const { response, reading } = await reader.read('client')
    assert.deepEqual(
      [reading.kind, response?.statusCode, response?.body.toString()],
      ['unreachable', statusCode, body],
    )
  }
})

test('a failure or an incomplete response is not kept', async t => {
  const { simulator } = await simulate(t)
  const { reader } = readerOf(t, simulator.url, { timeoutMs: 200 })
  const faults: readonly Fault[] = [
    { kind: 'refuse' },
    { kind: 'reset' },
    { kind: 'hang' },
    { kind: 'huge' },
    json(ofBytes(MIB + 1)),
  ]
  for (const fault of faults) {
    await simulator.setFault(ROUTE, fault)
    assert.equal((await reader.read('client')).response, undefined, fault.kind)
  }
})

test('the last result is available until the next one is complete, and undefined before the first', async t => {
  const { simulator } = await simulate(t)
  const { reader } = readerOf(t, simulator.url)
  assert.equal(reader.last(), undefined)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 20 })
  const inFlight = reader.read('probe')
  assert.equal(reader.last(), undefined)
  const first = await inFlight
  assert.equal(reader.last(), first)
  const next = reader.read('probe')
  assert.equal(reader.last(), first)
  const second = await next
  assert.notEqual(second, first)
  assert.equal(reader.last(), second)
})

test('closing aborts the request in flight, and nothing more is observed', { timeout: 10_000 }, async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'hang' })
  const { reader, observed } = readerOf(t, simulator.url, { timeoutMs: 60_000 })
  const inFlight = reader.read('probe')
  await until(
    () => simulator.counters.byRoute[ROUTE],
    requests => requests === 1,
  )
  reader.close()
  const { reading, response } = await inFlight
  assert.deepEqual([reading.kind, response], ['unreachable', undefined])
  await simulator.setFault(ROUTE, null)
  await reader.read('client')
  assert.deepEqual(observed, [])
})

test('a failure replaces the previous successful result', async t => {
  const { simulator } = await simulate(t)
  const { reader } = readerOf(t, simulator.url)
  await reader.read('probe')
  await simulator.setFault(ROUTE, { kind: 'refuse' })
  const failed = await reader.read('probe')
  assert.equal(reader.last(), failed)
  assert.deepEqual([failed.reading.kind, failed.response], ['unreachable', undefined])
})

test('settings that change while running apply to the next request', async t => {
  const { simulator } = await simulate(t)
  const over = (value: number): Predicate => ({ field: 'prr', operator: '>', value })
  let settings = { timeoutMs: 5000, readyWhen: [over(0)] }
  const { read } = readerOf(t, simulator.url, { settings: () => settings })
  assert.equal((await read()).finding.kind, 'ready')
  settings = { ...settings, readyWhen: [over(2000)] }
  assert.equal((await read()).finding.kind, 'waiting')
  settings = { ...settings, timeoutMs: 100 }
  await simulator.setFault(ROUTE, { kind: 'hang' })
  assert.deepEqual((await read()).finding, {
    kind: 'unreachable',
    problem: 'no complete response within 100 ms',
  })
})

const CREDENTIALS: readonly (readonly [inUrl: string, sent: string | undefined])[] = [
  ['', undefined],
  ['user:pa55@', 'user:pa55'],
  ['user@', 'user:'],
  ['us%40er:p%3Aa%2Fé@', 'us@er:p:a/é'],
  ['user:100%@', 'user:100%'],
]

for (const [inUrl, sent] of CREDENTIALS) {
  test(`the credentials '${inUrl}' of a URL are sent as ${sent ?? 'nothing'}`, async t => {
    let authorization: string | undefined = 'no request'
    const upstream = await serve(t, (request, response) => {
      authorization = request.headers.authorization
      response.end(liveMetadata.present)
    })
    const { finding } = await readerOf(t, upstream.replace('//', `//${inUrl}`)).read()
    assert.equal(finding.kind, 'ready', JSON.stringify(finding))
    assert.equal(
      authorization,
      sent === undefined ? undefined : `Basic ${Buffer.from(sent).toString('base64')}`,
    )
  })
}

/** A server with this request handler, for the duration of a test. */
async function serve(t: TestContext, answer: RequestListener): Promise<string> {
  const server = createServer(answer)
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return `http://127.0.0.1:${address.port}`
}
