import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request as httpRequest } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { requireOrSkip, startProgram, startProxy, until } from '../support/harness.js'
import { type RawClient, rawClient, rawUpstream, response } from '../support/raw.js'
import { live } from '../support/simulate.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'

/** Requests that a client may have in flight when a proxy is stopped: the upstream responds according to the target. */
async function busy(t: TestContext, env: Readonly<Record<string, string>>) {
  const upstream = await rawUpstream(t, ({ head, socket }) => {
    const target = head.split(' ')[1] ?? ''
    if (target === '/quick') socket.write(response('200 OK', 'quick'))
    else if (target === '/events')
      socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n')
    else if (target === '/ws')
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\njoined',
      )
  })
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env })
  const port = Number(new URL(proxy.url).port)
  return { ...upstream, proxy, port, begin: (request: string) => begin(t, port, request) }
}

async function begin(t: TestContext, port: number, request: string): Promise<RawClient> {
  return (await rawClient(t, port)).send(request)
}

const EVENTS = 'GET /events HTTP/1.1\r\nHost: a\r\n\r\n'
const LONG_POLL = 'GET /poll HTTP/1.1\r\nHost: a\r\n\r\n'
const WEBSOCKET =
  'GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n\r\n'

test('/-/ready fails first, while everything is served; then short requests end, long ones are cut, and the exit code is 0', async t => {
  const env = { FOCUS_BREAKER_SERVER_DRAIN_DELAY_MS: '2500', FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '1000' }
  const { proxy, port, received, begin: start } = await busy(t, env)
  const events = await start(EVENTS)
  await events.until(/data: first/)
  const socket = await start(WEBSOCKET)
  await socket.until(/joined$/)
  const poll = await start(LONG_POLL)
  await until(() => received.length === 3)
  const ready = async () => await (await start(`GET /-/ready HTTP/1.1\r\n${CLOSE}\r\n`)).closed()
  assert.match(await ready(), /^HTTP\/1\.1 200 /)

  const code = proxy.stop()
  // This happens at once, and not only when the port is about to close.
  await until(async () => /^HTTP\/1\.1 503 [\s\S]*shutting down/.test(await ready()), { timeoutMs: 2000 })
  for (const path of ['/quick', '/-/live', '/-/status', '/-/fiber']) {
    const answer = await (await start(`GET ${path} HTTP/1.1\r\n${CLOSE}\r\n`)).closed()
    assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/, path)
  }
  for (const client of [events, socket, poll]) assert.equal(client.socket.destroyed, false)

  await until(() => proxy.logs().some(({ msg }) => msg === 'draining'))
  const slow = performance.now()
  assert.equal(await poll.closed(), '')
  // An endless stream is aborted, so that no client takes it for complete.
  assert.doesNotMatch(await events.closed(), /\r\n0\r\n\r\n$/)
  assert.match(await socket.closed(), /joined$/)
  assert.equal(await code, 0)
  assert.ok(performance.now() - slow < 8000)
  const messages = proxy.logs().map(({ msg }) => msg)
  assert.deepEqual(
    messages.filter(msg => /retiring|draining|stopped/.test(String(msg))),
    ['retiring', 'draining', 'stopped'],
  )
  await assert.rejects(rawClient(t, port), { code: 'ECONNREFUSED' })
})

test('a long poll and a stream that end during the drain are complete, and nothing waits for more', async t => {
  const { proxy, received, begin: start } = await busy(t, { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '12000' })
  const poll = await start(LONG_POLL)
  const events = await start(EVENTS)
  await events.until(/data: first/)
  await until(() => received.length === 2)
  const code = proxy.stop()
  await until(() => proxy.logs().some(({ msg }) => msg === 'draining'))
  for (const { head, socket } of received) {
    if (head.startsWith('GET /poll')) socket.write(response('200 OK', 'news'))
    else socket.end('data: last\n\n')
  }
  assert.match(await poll.closed(), /^HTTP\/1\.1 200 OK\r\n[\s\S]*news$/)
  assert.match(await events.closed(), /data: last\n\n\r\n0\r\n\r\n$/)
  const endedAt = performance.now()
  assert.equal(await code, 0)
  assert.ok(performance.now() - endedAt < 6000, 'it waited for requests that had ended')
})

