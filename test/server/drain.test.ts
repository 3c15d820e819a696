import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { startProxy, until } from '../support/harness.js'
import { appFor, portOf, rawClient, rawUpstream, response } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

test('a drain lets requests in flight finish and closes idle connections', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const app = appFor(`http://127.0.0.1:${port}`, { 'server.drainTimeoutMs': '20000' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const proxy = portOf(app.server)
  const idle = await rawClient(t, proxy)
  await idle.send('GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n').until(/ok/)
  const busy = await rawClient(t, proxy)
  busy.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
  await until(() => received.length === 1)
  const closed = app.close()
  await idle.closed()
  received[0]?.socket.write(response('200 OK', 'done'))
  assert.match(await busy.until(/done$/), /^HTTP\/1\.1 200 OK/)
  await closed
})

test('pipelined requests are all answered during a drain, and only the last response closes the connection', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const app = appFor(`http://127.0.0.1:${port}`, { 'server.drainTimeoutMs': '20000' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  let accepted: Socket | undefined
  app.server.once('connection', (socket: Socket) => {
    accepted = socket
  })
  const client = await rawClient(t, portOf(app.server))
  const ask = (...targets: string[]) =>
    client.send(targets.map(target => `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`).join(''))
  ask('/1', '/-/live', '/2', '/-/none', '/3')
  await until(() => received.length === 1)
  const closed = app.close()
  for (const upTo of [2, 3]) {
    received[upTo - 2]?.socket.write(response('200 OK', 'ok'))
    await until(() => received.length === upTo)
  }
  // The third request is no longer the last one.
  ask('/4')
  await until(() => accepted?.bytesRead === client.socket.bytesWritten)
  received[2]?.socket.write(response('200 OK', 'ok'))
  await until(() => received.length === 4)
  received[3]?.socket.write(response('200 OK', 'ok'))
  const text = await client.closed()
  assert.deepEqual(
    [...text.matchAll(/HTTP\/1\.1 (\d+)[\s\S]*?^connection: ([\w-]+)/gim)].map(
      ([, status, option]) => `${status} ${option}`,
    ),
    ['200 keep-alive', '200 keep-alive', '200 keep-alive', '404 keep-alive', '200 keep-alive', '200 close'],
  )
  await closed
})

test('requests that do not finish in time are aborted', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const app = appFor(`http://127.0.0.1:${port}`, { 'server.drainTimeoutMs': '100' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const stuck = await rawClient(t, portOf(app.server))
  stuck.send('GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n')
  await until(() => received.length === 1)
  await app.close()
  assert.equal(await stuck.closed(), '')
})

test('a configure whose client is gone is aborted at the end of the drain too', async t => {
  const { port, received } = await rawUpstream(t, () => undefined)
  const app = appFor(`http://127.0.0.1:${port}`, { 'server.drainTimeoutMs': '300' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const gone = await rawClient(t, portOf(app.server))
  gone.send('POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}')
  await until(() => received.length === 1)
  gone.socket.destroy()
  let isCut = false
  received[0]?.socket.once('close', () => {
    isCut = true
  })
  await app.close()
  await until(() => isCut)
})

test('SIGTERM drains, logs it, and exits with 0', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url })
  await simulator.setFault('GET /channels', { kind: 'slow', delayMs: 300 })
  const answer = fetch(`${proxy.url}/channels`)
  await until(() => simulator.counters.byRoute['GET /channels'] === 1)
  const code = proxy.stop()
  assert.equal((await answer).status, 200)
  assert.equal(await code, 0)
  const messages = proxy.logs().map(line => line.msg)
  assert.deepEqual(messages.slice(-2), ['draining', 'stopped'])
})
