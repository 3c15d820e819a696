import assert from 'node:assert/strict'
import promises from 'node:dns/promises'
import { createServer, type ServerResponse } from 'node:http'
import { syncBuiltinESMExports } from 'node:module'
import { type TestContext, test } from 'node:test'
import { buildApp } from '../../src/app.js'
import { load } from '../../src/config/load.js'
import { createLogger } from '../../src/observability/logger.js'
import { freePort, startProxy, until } from '../support/harness.js'
import { portOf } from '../support/raw.js'

/** Opens the health listener of a proxy whose host resolves to these addresses. */
async function listenAt(t: TestContext, ...addresses: readonly string[]): Promise<string | undefined> {
  const found = addresses.map(address => ({ address, family: address.includes(':') ? 6 : 4 }))
  const { mock } = t.mock.method(promises, 'lookup', () => Promise.resolve(found))
  syncBuiltinESMExports()
  const flags = new Map([
    ['upstream.url', { flag: '', value: 'http://127.0.0.1:1' }],
    ['server.host', { flag: '', value: 'proxy.example.com' }],
    ['server.healthPort', { flag: '', value: String(await freePort()) }],
  ])
  const loaded = load({ environment: {}, flags })
  assert.ok(loaded.ok)
  const { app, listenForHealth } = buildApp(
    loaded.config,
    createLogger({ level: 'silent', format: 'json' }),
    'test',
  )
  t.after(() => app.close())
  try {
    return await listenForHealth()
  } finally {
    mock.restore()
    syncBuiltinESMExports()
  }
}

test('the health listener listens on each address of its host once, and skips those that this machine lacks', async t => {
  for (const addresses of [
    ['127.0.0.1'],
    ['127.0.0.1', '127.0.0.1'],
    ['127.0.0.1', '192.0.2.1'],
    ['192.0.2.1', '127.0.0.1'],
    ['127.0.0.1', '2001:db8::1', '127.0.0.1'],
    ['127.0.0.1', '127.0.0.2'],
  ]) {
    const url = await listenAt(t, ...addresses)
    assert.match(url ?? '', /^http:\/\/127\.0\.0\.1:\d+$/, addresses.join())
    for (const address of addresses.filter(each => each.startsWith('127.'))) {
      const response = await fetch(`http://${address}:${new URL(url ?? '').port}/-/live`)
      assert.equal(response.status, 200, `${address} of ${addresses.join()}`)
    }
  }
})

test('a host without an address of this machine is an error', async t => {
  await assert.rejects(listenAt(t, '192.0.2.1', '2001:db8::1'), { code: /^(EADDRNOTAVAIL|EAFNOSUPPORT)$/ })
})

test('during a drain the health listener responds: live, not ready, and with metrics; then it closes', async t => {
  const held: ServerResponse[] = []
  const server = createServer((request, response) => {
    if (request.url === '/held') held.push(response)
    else response.end('{"prr":2000.0,"sw_version":"11"}')
  }).listen(0, '127.0.0.1')
  t.after(() => server.close())
  t.after(() => server.closeAllConnections())
  const healthPort = await freePort()
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${portOf(server)}`,
    env: { FOCUS_BREAKER_SERVER_HEALTH_PORT: String(healthPort) },
  })
  const ask = (path: string) =>
    fetch(`http://127.0.0.1:${healthPort}${path}`, { headers: { connection: 'close' } })
  assert.equal((await ask('/-/ready')).status, 200)
  const inFlight = fetch(`${proxy.url}/held`)
  await until(() => held.length === 1)
  const stopped = proxy.stop()
  await until(async () => (await ask('/-/ready')).status === 503)
  assert.equal((await ask('/-/live')).status, 200)
  assert.match(await (await ask('/-/metrics')).text(), /^focus_breaker_circuit_state/m)
  // The server accepts no more connections, so only this listener shows that the process is alive.
  await assert.rejects(fetch(`${proxy.url}/-/live`))
  held[0]?.end('done')
  assert.equal(await (await inFlight).text(), 'done')
  assert.equal(await stopped, 0)
  await assert.rejects(ask('/-/live'))
})
