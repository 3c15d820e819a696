import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import fs, {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { beganBy, type Outage, type UnreachablePeriod } from '../../src/domain/outage.js'
import { rfc3339 } from '../../src/domain/time.js'
import { HistoryFile } from '../../src/outages/file.js'
import {
  OutageRecord,
  outageAsJson,
  outageFromJson,
  UnreachablePeriodRecord,
  unreachablePeriodAsJson,
  unreachablePeriodFromJson,
} from '../../src/outages/record.js'
import { requireOrSkip } from '../support/harness.js'

const START = Date.parse('2026-01-31T08:00:00.000Z')
const HOUR_MS = 3_600_000
const NOW = START + 10_000 * HOUR_MS

test('outages with the readings at both ends, and unreachable periods, are read back in order', t => {
  const { path, open } = fileFor(t)
  const first = open()
  const ended = end(outage(0), { refused: 4810, operations: 12, restarts: 1 })
  const open1 = { ...outage(2), cause: 'unreachable' as const, openedBy: unreachable(2) }
  first.keep(outage(0))
  first.keep(period(1))
  first.keep(ended)
  first.keep({ ...period(1), to: START + HOUR_MS + 5000 })
  first.keep(open1)
  const { outages, unreachablePeriods, skippedLines } = open().loaded
  assert.equal(skippedLines, 0)
  assert.deepEqual(outages.map(factsOf), [ended, open1].map(factsOf))
  assert.deepEqual(unreachablePeriods, [{ ...period(1), to: START + HOUR_MS + 5000 }])
  // The version, and a line for each change.
  assert.equal(linesOf(path).length, 6)
})

test('the file is only appended to: its earlier content stays', t => {
  const { path, open } = fileFor(t)
  const file = open()
  let before = ''
  for (let index = 0; index < 20; index += 1) {
    file.keep(outage(index))
    file.keep(end(outage(index)))
    const now = readFileSync(path, 'utf8')
    assert.ok(now.startsWith(before) && now.length > before.length)
    before = now
  }
})

test('without a file there is no history, no fault and no skipped line', t => {
  const { open } = fileFor(t)
  const { loaded, faults } = open()
  assert.deepEqual(loaded, { outages: [], unreachablePeriods: [], skippedLines: 0 })
  assert.deepEqual(faults, [])
})

test('wherever the last line was cut: only this line is lost, it is counted, and the next ones are complete', t => {
  const { path, open } = fileFor(t)
  const writer = open()
  writer.keep(end(outage(0)))
  writer.keep(end(outage(1)))
  const whole = readFileSync(path, 'utf8')
  const lastLine = whole.trimEnd().lastIndexOf('\n') + 1
  for (let length = lastLine; length <= whole.length; length += 1) {
    writeFileSync(path, whole.slice(0, length))
    const reader = open()
    const isWhole = length >= whole.length - 1
    assert.equal(reader.loaded.outages.length, isWhole ? 2 : 1, `cut at ${length}`)
    assert.equal(reader.loaded.skippedLines, isWhole || length === lastLine ? 0 : 1, `cut at ${length}`)
    reader.keep(outage(2))
    const again = open().loaded
    assert.deepEqual(
      again.outages.map(({ startedAt }) => startedAt),
      isWhole ? [0, 1, 2].map(startOf) : [0, 2].map(startOf),
      `cut at ${length}`,
    )
    assert.deepEqual(reader.faults, [])
  }
})

test('an incomplete line needs no other file, because only a single file may be mounted', t => {
  const { path, open } = fileFor(t)
  open().keep(end(outage(0)))
  appendFileSync(path, '{"v":2,"outage":{"2026-')
  // The temporary file of a rewrite.
  mkdirSync(`${path}.new`)
  const reader = open()
  reader.keep(outage(1))
  assert.deepEqual(reader.faults, [])
  assert.equal(open().loaded.outages.length, 2)
})

const NO_LINES = [
  'not JSON at all',
  '{}',
  '[]',
  'null',
  '{"outage":{}}',
  '{"unreachable":{"from":"2026-01-31T08:00:00.000Z","to":null}}',
  JSON.stringify({ outage: { ...recordOf(), startedAt: 'yesterday' } }),
  // These have the form of a time but do not exist.
  JSON.stringify({ outage: { ...recordOf(), startedAt: '2026-01-31T23:59:60Z' } }),
  JSON.stringify({ unreachable: { from: '2026-01-31T23:59:60Z', to: null, problem: '' } }),
  JSON.stringify({ unreachable: { from: '2026-01-31T08:00:00Z', to: '2026-01-31T23:59:60Z', problem: '' } }),
  JSON.stringify({ outage: { ...recordOf(), cause: 'a whim' } }),
  JSON.stringify({ outage: { ...recordOf(), refused: -1 } }),
  JSON.stringify({ outage: recordOf(), more: 1 }),
  '\u0000'.repeat(512),
]

test('malformed lines are skipped and counted, also in the middle', t => {
  const { path, open } = fileFor(t)
  const writer = open()
  writer.keep(end(outage(0)))
  appendFileSync(path, NO_LINES.map(line => `${line}\n`).join(''))
  writer.keep(end(outage(1)))
  const { loaded } = open()
  assert.equal(loaded.skippedLines, NO_LINES.length)
  assert.equal(loaded.outages.length, 2)
})

test('a file that is not a history is left unchanged, with a warning at the start', t => {
  const { path, open } = fileFor(t)
  for (const text of ['# Notes\n\nCall the lab.\n', '{"name":"focus-breaker"}\n', 'x']) {
    writeFileSync(path, text)
    const file = open()
    assert.match(String(file.faults[0]), /not a history file/)
    file.keep(outage(0))
    assert.equal(readFileSync(path, 'utf8'), text)
    assert.equal(file.faults.length, 1)
  }
  // A file with an incomplete or unwritten first line is a history.
  for (const text of [
    '',
    '{',
    '{"out',
    '{"historyVer',
    '{"v":2,"out',
    '{"unreachable":{"from":"2026',
    '\0\0\0',
    '\n\n',
  ]) {
    writeFileSync(path, text)
    const file = open()
    file.keep(outage(0))
    assert.deepEqual(file.faults, [], text)
    assert.equal(open().loaded.outages.length, 1, text)
  }
})

test('for any bytes in the file: loading never throws, and what is written afterwards is read back', t => {
  const { path, open } = fileFor(t)
  const anyPiece = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map(bytes => Buffer.from(bytes)),
    fc.constantFrom(...NO_LINES, '\n').map(text => Buffer.from(text)),
    fc.nat(9).map(index => Buffer.from(`${JSON.stringify({ outage: recordOf(index) })}\n`)),
  )
  fc.assert(
    fc.property(fc.array(anyPiece, { maxLength: 12 }), pieces => {
      writeFileSync(path, Buffer.concat(pieces))
      const reader = open()
      reader.keep(outage(99))
      if (reader.faults.length > 0) assert.deepEqual(readFileSync(path), Buffer.concat(pieces))
      else assert.ok(open().loaded.outages.some(({ startedAt }) => startedAt === startOf(99)))
      // Everything can be shown and rewritten.
      for (const each of reader.loaded.outages) assert.ok(Number.isFinite(each.startedAt))
    }),
    { numRuns: 300 },
  )
})

