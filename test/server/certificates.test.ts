import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'
import { buildApp } from '../../src/app.js'
import { load } from '../../src/config/load.js'
import { createLogger } from '../../src/observability/logger.js'
import { at, requireOrSkip, statusOf, until } from '../support/harness.js'
import { mountedVolume } from '../support/mounted-volume.js'
import { exchange, portOf, proxyTo, RawClient, rawUpstream, response } from '../support/raw.js'
import { receiver } from '../support/webhook-receiver.js'

const CLOSE = 'Host: localhost\r\nConnection: close\r\n'
const GET = `GET /x HTTP/1.1\r\n${CLOSE}\r\n`

/** The files are checked every five seconds. */
const RENEWAL_TIMEOUT_MS = 20_000

type Pair = { readonly certFile: string; readonly keyFile: string }

/** A test CA, and a way to issue certificates with it. */
function authority(t: TestContext, name = 'ours') {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const openssl = (...args: string[]) =>
    execFileSync('/usr/bin/openssl', args, { stdio: 'ignore', cwd: directory })
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-x509', ...ec, '-subj', `/CN=${name}`, '-days', '2', '-keyout', 'ca.key', '-out', 'ca.pem')
  const issue = (file: string): Pair => {
    const [key, csr, pem] = [`${file}.key`, `${file}.csr`, `${file}.pem`]
    const subject = ['-subj', `/CN=${file}`, '-addext', 'subjectAltName=DNS:localhost']
    openssl('req', ...ec, ...subject, '-keyout', key, '-out', csr)
    const signed = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-copy_extensions', 'copy']
    openssl('x509', '-req', '-in', csr, ...signed, '-days', '2', '-out', pem)
    return { certFile: join(directory, pem), keyFile: join(directory, key) }
  }
  return { caFile: join(directory, 'ca.pem'), directory, issue }
}

/** A proxy with TLS for its clients, and its log. */
async function secured(t: TestContext, options: Readonly<Record<string, string>>) {
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const all = {
    'upstream.url': `http://127.0.0.1:${port}`,
    'probe.periodMs': '60000',
    'server.drainTimeoutMs': '100',
    ...options,
  }
  const flags = new Map(Object.entries(all).map(([name, value]) => [name, { flag: name, value }]))
  const loadAgain = () => load({ environment: {}, flags })
  const loaded = loadAgain()
  if (!loaded.ok) throw new Error(JSON.stringify(loaded.faults))
  const lines: string[] = []
  const destination = { write: (line: string) => void lines.push(line) }
  const { app, reload } = buildApp(
    loaded.config,
    createLogger({ level: 'info', format: 'json', destination }),
    'test',
    { linesDropped: () => 0, loadAgain },
  )
  t.after(() => app.close())
  await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    proxy: portOf(app.server),
    reload,
    lines,
    linesWith: (message: string) => lines.filter(line => line.includes(message)),
  }
}

async function open(t: TestContext, port: number, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = connectTls({ port, host: '127.0.0.1', servername: 'localhost', ...options })
  t.after(() => socket.destroy())
  await once(socket, 'secureConnect')
  return socket
}

/** The response to one request on its own connection; '' if the connection closes without one. */
async function ask(t: TestContext, port: number, options: ConnectionOptions): Promise<string> {
  const socket = await open(t, port, options)
  return await new RawClient(socket).send(GET).closed()
}

/** The name in the certificate that a new connection receives. */
async function shown(t: TestContext, port: number, ca: string): Promise<unknown> {
  const socket = await open(t, port, { ca: readFileSync(ca) })
  const { CN } = socket.getPeerCertificate().subject
  socket.destroy()
  return CN
}

/** Replaces the served certificate and key. For a moment the two files do not match. */
function renew({ certFile, keyFile }: Pair, by: Pair): void {
  copyFileSync(by.certFile, certFile)
  copyFileSync(by.keyFile, keyFile)
}

const tlsOptions = ({ certFile, keyFile }: Pair) => ({
  'server.tls.certFile': certFile,
  'server.tls.keyFile': keyFile,
})

