import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createTcpServer, type Server } from 'node:net'
import { type TestContext, test } from 'node:test'
import { createServer, type TlsOptions } from 'node:tls'
import { FreshConnections } from '../../src/upstream/agent.js'
import { failureOf } from '../../src/upstream/failure.js'
import { certificateAuthority } from '../support/certificate-authority.js'
import { at, requireOrSkip, statusOf } from '../support/harness.js'
import { portOf, proxyTo } from '../support/raw.js'
import { readerOf } from '../support/read-metadata.js'
import { selfSigned } from '../support/self-signed.js'

type Row = {
  readonly what: string
  readonly server: Server
  readonly words: string
  /** The trusted CA, and a client certificate. */
  readonly tls?: { readonly caFile?: string; readonly certFile?: string; readonly keyFile?: string }
}

const PAST = ['20200101000000Z', '20200201000000Z'] as const
const FUTURE = ['20400101000000Z', '20410101000000Z'] as const

/** Responds on every connection, if the TLS handshake succeeds. */
function tlsServer(options: TlsOptions): Server {
  return createServer(options, socket => {
    socket.on('error', () => undefined).end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
  }).on('tlsClientError', () => undefined)
}

/** Sends this text after the first bytes of every connection, and closes it. */
function answering(bytes: string): Server {
  return createTcpServer(socket => {
    socket.on('error', () => undefined).once('data', () => socket.end(bytes, 'latin1'))
  })
}

async function started(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return portOf(server)
}

test('a TLS failure states its reason, and no address', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, ca, intermediate, issue } = certificateAuthority(t)
  const own = issue()
  const below = issue({ isBelowIntermediate: true })
  const stranger = selfSigned(t)
  const tls = { caFile }
  const unknown = 'its certificate is from an unknown authority'
  const noCipher = 'no TLS cipher in common with it, or it requires a client certificate'
  const noTls = 'it does not use TLS on this port, which may be for plain HTTP'
  const askingForCertificate = { ...own, ca, requestCert: true, maxVersion: 'TLSv1.2' } as const
  const rows: readonly Row[] = [
    {
      what: 'self-signed',
      server: tlsServer(selfSigned(t).pem),
      words: 'its certificate is self-signed',
    },
    {
      what: 'expired',
      server: tlsServer(issue({ validity: PAST })),
      words: 'its certificate has expired',
      tls,
    },
    {
      what: 'not valid yet',
      server: tlsServer(issue({ validity: FUTURE })),
      words: 'its certificate is not valid yet',
      tls,
    },
    {
      what: 'another name',
      server: tlsServer(issue({ name: 'other.example.com' })),
      words: 'its certificate is for another name',
      tls,
    },
    {
      what: 'an unknown authority',
      server: tlsServer({ ...below, cert: below.cert + intermediate }),
      words: unknown,
    },
    {
      what: 'a leaf certificate of an unknown authority',
      server: tlsServer(own),
      words: `${unknown}, or its chain is incomplete`,
    },
    {
      what: 'an incomplete chain',
      server: tlsServer(below),
      words: `${unknown}, or its chain is incomplete`,
      tls,
    },
    {
      what: 'a complete chain of an untrusted CA',
      server: tlsServer({ ...own, cert: own.cert + ca }),
      words: 'its certificate chain ends at an authority that is not trusted',
    },
    {
      what: 'an old protocol',
      server: tlsServer({ ...own, maxVersion: 'TLSv1.1', minVersion: 'TLSv1', ciphers: 'ALL:@SECLEVEL=0' }),
      words: 'no TLS version in common with it',
      tls,
    },
    {
      what: 'no common cipher',
      server: tlsServer({ ...own, maxVersion: 'TLSv1.2', ciphers: 'ECDHE-RSA-AES128-GCM-SHA256' }),
      words: noCipher,
      tls,
    },
    { what: 'no client certificate', server: tlsServer(askingForCertificate), words: noCipher, tls },
    {
      what: 'an untrusted client certificate',
      server: tlsServer(askingForCertificate),
      words: 'connection closed during the TLS handshake',
      tls: { caFile, certFile: stranger.certFile, keyFile: stranger.keyFile },
    },
    { what: 'plain HTTP', server: createHttpServer((_, answer) => answer.end()), words: noTls },
    { what: 'SSH', server: answering('SSH-2.0-OpenSSH_9.6\r\n'), words: noTls },
    {
      what: 'a closed connection',
      server: answering(''),
      words: 'connection closed during the TLS handshake',
    },
  ]
  for (const { what, server, words, tls: trusted = {} } of rows) {
    const url = `https://localhost:${await started(t, server)}`
    const timeouts = { connectTimeoutMs: 2000, headersTimeoutMs: 2000, bodyTimeoutMs: 2000 }
    const agent = new FreshConnections({
      ...{ url, maxHeaderBytes: 16_384, ...timeouts },
      tls: { insecureSkipVerify: false, ...trusted },
    })
    const failure = await agent.request({ origin: url, path: '/', method: 'GET' }).then(
      ({ statusCode }) => ({ words: `answered ${statusCode}` }),
      (error: unknown) => failureOf(error),
    )
    await agent.cut()
    assert.equal(failure.words, words, what)
    assert.doesNotMatch(failure.words, /\d|localhost|example/, what)
  }
})