test('the file does not grow forever: it is rewritten with the remembered records, and no other file is left', t => {
  const { path, directory, open } = fileFor(t)
  const file = open()
  let largest = 0
  let rewrites = 0
  let previous = 0
  for (let refused = 0; refused < 30_000; refused += 1) {
    file.keep({ ...outage(0), refused }, { outages: [{ ...outage(0), refused }], unreachablePeriods: [] })
    const { size } = statSync(path)
    if (size < previous) rewrites += 1
    previous = size
    largest = Math.max(largest, size)
  }
  t.diagnostic(`30,000 changes of one outage: ${rewrites} times rewritten, at most ${largest} bytes`)
  assert.ok(rewrites >= 1, 'never rewritten')
  assert.ok(largest <= 4_194_304, `${largest} bytes`)
  assert.deepEqual(readdirSync(directory), ['history.jsonl'])
  assert.equal(open().loaded.outages[0]?.refused, 29_999)
})

test('an interrupted rewrite does not affect the file', t => {
  const { path, open } = fileFor(t)
  open().keep(end(outage(0)))
  writeFileSync(`${path}.0123456789abcdef.new`, '{"outage":')
  const { loaded } = open()
  assert.equal(loaded.outages.length, 1)
  assert.equal(loaded.skippedLines, 0)
})