describe('a certificate that is renewed on disk', { concurrency: true }, () => {
  test('serves new connections without a restart, and existing ones continue', async t => {
    if (!requireOrSkip(t, 'openssl')) return
    const { caFile, issue } = authority(t)
    const served = issue('first')
    const { proxy, linesWith } = await secured(t, tlsOptions(served))
    const older = new RawClient(await open(t, proxy, { ca: readFileSync(caFile) }))
    assert.equal(await shown(t, proxy, caFile), 'first')
    renew(served, issue('second'))
    await until(async () => (await shown(t, proxy, caFile)) === 'second', { timeoutMs: RENEWAL_TIMEOUT_MS })
    assert.ok(linesWith('certificate was renewed').length > 0)
    assert.match(await older.send(GET).closed(), /^HTTP\/1\.1 200 OK\r\n[\s\S]*ok$/)
    assert.match(await ask(t, proxy, { ca: readFileSync(caFile) }), /^HTTP\/1\.1 200 OK\r\n/)
    const old = { ca: readFileSync(caFile), minVersion: 'TLSv1', maxVersion: 'TLSv1.1' } as const
    await assert.rejects(open(t, proxy, { ...old, ciphers: 'DEFAULT@SECLEVEL=0' }), /protocol version/i)
  })

  test('changes nothing and is logged if it is broken, and is used once it is fixed', async t => {
    if (!requireOrSkip(t, 'openssl')) return
    const { caFile, issue } = authority(t)
    const served = issue('first')
    const { proxy, linesWith } = await secured(t, tlsOptions(served))
    writeFileSync(served.certFile, '-----BEGIN CERTIFICATE-----\nbroken')
    await until(() => linesWith('certificate was not renewed').length > 0, { timeoutMs: RENEWAL_TIMEOUT_MS })
    assert.equal(await shown(t, proxy, caFile), 'first')
    assert.match(await ask(t, proxy, { ca: readFileSync(caFile) }), /^HTTP\/1\.1 200 OK\r\n/)
    assert.doesNotMatch(linesWith('certificate was not renewed').join(''), /PRIVATE KEY/)
    renew(served, issue('second'))
    await until(async () => (await shown(t, proxy, caFile)) === 'second', { timeoutMs: RENEWAL_TIMEOUT_MS })
  })

  test('changes nothing if its key does not match or is missing', async t => {
    if (!requireOrSkip(t, 'openssl')) return
    const { caFile, issue } = authority(t)
    const served = issue('first')
    const { proxy, linesWith } = await secured(t, tlsOptions(served))
    copyFileSync(issue('second').keyFile, served.keyFile)
    await until(() => linesWith('certificate was not renewed').length > 0, { timeoutMs: RENEWAL_TIMEOUT_MS })
    assert.equal(await shown(t, proxy, caFile), 'first')
    const before = linesWith('certificate was not renewed').length
    rmSync(served.keyFile)
    await until(() => linesWith('certificate was not renewed').length > before, {
      timeoutMs: RENEWAL_TIMEOUT_MS,
    })
    assert.equal(await shown(t, proxy, caFile), 'first')
  })

  test('still requires client certificates', async t => {
    if (!requireOrSkip(t, 'openssl')) return
    const ours = authority(t)
    const others = authority(t, 'others')
    const served = ours.issue('first')
    const { proxy } = await secured(t, { ...tlsOptions(served), 'server.tls.clientCaFile': ours.caFile })
    const known = pairOf(ours.issue('client'))
    const unknown = pairOf(others.issue('client'))
    const ca = readFileSync(ours.caFile)
    const onlyKnown = async () => {
      assert.match(await ask(t, proxy, { ca, ...known }), /^HTTP\/1\.1 200 OK\r\n/)
      for (const pair of [{}, unknown]) {
        for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
          // With TLS 1.3 a client notices the rejection when it reads.
          assert.equal(await ask(t, proxy, { ca, maxVersion, ...pair }).catch(() => ''), '')
        }
      }
    }
    await onlyKnown()
    renew(served, ours.issue('second'))
    await until(
      async () => {
        const socket = await open(t, proxy, { ca, ...known })
        const { CN } = socket.getPeerCertificate().subject
        socket.destroy()
        return CN === 'second'
      },
      { timeoutMs: RENEWAL_TIMEOUT_MS },
    )
    await onlyKnown()
  })
})

