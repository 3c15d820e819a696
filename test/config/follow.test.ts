import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { FileFollower } from '../../src/config/follow.js'
import { until } from '../support/harness.js'
import { type MountedVolume, mountedVolume } from '../support/mounted-volume.js'

/**
 * A follower of the files `a` and `b`, which are valid together if they start with the same letter. Checked on request.
 */
function following(t: TestContext, volume: MountedVolume, isOptional = false) {
  const follower = new FileFollower(2 ** 31 - 1)
  t.after(() => follower.close())
  const files = [volume.path('a'), volume.path('b')]
  const [a = '', b = ''] = files
  const events: string[] = []
  let inForce = ''
  const stop = follower.follow({
    files,
    isOptional,
    use: contents => {
      const [first = '', second = ''] = [contents.get(a), contents.get(b)]
      if (first[0] !== second[0]) throw new Error(`${first} does not belong to ${second}`)
      inForce = `${first},${second}`
    },
    renewed: () => events.push('renewed'),
    failed: error => events.push(error.message.replace(/, open .*$/, '')),
  })
  return {
    files,
    stop,
    check: () => follower.checkNow(),
    inForce: () => inForce,
    events: () => events.splice(0),
  }
}

test('the contents at the start are applied at once, and do not count as a renewal', async t => {
  const { check, inForce, events } = following(t, mountedVolume(t, { a: 'x1', b: 'x1' }))
  assert.equal(inForce(), 'x1,x1')
  assert.deepEqual(await check(), [])
  assert.deepEqual(events(), [])
})

test('a replaced volume is one renewal of all its files', async t => {
  const volume = mountedVolume(t, { a: 'x1', b: 'x1' })
  const { files, check, inForce, events } = following(t, volume)
  for (const next of ['x2', 'y1', 'y2']) {
    volume.replace({ a: next, b: next })
    assert.deepEqual(await check(), files)
    assert.equal(inForce(), `${next},${next}`)
    assert.deepEqual(events(), ['renewed'])
    assert.deepEqual(await check(), [])
  }
})

test('a change just after the start is not missed', async t => {
  const volume = mountedVolume(t, { a: 'x1', b: 'x1' })
  const { check, inForce } = following(t, volume)
  volume.replace({ a: 'x2', b: 'x2' })
  await check()
  assert.equal(inForce(), 'x2,x2')
})

test('files that are only touched, or rewritten with the same contents, do not count as renewed', async t => {
  const { files, check, events } = following(t, mountedVolume(t, { a: 'x1', b: 'x1' }))
  await check()
  for (const file of files) utimesSync(file, 1, 1)
  assert.deepEqual(await check(), [])
  for (const file of files) writeFileSync(file, 'x1')
  assert.deepEqual(await check(), [])
  assert.deepEqual(events(), [])
})

test('one changed file that does not match keeps the previous contents and is reported once, until the other file changes too', async t => {
  const { files, check, inForce, events } = following(t, mountedVolume(t, { a: 'x1', b: 'x1' }))
  const [a = '', b = ''] = files
  writeFileSync(a, 'y1')
  for (let count = 0; count < 3; count += 1) {
    assert.deepEqual(await check(), [])
    utimesSync(a, count + 1, count + 1)
  }
  assert.equal(inForce(), 'x1,x1')
  assert.deepEqual(events(), ['y1 does not belong to x1'])
  writeFileSync(b, 'y1')
  assert.deepEqual(await check(), files)
  assert.equal(inForce(), 'y1,y1')
  assert.deepEqual(events(), ['renewed'])
  // A later failure is reported again.
  writeFileSync(a, 'x1')
  await check()
  assert.deepEqual(events(), ['x1 does not belong to y1'])
})

test('a change that is reverted is not a renewal, and the next failure is reported', async t => {
  const { files, check, inForce, events } = following(t, mountedVolume(t, { a: 'x1', b: 'x1' }))
  const [a = ''] = files
  for (let count = 0; count < 2; count += 1) {
    writeFileSync(a, 'y1')
    await check()
    assert.deepEqual(events(), ['y1 does not belong to x1'])
    writeFileSync(a, 'x1')
    assert.deepEqual(await check(), [])
    assert.deepEqual(events(), [])
  }
  assert.equal(inForce(), 'x1,x1')
})

