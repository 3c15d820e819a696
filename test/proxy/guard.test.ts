import assert from 'node:assert/strict'
import { test } from 'node:test'
import { exchange, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'

async function openCircuit(
  t: Parameters<typeof rawUpstream>[0],
  options: Readonly<Record<string, string>> = {},
) {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '{}')), {
    there: false,
  })
  return { ...upstream, proxy: await proxyTo(t, `http://127.0.0.1:${upstream.port}`, options) }
}

test('a refusal arrives while 50 MB are still being sent, and the connection serves the next request', async t => {
  const { proxy, received } = await openCircuit(t)
  const client = await rawClient(t, proxy)
  client.send(`POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n${'x'.repeat(1000)}`)
  await client.until(/^HTTP\/1\.1 503 [\s\S]*"status":"waiting_for_fiber"[\s\S]*\}$/)
  for (let sent = 1000; sent < 50_000_000; sent += 999_000 + 1000) {
    client.send('x'.repeat(Math.min(1_000_000, 50_000_000 - sent)))
  }
  client.send(`GET /-/live HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(await client.closed(), /\}HTTP\/1\.1 200 OK[\s\S]*\{"status":"ok"\}$/)
  assert.equal(received.length, 0)
})

test('a client with Expect: 100-continue is refused without a 100 Continue', async t => {
  const { proxy } = await openCircuit(t)
  const client = await rawClient(t, proxy)
  client.send('POST /configure HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n')
  assert.match(await client.until(/\}$/), /^HTTP\/1\.1 503 /)
})

test('a client with Expect: 100-continue gets 100 Continue when the request is forwarded', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  client.send('POST /configure HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n')
  await client.until(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
  client.send('12345')
  await client.until(/ok$/)
  assert.equal(received[0]?.body, '12345')
  assert.doesNotMatch(received[0]?.head ?? '', /expect/i)
})

test('an invalid body on a guarded route is refused without being parsed', async t => {
  const { proxy } = await openCircuit(t)
  for (const fields of ['Content-Type: ;;\r\n', 'Content-Type: application/json\r\n', '']) {
    const answer = await exchange(
      t,
      proxy,
      `POST /configure HTTP/1.1\r\n${CLOSE}${fields}Content-Length: 1\r\n\r\n{`,
    )
    assert.match(answer, /^HTTP\/1\.1 503 [\s\S]*"forwarded":false/)
  }
})

test('routes and methods that are not guarded pass while the circuit is open', async t => {
  const { proxy, received } = await openCircuit(t)
  const others = [
    'GET /configure',
    'PUT /configure',
    'POST /recordings_in_time_range',
    'POST /config/1',
    'OPTIONS /configure',
  ]
  for (const other of others) {
    assert.match(
      await exchange(t, proxy, `${other} HTTP/1.1\r\n${CLOSE}Content-Length: 0\r\n\r\n`),
      /^HTTP\/1\.1 200 OK/,
    )
  }
  assert.equal(received.length, others.length)
})

test('guarded routes are configurable, with a parameter as a segment', async t => {
  const routes = '[{"method":"POST","path":"/config/:task"},{"method":"DELETE","path":"/job/:id"}]'
  const { proxy, received } = await openCircuit(t, { 'guard.routes': routes })
  for (const refused of ['POST /config/7', 'POST /config/%37/', 'DELETE /job/a%20b']) {
    assert.match(await exchange(t, proxy, `${refused} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 503 /)
  }
  for (const passes of ['POST /configure', 'POST /config', 'POST /config/7/8', 'GET /job/1']) {
    assert.match(await exchange(t, proxy, `${passes} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 200 /)
  }
  assert.equal(received.length, 4)
})

test('with a base path, the refusal links to the status under the same path', async t => {
  const { proxy } = await openCircuit(t, { basePath: '/focus-server' })
  const answer = await exchange(t, proxy, `POST /focus-server/configure HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(answer, /link: <\/focus-server\/-\/status>; rel="status"\r\n/)
})

test('/-/fiber shows by its status code whether requests are admitted, in JSON or in one line of text', async t => {
  const fiber = { there: false }
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', '')), fiber)
  const waiting = await proxyTo(t, `http://127.0.0.1:${port}`)
  const json = await exchange(t, waiting, `GET /-/fiber HTTP/1.1\r\n${CLOSE}\r\n`)
  assert.match(json, /^HTTP\/1\.1 503 [\s\S]*retry-after: [1-5]\r\n[\s\S]*"status":"waiting_for_fiber"/)
  const text = await exchange(t, waiting, `GET /-/fiber HTTP/1.1\r\n${CLOSE}Accept: text/plain\r\n\r\n`)
  assert.match(
    text,
    /retry-after: [1-5]\r\n[\s\S]*\r\n\r\nrefused: waiting for fiber, circuit open for [^\n]*\n$/,
  )
  fiber.there = true
  const ready = await proxyTo(t, `http://127.0.0.1:${port}`)
  assert.match(
    await exchange(t, ready, `GET /-/fiber HTTP/1.1\r\n${CLOSE}\r\n`),
    /^HTTP\/1\.1 200 [\s\S]*"admits":true/,
  )
  const line = await exchange(t, ready, `GET /-/fiber HTTP/1.1\r\n${CLOSE}Accept: text/plain\r\n\r\n`)
  assert.match(line, /text\/plain; charset=utf-8\r\n[\s\S]*\r\n\r\nadmitted: circuit closed for [^\n]*\n$/)
})