function pairOf({ certFile, keyFile }: Pair) {
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) }
}

test('TLS 1.2 and later are supported, and nothing older', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, issue } = authority(t)
  const { proxy } = await secured(t, tlsOptions(issue('server')))
  const ca = readFileSync(caFile)
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await open(t, proxy, { ca, minVersion: version, maxVersion: version })
    assert.equal(socket.getProtocol(), version)
    socket.destroy()
  }
  for (const version of ['TLSv1', 'TLSv1.1'] as const) {
    const old = { ca, minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
    await assert.rejects(open(t, proxy, old), /protocol version/i, version)
  }
})

test('plain HTTP on the TLS port ends only its own connection', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, issue } = authority(t)
  const { proxy } = await secured(t, tlsOptions(issue('server')))
  assert.doesNotMatch(await exchange(t, proxy, GET), /HTTP\/1\.1 200/)
  assert.match(await ask(t, proxy, { ca: readFileSync(caFile) }), /^HTTP\/1\.1 200 OK\r\n/)
})

test('a connection without a TLS handshake is closed within headTimeoutMs', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { issue } = authority(t)
  const { proxy } = await secured(t, { ...tlsOptions(issue('server')), 'server.headTimeoutMs': '500' })
  const socket = connect(proxy, '127.0.0.1')
  t.after(() => socket.destroy())
  let isClosed = false
  void new RawClient(socket).closed().then(() => {
    isClosed = true
  })
  await until(() => isClosed, { timeoutMs: 6000, what: 'the silent connection is closed' })
})

test('probes, requests and WebSockets present a client certificate to an upstream that asks for one', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, issue } = authority(t)
  const names: unknown[] = []
  const server = createHttpsServer(
    { ...pairOf(issue('server')), ca: readFileSync(caFile), requestCert: true, rejectUnauthorized: true },
    (_request, answer) => answer.end('{"prr":2000,"sw_version":"1"}'),
  ).listen(0, '127.0.0.1')
  server.on('secureConnection', socket => names.push(socket.getPeerCertificate().subject.CN))
  server.on('upgrade', (_request, socket) =>
    socket.end('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\njoined'),
  )
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const upstream = `https://localhost:${portOf(server)}`
  const { certFile, keyFile } = issue('proxy')
  const trusting = { 'upstream.tls.caFile': caFile }
  const shows = { 'upstream.tls.certFile': certFile, 'upstream.tls.keyFile': keyFile }
  const proxy = await proxyTo(t, upstream, { ...trusting, ...shows })
  assert.match(await exchange(t, proxy, GET), /^HTTP\/1\.1 200 OK\r\n/)
  assert.equal(at(await statusOf({ url: `http://127.0.0.1:${proxy}` }), 'circuit', 'state'), 'closed')
  const handshake =
    'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n'
  assert.match(
    await exchange(t, proxy, `GET /ws HTTP/1.1\r\nHost: a\r\n${handshake}\r\n`),
    /^HTTP\/1\.1 101 [\s\S]*joined$/,
  )
  assert.deepEqual(new Set(names), new Set(['proxy']))

  const nameless = await proxyTo(t, upstream, trusting)
  const refused = await exchange(t, nameless, GET)
  // With TLS 1.3 the upstream rejects the certificate after the handshake, with an alert or by closing the connection.
  assert.match(refused, /^HTTP\/1\.1 502 Bad Gateway\r\n[\s\S]*error=(tls_|connection_terminated)/)
  const status = await statusOf({ url: `http://127.0.0.1:${nameless}` })
  assert.equal(at(status, 'reading', 'kind'), 'unreachable')
})

