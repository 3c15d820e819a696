import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer as createHttpsServer } from 'node:https'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { at, circuitIs, requireOrSkip, startProxy, statusOf, until } from '../support/harness.js'
import { NO_PROBES } from '../support/http-client.js'
import { portOf, rawClient } from '../support/raw.js'
import { selfSigned } from '../support/self-signed.js'

for (const request of ['POST /configure', 'POST /other', 'GET /other']) {
  test(`a client that leaves before the connection to focus-server is open starts no work there: ${request}`, async t => {
    if (!requireOrSkip(t, 'openssl')) return
    const files = selfSigned(t)
    const pem = { cert: readFileSync(files.certFile), key: readFileSync(files.keyFile) }
    const seen: string[] = []
    const server = createHttpsServer(pem, (received, response) => {
      if (received.url !== '/live_metadata') seen.push(`${received.method} ${received.url}`)
      response.end('{"prr":2000.0,"sw_version":"11.17.10513"}')
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    t.after(() => server.closeAllConnections())
    // A gate in front of it: it accepts a connection and delays its TLS handshake.
    let isHeld = false
    const held: (() => void)[] = []
    const sockets: Socket[] = []
    const gate = createServer(socket => {
      const pass = () => {
        const inside = connect(portOf(server), '127.0.0.1')
        sockets.push(inside)
        for (const each of [socket, inside]) each.on('error', () => undefined)
        socket.pipe(inside).pipe(socket)
      }
      sockets.push(socket)
      if (isHeld) held.push(pass)
      else pass()
    }).listen(0, '127.0.0.1')
    await once(gate, 'listening')
    t.after(() => gate.close())
    t.after(() => {
      for (const socket of sockets) socket.destroy()
    })
    const proxy = await startProxy(t, {
      upstream: `https://127.0.0.1:${portOf(gate)}`,
      env: {
        ...NO_PROBES,
        FOCUS_BREAKER_UPSTREAM_TLS_INSECURE_SKIP_VERIFY: 'true',
        FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '1',
        FOCUS_BREAKER_UPSTREAM_CONNECT_TIMEOUT_MS: '60000',
        FOCUS_BREAKER_UPSTREAM_QUEUE_TIMEOUT_MS: '60000',
        FOCUS_BREAKER_LOG_LEVEL: 'debug',
      },
    })
    await circuitIs(proxy, 'closed')
    isHeld = true
    const port = Number(new URL(proxy.url).port)
    const client = await rawClient(t, port)
    client.send(`${request} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}`)
    await until(() => held.length === 1, { what: 'the connection is being opened' })
    client.socket.destroy()
    // The debug line of a request is logged when its client has its response or has left.
    await until(() => proxy.logs().some(({ path }) => path === request.split(' ')[1]), {
      what: 'the proxy has noticed that the client left',
    })
    isHeld = false
    for (const pass of held) pass()
    // The next request on the one connection to focus-server shows that its turn has passed.
    const next = await fetch(`${proxy.url}/next`)
    assert.equal(next.status, 200)
    assert.deepEqual(seen, ['GET /next'])
    assert.equal(at(await statusOf(proxy), 'inFlight'), 0)
  })
}
