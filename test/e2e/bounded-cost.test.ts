import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { parseAllDocuments } from 'yaml'
import { cpuSecondsOf, holdingsOf } from '../support/accounting.js'
import { at, repositoryRoot, startProxy, until } from '../support/harness.js'
import { HonestClient, readChannels } from '../support/honest-client.js'
import { ask, NO_PROBES } from '../support/http-client.js'
import { PacedClient } from '../support/paced-client.js'
import { ProxyState } from '../support/proxy-state.js'
import { exchange, rawUpstream, response } from '../support/raw.js'

/** Limits on what one client can make the proxy spend: CPU time and memory. */

/** Connections that are still open at the end of a test delay nothing. */
const NO_DRAIN = { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '100' }

/** Whether there is a `/proc` that shows what a process spends; otherwise the test is skipped. */
function requireProc(t: TestContext): boolean {
  if (existsSync('/proc/self/stat')) return true
  t.skip('this system has no /proc')
  return false
}

/** How far the resident memory of a process rises above its current value, until `stop` is called. */
function memoryWatch(t: TestContext, pid: number) {
  const beforeMb = holdingsOf(pid).residentMb
  let peakMb = beforeMb
  const sample = () => {
    peakMb = Math.max(peakMb, holdingsOf(pid).residentMb)
  }
  const timer = setInterval(sample, 50)
  t.after(() => clearInterval(timer))
  return {
    stop(): number {
      clearInterval(timer)
      sample()
      return peakMb - beforeMb
    },
  }
}

const CHUNKS = 60_000
/** Many times the cost of one scan, and a fraction of the cost of scanning everything for each chunk. */
const MAX_CPU_SECONDS = 8

test('a failed job whose response has 60,000 chunks of one byte costs no more than its length does', {
  timeout: 120_000,
}, async t => {
  if (!requireProc(t)) return
  const upstream = await rawUpstream(t, ({ head, socket }) => {
    if (!head.startsWith('POST ')) return socket.write(response('200 OK', '{}'))
    socket.write('HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n')
    return socket.write(`${'1\r\nx\r\n'.repeat(CHUNKS)}0\r\n\r\n`)
  })
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${upstream.port}`,
    env: { ...NO_DRAIN, ...NO_PROBES },
  })
  await new ProxyState(t, proxy).circuitIs('closed')
  const honest = new HonestClient(t, { url: proxy.url, errands: [readChannels] })
  const cpuBefore = cpuSecondsOf(proxy.pid)
  const startedAt = performance.now()
  const client = await PacedClient.connect(t, proxy.url)
  client.send('POST /configure HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}')
  await until(() => client.isClosed, { what: 'the response is complete', timeoutMs: 90_000 })
  const seconds = (performance.now() - startedAt) / 1000
  const cpuSeconds = cpuSecondsOf(proxy.pid) - cpuBefore
  const { requests, errors, p99Ms } = await honest.stop()
  t.diagnostic(
    `${seconds.toFixed(1)} s, ${cpuSeconds.toFixed(1)} s of CPU time; ${requests} requests of another client in the meantime, p99 ${p99Ms.toFixed(0)} ms`,
  )
  assert.ok(client.has('HTTP/1.1 500 '), client.summary)
  assert.ok(client.bytes > CHUNKS, client.summary)
  assert.deepEqual(errors, [])
  assert.ok(cpuSeconds < MAX_CPU_SECONDS, `${cpuSeconds} s of CPU time`)
})

const MAX_INTERIM = 100
const INTERIM = `HTTP/1.1 103 Early Hints\r\nLink: </${'a'.repeat(1000)}>; rel=preload\r\n\r\n`

/** An upstream that sends interim responses as fast as it can, up to this many bytes, and never a final one. */
function interimUpstream(t: TestContext, maxBytes: number) {
  const upstream = { isOver: false }
  const flood = (socket: Socket) => {
    const batch = INTERIM.repeat(100)
    let sent = 0
    const more = () => {
      while (!socket.destroyed && sent < maxBytes) {
        sent += batch.length
        if (!socket.write(batch)) return
      }
      upstream.isOver = true
    }
    socket.on('drain', more)
    socket.once('close', () => {
      upstream.isOver = true
    })
    more()
  }
  return rawUpstream(t, ({ socket }) => flood(socket)).then(({ port }) => ({ port, upstream }))
}

test('endless interim responses do not fill memory, whether the client reads or not', {
  timeout: 60_000,
}, async t => {
  if (!requireProc(t)) return
  for (const reading of ['not at all', 'at once'] as const) {
    const { port, upstream } = await interimUpstream(t, 400_000_000)
    const proxy = await startProxy(t, {
      upstream: `http://127.0.0.1:${port}`,
      env: { ...NO_DRAIN, ...NO_PROBES },
    })
    const watch = memoryWatch(t, proxy.pid)
    const client = await PacedClient.connect(t, proxy.url, { reading })
    client.send('GET /hints HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => upstream.isOver, { what: 'the upstream is stopped', timeoutMs: 8000 }).catch(
      () => undefined,
    )
    await delay(200)
    const grownMb = watch.stop()
    t.diagnostic(`a client that reads ${reading}: resident memory rose by ${grownMb} MB`)
    assert.ok(grownMb < 100, `resident memory rose by ${grownMb} MB`)
    assert.ok(upstream.isOver, 'the upstream keeps sending')
    client.leave('closes')
    await proxy.stop()
  }
})

