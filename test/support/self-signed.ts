import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

/** A self-signed certificate for `localhost` and its key, as PEM files that are removed after the test. */
export function selfSigned(t: TestContext): {
  readonly certFile: string
  readonly keyFile: string
  readonly pem: { readonly cert: string; readonly key: string }
} {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const keyFile = join(directory, 'key.pem')
  const certFile = join(directory, 'cert.pem')
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', keyFile]
  const name = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
  execFileSync('/usr/bin/openssl', ['req', '-x509', ...key, ...name, '-days', '2', '-out', certFile], {
    stdio: 'ignore',
  })
  const pem = { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
  return { certFile, keyFile, pem }
}
