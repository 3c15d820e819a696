import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect, createServer as createForwarder, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { mountedVolume } from '../support/mounted-volume.js'
import { portOf } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const ENV = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  FOCUS_BREAKER_PROBE_TIMEOUT_MS: '300',
  FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1',
  FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
}

/** One address whose server is replaced: existing connections stay with the old server, which keeps running. */
async function forwarder(t: TestContext, first: string) {
  let target = new URL(first)
  const sockets = new Set<Socket>()
  const server = createForwarder(socket => {
    const upstream = connect(Number(target.port), target.hostname)
    for (const [from, to] of [
      [socket, upstream],
      [upstream, socket],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy())
      from.pipe(to)
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return {
    url: `http://127.0.0.1:${portOf(server)}`,
    exchange: (next: string) => {
      target = new URL(next)
    },
  }
}

async function readingsOf(proxy: { readonly url: string }, kind: string): Promise<number> {
  const text = (await ask(`${proxy.url}/-/metrics`)).bytes.toString('utf8')
  const [, value] = new RegExp(`readings_total\\{kind="${kind}",source="probe"\\} (\\d+)`).exec(text) ?? []
  return Number(value)
}

test('during a rollout probes and traffic move to the new server while the old one still runs', async t => {
  const old = await simulate(t)
  const renewed = await simulate(t, { fiber: 'missing' })
  const address = await forwarder(t, old.simulator.url)
  const env = {
    ...ENV,
    FOCUS_BREAKER_UPSTREAM_MAX_CONNECTION_AGE_MS: '1000',
    FOCUS_BREAKER_UPSTREAM_KEEP_ALIVE_MS: '60000',
  }
  const proxy = await startProxy(t, { upstream: address.url, env })
  await circuitIs(proxy, 'closed')
  assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
  address.exchange(renewed.simulator.url)
  await circuitIs(proxy, 'open')
  assert.equal(at(await statusOf(proxy), 'reading', 'kind'), 'waiting')
  await until(
    async () => {
      await ask(`${proxy.url}/channels`)
      return (renewed.simulator.counters.byRoute['GET /channels'] ?? 0) > 0
    },
    { what: 'traffic reaches the new server' },
  )
})

test('a server that closes idle connections is never unreachable because of it', async t => {
  const server = createServer((_, response) => {
    response.end('{"prr":2000.0,"sw_version":"11"}')
  })
  // At the time of the next probe, plus or minus the jitter.
  server.keepAliveTimeout = 100
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${portOf(server)}`, env: ENV })
  await until(async () => (await readingsOf(proxy, 'ready')) > 20)
  assert.equal(await readingsOf(proxy, 'unreachable'), 0)
})

test('a process that was paused does not take its own silence for that of focus-server', async t => {
  const { simulator } = await simulate(t)
  const env = {
    ...ENV,
    FOCUS_BREAKER_UPSTREAM_CONNECT_TIMEOUT_MS: '1500',
    FOCUS_BREAKER_UPSTREAM_HEADERS_TIMEOUT_MS: '1500',
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'closed')
  await simulator.setFault('*', { kind: 'slow', delayMs: 150 })
  for (let round = 0; round < 6; round += 1) {
    const answers = [ask(`${proxy.url}/channels`), configure(proxy)]
    await sleep(40 * round)
    process.kill(proxy.pid, 'SIGSTOP')
    await sleep(round === 5 ? 2500 : 700)
    process.kill(proxy.pid, 'SIGCONT')
    for (const { statusCode } of await Promise.all(answers)) assert.equal(statusCode, 200)
    await sleep(100)
  }
  assert.equal(await readingsOf(proxy, 'unreachable'), 0)
  assert.equal(at((await ask(`${proxy.url}/-/outages`)).json, 'outages', 'length'), 0)
  // If focus-server itself does not respond, that still counts.
  await simulator.setFault('*', { kind: 'hang' })
  await circuitIs(proxy, 'open')
  assert.equal(at(await statusOf(proxy), 'circuit', 'cause'), 'unreachable')
})

test('probe.headers are sent with each probe, follow their files, and give no client access to the metadata', async t => {
  let key = 'one'
  const server = createServer(({ headers }, response) => {
    if (headers['x-api-key'] !== key || headers['x-site'] !== 'lab 2') response.writeHead(401).end()
    else response.end('{"prr":2000.0,"sw_version":"11"}')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const volume = mountedVolume(t, { key: 'one\n' })
  const headers = { 'X-Api-Key': { file: volume.path('key') }, 'X-Site': 'lab 2' }
  const env = { ...ENV, FOCUS_BREAKER_PROBE_HEADERS: JSON.stringify(headers) }
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${portOf(server)}`, env })
  await circuitIs(proxy, 'closed')
  assert.equal((await ask(`${proxy.url}/live_metadata`)).statusCode, 401)
  key = 'two'
  await circuitIs(proxy, 'open')
  volume.replace({ key: 'two\n' })
  await circuitIs(proxy, 'closed')
  // A value that cannot be a header is not used.
  volume.replace({ key: 'two\nX-Evil: 1\n' })
  await until(() =>
    proxy.logs().some(({ option, msg }) => option === 'probe.headers' && msg === 'secret was not renewed'),
  )
  assert.equal(at(await statusOf(proxy), 'reading', 'kind'), 'ready')
  assert.doesNotMatch(JSON.stringify(proxy.logs()), /"two|X-Evil/)
})

test('429 with Retry-After is shown, and logged once', async t => {
  const server = createServer((_, response) => {
    response.writeHead(429, { 'retry-after': '2' }).end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${portOf(server)}`, env: ENV })
  const status = await statusOf(proxy)
  assert.ok(
    Date.parse(String(at(status, 'probes', 'slowedUntil'))) > Date.parse(String(at(status, 'reading', 'at'))),
  )
  await until(async () => (await readingsOf(proxy, 'unreachable')) >= 2)
  const lines = proxy.logs().filter(({ msg }) => String(msg).startsWith('probes slowed'))
  assert.equal(lines.length, 1)
})