test('a full disk causes one warning; when there is space again, everything is written, and that is reported', t => {
  const { path, open } = fileFor(t)
  symlinkSync('/dev/full', path)
  const { keep, faults } = open()
  for (let index = 0; index < 3; index += 1) keep(end(outage(index)))
  keep(period(0))
  assert.deepEqual(faults, ['ENOSPC'])
  rmSync(path)
  keep(outage(3))
  assert.deepEqual(faults, ['ENOSPC', undefined])
  const { loaded } = open()
  assert.deepEqual(
    loaded.outages.map(({ startedAt }) => startedAt),
    [0, 1, 2, 3].map(startOf),
  )
  assert.equal(loaded.unreachablePeriods.length, 1)
})

test('a disk that fills up during a line or a rewrite destroys nothing', t => {
  if (!requireOrSkip(t, 'prlimit')) return
  const { path, open } = fileFor(t)
  const file = open()
  const { faults } = file
  const keep = (index: number) => file.keep(end(outage(index)))
  for (let index = 0; index < 10; index += 1) keep(index)
  const { size } = statSync(path)
  // Half a line fits, then half of each attempted rewrite.
  limitFileSize(t, size + 100)
  keep(10)
  assert.equal(statSync(path).size, size + 100)
  keep(11)
  keep(12)
  assert.deepEqual(faults, ['EFBIG'])
  const meanwhile = open().loaded
  assert.equal(meanwhile.outages.length, 10)
  assert.equal(meanwhile.skippedLines, 1)
  limitFileSize(t, 'unlimited')
  keep(13)
  assert.deepEqual(faults, ['EFBIG', undefined])
  const { loaded } = open()
  assert.equal(loaded.outages.length, 14)
  // The half line stays in place, and only this line is lost.
  assert.equal(loaded.skippedLines, 1)
})

test('a file that cannot be replaced is still appended to, up to four times its size, and then reported as failing', t => {
  const { path, directory, open } = fileFor(t)
  // As if the file were mounted alone, or its directory read-only: a name is limited to 255 bytes.
  const [long, short] = [join(directory, 'x'.repeat(240)), join(directory, 'x')]
  writeFileSync(long, '')
  symlinkSync(long, path)
  const file = open()
  // A long problem makes the test faster.
  const periodOf = (index: number) => ({ ...period(index), problem: 'x'.repeat(20_000) })
  const remembered: UnreachablePeriod[] = []
  const keep = (index: number) => {
    remembered.splice(0, remembered.length - 9)
    remembered.push(periodOf(index))
    file.keep(periodOf(index), { outages: [], unreachablePeriods: remembered })
  }
  for (let index = 0; index < 400; index += 1) keep(index)
  assert.deepEqual(file.faults, [])
  assert.equal(open().loaded.unreachablePeriods.length, 400)
  for (let index = 400; index < 1000; index += 1) keep(index)
  assert.deepEqual(file.faults, ['ENAMETOOLONG'])
  assert.ok(statSync(path).size <= 4 * 4_194_304)
  renameSync(long, short)
  rmSync(path)
  symlinkSync(short, path)
  for (let index = 1000; index < 1060; index += 1) keep(index)
  assert.deepEqual(file.faults, ['ENAMETOOLONG', undefined])
  assert.ok(statSync(path).size < 4_194_304)
  assert.equal(open().loaded.unreachablePeriods.at(-1)?.from, startOf(1059))
  // The link is still a link.
  assert.deepEqual(
    readdirSync(directory, { withFileTypes: true }).map(entry => [entry.name, entry.isFile()]),
    [
      ['history.jsonl', false],
      ['x', true],
    ],
  )
})