/** Certificate and key as the files of a mounted volume. */
const volumeOf = ({ certFile, keyFile }: Pair, caFile: string) => ({
  'tls.crt': readFileSync(certFile, 'utf8'),
  'tls.key': readFileSync(keyFile, 'utf8'),
  'ca.crt': readFileSync(caFile, 'utf8'),
})

/** An upstream that requires client certificates, can change its own, and keeps a response open on `/slow`. */
async function mutualUpstream(t: TestContext, pair: Pair, caFile: string) {
  const shown: unknown[] = []
  const held: ServerResponse[] = []
  const server = createHttpsServer(
    { ...pairOf(pair), ca: readFileSync(caFile), requestCert: true, rejectUnauthorized: true },
    (request, answer) => {
      if (request.url !== '/slow') answer.end('{"prr":2000,"sw_version":"1"}')
      else {
        answer.write('begun ')
        held.push(answer)
      }
    },
  ).listen(0, '127.0.0.1')
  server.on('secureConnection', socket => shown.push(socket.getPeerCertificate().subject.CN))
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const serve = (next: Pair, ca: string) => server.setSecureContext({ ...pairOf(next), ca: readFileSync(ca) })
  const closeIdle = () => server.closeIdleConnections()
  return { url: `https://localhost:${portOf(server)}`, shown, held, serve, closeIdle }
}

test('certificate, key and CA for focus-server are reloaded from a mounted volume, and requests in flight continue', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const [old, next] = [authority(t, 'old'), authority(t, 'next')]
  const upstream = await mutualUpstream(t, old.issue('server'), old.caFile)
  const volume = mountedVolume(t, volumeOf(old.issue('first'), old.caFile))
  const { proxy, reload, linesWith } = await secured(t, {
    'upstream.url': upstream.url,
    'upstream.tls.caFile': volume.path('ca.crt'),
    'upstream.tls.certFile': volume.path('tls.crt'),
    'upstream.tls.keyFile': volume.path('tls.key'),
    // Prevents reuse of the connections of earlier requests.
    'server.maxRequestsPerConnection': '1',
  })
  const slow = new RawClient(connect(proxy, '127.0.0.1')).send(`GET /slow HTTP/1.1\r\n${CLOSE}\r\n`)
  await until(() => upstream.held.length === 1)

  upstream.serve(next.issue('server'), next.caFile)
  volume.replace(volumeOf(next.issue('second'), next.caFile))
  const outcome = await reload()
  assert.deepEqual(outcome, {
    ok: true,
    applied: [],
    needRestart: [],
    renewedFiles: ['ca.crt', 'tls.crt', 'tls.key'].map(volume.path),
  })
  await until(
    async () =>
      /^HTTP\/1\.1 200 OK\r\n/.test(await exchange(t, proxy, GET)) && upstream.shown.at(-1) === 'second',
  )
  const lines = linesWith('certificate was renewed')
  assert.equal(lines.length, 1)
  assert.deepEqual(at(JSON.parse(lines[0] ?? ''), 'files'), ['ca.crt', 'tls.crt', 'tls.key'].map(volume.path))
  upstream.held[0]?.end('and whole')
  const inFlight = await slow.closed()
  assert.match(inFlight, /begun /)
  assert.match(inFlight, /and whole/)

  // A renewal without a reload request is noticed too.
  volume.replace(volumeOf(next.issue('third'), next.caFile))
  await until(() => linesWith('certificate was renewed').length === 2, { timeoutMs: RENEWAL_TIMEOUT_MS })
  upstream.closeIdle()
  await until(async () => {
    await exchange(t, proxy, GET)
    return upstream.shown.at(-1) === 'third'
  })
})