test('a hundred interim responses are forwarded, and one more is an upstream error', async t => {
  const counts = { '/most': MAX_INTERIM, '/more': MAX_INTERIM + 1 }
  const hint = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
  const { port } = await rawUpstream(t, ({ head, socket }) => {
    const count = head.startsWith('GET /most ') ? counts['/most'] : counts['/more']
    socket.write(hint.repeat(count) + response('200 OK', 'final'))
  })
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${port}`,
    env: { ...NO_DRAIN, ...NO_PROBES },
  })
  const proxyPort = Number(new URL(proxy.url).port)
  const request = (path: string) => `GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`
  const most = await exchange(t, proxyPort, request('/most'))
  assert.equal(most.match(/HTTP\/1\.1 103 /g)?.length, MAX_INTERIM)
  assert.match(most, /HTTP\/1\.1 200 OK\r\n[\s\S]*final$/)
  const more = await exchange(t, proxyPort, request('/more'))
  assert.ok((more.match(/HTTP\/1\.1 103 /g)?.length ?? 0) <= MAX_INTERIM)
  assert.match(more, /HTTP\/1\.1 502 Bad Gateway\r\n[\s\S]*"error"/)
})

const WAIT = 'GET /-/wait?timeout=1h HTTP/1.1\r\nHost: a\r\n\r\n'
const WAITS = 20_000

for (const reading of ['at once', 'not at all'] as const) {
  test(`20,000 waits on one connection that is read ${reading} do not keep another client from waiting`, {
    timeout: 60_000,
  }, async t => {
    if (!requireProc(t)) return
    const fiber = { there: false }
    const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '{}')), fiber)
    const env = { ...NO_DRAIN, FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}`, env })
    const state = new ProxyState(t, proxy)
    await state.circuitIs('open')
    const watch = memoryWatch(t, proxy.pid)
    const client = await PacedClient.connect(t, proxy.url, { reading })
    client.send(WAIT.repeat(WAITS))
    // Time for the proxy to read all of them before the honest client comes.
    await delay(1500)
    const honest = await PacedClient.connect(t, proxy.url, { localAddress: '127.0.0.2' })
    honest.send('GET /-/wait?timeout=10m HTTP/1.1\r\nHost: a\r\n\r\n')
    await delay(500)
    assert.equal(honest.bytes, 0, `the client does not wait: ${honest.summary}`)
    const grownMb = watch.stop()
    fiber.there = true
    await until(() => honest.has('HTTP/1.1 200 '), { what: 'the honest client has waited for the fiber' })
    t.diagnostic(`resident memory rose by ${grownMb} MB`)
    assert.ok(grownMb < 150, `resident memory rose by ${grownMb} MB`)
    client.leave('closes')
  })
}