test('a rewrite without enough disk space leaves no file behind', t => {
  if (!requireOrSkip(t, 'prlimit')) return
  const { directory, open } = fileFor(t)
  const file = open()
  const big = (index: number) => ({ ...period(index), problem: 'x'.repeat(1_000_000) })
  for (let index = 0; index < 4; index += 1) file.keep(big(index))
  limitFileSize(t, 4_500_000)
  // Five do not fit, but one line of the usual size does.
  const whole = { outages: [], unreachablePeriods: [0, 1, 2, 3, 4].map(big) }
  file.keep({ ...period(5), problem: 'x'.repeat(300_000) }, whole)
  assert.deepEqual(readdirSync(directory), ['history.jsonl'])
  assert.deepEqual(file.faults, [])
  assert.equal(open().loaded.unreachablePeriods.length, 5)
})

test('a path that cannot be created causes a warning, and is used as soon as it can be', t => {
  const { directory } = fileFor(t)
  const parent = join(directory, 'parent')
  writeFileSync(parent, 'a file, not a directory')
  const path = join(parent, 'history.jsonl')
  const { keep, loaded, faults } = openHistory(path)
  assert.deepEqual(loaded, { outages: [], unreachablePeriods: [], skippedLines: 0 })
  keep(outage(0))
  assert.deepEqual(faults, ['ENOTDIR'])
  rmSync(parent)
  mkdirSync(parent)
  keep(outage(1))
  assert.deepEqual(faults, ['ENOTDIR', undefined])
  assert.equal(openHistory(path).loaded.outages.length, 2)
})

test('a history that could not be read is never replaced by later records', t => {
  const { path, open } = fileFor(t)
  open().keep(end(outage(0)))
  const aside = `${path}.aside`
  renameSync(path, aside)
  // For a moment something else has this path, as before a volume is mounted.
  mkdirSync(path)
  const late = open()
  assert.deepEqual(late.faults, ['EISDIR'])
  rmdirSync(path)
  renameSync(aside, path)
  late.keep(outage(1))
  assert.deepEqual(
    open().loaded.outages.map(({ startedAt }) => startedAt),
    [0, 1].map(startOf),
  )
})

/** A path for a history in a directory of its own; `open` reads the file and keeps the records that it is given. */
function fileFor(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-history-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const path = join(directory, 'history.jsonl')
  return { directory, path, open: (withUnclaimed = false) => openHistory(path, withUnclaimed) }
}

type History = {
  readonly outages: readonly Outage[]
  readonly unreachablePeriods: readonly UnreachablePeriod[]
}

/** A history file that two keepers have joined, which remember the records they are given; none with `withUnclaimed`. */
function openHistory(path: string, withUnclaimed = false) {
  const faults: unknown[] = []
  const file = new HistoryFile({ file: path, clock: () => NOW, onFault: error => faults.push(codeOf(error)) })
  const outages = new Map<string, Outage>()
  const periods = new Map<string, UnreachablePeriod>()
  const refill = <T>(map: Map<string, T>, all: readonly (readonly [string, T])[]) => {
    map.clear()
    for (const [key, value] of all) map.set(key, value)
  }
  const join1 = () =>
    file.join({
      kind: 'outage',
      schema: OutageRecord,
      maxBytes: 6_000_000,
      records: () => [...outages].map(([key, outage]) => [key, outageAsJson(outage)] as const),
      record: key => {
        const outage = outages.get(key)
        return outage && outageAsJson(outage)
      },
      resume: records =>
        refill(
          outages,
          records.map(([key, record]) => [key, outageFromJson(record)]),
        ),
    })
  const join2 = () =>
    file.join({
      kind: 'unreachable',
      schema: UnreachablePeriodRecord,
      maxBytes: 6_000_000,
      records: () => [...periods].map(([key, period]) => [key, unreachablePeriodAsJson(period)] as const),
      record: key => {
        const period = periods.get(key)
        return period && unreachablePeriodAsJson(period)
      },
      resume: records =>
        refill(
          periods,
          records.map(([key, record]) => [key, unreachablePeriodFromJson(record)]),
        ),
    })
  const changes = withUnclaimed ? undefined : { outage: join1(), period: join2() }
  const loaded = {
    outages: [...outages.values()],
    unreachablePeriods: [...periods.values()],
    skippedLines: file.skippedLines,
  }
  /** Remembers a change, or replaces everything, and writes. */
  const keep = (change: Outage | UnreachablePeriod, whole?: History) => {
    if (whole !== undefined) {
      refill(
        outages,
        whole.outages.map(outage => [rfc3339(outage.startedAt), outage]),
      )
      refill(
        periods,
        whole.unreachablePeriods.map(period => [rfc3339(period.from), period]),
      )
    }
    if ('startedAt' in change) {
      outages.set(rfc3339(change.startedAt), change)
      changes?.outage.changedNow(rfc3339(change.startedAt))
    } else {
      periods.set(rfc3339(change.from), change)
      changes?.period.changedNow(rfc3339(change.from))
    }
    file.write()
  }
  return { file, loaded, faults, keep }
}