test('clients that wait for the fiber get a response when the drain starts', async t => {
  const upstream = await rawUpstream(t, () => undefined, { there: false })
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}` })
  const port = Number(new URL(proxy.url).port)
  const held = await begin(
    t,
    port,
    'POST /configure HTTP/1.1\r\nHost: a\r\nPrefer: wait=30\r\nContent-Length: 2\r\n\r\n{}',
  )
  await until(async () => /"waiting":1/.test(await (await fetch(`${proxy.url}/-/status`)).text()))
  const code = proxy.stop()
  assert.match(await held.closed(), /^HTTP\/1\.1 503 [\s\S]*"status":"waiting_for_fiber"/)
  assert.equal(await code, 0)
  assert.equal(upstream.received.length, 0)
})

describe('a second signal', { concurrency: 3 }, () => {
  for (const [first, second, expected] of [
    ['SIGTERM', 'SIGTERM', 143],
    ['SIGTERM', 'SIGINT', 130],
    ['SIGINT', 'SIGTERM', 143],
  ] as const) {
    for (const [phase, env] of [
      ['draining', { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '60000' }],
      ['retiring', { FOCUS_BREAKER_SERVER_DRAIN_DELAY_MS: '60000' }],
    ] as const) {
      test(`${second} after ${first} ends a proxy that is ${phase} at once`, async t => {
        const { proxy, received, begin: start } = await busy(t, env)
        const poll = await start(LONG_POLL)
        await until(() => received.length === 1)
        process.kill(proxy.pid, first)
        await until(() => proxy.logs().some(({ msg }) => msg === phase))
        process.kill(proxy.pid, second)
        assert.equal(await poll.closed(), '')
        await until(() => !isRunning(proxy.pid), { timeoutMs: 5000 })
        assert.equal(await proxy.stop(), expected)
      })
    }
  }
})

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

test('a rolling restart of two instances behind HAProxy loses no request', async t => {
  if (!requireOrSkip(t, 'haproxy')) return
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const ports = await freePorts(3)
  const [front = 0, ...backs] = ports
  const instance = (port: number) =>
    startProxy(t, {
      upstream: `http://127.0.0.1:${upstream.port}`,
      args: ['--port', String(port)],
      env: {
        FOCUS_BREAKER_SERVER_DRAIN_DELAY_MS: '1500',
        FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '5000',
        // The scenario is a rolling restart, without a recovery.
        FOCUS_BREAKER_CIRCUIT_READY_THRESHOLD: '1',
        FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
      },
    })
  const running = await Promise.all(backs.map(instance))
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'haproxy.cfg')
  // `fall 1`: the port is open while the proxy drains, and one failed check is enough.
  writeFileSync(
    file,
    `defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout check 2s
frontend clients
  bind 127.0.0.1:${front}
  default_backend proxies
backend proxies
  balance roundrobin
  option httpchk GET /-/ready
  default-server check inter 100ms fall 1 rise 2
${backs.map((port, index) => `  server proxy-${index} 127.0.0.1:${port}`).join('\n')}
`,
  )
  await startProgram(t, {
    command: '/usr/sbin/haproxy',
    args: ['-db', '-V', '-f', file],
    readyWhen: line => (/Available polling systems|Using \w+ as the polling/.test(line) ? true : undefined),
  })
  const agents = [new Agent({ keepAlive: true }), new Agent({ keepAlive: false })]
  t.after(() => {
    for (const agent of agents) agent.destroy()
  })
  await until(async () => (await ask(front, 'GET', '/channels', agents[1])) === '200')
  upstream.received.length = 0

  const outcomes = new Map<string, number>()
  let sent = 0
  let isOver = false
  const worker = async (index: number) => {
    const agent = agents[index % 2]
    while (!isOver) {
      sent += 1
      const outcome = await (sent % 5 === 0
        ? ask(front, 'POST', '/configure', agent)
        : ask(front, 'GET', '/channels', agent))
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      await sleep(2)
    }
  }
  const workers = Array.from({ length: 16 }, (_, index) => worker(index))
  t.after(() => {
    isOver = true
  })
  await sleep(300)
  for (const [index, port] of backs.entries()) {
    assert.equal(await running[index]?.stop(), 0)
    await instance(port)
    // HAProxy must have seen it twice before the other one stops.
    const before = sent
    await sleep(600)
    await until(() => sent > before + 50)
  }
  isOver = true
  await Promise.all(workers)
  assert.ok(sent > 500, `only ${sent} were sent`)
  assert.deepEqual(Object.fromEntries(outcomes), { 200: sent })
  assert.equal(upstream.received.length, sent)
})

/** The status of the response, once it is complete; otherwise what went wrong. */
function ask(port: number, method: string, path: string, agent: Agent | undefined): Promise<string> {
  return new Promise(resolve => {
    const body = method === 'POST' ? JSON.stringify(live) : undefined
    const headers = body === undefined ? {} : { 'content-type': 'application/json' }
    const request = httpRequest({ port, host: '127.0.0.1', method, path, agent, headers }, answer => {
      let text = ''
      answer.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      const { statusCode } = answer
      answer.once('end', () => resolve(statusCode === 200 ? '200' : `${statusCode} ${text.slice(0, 200)}`))
      answer.once('error', error => resolve(`cut off: ${error.message}`))
    })
    request.once('error', error => resolve(error.message))
    request.end(body)
  })
}

async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map(server => once(server, 'listening')))
  const ports = servers.map(server => {
    const address = server.address()
    assert.ok(typeof address === 'object' && address !== null)
    return address.port
  })
  for (const server of servers) server.close()
  await Promise.all(servers.map(server => once(server, 'close')))
  return ports
}