test('a plain HTTP URL of a TLS server is recognised, however the server reacts', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const words = 'it uses TLS on this port, but the URL starts with http, not https'
  const page = (text: string) => `HTTP/1.1 400 Bad Request\r\nContent-Length: ${text.length}\r\n\r\n${text}`
  const rows: readonly (readonly [what: string, server: Server, problem: string])[] = [
    ['it closes the connection', tlsServer(selfSigned(t).pem), words],
    ['it sends an alert', answering('\x15\x03\x01\x00\x02\x02\x46'), words],
    [
      'nginx',
      answering(page('<h1>400</h1>The plain HTTP request was sent to HTTPS port')),
      `returned 400, expected 200: ${words}`,
    ],
    [
      'Apache',
      answering(page("Reason: You're speaking plain HTTP to an SSL-enabled server port.")),
      `returned 400, expected 200: ${words}`,
    ],
    [
      'Go',
      answering(page('Client sent an HTTP request to an HTTPS server.\n')),
      `returned 400, expected 200: ${words}`,
    ],
    ['another 400', answering(page('no')), 'returned 400, expected 200'],
    ['plain HTTP that closes the connection', answering(''), 'connection closed before the response'],
  ]
  for (const [what, server, problem] of rows) {
    const { read } = readerOf(t, `http://127.0.0.1:${await started(t, server)}`)
    assert.deepEqual((await read()).finding, { kind: 'unreachable', problem }, what)
  }
})

test('TLS is checked once a minute while the server closes connections, and again after a response', async t => {
  let connections = 0
  let answer = ''
  const server = createTcpServer(socket => {
    connections += 1
    socket.on('error', () => undefined).once('data', () => socket.end(answer))
  })
  let now = 0
  const { read } = readerOf(t, `http://127.0.0.1:${await started(t, server)}`, { clock: () => now })
  const connectionsOf = async () => {
    const before = connections
    await read()
    return connections - before
  }
  assert.equal(await connectionsOf(), 2)
  assert.equal(await connectionsOf(), 1)
  now += 60_000
  assert.equal(await connectionsOf(), 2)
  answer = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'
  assert.equal(await connectionsOf(), 1)
  answer = ''
  assert.equal(await connectionsOf(), 2)
})

test('the reason is shown in the status and in the body of a 502, which contains no address', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, issue } = certificateAuthority(t)
  const port = await started(t, tlsServer(issue({ validity: PAST })))
  const proxy = await proxyTo(t, `https://localhost:${port}`, { 'upstream.tls.caFile': caFile })
  const url = `http://127.0.0.1:${proxy}`
  const response = await fetch(`${url}/channels`)
  assert.equal(response.status, 502)
  const text = await response.text()
  assert.match(text, /focus-server sent no usable response: its certificate has expired\./)
  assert.doesNotMatch(text, /localhost|127\.0\.0\.1/)
  assert.ok(!text.includes(String(port)))
  assert.equal(at(await statusOf({ url }), 'reading', 'problem'), 'its certificate has expired')
})