/** Limits the size of files of this process; beyond it, writes are partial, as on a full disk. */
function limitFileSize(t: TestContext, bytes: number | 'unlimited'): void {
  const set = (limit: number | 'unlimited') =>
    execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${limit}:unlimited`])
  t.after(() => set('unlimited'))
  set(bytes)
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : error
}

function linesOf(path: string): readonly string[] {
  return readFileSync(path, 'utf8').trimEnd().split('\n')
}

function startOf(index: number): number {
  return START + index * HOUR_MS
}

function outage(index: number): Outage {
  const at = startOf(index)
  return beganBy({ at, source: 'probe', kind: 'waiting', metadata: {}, missing: ['prr'] }, 'waiting')
}

function unreachable(index: number): Outage['openedBy'] {
  return { at: startOf(index), source: 'probe', kind: 'unreachable', problem: 'connection refused' }
}

function end(begun: Outage, more: Partial<Outage> = {}): Outage {
  const at = begun.startedAt + 60_000
  return { ...begun, endedAt: at, closedBy: { at, source: 'probe', kind: 'ready', metadata: {} }, ...more }
}

function period(index: number): UnreachablePeriod {
  return { from: startOf(index), to: null, problem: 'connection refused' }
}

/** The part of an outage that is kept: everything except the metadata of its readings. */
function factsOf({ openedBy, closedBy, ...rest }: Outage) {
  const kept = (reading: Outage['closedBy']) =>
    reading && { ...reading, ...('metadata' in reading && { metadata: {} }) }
  return { ...rest, openedBy: kept(openedBy), closedBy: kept(closedBy) }
}

/** An outage in the file. */
function recordOf(index = 0) {
  const at = new Date(startOf(index)).toISOString()
  const openedBy = { kind: 'waiting', at, source: 'probe', missing: ['prr'] }
  return {
    startedAt: at,
    endedAt: null,
    cause: 'waiting',
    openedBy,
    closedBy: null,
    refused: 0,
    operations: 0,
    restarts: 0,
  }
}

test('a rewritten file is completely on disk before it replaces the old one', t => {
  const { path, open } = fileFor(t)
  const file = open()
  const synced = new Map<number, number>()
  const renamed: { readonly inode: number; readonly bytes: number }[] = []
  const { fsyncSync, renameSync } = fs
  t.mock.method(fs, 'fsyncSync', (descriptor: number) => {
    fsyncSync(descriptor)
    const { ino, size } = fs.fstatSync(descriptor)
    synced.set(ino, size)
  })
  t.mock.method(fs, 'renameSync', (from: string, to: string) => {
    const { ino, size } = statSync(from)
    renamed.push({ inode: ino, bytes: size })
    assert.equal(synced.get(ino), size, 'the replacement was not on disk before')
    renameSync(from, to)
  })
  // The named imports of the file under test follow.
  syncBuiltinESMExports()
  try {
    for (let refused = 0; renamed.length === 0 && refused < 30_000; refused += 1) {
      file.keep({ ...outage(0), refused }, { outages: [{ ...outage(0), refused }], unreachablePeriods: [] })
    }
  } finally {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  }
  assert.equal(renamed.length, 1, 'never rewritten')
  assert.equal(statSync(path).ino, renamed[0]?.inode)
})
