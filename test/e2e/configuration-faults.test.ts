import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { text as textOf } from 'node:stream/consumers'
import { describe, type TestContext, test } from 'node:test'
import { programMain } from '../support/harness.js'
import { directoryFor, endOf, spawnFor } from '../support/outputs.js'

type Environment = Readonly<Record<string, string>>

const UPSTREAM = ['--upstream', 'http://127.0.0.1:1']
const LOOPBACK = { FOCUS_BREAKER_SERVER_HOST: '127.0.0.1' }

/** Runs `serve`, which must exit with 2 and a single error; returns that error. */
async function faultOf(t: TestContext, args: readonly string[], env: Environment = {}): Promise<string> {
  const command = [process.execPath, programMain, 'serve', ...args]
  const child = spawnFor(t, command, ['ignore', 'pipe', 'pipe'], { ...LOOPBACK, ...env })
  assert.ok(child.stdout && child.stderr)
  const [stdout, stderr, end] = await Promise.all([textOf(child.stdout), textOf(child.stderr), endOf(child)])
  const [heading, fault = '', ...more] = stderr.split('\n')
  assert.deepEqual([end, stdout, heading, more], [{ code: 2, signal: null }, '', HEADING, ['']], stderr)
  return fault.trimStart()
}

const HEADING = 'Invalid configuration:'
const PORT = 'expected a whole number from 0 to 65535; given'
const TOKEN = 'expected text of 16 ASCII characters or more, without spaces; given ********'

/** Invalid values: the option, the value in YAML, the message, and its flag if there is one. */
const VALUES: readonly (readonly [option: string, value: string, message: string, flag?: string])[] = [
  ['server.port', '.inf', `${PORT} .inf`, '--port'],
  ['server.port', '.nan', `${PORT} .nan`, '--port'],
  ['server.port', '1e400', `${PORT} 1e400`, '--port'],
  ['server.port', '9007199254740993', `${PORT} 9007199254740993`, '--port'],
  ['admin.token', '"correct horse battery"', `${TOKEN}, with a space in the middle`],
  ['admin.token', '"correct-horse\\nbattery"', `${TOKEN}, with white space in the middle`],
]

const BOMB = [
  'a: &a [1, 1]',
  ...[...'bcdefgh'].map(
    (name, index) => `${name}: &${name} [${Array(10).fill(`*${'abcdefg'[index]}`).join(', ')}]`,
  ),
].join('\n')

const NO_FILE = 'expected a readable file; given a file that'

/** Invalid files: their content (none for a missing file), and the message after the name of the file. */
const FILES: readonly (readonly [that: string, content: string | Buffer | undefined, message: RegExp])[] = [
  ['an unknown tag', 'log: !pa55 {}', /^:1:\d+: expected plain values .*; given an unknown tag$/],
  ['a set', 'log: !!set {level}', /^:1:\d+: expected plain values .*; given the tag !!set$/],
  ['an alias bomb', BOMB, /^: expected .* few aliases .*; given aliases that expand to too many values$/],
  ['an undefined alias', 'log: *pa55', /^:1:6: expected an alias .*; given an alias that is not defined$/],
  ['deep nesting', '['.repeat(100_000), /^:1:\d+: expected at most 32 nested groups or lists; given more$/],
  ['a merge key', 'log: {<<: {}}', /^:1:7: expected .*; given a merge key \(<<\)$/],
  ['UTF-16', Buffer.from('\ufefflog: {}', 'utf16le'), new RegExp(`^: ${NO_FILE} is in UTF-16`)],
  [
    'Latin-1',
    Buffer.from('# caf\xe9', 'latin1'),
    new RegExp(`^: ${NO_FILE} is not valid UTF-8 at line 1, col`),
  ],
  ['a binary', Buffer.from('\x7fELF\0\0\0', 'latin1'), new RegExp(`^: ${NO_FILE} is binary, not text$`)],
  ['no file', undefined, new RegExp(`^: ${NO_FILE} does not exist \\(ENOENT\\)$`)],
]

describe('serve exits with 2 and one line', { concurrency: 2 }, () => {
  for (const [option, value, message, flag] of VALUES) {
    test(`for ${option} ${value}, set by a file, a variable or a flag`, async t => {
      const [section = '', key = ''] = option.split('.')
      const file = `${directoryFor(t)}/config.yaml`
      writeFileSync(file, `${section}:\n  ${key}: ${value}\n`)
      const given = value.startsWith('"') ? String(JSON.parse(value)) : value
      const variable = `FOCUS_BREAKER_${section}_${key}`.toUpperCase()
      assert.equal(await faultOf(t, [...UPSTREAM, '--config', file]), `${file}:2:3: ${option}: ${message}`)
      assert.equal(await faultOf(t, UPSTREAM, { [variable]: given }), `${variable}: ${option}: ${message}`)
      if (flag === undefined) return
      assert.equal(await faultOf(t, [...UPSTREAM, flag, given]), `${flag}: ${option}: ${message}`)
    })
  }

  for (const [that, content, message] of FILES) {
    test(`for a configuration with ${that}, named by a flag or a variable`, async t => {
      const file = `${directoryFor(t)}/config.yaml`
      if (content !== undefined) writeFileSync(file, content)
      for (const [args, env] of [
        [['--config', file], {}],
        [[], { FOCUS_BREAKER_CONFIG: file }],
      ] as const) {
        const fault = await faultOf(t, [...UPSTREAM, ...args], env)
        assert.ok(fault.startsWith(file) && !fault.includes('pa55'), fault)
        assert.match(fault.slice(file.length), message)
      }
    })
  }

  test('for a directory, and for a file whose name has a newline', async t => {
    const directory = `${directoryFor(t)}/a\nb`
    mkdirSync(directory)
    const shown = directory.replace('\n', '\\n')
    for (const [file, problem] of [
      ['', 'is a directory (EISDIR)'],
      ['/none', 'does not exist (ENOENT)'],
    ] as const) {
      const fault = await faultOf(t, [...UPSTREAM, '--config', `${directory}${file}`])
      assert.equal(fault, `${shown}${file}: ${NO_FILE} ${problem}`)
      const env = { FOCUS_BREAKER_ADMIN_TOKEN_FILE: `${directory}${file}` }
      assert.equal(
        await faultOf(t, UPSTREAM, env),
        `FOCUS_BREAKER_ADMIN_TOKEN_FILE: admin.tokenFile: expected a readable file; given ${shown}${file}, which ${problem}`,
      )
    }
  })
})
