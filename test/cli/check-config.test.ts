import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse } from 'yaml'
import { effectiveConfiguration } from '../../src/cli/effective-configuration.js'
import { checkFiles } from '../../src/cli/file-checks.js'
import { explain } from '../../src/config/fault.js'
import { load, masked } from '../../src/config/load.js'
import { HistoryLock } from '../../src/outages/history-lock.js'
import { certificateAuthority } from '../support/certificate-authority.js'
import { repositoryRoot, requireOrSkip } from '../support/harness.js'

const NOW = Date.parse('2026-01-31T08:30:00Z')

function directory(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(path, { recursive: true }))
  return path
}

function loaded(options: Readonly<Record<string, string>>, file?: string) {
  const all = { 'upstream.url': 'http://me:battery@192.0.2.1:5000', ...options }
  const flags = new Map(Object.entries(all).map(([name, value]) => [name, { flag: `--${name}`, value }]))
  const result = load({ environment: { FOCUS_BREAKER_LOG_LEVEL: 'debug' }, flags, file })
  return result.ok ? result : assert.fail(explain(result.faults))
}

/** The faults and warnings that are found in the files of these options. */
function found(options: Readonly<Record<string, string>>, now = NOW) {
  const { config, origins } = loaded(options)
  const { faults, warnings } = checkFiles(config, origins, now)
  for (const { option, source } of faults) assert.equal(source, `--${option}`)
  return { faults: faults.map(({ option, given }) => `${option}: ${given}`), warnings }
}

/** The names and contents of all files in a directory. */
function everything(path: string): readonly string[] {
  return readdirSync(path, { withFileTypes: true }).map(entry => {
    const text = entry.isFile() ? readFileSync(join(path, entry.name), 'utf8') : ''
    return `${entry.name} ${text}`
  })
}

test('a writable history file is not a fault, and the check leaves nothing behind', t => {
  const path = directory(t)
  const file = join(path, 'outages.jsonl')
  const link = join(path, 'link.jsonl')
  assert.deepEqual(found({ 'history.file': file }), { faults: [], warnings: [] })
  assert.deepEqual(everything(path), [])
  writeFileSync(file, '{"historyVersion":2}\n')
  symlinkSync(file, link)
  const before = everything(path)
  for (const each of [file, link]) {
    assert.deepEqual(found({ 'history.file': each }), { faults: [], warnings: [] })
    assert.deepEqual(everything(path), before)
  }
})

test('a history file that cannot be written is reported as one fault, with the reason', t => {
  const path = directory(t)
  const file = join(path, 'file')
  writeFileSync(file, '')
  mkdirSync(join(path, 'folder'))
  mkdirSync(join(path, 'x.jsonl.notifications'))
  const rows = [
    [join(path, 'none', 'x.jsonl'), /none\/x\.jsonl, whose directory does not exist \(ENOENT\)$/],
    [join(file, 'x.jsonl'), /file\/x\.jsonl \(ENOTDIR\)$/],
    [join(path, 'folder'), /folder, which is not a regular file$/],
    [join(path, 'x.jsonl'), /x\.jsonl\.notifications, which is not a regular file$/],
    ['/proc/self/x.jsonl', /\/proc\/self\/x\.jsonl \((ENOENT|EACCES|EPERM)\)$/],
  ] as const
  for (const [history, words] of rows) {
    const { faults } = found({ 'history.file': history })
    assert.equal(faults.length, 1, history)
    assert.match(faults[0] ?? '', words)
  }
})

test('a history file of a newer version, or a file that is not a history file, is a warning', t => {
  const file = join(directory(t), 'outages.jsonl')
  writeFileSync(file, '{"historyVersion":9}\n{"v":9,"new":{}}\n')
  assert.match(
    found({ 'history.file': file }).warnings.join(),
    /has format version 9, but this program supports up to \d+; it will not be used/,
  )
  writeFileSync(file, 'name,age\n')
  assert.match(found({ 'history.file': file }).warnings.join(), /is not a history file; it will not be used/)
})

test('a history file that a running process writes is a warning, and one that a dead process left is not', t => {
  const file = join(directory(t), 'outages.jsonl')
  writeFileSync(file, '{"historyVersion":2}\n')
  const options = { file, clock: () => NOW, pid: process.ppid }
  const holder = new HistoryLock(options)
  holder.take()
  const before = everything(join(file, '..'))
  const { faults, warnings } = found({ 'history.file': file })
  assert.deepEqual(faults, [])
  assert.match(
    warnings.join(),
    /^history\.file: process \d+ on \S+ is writing \S+; a second process keeps its history in memory until/,
  )
  assert.deepEqual(everything(join(file, '..')), before)
  holder.release()
  new HistoryLock({ ...options, pid: 2 ** 22 + 1 }).take()
  assert.deepEqual(found({ 'history.file': file }).warnings, [])
})

test('override.file may be missing; an invalid one is a fault, and a valid one is reported', t => {
  const file = join(directory(t), 'override.yaml')
  const faultsFor = (text: string) => {
    writeFileSync(file, text)
    const { faults, warnings } = found({ 'override.file': file })
    return [...faults, ...warnings].join()
  }
  assert.match(
    found({ 'override.file': file }).warnings.join(),
    /does not exist, so it declares no override$/,
  )
  assert.match(
    faultsFor('state: open\nreason: x\nuntil: tomorrow\n'),
    /^override\.file: \S+: until: expected a time/,
  )
  assert.match(faultsFor('state: [\n'), /^override\.file: \S+: \d+:\d+ .*, not YAML$/)
  const open = 'state: open\nreason: x\nuntil: '
  assert.match(
    faultsFor(`${open}2026-01-31T09:00:00Z\n`),
    /forces the circuit open until 2026-01-31T09:00:00\.000Z$/,
  )
  assert.match(faultsFor(`${open}2026-01-30T09:00:00Z\n`), /ended at 2026-01-30T09:00:00\.000Z$/)
})

