import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { programMain } from '../support/harness.js'
import { directoryFor } from '../support/outputs.js'

/** The outcome of `--check-config` with these probe headers. */
function checkConfig(headers: string) {
  const words = [programMain, 'serve', '--check-config', '--upstream', 'http://127.0.0.1:1']
  const { status, stdout, stderr } = spawnSync(process.execPath, words, {
    env: { FOCUS_BREAKER_PROBE_HEADERS: headers },
    encoding: 'utf8',
  })
  return { status, output: stdout + stderr }
}

test('--check-config names what is wrong with probe.headers, and shows no value of them', t => {
  const directory = directoryFor(t)
  const [two, empty] = [join(directory, 'two'), join(directory, 'empty')]
  writeFileSync(two, 'H0SECRET\nX-Evil: 1\n')
  writeFileSync(empty, '\n')
  for (const [headers, says] of [
    ['{"Host":"H0SECRET"}', /names of headers that may be set for probes; given "Host"/],
    ['{"content-length":"H0SECRET"}', /given "content-length"/],
    ['{"a b":"H0SECRET"}', /given "a b"/],
    ['{"":"H0SECRET"}', /given ""/],
    ['{"X-Key":"H0SECRET","x-key":"H0SECRET"}', /each name once; given "x-key"/],
    ['{"X-Key":"H0SECRET\\nX-Evil: 1"}', /each with a string or \{file: PATH\}; given \*{8}/],
    ['{"X-Key":"H0SECRETä"}', /given \*{8}/],
    ['{"X-Key":["H0SECRET"]}', /given \*{8}/],
    ['["H0SECRET"]', /given \*{8}/],
    ['H0SECRET', /given \*{8}/],
    [
      JSON.stringify({ 'X-Key': { file: join(directory, 'none') } }),
      /value of X-Key; given .*none, which does not exist/,
    ],
    [JSON.stringify({ 'X-Key': { file: directory } }), /value of X-Key; given .*, which is a directory/],
    ['{"X-Key":{"file":"/dev/zero"}}', /value of X-Key; given \/dev\/zero, which has more than \d+ bytes/],
    [JSON.stringify({ 'X-Key': { file: two } }), /value of X-Key; given .*two, which contains none/],
    [JSON.stringify({ 'X-Key': { file: empty } }), /value of X-Key; given .*empty, which contains none/],
  ] as const) {
    const { status, output } = checkConfig(headers)
    assert.equal(status, 2, headers)
    assert.match(output, /FOCUS_BREAKER_PROBE_HEADERS: probe\.headers: expected /, headers)
    assert.match(output, says, headers)
    assert.doesNotMatch(output, /H0SECRET|X-Evil/, headers)
  }
})

test('--check-config shows the names of probe.headers and masks their values', t => {
  const file = join(directoryFor(t), 'key')
  writeFileSync(file, 'H0FILE\n')
  const { status, output } = checkConfig(JSON.stringify({ 'X-Key': 'H0TEXT', 'X-Other': { file } }))
  assert.equal(status, 0)
  assert.match(output, /X-Key: ['"]?\*{8}/)
  assert.match(output, /X-Other:/)
  assert.doesNotMatch(output, /H0TEXT|H0FILE/)
})

test('--check-config masks the values of probe.headers that share a name with other options', () => {
  for (const name of ['file', 'url', 'format', '__proto__']) {
    const { status, output } = checkConfig(`{"${name}":"H0SECRET"}`)
    assert.equal(status, 0, name)
    assert.match(output, new RegExp(`${name}: ['"]?\\*{8}`), name)
    assert.doesNotMatch(output, /H0SECRET/, name)
  }
})
