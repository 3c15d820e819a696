import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { type TestContext, test } from 'node:test'
import type { Finding } from '../../src/domain/reading.js'
import type { Fault } from '../../src/simulator/fault.js'
import { liveMetadata } from '../../src/simulator/samples.js'
import type { Fiber } from '../../src/simulator/scenario.js'
import { simulate, until } from '../simulator/simulate.js'
import { readerOf } from './read.js'

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

const FAULTS: readonly (readonly [that: string, fault: Fault, problem: string])[] = [
  ['a 404', { kind: 'status', code: 404 }, 'answered 404, expected 200'],
  ['a 500', { kind: 'status', code: 500 }, 'answered 500, expected 200'],
  ['a 204', { kind: 'status', code: 204 }, 'answered 204, expected 200'],
  ['a redirect', { kind: 'status', code: 302 }, 'answered 302, expected 200'],
  [
    'a ready document with 203',
    { kind: 'body', status: 203, contentType: 'application/json', body: liveMetadata.present },
    'answered 203, expected 200',
  ],
  [
    'a 500 of many megabytes',
    { kind: 'body', status: 500, contentType: 'text/plain', body: 'x'.repeat(8 * MIB) },
    'answered 500, expected 200',
  ],
  ['a page with 200', { kind: 'html' }, 'answered something that is not JSON'],
  ['nothing with 200', json(''), 'answered something that is not JSON'],
  ['half of a document', json(liveMetadata.present.slice(0, 60)), 'answered something that is not JSON'],
  ['NaN, which Python writes', json('{"prr":NaN,"sw_version":"11"}'), 'answered something that is not JSON'],
  ['a list', json('[]'), 'expected a JSON object, got a list'],
  ['a number as text', json('{"prr":"2000","sw_version":"11"}'), 'prr: expected a number, got a string'],
  ['one of many megabytes', { kind: 'huge', bytes: 8 * MIB }, 'answered more than 1 MiB'],
  ['an endless one', { kind: 'huge' }, 'answered more than 1 MiB'],
  ['one a byte over 1 MiB', json(ofBytes(MIB + 1)), 'answered more than 1 MiB'],
  ['a reset', { kind: 'reset' }, 'connection closed before the answer'],
  ['a refusal', { kind: 'refuse' }, 'connection refused'],
  ['silence', { kind: 'hang' }, 'no complete answer within 300 ms'],
]

for (const [that, fault, problem] of FAULTS) {
  test(`${that} is unreachable: ${problem}`, async t => {
    const { simulator } = await simulate(t)
    const reader = readerOf(t, simulator.url, { timeoutMs: fault.kind === 'hang' ? 300 : 5000 })
    await simulator.setFault(ROUTE, fault)
    assert.deepEqual((await reader.read()).finding, { kind: 'unreachable', problem })
    // A failure is not remembered, and leaves a connection behind that can be used.
    await simulator.setFault(ROUTE, null)
    const { finding, durationMs } = await reader.read()
    assert.equal(finding.kind, 'ready')
    assert.ok(durationMs < 2000, `it came after ${durationMs} ms`)
  })
}

test('an answer of exactly 1 MiB is read', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, json(ofBytes(MIB)))
  assert.equal((await readerOf(t, simulator.url).read()).finding.kind, 'ready')
})

test('an answer that is too large is not read to its end', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'huge' })
  await readerOf(t, simulator.url).read()
  await until(
    () => simulator.counters.aborted,
    aborted => aborted === 1,
  )
})

test('a slow answer within the time is read', async t => {
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
    'an error whose body does not come',
    (_, response) => response.writeHead(503, { 'content-length': 10 }).flushHeaders(),
  ],
  [
    'a body of a byte now and then',
    (request, response) => {
      const drip = setInterval(() => response.write(' '), 20)
      request.once('close', () => clearInterval(drip))
    },
  ],
]

for (const [that, answer] of UNENDING) {
  test(`${that} is unreachable within the time for the whole answer`, async t => {
    const reader = readerOf(t, await serve(t, answer), { timeoutMs: 200 })
    const { durationMs, finding } = await reader.read()
    assert.equal(finding.kind, 'unreachable')
    assert.ok(durationMs < 1000, `${durationMs} ms`)
  })
}

test('an answer that breaks off is unreachable', async t => {
  const upstream = await serve(t, (_, response) => {
    response.writeHead(200, { 'content-length': 1000 })
    response.write(liveMetadata.present, () => response.destroy())
  })
  assert.deepEqual((await readerOf(t, upstream).read()).finding, {
    kind: 'unreachable',
    problem: 'connection closed before the answer',
  })
})

test('whoever asks while a read is under way gets its answer', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault(ROUTE, { kind: 'slow', delayMs: 30 })
  const reader = readerOf(t, simulator.url)
  const [first, ...others] = await Promise.all(Array.from({ length: 5 }, () => reader.read()))
  assert.equal(first?.finding.kind, 'ready')
  for (const other of others) assert.equal(other, first)
  assert.equal(simulator.counters.byRoute[ROUTE], 1)
})

test('whoever asks after it looks anew', async t => {
  const { simulator } = await simulate(t)
  const reader = readerOf(t, simulator.url)
  const first = await reader.read()
  await simulator.setFiber('missing')
  const both = await Promise.all([reader.read(), reader.read()])
  assert.deepEqual(
    [first, ...both].map(({ finding }) => finding.kind),
    ['ready', 'waiting', 'waiting'],
  )
  assert.equal(simulator.counters.byRoute[ROUTE], 2)
})

test('a look is as old as its question', async t => {
  const { simulator } = await simulate(t)
  let now = 0
  const clock = () => {
    now += 5
    return now
  }
  const { at, durationMs } = await readerOf(t, simulator.url, { clock }).read()
  assert.deepEqual({ at, durationMs }, { at: 5, durationMs: 5 })
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
    let authorization: string | undefined = 'nothing came'
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

/** A server with this one answer, for the length of a test. */
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
