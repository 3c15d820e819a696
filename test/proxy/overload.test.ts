import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, statusOf, until } from '../support/harness.js'
import {
  exchange,
  field,
  proxyTo,
  type RawClient,
  type Received,
  rawClient,
  rawUpstream,
  response,
} from '../support/raw.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'
const get = (path: string) => `GET ${path} HTTP/1.1\r\n${CLOSE}\r\n`
const CONFIGURE = `POST /configure HTTP/1.1\r\n${CLOSE}Content-Length: 2\r\n\r\n{}`

/** An upstream that responds on command, and a proxy with few connections to it. */
async function narrow(t: TestContext, options: Readonly<Record<string, string>> = {}) {
  const upstream = await rawUpstream(t, () => undefined)
  const proxy = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, {
    'upstream.maxConnections': '2',
    'upstream.maxQueued': '3',
    'upstream.queueTimeoutMs': '20000',
    ...options,
  })
  const status = () => statusOf({ url: `http://127.0.0.1:${proxy}` })
  const begin = async (request: string) => (await rawClient(t, proxy)).send(request)
  const { received } = upstream
  /** Fills both connections. */
  const fill = async (request = get('/held')): Promise<readonly RawClient[]> => {
    const clients = [await begin(request), await begin(request)]
    await until(() => received.length === 2)
    return clients
  }
  return { proxy, received, status, begin, fill }
}

function release(received: Received | undefined, body = 'ok'): void {
  received?.socket.write(response('200 OK', body))
}

function assertOverloaded(answer: string): void {
  assert.ok(answer.startsWith('HTTP/1.1 503 Service Unavailable\r\n'), answer)
  assert.match(field(answer, 'retry-after') ?? '', /^[1-9]\d*$/)
  assert.equal(field(answer, 'proxy-status'), 'focus-breaker; error=connection_limit_reached')
  assert.equal(field(answer, 'cache-control'), 'no-store')
  assert.equal(field(answer, 'content-type'), 'application/json')
  const body: unknown = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4))
  assert.equal(at(body, 'status'), 'overloaded')
  assert.equal(at(body, 'forwarded'), false)
  assert.equal(typeof at(body, 'error'), 'string')
  assert.equal(typeof at(body, 'requestId'), 'string')
  assert.equal(String(at(body, 'retryAfterSeconds')), field(answer, 'retry-after'))
  assert.doesNotMatch(answer, /waiting for fiber/)
}

test('excess requests are rejected at once, queued ones are sent in order, and the counts add up', async t => {
  const { proxy, received, status, begin, fill } = await narrow(t)
  const before = Number(at(await status(), 'totals', 'forwarded'))
  const held = await fill()
  const waiting: RawClient[] = []
  for (const name of ['a', 'b', 'c']) {
    waiting.push(await begin(get(`/${name}`)))
    // The next request is read after this one, because a later request to an own route has been answered.
    await exchange(t, proxy, get('/-/live'))
  }
  const surplus = await Promise.all(Array.from({ length: 20 }, () => exchange(t, proxy, get('/surplus'))))
  for (const answer of surplus) assertOverloaded(answer)
  assert.equal(received.length, 2)
  for (const path of ['/-/live', '/-/ready', '/-/status', '/-/fiber']) {
    assert.match(await exchange(t, proxy, get(path)), /^HTTP\/1\.1 200 OK\r\n/, path)
  }
  for (let index = 0; index < 5; index += 1) {
    await until(() => received.length > index)
    release(received[index])
  }
  for (const client of [...held, ...waiting])
    assert.match(await client.closed(), /^HTTP\/1\.1 200 [\s\S]*ok$/)
  assert.deepEqual(
    received.slice(2).map(({ head }) => head.split(' ')[1]),
    ['/a', '/b', '/c'],
  )
  const now = await status()
  assert.equal(Number(at(now, 'totals', 'forwarded')) - before, 5)
  assert.equal(at(now, 'totals', 'refused'), 0)
  assert.equal(at(now, 'circuit', 'state'), 'closed')
})

test('no request is queued longer than queueTimeoutMs', async t => {
  const { proxy, received, fill } = await narrow(t, { 'upstream.queueTimeoutMs': '200' })
  await fill()
  const answers = await Promise.all(Array.from({ length: 3 }, () => exchange(t, proxy, get('/late'))))
  for (const answer of answers) assertOverloaded(answer)
  assert.equal(received.length, 2)
  // The slots are free again.
  const last = exchange(t, proxy, get('/last'))
  release(received[0])
  await until(() => received.length === 3)
  release(received[2])
  assert.match(await last, /^HTTP\/1\.1 200 /)
})

test('without a queue, excess requests are rejected, and a finished request frees a slot', async t => {
  const { proxy, received, fill } = await narrow(t, { 'upstream.maxQueued': '0' })
  const [first] = await fill()
  assertOverloaded(await exchange(t, proxy, get('/surplus')))
  release(received[0])
  await first?.closed()
  const next = exchange(t, proxy, get('/next'))
  await until(() => received.length === 3)
  release(received[2])
  assert.match(await next, /^HTTP\/1\.1 200 /)
})