test('files that are missing or unreadable keep the previous contents until they are back', async t => {
  const { files, check, inForce, events } = following(t, mountedVolume(t, { a: 'x1', b: 'x1' }))
  const [a = ''] = files
  rmSync(a)
  await check()
  await check()
  assert.deepEqual(events(), ['ENOENT: no such file or directory'])
  mkdirSync(a)
  await check()
  await check()
  assert.deepEqual(events(), ['EISDIR: illegal operation on a directory, read'])
  assert.equal(inForce(), 'x1,x1')
  rmSync(a, { recursive: true })
  writeFileSync(a, 'x3')
  assert.deepEqual(await check(), files)
  assert.equal(inForce(), 'x3,x1')
})

test('contents that cannot be used at the start are an error, or a report for optional files', async t => {
  assert.throws(() => following(t, mountedVolume(t, { a: 'x1', b: 'y1' })), /x1 does not belong to y1/)
  assert.throws(() => following(t, mountedVolume(t, { a: 'x1' })), /ENOENT/)
  const volume = mountedVolume(t, { a: 'x1', b: 'y1' })
  const { files, check, inForce, events } = following(t, volume, true)
  assert.deepEqual(events(), ['x1 does not belong to y1'])
  assert.deepEqual(await check(), [])
  assert.deepEqual(events(), [])
  volume.replace({ a: 'x1', b: 'x1' })
  assert.deepEqual(await check(), files)
  assert.equal(inForce(), 'x1,x1')
})

test('optional files may be missing, at the start and later', async t => {
  const volume = mountedVolume(t, {})
  const { files, check, inForce, events } = following(t, volume, true)
  assert.equal(inForce(), ',')
  volume.replace({ a: 'x1', b: 'x1' })
  assert.deepEqual(await check(), files)
  assert.equal(inForce(), 'x1,x1')
  volume.replace({})
  assert.deepEqual(await check(), files)
  assert.equal(inForce(), ',')
  assert.deepEqual(events(), ['renewed', 'renewed'])
})

test('files that are no longer followed change nothing', async t => {
  const volume = mountedVolume(t, { a: 'x1', b: 'x1' })
  const { check, stop, inForce, events } = following(t, volume)
  volume.replace({ a: 'x2', b: 'x2' })
  const checked = check()
  stop()
  assert.deepEqual(await checked, [])
  assert.deepEqual(await check(), [])
  assert.equal(inForce(), 'x1,x1')
  assert.deepEqual(events(), [])
})

test('the files are checked periodically', async t => {
  const volume = mountedVolume(t, { a: 'x1' })
  const follower = new FileFollower(5)
  t.after(() => follower.close())
  const file = volume.path('a')
  let text: string | undefined
  const use = (contents: ReadonlyMap<string, string>) => {
    text = contents.get(file)
  }
  follower.follow({ files: [file], use, renewed: () => undefined, failed: () => undefined })
  volume.replace({ a: 'x2' })
  await until(() => text === 'x2')
})

test('a pipe in place of a file is reported once, and blocks nothing', async t => {
  const { files, check, inForce, events } = following(t, mountedVolume(t, { a: 'x1', b: 'x1' }))
  const [a = ''] = files
  rmSync(a)
  execFileSync('mkfifo', [a])
  const outcome = await Promise.race([check(), delay(5000, 'still reading', { ref: false })])
  // A check that waits for the pipe would keep the test from ending.
  if (outcome === 'still reading') execFileSync('sh', ['-c', 'exec 3<>"$0"; sleep 1', a])
  assert.deepEqual(outcome, [])
  assert.deepEqual(await check(), [])
  assert.equal(inForce(), 'x1,x1')
  assert.deepEqual(events(), ['a followed file is not a regular file'])
  rmSync(a)
  writeFileSync(a, 'x2')
  assert.deepEqual(await check(), files)
  assert.equal(inForce(), 'x2,x1')
})

test('an optional file that is a pipe does not block the start', t => {
  const volume = mountedVolume(t, { b: 'x1' })
  execFileSync('mkfifo', [volume.path('a')])
  // Reading it would wait for a writer.
  const late = spawn('sh', ['-c', 'sleep 5; exec 3<>"$0"', volume.path('a')], { stdio: 'ignore' })
  t.after(() => late.kill())
  assert.deepEqual(following(t, volume, true).events(), ['a followed file is not a regular file'])
})
