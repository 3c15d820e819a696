import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { constants } from 'node:os'
import { type TestContext, test } from 'node:test'
import { upstreamPool } from '../../src/upstream/agent.js'
import { failureOf } from '../../src/upstream/failure.js'
import { requireOrSkip } from '../support/harness.js'
import { simulate } from '../support/simulate.js'

/** An error with a code, like Node's own. */
function coded(code: string, cause?: unknown): Error {
  return Object.assign(new Error(`${code} 192.0.2.1:5000`, { cause }), { code })
}

const CODES: readonly (readonly [kind: string, ...codes: readonly string[]])[] = [
  ['connection_refused', 'ECONNREFUSED'],
  ['connection_terminated', 'ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET', 'UND_ERR_CLOSED', 'UND_ERR_DESTROYED'],
  ['connection_timeout', 'UND_ERR_CONNECT_TIMEOUT', 'ETIMEDOUT'],
  ['http_response_timeout', 'UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT'],
  ['dns_error', 'ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_NODATA', 'EAI_SYSTEM'],
  ['destination_ip_unroutable', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN'],
  ['destination_ip_prohibited', 'EACCES', 'EPERM'],
  ['connection_limit_reached', 'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL', 'EAI_MEMORY'],
  ['http_response_header_section_size', 'UND_ERR_HEADERS_OVERFLOW'],
  [
    'http_protocol_error',
    'HPE_INVALID_CONSTANT',
    'HPE_INVALID_VERSION',
    'UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
  ],
  [
    'tls_certificate_error',
    ...['DEPTH_ZERO_SELF_SIGNED_CERT', 'SELF_SIGNED_CERT_IN_CHAIN', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
    ...[
      'CERT_HAS_EXPIRED',
      'ERR_TLS_CERT_ALTNAME_INVALID',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'INVALID_CA',
    ],
  ],
  ['tls_protocol_error', 'EPROTO', 'ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_TLS_HANDSHAKE_TIMEOUT'],
  ['proxy_internal_error', 'ERR_INVALID_ARG_TYPE', 'UND_ERR_INVALID_ARG', ''],
]

for (const [kind, ...codes] of CODES) {
  test(`${kind} is ${codes.join(', ') || 'anything else'}, directly or as a cause, and is described without an address`, () => {
    for (const code of codes) {
      const found = failureOf(coded(code))
      assert.equal(found.kind, kind, code)
      assert.doesNotMatch(found.words, /\d/)
      assert.deepEqual(
        failureOf(new TypeError('fetch failed', { cause: new Error('x', { cause: coded(code) }) })),
        found,
      )
    }
  })
}

const HANDSHAKES: readonly (readonly [code: string, words: string])[] = [
  ['ERR_SSL_WRONG_VERSION_NUMBER', 'it does not use TLS on this port, which may be for plain HTTP'],
  ['ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION', 'no TLS version in common with it'],
  ['ERR_SSL_TLSV1_UNRECOGNIZED_NAME', 'it has no certificate for this name'],
  // Codes about a certificate: they concern ours, not that of focus-server.
  ['ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', 'it requires a client certificate'],
  ['ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE', 'it did not accept the client certificate'],
  ['ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED', 'it did not accept the client certificate'],
  // The same alerts with the names of OpenSSL 3.2 and later, used since Node 22.
  ['ERR_SSL_SSL/TLS_ALERT_BAD_CERTIFICATE', 'it did not accept the client certificate'],
  [
    'ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE',
    'no TLS cipher in common with it, or it requires a client certificate',
  ],
  ['ERR_SSL_SOMETHING_ELSE', 'TLS failed'],
]

test('a failed TLS handshake is explained by the error code, and by the message of an EPROTO', () => {
  for (const [code, words] of HANDSHAKES) {
    assert.deepEqual(failureOf(coded(code)), { kind: 'tls_protocol_error', words })
    const reason = code.replace('ERR_SSL_', '').toLowerCase().replaceAll('_', ' ')
    const message = `write EPROTO 80AC41057E7F0000:error:0A00010B:SSL routines:ssl3_get_record:${reason}:../ssl.c:355:\n`
    const error = Object.assign(new Error(message), { code: 'EPROTO', syscall: 'write' })
    assert.deepEqual(failureOf(error), { kind: 'tls_protocol_error', words })
  }
})

test('if several addresses failed, the first one determines the failure', () => {
  const errors = [coded('ECONNREFUSED'), coded('ENETUNREACH')]
  assert.equal(failureOf(new AggregateError(errors)).kind, 'connection_refused')
  assert.equal(failureOf(new Error('x', { cause: new AggregateError(errors) })).kind, 'connection_refused')
  assert.equal(failureOf(new AggregateError([])).kind, 'proxy_internal_error')
})

test('an address that could not be tried for lack of file descriptors takes precedence', () => {
  for (const order of [
    ['ECONNREFUSED', 'EMFILE'],
    ['EMFILE', 'ECONNREFUSED'],
  ]) {
    const error = Object.assign(new AggregateError(order.map(code => coded(code))), { code: order[0] })
    assert.equal(failureOf(error).kind, 'connection_limit_reached')
  }
})

test('an address of an unsupported family matters only if there is no other', () => {
  const errors = [coded('EADDRNOTAVAIL'), coded('ECONNREFUSED')]
  assert.equal(failureOf(new AggregateError(errors)).kind, 'connection_refused')
  assert.equal(failureOf(new AggregateError(errors.slice(0, 1))).kind, 'connection_limit_reached')
})

test('an operating system error is never an internal error', () => {
  for (const code of Object.keys(constants.errno)) {
    const { kind, words } = failureOf(coded(code))
    assert.notEqual(kind, 'proxy_internal_error', code)
    assert.doesNotMatch(words, /\d/, code)
  }
  const unknown = Object.assign(new Error('connect EWHATEVER 192.0.2.1'), {
    code: 'EWHATEVER',
    syscall: 'connect',
  })
  assert.equal(failureOf(unknown).kind, 'connection_terminated')
})

test('a name that is not found for lack of file descriptors says nothing about the upstream', t => {
  if (!requireOrSkip(t, 'prlimit')) return
  const script = `
    import { openSync } from 'node:fs'
    import { lookup } from 'node:dns'
    import { failureOf } from ${JSON.stringify(new URL('../../src/upstream/failure.js', import.meta.url).href)}
    try { for (;;) openSync('/dev/null') } catch {}
    const kinds = ['ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_SYSTEM'].map(code =>
      failureOf(Object.assign(new Error(code), { code })).kind)
    lookup('localhost', error => {
      console.log(JSON.stringify([...kinds, failureOf(error).kind]))
    })`
  const { stdout, stderr } = spawnSync(
    '/usr/bin/prlimit',
    ['--nofile=64:', process.execPath, '--input-type=module', '-e', script],
    { encoding: 'utf8' },
  )
  assert.deepEqual(new Set(JSON.parse(stdout || '[]')), new Set(['connection_limit_reached']), stderr)
})

test('the outermost known error decides', () => {
  assert.equal(failureOf(coded('UND_ERR_CONNECT_TIMEOUT', coded('ECONNREFUSED'))).kind, 'connection_timeout')
})

test('a value that is not an error is an internal error', () => {
  for (const thrown of [undefined, null, 'ECONNREFUSED', { code: 'ECONNREFUSED' }]) {
    assert.equal(failureOf(thrown).kind, 'proxy_internal_error')
  }
})

test('a refused, reset or closed connection is recognised', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault('*', { kind: 'reset' })
  assert.equal(await failureAt(t, simulator.url), 'connection_terminated')
  await simulator.setFault('*', { kind: 'refuse' })
  assert.equal(await failureAt(t, simulator.url), 'connection_refused')
  assert.equal(await failureAt(t, await speak(t, '')), 'connection_terminated')
})

test('an upstream with another protocol or too large a head is recognised', async t => {
  assert.equal(await failureAt(t, await speak(t, 'SSH-2.0-OpenSSH_9.6\r\n')), 'http_protocol_error')
  const head = `HTTP/1.1 200 OK\r\nx-long: ${'x'.repeat(1_000_000)}\r\n\r\n`
  assert.equal(await failureAt(t, await speak(t, head)), 'http_response_header_section_size')
  assert.equal(
    await failureAt(t, (await speak(t, 'HTTP/1.1 200 OK\r\n\r\n')).replace('http', 'https')),
    'tls_protocol_error',
  )
})

test('an upstream that does not respond fails after the headers timeout', async t => {
  const { simulator } = await simulate(t)
  await simulator.setFault('*', { kind: 'hang' })
  assert.equal(await failureAt(t, simulator.url), 'http_response_timeout')
})

/** The failure of a request to this address. */
async function failureAt(t: TestContext, url: string): Promise<string> {
  const tls = { insecureSkipVerify: false }
  const timeouts = {
    connectTimeoutMs: 1000,
    headersTimeoutMs: 100,
    bodyTimeoutMs: 100,
    maxHeaderBytes: 16_384,
  }
  const agent = upstreamPool({ url, tls, ...timeouts }, 1)
  t.after(() => agent.destroy())
  return await agent.request({ origin: url, path: '/', method: 'GET' }).then(
    ({ statusCode }) => `answered ${statusCode}`,
    (error: unknown) => failureOf(error).kind,
  )
}

/** A server that sends this text on each connection and closes it. */
async function speak(t: TestContext, words: string): Promise<string> {
  const server = createServer(socket => {
    socket.on('error', () => undefined).once('data', () => socket.end(words))
  }).listen(0, '127.0.0.1')
  t.after(() => server.close())
  await once(server, 'listening')
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return `http://127.0.0.1:${address.port}`
}