for (const [name, request] of [
  ['a plain request', get('/waits')],
  ['a guarded request', CONFIGURE],
] as const) {
  test(`a client that disconnects while queued frees its place, and its request is not sent: ${name}`, async t => {
    const { proxy, received, status, begin, fill } = await narrow(t)
    const before = Number(at(await status(), 'totals', 'forwarded'))
    await fill()
    const leaving = await Promise.all(Array.from({ length: 3 }, () => begin(request)))
    await until(async () => (await exchange(t, proxy, get('/surplus-0'))).startsWith('HTTP/1.1 503 '), {
      timeoutMs: 3000,
    })
    for (const { socket } of leaving) socket.destroy()
    // Once they are gone, another request can be queued, long before their queue timeout.
    let stayed: RawClient | undefined
    await until(
      async () => {
        const client = await begin(get('/stays'))
        await exchange(t, proxy, get('/-/live'))
        if (client.text === '') stayed = client
        return stayed !== undefined
      },
      { timeoutMs: 3000, what: 'a place in the queue is free' },
    )
    release(received[0])
    await until(() => received.length === 3)
    assert.match(received[2]?.head ?? '', /^GET \/stays /)
    release(received[1])
    release(received[2])
    await stayed?.closed()
    assert.equal(Number(at(await status(), 'totals', 'forwarded')) - before, 3)
    assert.equal(at(await status(), 'inFlight'), 0)
  })
}

test('guarded requests are queued and rejected like all others, and that does not open the circuit', async t => {
  const { proxy, received, status, fill } = await narrow(t, { 'upstream.queueTimeoutMs': '300' })
  await fill()
  const answers = await Promise.all(Array.from({ length: 10 }, () => exchange(t, proxy, CONFIGURE)))
  for (const answer of answers) assertOverloaded(answer)
  assert.equal(received.length, 2)
  await until(async () => at(await status(), 'inFlight') === 0)
  const now = await status()
  assert.equal(at(now, 'circuit', 'state'), 'closed')
  assert.equal(at(now, 'admits'), true)
  const next = exchange(t, proxy, CONFIGURE)
  release(received[0])
  release(received[1])
  await until(() => received.length === 3)
  release(received[2], '{}')
  assert.match(await next, /^HTTP\/1\.1 200 /)
})

test('guarded requests that use every connection do not block our own routes', async t => {
  const { proxy, received, status, fill } = await narrow(t)
  const held = await fill(CONFIGURE)
  assert.equal(at(await status(), 'inFlight'), 2)
  assert.match(await exchange(t, proxy, get('/live_metadata')), /^HTTP\/1\.1 200 [\s\S]*"prr"/)
  for (const item of received) release(item, '{}')
  for (const client of held) assert.match(await client.closed(), /^HTTP\/1\.1 200 /)
})

test('however an exchange ends, its slot is released', async t => {
  const answers: ((received: Received) => void)[] = [
    ({ socket }) => socket.write(response('200 OK', 'ok')),
    ({ socket }) => socket.write('HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n'),
    ({ socket }) => socket.write('HTTP/1.1 204 No Content\r\n\r\n'),
    ({ socket }) => socket.write(response('999 Beyond', '')),
    ({ socket }) => socket.write('SSH-2.0\r\n\r\n'),
    ({ socket }) => socket.resetAndDestroy(),
    ({ socket }) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf')
      setTimeout(() => socket.destroy(), 5)
    },
    ({ socket }) => socket.end('HTTP/1.0 200 OK\r\n\r\nto the end'),
    ({ socket }) =>
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-T: 1\r\n\r\n'),
  ]
  let count = 0
  const { port, received } = await rawUpstream(t, one => answers[count++ % answers.length]?.(one))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, {
    'upstream.maxConnections': '1',
    'upstream.maxQueued': '1000',
    'upstream.queueTimeoutMs': '20000',
  })
  const requests = [get('/x'), CONFIGURE, `POST /x HTTP/1.1\r\n${CLOSE}Content-Length: 3\r\n\r\nabc`]
  const all = Array.from({ length: answers.length * requests.length }, (_, index) =>
    exchange(t, proxy, requests[index % requests.length] ?? ''),
  )
  for (const answer of await Promise.all(all)) assert.doesNotMatch(answer, /overloaded/)
  // Clients that disconnect at any moment.
  const gone = received.length
  answers.splice(0, answers.length, () => undefined)
  const leaving = await rawClient(t, proxy)
  leaving.send('GET /leaves HTTP/1.1\r\nHost: a\r\n\r\n')
  await until(() => received.length === gone + 1)
  leaving.socket.destroy()
  answers.splice(0, answers.length, ({ socket }) => socket.write(response('200 OK', 'ok')))
  assert.match(await exchange(t, proxy, get('/after')), /^HTTP\/1\.1 200 [\s\S]*ok$/)
})

test('a client that disconnects while its pipelined body waits for its turn occupies no slot', async t => {
  const { proxy, received, begin, status } = await narrow(t, { 'upstream.maxConnections': '1' })
  const held = await begin(get('/held'))
  await until(() => received.length === 1)
  const gone = await begin(
    'GET /first HTTP/1.1\r\nHost: a\r\n\r\nPUT /second HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123',
  )
  // One is forwarded so far; both wait.
  await until(async () => Number(at(await status(), 'totals', 'forwarded')) === 1)
  await delay(50)
  gone.socket.resetAndDestroy()
  await delay(50)
  release(received[0])
  await held.closed()
  const answer = exchange(t, proxy, get('/next'))
  await until(() => received.some(({ head }) => head.startsWith('GET /next ')))
  release(received.find(({ head }) => head.startsWith('GET /next ')))
  assert.match(await answer, /^HTTP\/1\.1 200 OK/)
})
