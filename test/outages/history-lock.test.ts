import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { Totals } from '../../src/observability/totals.js'
import { HistoryFile } from '../../src/outages/file.js'
import { HistoryLock } from '../../src/outages/history-lock.js'
import { Lifetime } from '../../src/outages/lifetime.js'
import { OutageLog } from '../../src/outages/log.js'
import { ask, setUp } from '../support/breaker-set-up.js'
import { keptIn } from '../support/kept-history.js'

const HOUR_MS = 3_600_000

test('the first process has the lock, and others learn who has it, until it is released', t => {
  const { lockOf } = place(t)
  const first = lockOf()
  const second = lockOf({ pid: process.ppid })
  assert.equal(first.take(), undefined)
  assert.equal(second.take()?.pid, process.pid)
  first.release()
  assert.equal(second.take(), undefined)
  assert.equal(first.take()?.pid, process.ppid)
})

test('the lock of a process that no longer runs on this host is taken over at once, also with our own pid', t => {
  const { lockOf } = place(t)
  assert.equal(lockOf({ pid: 2 ** 22 + 1 }).take(), undefined)
  assert.equal(lockOf().take(), undefined)
  // A restarted container has the same host name and the same pid.
  assert.equal(lockOf().take(), undefined)
})

test('the lock of another host is taken over when it has not been renewed for 30 s, by its age or by our clock', t => {
  const { lockOf, file, pass } = place(t)
  const other = lockOf({ host: 'other' })
  const mine = lockOf()
  other.take()
  assert.equal(mine.take()?.host, 'other')
  const old = Date.now() / 1000 - 31
  utimesSync(`${file}.lock`, old, old)
  assert.equal(mine.take(), undefined)
  assert.equal(other.holderElse()?.host, 'mine')
  mine.release()
  other.take()
  // The clock of the other host is a day ahead.
  const ahead = Date.now() / 1000 + 86_400
  utimesSync(`${file}.lock`, ahead, ahead)
  assert.equal(mine.take()?.host, 'other')
  pass(29_000)
  assert.equal(mine.take()?.host, 'other')
  pass(2000)
  assert.equal(mine.take(), undefined)
})

test('if a lock cannot be created there is none, and a malformed lock is waited for and then replaced', t => {
  const { lockOf, file, pass } = place(t)
  mkdirSync(`${file}.lock`)
  assert.equal(lockOf().take(), undefined)
  rmSync(`${file}.lock`, { recursive: true })
  writeFileSync(`${file}.lock`, 'half a li')
  const lock = lockOf()
  assert.deepEqual(lock.take(), { id: '', pid: 0, host: '' })
  pass(31_000)
  assert.equal(lock.take(), undefined)
  assert.equal(lock.holderElse(), undefined)
  rmSync(`${file}.lock`)
  assert.equal(lock.holderElse(), undefined)
  assert.match(readFileSync(`${file}.lock`, 'utf8'), /"host":"mine"/)
})

test('a second process does not write the file, reports that once, and takes it over with the counts of both', t => {
  const { file, start, tick } = place(t)
  const first = start('one')
  first.see('+ -')
  for (let count = 0; count < 3; count += 1) ask(first.breaker)
  first.history.write()
  const before = readFileSync(file, 'utf8')

  const second = start('two')
  assert.deepEqual(second.faults, [`the file is in use by another process (${process.pid} on one)`])
  assert.equal(second.history.isKeeping, false)
  assert.equal(second.outageLog.current()?.refused, 3, 'it reads the existing records')
  assert.equal(second.totals.counts().refused, 3)
  second.see('-')
  for (let count = 0; count < 5; count += 1) ask(second.breaker)
  second.history.write()
  assert.equal(readFileSync(file, 'utf8'), before)
  assert.equal(second.faults.length, 1)

  for (let count = 0; count < 10; count += 1) ask(first.breaker)
  first.history.close()
  tick(2000)
  assert.deepEqual(second.faults.slice(1), [undefined])
  assert.equal(second.totals.counts().refused, 18)
  assert.equal(second.outageLog.current()?.refused, 18)
  second.history.close()
  const { outages, skippedLines } = keptIn(file)
  assert.deepEqual([outages.map(({ refused }) => refused), skippedLines], [[18], 0])
})

test('of two processes that assume they have the lock, the one whose lock was replaced gives way and returns later', t => {
  const { file, start, tick } = place(t)
  const first = start('one')
  first.see('+ -')
  ask(first.breaker)
  first.history.write()
  // The first process was suspended for so long that its lock was taken over.
  const old = Date.now() / 1000 - 60
  utimesSync(`${file}.lock`, old, old)
  const second = start('two')
  assert.deepEqual(second.faults, [])
  ask(first.breaker)
  first.history.write()
  assert.deepEqual(first.faults, [`the file is in use by another process (${process.pid} on two)`])
  second.history.close()
  tick(10_000)
  assert.deepEqual(first.faults.slice(1), [undefined])
  first.history.close()
  assert.deepEqual(
    keptIn(file).outages.map(({ refused }) => refused),
    [2],
  )
})

