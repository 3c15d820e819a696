import assert from 'node:assert/strict'
import crypto from 'node:crypto'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { removeLeftovers, replaceFile } from '../../src/outages/replace-file.js'

const HOUR_MS = 3_600_000

test('a new file is private, whatever the umask, and an existing one keeps its mode', t => {
  const { file } = directory(t)
  replaceFile(file, 'one')
  assert.equal(statSync(file).mode & 0o777, 0o600)
  for (const mode of [0o640, 0o604, 0o666]) {
    chmodSync(file, mode)
    replaceFile(file, `${mode}`)
    assert.equal(statSync(file).mode & 0o777, mode)
    assert.equal(readFileSync(file, 'utf8'), `${mode}`)
  }
})

test('a link at the fixed name of an earlier version is not followed', t => {
  const { folder, file } = directory(t)
  const victim = join(folder, 'victim')
  writeFileSync(victim, 'mine')
  symlinkSync(victim, `${file}.new`)
  replaceFile(file, 'text')
  assert.equal(readFileSync(victim, 'utf8'), 'mine')
  assert.equal(readFileSync(file, 'utf8'), 'text')
})

test('whatever exists at the temporary name is not written to, and stays', t => {
  const { folder, file } = directory(t)
  // As if its name had been guessed.
  t.mock.method(crypto, 'randomBytes', () => Buffer.alloc(8))
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  })
  const victim = join(folder, 'victim')
  const temporary = `${file}.0000000000000000.new`
  writeFileSync(file, 'old')
  const obstacles: readonly (() => void)[] = [
    () => symlinkSync(victim, temporary),
    () => {
      writeFileSync(victim, 'mine')
      symlinkSync(victim, temporary)
    },
    () => writeFileSync(temporary, 'mine'),
    () => mkdirSync(temporary),
  ]
  for (const put of obstacles) {
    put()
    assert.throws(() => replaceFile(file, 'new'), { code: 'EEXIST' })
    assert.ok(lstatSync(temporary))
    if (existsSync(victim)) assert.equal(readFileSync(victim, 'utf8'), 'mine')
    assert.equal(readFileSync(file, 'utf8'), 'old')
    rmSync(temporary, { recursive: true })
  }
  rmSync(victim)
  replaceFile(file, 'new')
  assert.deepEqual(readdirSync(folder), ['file'])
})

test('a link to the file stays a link, and only regular files are replaced', t => {
  const { folder, file } = directory(t)
  const link = join(folder, 'link')
  writeFileSync(file, 'old')
  symlinkSync(file, link)
  replaceFile(link, 'new')
  assert.ok(lstatSync(link).isSymbolicLink())
  assert.equal(readFileSync(file, 'utf8'), 'new')
  const device = join(folder, 'device')
  symlinkSync('/dev/null', device)
  for (const other of [device, folder]) assert.throws(() => replaceFile(other, 'new'), /not a regular file/)
  assert.ok(statSync('/dev/null').isCharacterDevice())
})

test('after a failure no temporary file is left', t => {
  const { folder, file } = directory(t)
  writeFileSync(file, 'old')
  assert.throws(() => replaceFile(join(folder, 'x'.repeat(250)), 'new'), { code: 'ENAMETOOLONG' })
  assert.throws(() => replaceFile(join(folder, 'none', 'file'), 'new'), { code: 'ENOENT' })
  assert.deepEqual(readdirSync(folder), ['file'])
})

test('leftovers of a crash are removed once they are old, and nothing else is', t => {
  const { folder, file } = directory(t)
  const now = Date.now()
  const old = new Date(now - HOUR_MS)
  const put = (name: string, at = old) => {
    writeFileSync(join(folder, name), '')
    utimesSync(join(folder, name), at, at)
  }
  put('file')
  put('file.0123456789abcdef.new')
  put('file.fedcba9876543210.new', new Date(now))
  const others = [
    'file.new',
    'file.0123456789abcdef',
    'file.0123456789ABCDEF.new',
    'file.0123456789abcde.new',
    'another.0123456789abcdef.new',
    'afile.0123456789abcdef.new',
  ]
  for (const name of others) put(name)
  symlinkSync(join(folder, 'file'), join(folder, 'file.1111111111111111.new'))
  mkdirSync(join(folder, 'file.2222222222222222.new'))
  utimesSync(join(folder, 'file.2222222222222222.new'), old, old)
  removeLeftovers(file, now)
  assert.deepEqual(
    readdirSync(folder).sort(),
    [
      ...['file', 'file.fedcba9876543210.new', 'file.1111111111111111.new', 'file.2222222222222222.new'],
      ...others,
    ].sort(),
  )
  removeLeftovers(join(folder, 'none', 'file'), now)
})

/** A directory for the duration of a test, and a file that does not exist yet. */
function directory(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-replace-'))
  t.after(() => rmSync(folder, { recursive: true }))
  return { folder, file: join(folder, 'file') }
}
