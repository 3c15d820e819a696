import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, type RunningProxy, startProxy, until } from '../support/harness.js'
import { ask, configure, MISSING, NO_PROBES } from '../support/http-client.js'
import { PacedClient } from '../support/paced-client.js'
import { ProxyState } from '../support/proxy-state.js'
import { rawUpstream, response } from '../support/raw.js'
import { ScriptedUpstream, scripted, wholeText } from '../support/scripted-upstream.js'
import { assertSlotsAreFree } from '../support/upstream-slots.js'

/** Connections that are still open at the end of a test delay nothing. */
const NO_DRAIN = { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '100' }

const PROBES = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }

const WEBSOCKET = [
  'GET /stream?id=upgrade HTTP/1.1',
  'Host: a',
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  '\r\n',
].join('\r\n')

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`

const post = (target: string, body: string, ...fields: readonly string[]) =>
  [`POST ${target} HTTP/1.1`, 'Host: a', ...fields, `Content-Length: ${body.length}`, '', body].join('\r\n')

/** The proxy in front of an upstream whose requests choose their kind of response. */
async function setUp(t: TestContext, env: Readonly<Record<string, string>>, isConnected = true) {
  const upstream = await ScriptedUpstream.start(t)
  upstream.fiber.there = isConnected
  const proxy = await startProxy(t, { upstream: upstream.url, env: { ...NO_DRAIN, ...env } })
  const state = new ProxyState(t, proxy)
  await state.circuitIs(isConnected ? 'closed' : 'open')
  return { upstream, proxy, state, url: proxy.url }
}

async function assertServed(proxy: RunningProxy): Promise<void> {
  const read = await ask(`${proxy.url}/channels`)
  assert.equal(read.statusCode, 200, read.bytes.toString())
  const job = await configure(proxy)
  assert.equal(job.statusCode, 200, job.bytes.toString())
}

describe('requests behind others on one connection', () => {
  test('a wait with 300 large requests behind it holds no slot after its connection closes', async t => {
    const big = 'x'.repeat(200_000)
    const fiber = { there: false }
    const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', big)), fiber)
    // All other options have their defaults.
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env: NO_DRAIN })
    await new ProxyState(t, proxy).circuitIs('open')
    const client = await PacedClient.connect(t, proxy.url, { reading: 'not at all' })
    client.send(get('/-/wait?timeout=1h') + get('/channels').repeat(300))
    await until(() => upstream.received.length > 0, { what: 'the first of them has been forwarded' })
    await delay(300)
    client.leave('closes')
    await delay(300)
    const honest = await ask(`${proxy.url}/channels`)
    assert.equal(honest.statusCode, 200, honest.bytes.toString())
    assert.equal(honest.bytes.length, big.length)
  })

  test('30 jobs behind a slow request on the same connection are not in flight, and go away when it closes', async t => {
    const { upstream, proxy, state } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: '30',
    })
    const jobs = Array.from({ length: 30 }, (_, n) => `job-${n}`)
    const client = await PacedClient.connect(t, proxy.url)
    const requests = jobs.map(id => post(scripted('/configure', id, 'small'), '{}'))
    client.send(get(scripted('/channels', 'slow', 'held')) + requests.join(''))
    await until(() => upstream.received('slow'))
    assert.equal(at(await state.status(), 'inFlight'), 0)
    assert.equal((await configure(proxy)).statusCode, 200)
    client.leave('closes')
    await state.isAtRest()
    await assertServed(proxy)
    assert.deepEqual(
      jobs.filter(id => upstream.received(id)),
      [],
    )
  })

  test('requests behind a slow one are served in order after its response', async t => {
    const { upstream, proxy, state } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: '1',
    })
    const client = await PacedClient.connect(t, proxy.url)
    const ids = ['a', 'b', 'c']
    const requests = ids.map(id => post(scripted('/configure', id, 'small'), '{}'))
    client.send(get(scripted('/channels', 'slow', 'held')) + requests.join(''))
    await until(() => upstream.received('slow'))
    upstream.release(id => id === 'slow')
    await until(() => client.has(wholeText('c')), { what: 'the last one has its response' })
    // With one slot for jobs, they can only have run one after the other.
    for (const id of ids) assert.ok(client.has(wholeText(id)), client.summary)
    await state.isAtRest()
  })

  for (const [name, wait] of [
    ['/-/wait', get('/-/wait?timeout=1h')],
    ['Prefer: wait', post('/configure?id=job', '{}', 'Prefer: wait=60')],
  ] as const) {
    test(`a request behind a wait ends the wait and is served itself: ${name}`, async t => {
      const { upstream, proxy, state } = await setUp(t, PROBES, false)
      const next = get(scripted('/channels', 'next', 'small'))
      for (const separately of [false, true]) {
        const client = await PacedClient.connect(t, proxy.url)
        client.send(separately ? wait : wait + next)
        if (separately) {
          // The only request on its connection waits.
          await delay(300)
          assert.equal(client.bytes, 0, client.summary)
          client.send(next)
        }
        await until(() => client.has(wholeText('next')), {
          what: 'the request behind the wait has its response',
        })
        assert.ok(client.has('HTTP/1.1 503 '), client.summary)
        assert.ok(client.has('"status":"waiting_for_fiber"'), client.summary)
      }
      await state.isAtRest()
      upstream.fiber.there = true
      await state.circuitIs('closed')
      await assertServed(proxy)
      assert.equal(upstream.received('job'), false)
    })
  }

  for (const ending of ['closes', 'resets', 'half-closes'] as const) {
    test(`a job that waits before an upgrade is not forwarded when its client ${ending}`, async t => {
      const { upstream, proxy, state } = await setUp(t, PROBES, false)
      const client = await PacedClient.connect(t, proxy.url)
      client.send(post('/configure?id=job', '{}', 'Prefer: wait=60') + WEBSOCKET)
      await delay(300)
      if (ending === 'half-closes') client.halfClose()
      else client.leave(ending)
      await state.isAtRest()
      upstream.fiber.there = true
      await state.circuitIs('closed')
      await assertServed(proxy)
      assert.equal(upstream.received('job'), false)
      assert.equal(upstream.received('upgrade'), false)
      await until(() => client.isClosed, { what: 'the connection is closed' })
    })
  }

  test('a request before an upgrade holds no slot after its client half-closes', async t => {
    const { upstream, url } = await setUp(t, { ...NO_PROBES, FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '1' })
    const client = await PacedClient.connect(t, url)
    client.send(get(scripted('/channels', 'slow', 'held')) + WEBSOCKET)
    await until(() => upstream.received('slow'))
    // The proxy has seen the upgrade as well.
    await delay(200)
    client.halfClose()
    await assertSlotsAreFree(t, { url, upstream, count: 1 })
  })

  test('a large response before an upgrade arrives complete, and then the connection closes', async t => {
    const { url } = await setUp(t, NO_PROBES)
    const client = await PacedClient.connect(t, url, { reading: 'slowly' })
    client.send(get(scripted('/channels', 'large', 'large')) + WEBSOCKET)
    await until(() => client.has(wholeText('large')) && client.isClosed, {
      what: 'the response is complete and the connection closed',
    }).catch(() => assert.fail(`${client.bytes} bytes, closed: ${client.isClosed}`))
  })
})

describe('clients that do not read', () => {
  for (const [route, request] of [
    ['plain requests', (id: string) => get(scripted('/channels', id, 'large'))],
    ['jobs', (id: string) => post(scripted('/configure', id, 'large'), '{}')],
  ] as const) {
    test(`are cut after the timeout, and four of them free their four slots: ${route}`, async t => {
      const { upstream, url, state } = await setUp(t, {
        ...NO_PROBES,
        FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '4',
        FOCUS_BREAKER_SERVER_RESPONSE_PAUSE_TIMEOUT_MS: '300',
      })
      const ids = ['a', 'b', 'c', 'd']
      for (const [n, id] of ids.entries()) {
        const localAddress = `127.0.0.${n + 11}`
        const client = await PacedClient.connect(t, url, { reading: 'not at all', localAddress })
        client.send(request(id))
      }
      await until(() => ids.every(id => upstream.begun(id)), { what: 'all four responses have started' })
      await until(() => upstream.unanswered.length === 0, {
        what: 'every request at the upstream has its response',
      })
      await assertSlotsAreFree(t, { url, upstream, count: 4 })
      await state.isAtRest()
    })
  }

  test('are not cut when the timeout is switched off', async t => {
    const { upstream, url } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_SERVER_RESPONSE_PAUSE_TIMEOUT_MS: '0',
    })
    const client = await PacedClient.connect(t, url, { reading: 'not at all' })
    client.send(get(scripted('/channels', 'large', 'large')))
    await until(() => upstream.begun('large'))
    await delay(1500)
    assert.deepEqual(upstream.unanswered, ['large'])
  })

  test('are distinguished from slow readers and from streams, active or idle, which are not cut', async t => {
    const piece = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`
    const pausesMs: Readonly<Record<string, number>> = { '/moves': 100, '/rests': 1500 }
    const upstream = await rawUpstream(t, async ({ head, socket }) => {
      const path = head.split(' ')[1] ?? ''
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
      const pauseMs = pausesMs[path] ?? 0
      // In total three to four times as long as a client may pause.
      for (let sent = 0; sent < 2000; sent += Math.max(pauseMs, 100)) {
        socket.write(piece(`${sent} `))
        await delay(pauseMs)
      }
      socket.write(`${piece('whole')}0\r\n\r\n`)
    })
    const large = await ScriptedUpstream.start(t)
    const env = { ...NO_DRAIN, ...NO_PROBES, FOCUS_BREAKER_SERVER_RESPONSE_PAUSE_TIMEOUT_MS: '500' }
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env })
    const other = await startProxy(t, { upstream: large.url, env })
    const begin = async (url: string, request: string, reading: 'at once' | 'slowly') => {
      const client = await PacedClient.connect(t, url, { reading })
      client.send(request)
      return client
    }
    const clients = await Promise.all([
      begin(proxy.url, get('/moves'), 'at once'),
      begin(proxy.url, get('/rests'), 'at once'),
      begin(other.url, get(scripted('/channels', 'large', 'large')), 'slowly'),
    ])
    await until(() => clients.every(client => client.has('whole')), {
      what: 'each client has its whole response',
    }).catch(() => assert.fail(clients.map(client => `${client.bytes} ${client.isClosed}`).join('; ')))
  })
})

