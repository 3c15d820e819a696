import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { addressesOf, listenOn } from '../../src/server/listen.js'
import { until } from '../support/harness.js'
import { appFor, portOf, rawUpstream, response } from '../support/raw.js'

const FAMILIES = ['127.0.0.1', '::1'] as const

/** Whether the machine has both addresses; otherwise the test is skipped. */
async function hasBothOrSkip(t: TestContext): Promise<boolean> {
  const found = await addressesOf('localhost')
  if (FAMILIES.every(address => found.includes(address))) return true
  t.skip('this machine does not have both 127.0.0.1 and ::1')
  return false
}

/** A connection, with the text received so far. */
async function client(t: TestContext, host: string, port: number) {
  const socket = connect({ host, port })
  t.after(() => socket.destroy())
  let text = ''
  let isClosed = false
  socket.on('data', chunk => {
    text += String(chunk)
  })
  socket
    .on('error', () => undefined)
    .on('close', () => {
      isClosed = true
    })
  await Promise.race([once(socket, 'connect'), once(socket, 'close')])
  return { socket, text: () => text, isClosed: () => isClosed }
}

async function isAccepted(host: string, port: number): Promise<boolean> {
  const socket = connect({ host, port })
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

test('localhost listens on 127.0.0.1 and ::1, on the same port, with one server', async t => {
  if (!(await hasBothOrSkip(t))) return
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'upstream')))
  for (const host of ['localhost', 'LOCALHOST', 'localhost.']) {
    const app = appFor(`http://127.0.0.1:${port}`)
    t.after(() => app.close())
    const urls = await listenOn(app, host, 0)
    const chosen = portOf(app.server)
    assert.deepEqual(urls, [`http://127.0.0.1:${chosen}`, `http://[::1]:${chosen}`])
    for (const url of urls) {
      assert.equal(await (await fetch(`${url}/x`)).text(), 'upstream')
      assert.equal((await fetch(`${url}/-/live`)).status, 200)
    }
    await app.close()
    for (const address of FAMILIES) assert.equal(await isAccepted(address, chosen), false)
  }
})

test('an address resolves to itself', async t => {
  for (const host of ['127.0.0.1', '::1', '0.0.0.0', '::']) assert.deepEqual(await addressesOf(host), [host])
  const app = appFor('http://127.0.0.1:1')
  t.after(() => app.close())
  assert.deepEqual(await listenOn(app, '127.0.0.1', 0), [`http://127.0.0.1:${portOf(app.server)}`])
  await assert.rejects(addressesOf('none.invalid'), { syscall: 'getaddrinfo' })
})

for (const taken of FAMILIES) {
  test(`a port that is in use on ${taken} is an error, and the other address is not listened on`, async t => {
    if (!(await hasBothOrSkip(t))) return
    const other = createServer().listen(0, taken)
    t.after(() => other.close())
    await once(other, 'listening')
    const port = portOf(other)
    const app = appFor('http://127.0.0.1:1')
    t.after(() => app.close())
    await assert.rejects(listenOn(app, 'localhost', port), { code: 'EADDRINUSE', address: taken, port })
    for (const address of FAMILIES) assert.equal(await isAccepted(address, port), address === taken)
  })
}

test('the connection limit applies to both addresses together, and a closed connection makes room for another on either', async t => {
  if (!(await hasBothOrSkip(t))) return
  const app = appFor('http://127.0.0.1:1', { 'server.maxConnections': '2' })
  t.after(() => app.close())
  await listenOn(app, 'localhost', 0)
  const port = portOf(app.server)
  const accepted = new Set<Socket>()
  app.server.on('connection', socket => {
    accepted.add(socket)
    socket.once('close', () => accepted.delete(socket))
  })
  for (const [first, second] of [
    ['127.0.0.1', '127.0.0.1'],
    ['127.0.0.1', '::1'],
    ['::1', '127.0.0.1'],
    ['::1', '::1'],
  ] as const) {
    const clients = [await client(t, first, port), await client(t, second, port)]
    await until(() => accepted.size === 2)
    for (const address of FAMILIES) {
      const third = await client(t, address, port)
      await until(third.isClosed)
    }
    assert.equal(accepted.size, 2)
    for (const { socket } of clients) socket.destroy()
    await until(() => accepted.size === 0)
  }
})

for (const address of FAMILIES) {
  test(`a drain stops accepting on both addresses and waits for a request on ${address}`, async t => {
    if (!(await hasBothOrSkip(t))) return
    const { port: upstream, received } = await rawUpstream(t, () => undefined)
    const app = appFor(`http://127.0.0.1:${upstream}`, { 'server.drainTimeoutMs': '20000' })
    await listenOn(app, 'localhost', 0)
    const port = portOf(app.server)
    const idle = await Promise.all(FAMILIES.map(each => client(t, each, port)))
    for (const { socket } of idle) socket.write('GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => idle.every(({ text }) => text().includes('200 OK')))
    const busy = await client(t, address, port)
    busy.socket.write('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => received.length === 1)
    let isOver = false
    const closed = app.close().then(() => {
      isOver = true
    })
    await until(() => idle.every(({ isClosed }) => isClosed()))
    for (const each of FAMILIES) assert.equal(await isAccepted(each, port), false)
    assert.equal(isOver, false)
    received[0]?.socket.write(response('200 OK', 'done'))
    await closed
    await until(busy.isClosed)
    assert.match(busy.text(), /^HTTP\/1\.1 200 OK[\s\S]*done$/)
  })

  test(`a drain aborts a request on ${address} that does not end in time`, async t => {
    if (!(await hasBothOrSkip(t))) return
    const { port: upstream, received } = await rawUpstream(t, () => undefined)
    const app = appFor(`http://127.0.0.1:${upstream}`, { 'server.drainTimeoutMs': '50' })
    await listenOn(app, 'localhost', 0)
    const busy = await client(t, address, portOf(app.server))
    busy.socket.write('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => received.length === 1)
    await app.close()
    await until(busy.isClosed)
  })
}