test('a client certificate without its key, or a truncated CA file, keeps the earlier files in use and is logged once', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, issue } = authority(t)
  const upstream = await mutualUpstream(t, issue('server'), caFile)
  const first = volumeOf(issue('first'), caFile)
  const second = volumeOf(issue('second'), caFile)
  const volume = mountedVolume(t, first)
  const { lines, linesWith } = await secured(t, {
    'upstream.url': upstream.url,
    'upstream.tls.caFile': volume.path('ca.crt'),
    'upstream.tls.certFile': volume.path('tls.crt'),
    'upstream.tls.keyFile': volume.path('tls.key'),
    'probe.periodMs': '100',
  })
  const broken = [
    { ...first, 'tls.crt': second['tls.crt'] },
    { ...first, 'tls.key': second['tls.key'] },
    { ...first, 'ca.crt': `${first['ca.crt']}${first['ca.crt'].slice(0, 200)}` },
  ]
  for (const [index, files] of broken.entries()) {
    volume.replace(files)
    // The second attempt fails for the same reason as the first.
    const expected = [1, 1, 2][index] ?? 0
    await until(() => linesWith('certificate was not renewed').length === expected, {
      timeoutMs: RENEWAL_TIMEOUT_MS,
    })
  }
  assert.equal(linesWith('certificate was not renewed').length, 2)
  assert.doesNotMatch(lines.join(''), /PRIVATE KEY/)
  const before = upstream.shown.length
  await until(() => upstream.shown.length > before || upstream.shown.length > 0)
  assert.ok(upstream.shown.every(name => name === 'first'))
  volume.replace(second)
  await until(() => linesWith('certificate was renewed').length === 1, { timeoutMs: RENEWAL_TIMEOUT_MS })
})

test('token, webhooks and signing secret are reloaded from a mounted volume; an invalid value changes nothing and is never logged', async t => {
  const { url, received } = await receiver(t)
  const [token, other] = ['the-first-token-of-all', 'another-token-of-ours']
  const webhooks = (path: string) => JSON.stringify([{ url: `${url}/${path}`, format: 'json' }])
  const files = { token: `${token}\n`, webhooks: webhooks('one'), secret: 'a secret of the first time' }
  const volume = mountedVolume(t, files)
  const { proxy, reload, linesWith, lines } = await secured(t, {
    'admin.tokenFile': volume.path('token'),
    'notify.webhooksFile': volume.path('webhooks'),
    'notify.secretFile': volume.path('secret'),
  })
  const reloadWith = async (bearer?: string) => {
    const headers = bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }
    return await fetch(`http://127.0.0.1:${proxy}/-/reload`, { method: 'POST', headers })
  }
  assert.equal((await reloadWith()).status, 401)
  assert.equal((await reloadWith(token)).status, 200)
  volume.replace({ token: other, webhooks: webhooks('two'), secret: 'a secret of the second time' })
  const outcome = await reload()
  assert.ok(outcome.ok)
  assert.deepEqual(outcome.renewedFiles.toSorted(), ['secret', 'token', 'webhooks'].map(volume.path))
  assert.equal(linesWith('secret was renewed').length, 3)
  assert.equal((await reloadWith(other)).status, 200)
  assert.equal((await reloadWith(token)).status, 401)
  volume.replace({ token: 'short', webhooks: '- { url: nowhere }', secret: 'short' })
  await until(() => linesWith('secret was not renewed').length === 3, { timeoutMs: RENEWAL_TIMEOUT_MS })
  // A reload reports the faults of the same files and changes nothing.
  assert.equal((await reload()).ok, false)
  const refused = await reloadWith(other)
  assert.equal(refused.status, 422)
  assert.match(await refused.text(), /admin\.token: expected text of/)
  assert.equal((await reloadWith(token)).status, 401)
  assert.deepEqual(received, [])
  assert.doesNotMatch(lines.join(''), /short|nowhere|a secret of|-token-of|\/two|\/one/)
})

test('without an admin token there is no reload over HTTP', async t => {
  const { proxy } = await secured(t, {})
  const { status } = await fetch(`http://127.0.0.1:${proxy}/-/reload`, { method: 'POST' })
  assert.equal(status, 404)
})
