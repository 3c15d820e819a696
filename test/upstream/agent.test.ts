import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type UpstreamOptions, upstreamPool, upstreamTls } from '../../src/upstream/agent.js'
import { failureOf } from '../../src/upstream/failure.js'
import { requireOrSkip } from '../support/harness.js'

const options: UpstreamOptions = {
  url: 'https://127.0.0.1',
  connectTimeoutMs: 2000,
  headersTimeoutMs: 2000,
  bodyTimeoutMs: 2000,
  maxHeaderBytes: 16_384,
  tls: { insecureSkipVerify: false },
}

test('TLS is verified by default, and plain HTTP has no TLS options', () => {
  assert.deepEqual(upstreamTls(options), { rejectUnauthorized: true })
  assert.deepEqual(
    upstreamTls({ ...options, url: 'http://h', tls: { insecureSkipVerify: true, caFile: '/nowhere' } }),
    {},
  )
})

test('a self-signed upstream is accepted if its certificate is configured or verification is turned off', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { url, caFile } = await serveSelfSigned(t)
  const serverName = 'focus-server.example'
  const ASKED: readonly (readonly [tls: UpstreamOptions['tls'], outcome: number | string])[] = [
    [{ insecureSkipVerify: false }, 'tls_certificate_error'],
    [{ insecureSkipVerify: false, serverName }, 'tls_certificate_error'],
    // The CA is trusted, but the name in the certificate differs from the address.
    [{ insecureSkipVerify: false, caFile }, 'tls_certificate_error'],
    [{ insecureSkipVerify: false, caFile, serverName: 'other.example' }, 'tls_certificate_error'],
    [{ insecureSkipVerify: false, caFile, serverName }, 200],
    [{ insecureSkipVerify: true }, 200],
  ]
  for (const [tls, outcome] of ASKED) {
    const agent = upstreamPool({ ...options, url, tls }, 1)
    t.after(() => agent.destroy())
    const came = await agent.request({ origin: url, path: '/', method: 'GET' }).then(
      ({ statusCode }) => statusCode,
      (error: unknown) => failureOf(error).kind,
    )
    assert.equal(came, outcome, JSON.stringify(tls))
  }
})

/** An HTTPS server with a self-signed certificate for focus-server.example. */
async function serveSelfSigned(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-tls-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const [caFile, keyFile] = [join(directory, 'cert.pem'), join(directory, 'key.pem')]
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-keyout', keyFile, '-nodes']
  const names = ['-subj', '/CN=focus-server', '-addext', 'subjectAltName=DNS:focus-server.example']
  execFileSync('openssl', ['req', '-x509', ...key, ...names, '-days', '1', '-out', caFile], {
    stdio: 'ignore',
  })
  const server = createServer({ cert: readFileSync(caFile), key: readFileSync(keyFile) }, (_, answer) =>
    answer.end(),
  )
  t.after(() => server.close())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return { url: `https://127.0.0.1:${address.port}`, caFile }
}