test('each certificate of a file is read, and one that is not valid now is a warning', t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { ca, caFile, directory: path, issue } = certificateAuthority(t)
  const now = Date.now()
  assert.deepEqual(found({ 'upstream.tls.caFile': caFile }, now), { faults: [], warnings: [] })
  const [first = '', second = ''] = ca.split('\n').slice(1, 3)
  const broken = join(path, 'broken.pem')
  writeFileSync(broken, ca + ca.replace(first, second))
  assert.deepEqual(found({ 'upstream.tls.caFile': broken }, now).faults, [
    `upstream.tls.caFile: ${broken}, whose certificate 2 is invalid`,
  ])
  const past = issue({ validity: ['20200101000000Z', '20200201000000Z'] })
  const future = issue({ validity: ['20400101000000Z', '20410101000000Z'] })
  const served = ({ certFile, keyFile }: typeof past) =>
    found({ 'server.tls.certFile': certFile, 'server.tls.keyFile': keyFile }, now)
  assert.match(
    served(past).warnings.join(),
    /^server\.tls\.certFile: .* expired at 2020-02-01T00:00:00\.000Z$/,
  )
  assert.match(served(future).warnings.join(), /is not valid before 2040-01-01T00:00:00\.000Z$/)
})

test('each value has its origin as a comment, and the output is YAML of the same configuration', t => {
  const path = directory(t)
  const file = join(path, 'config.yaml')
  const token = join(path, 'token')
  writeFileSync(token, 'correct-horse-staple\n')
  writeFileSync(
    file,
    `server: { port: 9191 }\nprobe:\n  headers: { X-Key: a1 }\n  timeoutMs:\nadmin:\n  tokenFile: ${token}\n`,
  )
  const { config, origins } = loaded({ 'guard.scope': 'live' }, file)
  const text = effectiveConfiguration(config, origins)
  const line = (pattern: RegExp) => assert.match(text, pattern)
  line(/^ {2}port: 9191 # \S+config\.yaml:1:11$/m)
  line(/^ {2}url: http:\/\/\*\*\*@192\.0\.2\.1:5000 # --upstream\.url$/m)
  line(/^ {2}scope: live # --guard\.scope$/m)
  line(/^ {2}level: debug # FOCUS_BREAKER_LOG_LEVEL$/m)
  // A key without a value keeps the default.
  line(/^ {2}timeoutMs: 1500 # default$/m)
  line(/^ {2}# \S+config\.yaml:3:3\n {2}headers:\n {4}X-Key: "\*+"$/m)
  line(/^ {2}token: "\*+" # \S+config\.yaml:6:3: \S+token$/m)
  assert.doesNotMatch(text, /battery|correct-horse|a1/)
  assert.deepEqual(parse(text), masked(config))
  // Each value has a comment, and a group has none.
  const values = text
    .split('\n')
    .filter(each => /^ {2,4}[a-z]\w*: /i.test(each) && !/: (\{\}|\[\])$/.test(each))
  assert.ok(values.length > 30)
  for (const each of values) assert.match(each, / # |^ {4}(X-Key|path|value|operator): /)
})

test('the program checks the files: exit code 2 with each fault, or 0 with the warnings on standard error', t => {
  const path = directory(t)
  const run = (env: Readonly<Record<string, string>>) =>
    spawnSync(process.execPath, [join(repositoryRoot, 'dist/cli/main.js'), 'serve', '--check-config'], {
      env: { PATH: process.env.PATH, FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1:5000', ...env },
      encoding: 'utf8',
    })
  const bad = run({ FOCUS_BREAKER_HISTORY_FILE: join(path, 'none', 'x'), FOCUS_BREAKER_OVERRIDE_FILE: path })
  assert.deepEqual([bad.status, bad.stdout], [2, ''])
  assert.match(
    bad.stderr,
    /\n {2}FOCUS_BREAKER_HISTORY_FILE: history\.file: .*\n {2}FOCUS_BREAKER_OVERRIDE_FILE: /,
  )
  const good = run({ FOCUS_BREAKER_OVERRIDE_FILE: join(path, 'none.yaml') })
  assert.equal(good.status, 0)
  assert.match(good.stdout, /^# The configuration is valid\. /)
  assert.match(good.stdout, /url: http:\/\/192\.0\.2\.1:5000 # FOCUS_BREAKER_UPSTREAM_URL\n/)
  assert.match(good.stderr, /^warning: override\.file: \S+none\.yaml does not exist/)
})

test('a secret in a file that is empty or too short is a fault with the expected form, without the secret', t => {
  const file = join(directory(t), 'token')
  for (const text of ['', '\n', 'hunter2\n']) {
    writeFileSync(file, text)
    const result = load({
      environment: { FOCUS_BREAKER_ADMIN_TOKEN_FILE: file, FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1' },
      flags: new Map(),
    })
    const words = result.ok ? '' : explain(result.faults)
    assert.match(words, /FOCUS_BREAKER_ADMIN_TOKEN_FILE: \S+token: admin\.token: expected text of 16 /)
    assert.doesNotMatch(words, /hunter2/)
  }
})
