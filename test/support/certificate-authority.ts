import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

/** A certificate or a certificate chain, and its key: the PEM texts, and the files that hold them. */
export type Issued = {
  readonly cert: string
  readonly key: string
  readonly certFile: string
  readonly keyFile: string
}

/** What differs from a usual certificate. */
export type Wish = {
  readonly name?: string
  /** The start and end of its validity, as OpenSSL writes them; by default two days from now. */
  readonly validity?: readonly [from: string, to: string]
  /** Whether an intermediate authority issues it. */
  readonly isBelowIntermediate?: boolean
}

const CONFIGURATION = `[ca]
default_ca = ours
[ours]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
default_days = 2
policy = any
copy_extensions = copyall
unique_subject = no
[any]
commonName = supplied
`

/** An authority made by openssl, for the duration of a test. */
export function certificateAuthority(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const openssl = (...args: string[]) =>
    execFileSync('/usr/bin/openssl', args, { stdio: 'ignore', cwd: directory })
  const file = (name: string) => join(directory, name)
  const read = (name: string) => readFileSync(file(name), 'utf8')
  writeFileSync(file('ca.cnf'), CONFIGURATION)
  writeFileSync(file('index.txt'), '')
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const ask = (name: string, subject: string, extension: string) =>
    openssl(
      ...['req', ...ec, '-keyout', `${name}.key`, '-out', `${name}.csr`],
      ...['-subj', `/CN=${subject}`, '-addext', extension],
    )
  const sign = (name: string, by: string, more: readonly string[] = []) =>
    openssl(
      ...['ca', '-batch', '-notext', '-config', 'ca.cnf', '-cert', `${by}.pem`, '-keyfile', `${by}.key`],
      ...['-in', `${name}.csr`, '-out', `${name}.pem`, ...more],
    )
  openssl('req', '-x509', ...ec, '-subj', '/CN=ours', '-days', '2', '-keyout', 'ca.key', '-out', 'ca.pem')
  ask('intermediate', 'between', 'basicConstraints=critical,CA:TRUE')
  sign('intermediate', 'ca')
  let count = 0
  return {
    caFile: file('ca.pem'),
    directory,
    /** The certificates of the authority and of the intermediate one. */
    ca: read('ca.pem'),
    intermediate: read('intermediate.pem'),
    issue({ name = 'localhost', validity, isBelowIntermediate = false }: Wish = {}): Issued {
      count += 1
      const own = `leaf-${count}`
      ask(own, name, `subjectAltName=DNS:${name}`)
      const times = validity === undefined ? [] : ['-startdate', validity[0], '-enddate', validity[1]]
      sign(own, isBelowIntermediate ? 'intermediate' : 'ca', times)
      return {
        ...{ cert: read(`${own}.pem`), key: read(`${own}.key`) },
        ...{ certFile: file(`${own}.pem`), keyFile: file(`${own}.key`) },
      }
    },
  }
}
