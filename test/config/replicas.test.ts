import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { effectiveConfiguration } from '../../src/cli/effective-configuration.js'
import { checkFiles } from '../../src/cli/file-checks.js'
import { explain } from '../../src/config/fault.js'
import { load } from '../../src/config/load.js'
import { certificateAuthority } from '../support/certificate-authority.js'
import { requireOrSkip } from '../support/harness.js'

const UPSTREAM = 'http://focus-server:5000'

/** Loads a configuration with these options of `replicas`, each from its environment variable. */
function loaded(options: Readonly<Record<string, string>>, upstream = UPSTREAM) {
  const given = Object.entries(options).map(([name, value]) => [`FOCUS_BREAKER_REPLICAS_${name}`, value])
  return load({ environment: { FOCUS_BREAKER_UPSTREAM_URL: upstream, ...Object.fromEntries(given) } })
}

function configOf(options: Readonly<Record<string, string>>, upstream = UPSTREAM) {
  const result = loaded(options, upstream)
  return result.ok ? result.config : assert.fail(explain(result.faults))
}

/** The faults as `option: expected; given`. */
function faultsOf(options: Readonly<Record<string, string>>, upstream = UPSTREAM): readonly string[] {
  const result = loaded(options, upstream)
  if (result.ok) assert.fail('no fault was found')
  return result.faults.map(({ option, expected, given }) => `${option}: ${expected}; ${given}`)
}

function fileOf(t: TestContext, text: string): string {
  const path = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(path, { recursive: true }))
  writeFileSync(join(path, 'file'), text)
  return join(path, 'file')
}

test('without an option there are no replicas', () => {
  assert.deepEqual(configOf({}).replicas, {})
})

test('the URL comes from its option or from a file, not from both, and white space around it is removed', t => {
  const url = 'rediss://me:battery@valkey:6380/2'
  const file = fileOf(t, `${url}\n`)
  assert.deepEqual(configOf({ URL: url }).replicas, { url })
  assert.deepEqual(configOf({ URL_FILE: file }).replicas, { url, urlFile: file })
  assert.deepEqual(faultsOf({ URL: url, URL_FILE: file }), [
    `replicas.urlFile: this or replicas.url, not both; ${file}`,
  ])
  assert.match(faultsOf({ URL_FILE: `${file}-none` }).join(), /^replicas\.urlFile: a readable file; /)
})

test('an invalid URL is a fault with its reason, and is not shown', t => {
  const expected =
    'replicas.url: a URL like redis://user:password@host:6379/0, or rediss:// for TLS; ********'
  for (const [url, problem] of [
    ['redis+sentinel://:pa55@valkey', 'a scheme other than redis:// and rediss://'],
    ['redis://:pa55@valkey?db=1', 'a query or a fragment; in a password, write %3F for ? and %23 for #'],
    ['redis://:pa55@valkey#1', 'a query or a fragment; in a password, write %3F for ? and %23 for #'],
    ['redis://:pa55@valkey/one', 'a path that is not a database number'],
    ['valkey:6379', 'no scheme'],
  ] as const) {
    assert.deepEqual(faultsOf({ URL: url }), [`${expected}, with ${problem}`])
    assert.deepEqual(faultsOf({ URL_FILE: fileOf(t, url) }), [`${expected}, with ${problem}`])
  }
  assert.deepEqual(faultsOf({ URL_FILE: fileOf(t, '\n') }), [`${expected}, with no scheme`])
})

test('a namespace and a name have only characters that are literal in a key', () => {
  for (const [variable, option] of [
    ['NAMESPACE', 'namespace'],
    ['NAME', 'name'],
  ] as const) {
    for (const right of ['a', 'lab-2', 'focus_server.example.com:5000', 'x'.repeat(100)]) {
      assert.equal(configOf({ [variable]: right }).replicas[option], right)
    }
    for (const wrong of ['x'.repeat(101), 'a b', 'a/b', '{a}', '*', '[a]', 'ä', 'a\nb', 'a\n']) {
      assert.deepEqual(faultsOf({ [variable]: wrong }), [
        `replicas.${option}: text of 1 to 100 letters, digits and . _ : -; ${JSON.stringify(wrong)}`,
      ])
    }
  }
})

test('a namespace is required if upstream.url yields none, and only with replicas', () => {
  const url = 'redis://valkey'
  for (const upstream of ['https://example.com/lab%202', `https://example.com/${'x'.repeat(100)}`]) {
    assert.deepEqual(faultsOf({ URL: url }, upstream), [
      'replicas.namespace: to be set, because upstream.url is not 1 to 100 letters, digits and . _ : -; nothing',
    ])
    configOf({ URL: url, NAMESPACE: 'lab-2' }, upstream)
    configOf({}, upstream)
  }
})

test('caFile is allowed only with rediss://, and contains certificates', t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile } = certificateAuthority(t)
  assert.equal(configOf({ URL: 'rediss://valkey', CA_FILE: caFile }).replicas.caFile, caFile)
  const expected = 'replicas.caFile: to be used with a replicas.url that starts with rediss://; '
  assert.deepEqual(faultsOf({ CA_FILE: caFile }), [`${expected}without one`])
  assert.deepEqual(faultsOf({ URL: 'redis://valkey', CA_FILE: caFile }), [
    `${expected}with redis://, which is not encrypted`,
  ])
  const text = fileOf(t, 'hello')
  assert.deepEqual(faultsOf({ URL: 'rediss://valkey', CA_FILE: text }), [
    `replicas.caFile: a PEM file with certificates; ${text}, which contains none`,
  ])
})

test('an expired certificate authority is a warning', t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile } = certificateAuthority(t)
  const config = configOf({ URL: 'rediss://valkey', CA_FILE: caFile })
  assert.deepEqual(checkFiles(config, new Map(), Date.now()), { faults: [], warnings: [] })
  const later = Date.now() + 100 * 365 * 86_400_000
  assert.match(checkFiles(config, new Map(), later).warnings.join(), /^replicas\.caFile: .* expired at /)
})

test('the configuration is shown with the server but without user and password', t => {
  const url = 'rediss://tele%70hone:b%40ttery@valkey:6380/2'
  const file = fileOf(t, url)
  for (const options of [{ URL: url }, { URL_FILE: file }]) {
    const result = loaded(options)
    if (!result.ok) assert.fail(explain(result.faults))
    const shown = effectiveConfiguration(result.config, result.origins)
    assert.match(shown, /^ {2}url: rediss:\/\/\*\*\*@valkey:6380\/2 # FOCUS_BREAKER_REPLICAS_URL/m)
    assert.doesNotMatch(shown, /tele|phone|ttery/)
  }
})