test('refused requests are not kept in memory, although each gets its response before its body arrives', {
  timeout: 120_000,
}, async t => {
  const { port } = await rawUpstream(t, () => undefined, { there: false })
  // The heap limits of a container of 96 MiB. The process exits with 134 when the kept data does not fit.
  const heap = '--max-old-space-size=38 --max-semi-space-size=4'
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${port}`,
    env: { ...NO_DRAIN, ...NO_PROBES, NODE_OPTIONS: heap },
  })
  await new ProxyState(t, proxy).circuitIs('open')
  const agent = new Agent({ keepAlive: true, maxSockets: 16 })
  t.after(() => agent.destroy())
  const one = () =>
    new Promise<number | undefined>((resolve, reject) => {
      const asked = request(`${proxy.url}/configure`, { method: 'POST', agent }, response => {
        response.resume().once('end', () => resolve(response.statusCode))
      })
      asked.once('error', reject)
      // The headers go first.
      asked.setHeader('content-length', 2)
      asked.flushHeaders()
      asked.end('{}')
    })
  let left = 40_000
  const loops = Array.from({ length: 16 }, async () => {
    while (left > 0) {
      left -= 1
      assert.equal(await one(), 503)
    }
  })
  await Promise.all(loops)
})

/** The default limit of waiting clients. */
const MAX_WAITERS = 5000
/** More than the limit, in case the limit does not work. */
const MOST_TRIED = 20_500
const BATCH = 250

/** The memory limit of a container in a manifest. */
function memoryLimitMb(manifest: string): number {
  const text = readFileSync(join(repositoryRoot, 'deploy/kubernetes', manifest), 'utf8')
  const deployment = parseAllDocuments(text)
    .map((document): unknown => document.toJS())
    .find(document => at(document, 'kind') === 'Deployment')
  const limit = at(
    deployment,
    ...(['spec', 'template', 'spec', 'containers', 0, 'resources', 'limits', 'memory'] as const),
  )
  const megabytes = /^(\d+)Mi$/.exec(String(limit))?.[1]
  assert.ok(megabytes !== undefined, `no memory limit in Mi: ${limit}`)
  return Number(megabytes)
}

test('as many clients as may wait for the fiber fit into the memory limit of the manifest', {
  timeout: 120_000,
}, async t => {
  if (!requireProc(t)) return
  const { port } = await rawUpstream(t, () => undefined, { there: false })
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${port}`,
    env: { ...NO_DRAIN, ...NO_PROBES },
  })
  const proxyPort = Number(new URL(proxy.url).port)
  await new ProxyState(t, proxy).circuitIs('open')
  const beforeMb = holdingsOf(proxy.pid).residentMb

  const waiting = new Set<Socket>()
  let refused = 0
  const enter = (localAddress: string) =>
    new Promise<void>(resolve => {
      const socket = connect({ host: '127.0.0.1', port: proxyPort, localAddress })
      waiting.add(socket)
      socket.once('data', () => {
        refused += 1
        waiting.delete(socket)
        socket.destroy()
      })
      socket.on('error', () => resolve())
      socket.once('close', () => waiting.delete(socket))
      socket.write(WAIT, () => resolve())
    })
  t.after(() => {
    for (const socket of waiting) socket.destroy()
  })
  // Each client costs one descriptor here and one in the proxy.
  const most = Math.min(MOST_TRIED, descriptorLimit() - 1000)
  while (refused === 0 && waiting.size + BATCH <= most) {
    await Promise.all(Array.from({ length: BATCH }, () => enter('127.0.0.1')))
    // This request is read after them.
    await ask(`${proxy.url}/-/live`)
    await delay(20)
  }
  await delay(1000)

  const perWaiterMb = (holdingsOf(proxy.pid).residentMb - beforeMb) / waiting.size
  const room = refused > 0 ? waiting.size : Math.max(waiting.size, MAX_WAITERS)
  const fullMb = beforeMb + room * perWaiterMb
  const limitMb = memoryLimitMb('base/deployment.yaml')
  const how = refused > 0 ? 'the waiting room was full' : 'no descriptors were left'
  t.diagnostic(
    `${waiting.size} waited (${how}): ${beforeMb} MiB before, ${(perWaiterMb * 1024).toFixed(1)} KiB each, ${fullMb.toFixed(0)} MiB for ${room} of them; the limit is ${limitMb} MiB`,
  )
  assert.ok(
    fullMb < limitMb,
    `${fullMb} MiB for ${room} waiting clients, the limit of the manifest is ${limitMb} MiB`,
  )

  if (refused === 0) return
  // One address fills the waiting room: another address still gets in.
  const honest = await PacedClient.connect(t, proxy.url, { localAddress: '127.0.0.2' })
  const before = refused
  honest.send(WAIT)
  await until(() => refused === before + 1, {
    what: 'the newest client of the address with the most makes way',
  })
  assert.equal(honest.bytes, 0, honest.summary)
})

/** The number of descriptors that this process, and so the proxy, may have. */
function descriptorLimit(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1])
}