test('a process that was suspended loses nothing, whatever the other one wrote before it noticed', t => {
  const { file, start, tick } = place(t)
  const first = start('one')
  first.see('+ -')
  ask(first.breaker)
  first.history.write()
  const old = Date.now() / 1000 - 60
  utimesSync(`${file}.lock`, old, old)
  const second = start('two')
  second.see('-')
  for (let count = 0; count < 4; count += 1) ask(second.breaker)
  second.history.write()
  ask(first.breaker)
  first.totals.forwarded()
  first.history.write()
  assert.equal(first.faults.length, 1)
  for (let count = 0; count < 8; count += 1) ask(second.breaker)
  second.totals.forwarded()
  second.history.close()
  // Counted after the last attempt to write.
  first.totals.forwarded()
  tick(10_000)
  assert.equal(first.history.isKeeping, true)
  assert.deepEqual(
    [first.totals.counts().refused, first.totals.counts().forwarded, first.outageLog.current()?.refused],
    [14, 3, 14],
  )
  first.history.close()
})

test('two containers with the same host name do not take the lock from each other alternately', t => {
  const { file, lockOf, pass } = place(t)
  const first = lockOf({ pid: 1, processes: 'pid:[1]' })
  const second = lockOf({ pid: 1, processes: 'pid:[2]' })
  const third = lockOf({ pid: 1, processes: 'pid:[3]' })
  assert.equal(first.take(), undefined)
  // It may be the same container after a restart.
  assert.equal(second.take(), undefined)
  assert.equal(first.holderElse()?.pid, 1)
  for (let count = 0; count < 3; count += 1) {
    assert.equal(first.take()?.pid, 1)
    assert.equal(second.holderElse(), undefined)
  }
  assert.equal(third.take(), undefined)
  assert.equal(first.take()?.pid, 1)
  assert.equal(second.holderElse()?.pid, 1)
  assert.equal(second.take()?.pid, 1)
  assert.equal(third.holderElse(), undefined)
  pass(31_000)
  // A holder that no longer renews the lock has ended.
  const old = Date.now() / 1000 - 31
  utimesSync(`${file}.lock`, old, old)
  assert.equal(first.take(), undefined)
})

test('a lock that cannot be read counts as held by another process until it is old', t => {
  const { lockOf, file, directory } = place(t)
  writeFileSync(`${file}.lock`, '{}')
  chmodSync(`${file}.lock`, 0)
  if (process.getuid?.() === 0) {
    // root can read everything.
    chmodSync(directory, 0o777)
    process.seteuid?.(65_534)
    t.after(() => process.seteuid?.(0))
  }
  const lock = lockOf()
  assert.deepEqual(lock.take(), { id: '', pid: 0, host: '' })
  process.seteuid?.(0)
  const old = Date.now() / 1000 - 31
  utimesSync(`${file}.lock`, old, old)
  assert.equal(lock.take(), undefined)
})

test('a process that waits for the file releases the lock if it cannot use the file', t => {
  const { file, start, tick } = place(t)
  const first = start('one')
  first.see('+ -')
  const second = start('two')
  first.history.close()
  writeFileSync(file, '{"historyVersion":3}\n')
  tick(2000)
  assert.equal(second.history.isKeeping, false)
  assert.equal(existsSync(`${file}.lock`), false)
  assert.match(String(second.faults.at(-1)), /version 3/)
})

test('no other file is left after a stop, and no lock next to a foreign file', t => {
  const { file, directory, start } = place(t)
  const only = start()
  only.see('+')
  only.history.close()
  assert.deepEqual(readdirSync(directory), ['history.jsonl'])
  writeFileSync(file, '# Notes\n')
  const foreign = start()
  foreign.see('+ -')
  foreign.history.close()
  assert.deepEqual(readdirSync(directory), ['history.jsonl'])
  assert.equal(readFileSync(file, 'utf8'), '# Notes\n')
})

/** A path for a history file, and processes that use it. Their clocks start an hour after its records. */
function place(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-lock-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'history.jsonl')
  let passed = 0
  const lockOf = ({ pid = process.pid, host = 'mine', processes = 'pid:[0]' } = {}) =>
    new HistoryLock({ file, clock: () => passed, pid, host, processes })
  const start = (host = 'mine') => {
    const all = setUp()
    const faults: unknown[] = []
    const clock = () => all.clock() + HOUR_MS
    const history = new HistoryFile({
      ...{ file, clock, lock: new HistoryLock({ file, clock, host }) },
      onFault: error => faults.push(error instanceof Error ? error.message : error),
    })
    const lifetime = new Lifetime(clock(), history)
    const outageLog = new OutageLog(history)
    const totals = new Totals(history)
    for (const each of [outageLog, totals, history]) each.attach(all.breaker)
    return { ...all, faults, history, lifetime, outageLog, totals }
  }
  return {
    ...{ directory, file, lockOf, start },
    pass: (ms: number) => {
      passed += ms
    },
    tick: (ms: number) => t.mock.timers.tick(ms),
  }
}
