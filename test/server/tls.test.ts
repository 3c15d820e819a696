import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { type TestContext, test } from 'node:test'
import { Agent, request } from 'undici'
import { at, requireOrSkip } from '../support/harness.js'
import { portOf, proxyTo, rawUpstream, response } from '../support/raw.js'
import { selfSigned } from '../support/self-signed.js'

async function httpsUpstream(
  t: TestContext,
  { keyFile, certFile }: { keyFile: string; certFile: string },
): Promise<number> {
  const server = createServer(
    { key: readFileSync(keyFile), cert: readFileSync(certFile) },
    (received, answer) => {
      answer.setHeader('content-type', 'application/json')
      answer.end(
        JSON.stringify({
          prr: 2000,
          sw_version: '1',
          host: received.headers.host,
          via: received.headers.via,
        }),
      )
    },
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return portOf(server)
}

test('an untrusted certificate is rejected, unless verification is turned off', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const files = selfSigned(t)
  const upstream = `https://localhost:${await httpsUpstream(t, files)}`
  const strict = await proxyTo(t, upstream)
  const refused = await request(`http://127.0.0.1:${strict}/x`)
  assert.equal(refused.statusCode, 502)
  assert.equal(refused.headers['proxy-status'], 'focus-breaker; error=tls_certificate_error')
  await refused.body.dump()
  const status: unknown = await (await request(`http://127.0.0.1:${strict}/-/status`)).body.json()
  assert.equal(at(status, 'reading', 'problem'), 'its certificate is self-signed')
  for (const options of [
    { 'upstream.tls.insecureSkipVerify': 'true' },
    { 'upstream.tls.caFile': files.certFile },
  ]) {
    const proxy = await proxyTo(t, upstream, options)
    const answer = await request(`http://127.0.0.1:${proxy}/x`)
    assert.equal(answer.statusCode, 200)
    assert.equal(at(await answer.body.json(), 'host'), upstream.slice('https://'.length))
    const state: unknown = await (await request(`http://127.0.0.1:${proxy}/-/status`)).body.json()
    assert.equal(at(state, 'circuit', 'state'), 'closed')
  }
})

test('the verified name may differ from that of the URL', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const files = selfSigned(t)
  const upstream = `https://127.0.0.1:${await httpsUpstream(t, files)}`
  const wrong = await proxyTo(t, upstream, { 'upstream.tls.caFile': files.certFile })
  const refused = await request(`http://127.0.0.1:${wrong}/x`)
  assert.equal(refused.headers['proxy-status'], 'focus-breaker; error=tls_certificate_error')
  await refused.body.dump()
  const named = { 'upstream.tls.caFile': files.certFile, 'upstream.tls.serverName': 'localhost' }
  const right = await proxyTo(t, upstream, named)
  const answer = await request(`http://127.0.0.1:${right}/x`)
  assert.equal(answer.statusCode, 200)
  await answer.body.dump()
})

test('the server uses HTTPS if a certificate is configured', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { keyFile, certFile } = selfSigned(t)
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const options = { 'server.tls.certFile': certFile, 'server.tls.keyFile': keyFile }
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, options)
  const dispatcher = new Agent({ connect: { ca: readFileSync(certFile) } })
  t.after(() => dispatcher.destroy())
  const answer = await request(`https://localhost:${proxy}/x`, { dispatcher })
  assert.equal(await answer.body.text(), 'ok')
  assert.match(received[0]?.head ?? '', /\r\nX-Forwarded-Proto: https\r\n/)
})