describe('request bodies that do not end', () => {
  /** Sends a byte now and then, always within the allowed pause, until the connection closes. */
  async function trickle(client: PacedClient, everyMs = 150): Promise<void> {
    while (!client.isClosed && !client.has('HTTP/1.1 ')) {
      client.send('1\r\nx\r\n')
      await delay(everyMs)
    }
  }

  const LIMITS = {
    ...NO_PROBES,
    FOCUS_BREAKER_SERVER_BODY_PAUSE_TIMEOUT_MS: '600',
    FOCUS_BREAKER_SERVER_BODY_TIMEOUT_MS: '1500',
    FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: '2',
  }

  test('a job whose body comes byte by byte gets a 408 and frees its slot', async t => {
    const { proxy, state } = await setUp(t, LIMITS)
    const clients = await Promise.all([PacedClient.connect(t, proxy.url), PacedClient.connect(t, proxy.url)])
    for (const client of clients) {
      client.send('POST /configure HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n')
      void trickle(client)
    }
    await until(() => clients.every(client => client.has('HTTP/1.1 408 ')), {
      what: 'both get a 408',
      timeoutMs: 20_000,
    }).catch(() => assert.fail(clients.map(client => client.summary).join('; ')))
    await state.isAtRest()
    await assertServed(proxy)
  })

  test('a small job whose body comes byte by byte takes no slot in the meantime', async t => {
    const { proxy, state, upstream } = await setUp(t, LIMITS)
    const clients = await Promise.all([PacedClient.connect(t, proxy.url), PacedClient.connect(t, proxy.url)])
    for (const [n, client] of clients.entries()) {
      client.send(`POST /configure?id=small-${n} HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n`)
      void trickle(client)
    }
    await delay(600)
    assert.equal(at(await state.status(), 'inFlight'), 0)
    await assertServed(proxy)
    await until(() => clients.every(client => client.has('HTTP/1.1 408 ')), { timeoutMs: 20_000 })
    assert.equal(upstream.received('small-0') || upstream.received('small-1'), false)
    await state.isAtRest()
  })

  test('a body for any other route may take any time, as long as data keeps arriving', async t => {
    const { proxy, upstream } = await setUp(t, LIMITS)
    const client = await PacedClient.connect(t, proxy.url)
    const target = scripted('/recordings_in_time_range', 'long', 'small')
    client.send(`POST ${target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n`)
    const trickling = trickle(client)
    // Three times the limit.
    await Promise.race([delay(4500), trickling])
    assert.equal(client.has('HTTP/1.1 '), false, client.summary)
    assert.ok(upstream.received('long'))
    client.send('0\r\n\r\n')
    await until(() => client.has(wholeText('long')))
  })
})

test('a job whose client left runs to its end, counts as evidence, and frees its slots', async t => {
  const sockets: { write(text: string): void }[] = []
  const upstream = await rawUpstream(t, ({ head, socket }) => {
    if (head.startsWith('POST ')) sockets.push(socket)
    else socket.write(response('200 OK', '{}'))
  })
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${upstream.port}`,
    env: { ...NO_PROBES, FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '1' },
  })
  const state = new ProxyState(t, proxy)
  await state.circuitIs('closed')
  const client = await PacedClient.connect(t, proxy.url)
  client.send(post('/configure', '{}'))
  await until(() => sockets.length === 1)
  client.leave('closes')
  await delay(300)
  assert.equal(at(await state.status(), 'inFlight'), 1)
  sockets[0]?.write(response('503 Service Unavailable', JSON.stringify({ detail: MISSING })))
  await state.isAtRest()
  const opened = proxy.logs().find(line => line.to === 'open')
  assert.equal(opened?.source, 'configure')
  assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
})
