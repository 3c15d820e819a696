import assert from 'node:assert/strict'
import fs, {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import Type from 'typebox'
import { DECLARED_BY } from '../../src/domain/override.js'
import { Metrics } from '../../src/observability/metrics.js'
import { HistoryFile } from '../../src/outages/file.js'
import { Lifetime } from '../../src/outages/lifetime.js'
import { OutageLog } from '../../src/outages/log.js'
import { OverrideLog } from '../../src/outages/override-log.js'
import { setUp } from '../support/breaker-set-up.js'

const TextRecord = Type.Object({ text: Type.String() })

const HOUR_MS = 3_600_000

const AT = '1970-01-01T00:00:05.000Z'
const END = '1970-01-01T00:00:09.000Z'
const OPENED_BY = { kind: 'waiting', at: AT, source: 'probe', missing: ['prr'] }
const OUTAGE = {
  ...{ startedAt: AT, endedAt: null, cause: 'waiting', openedBy: OPENED_BY, closedBy: null },
  ...{ refused: 7, operations: 2, restarts: 0 },
}
const IN_FORCE = {
  ...{ state: 'open', reason: 'fiber work', since: AT, until: '1970-01-01T02:00:00.000Z', by: '192.0.2.9' },
  silent: false,
}

test('a file of version 1 is read, replaced at the first write, and a copy of it is kept', t => {
  const { file, start } = fileWith(t, [
    { outage: { ...OUTAGE, refused: 3 } },
    { unreachable: { from: AT, to: null, problem: 'refused' } },
    { override: IN_FORCE },
    { outage: OUTAGE, replaces: '1970-02-01T00:00:00.000Z' },
  ])
  const before = readFileSync(file, 'utf8')
  const first = start()
  assert.equal(readFileSync(file, 'utf8'), before, 'reading changes nothing')
  assert.equal(first.outageLog.current()?.refused, 7)
  assert.equal(first.overrideLog.inForce?.reason, 'fiber work')
  assert.equal(first.outageLog.unreachablePeriods().length, 1)
  assert.equal(first.history.skippedLines, 0)
  first.see('+')
  assert.equal(readFileSync(`${file}.v1`, 'utf8'), before)
  assert.equal(statSync(`${file}.v1`).mode & 0o777, 0o600)
  const [version, ...lines] = readFileSync(file, 'utf8').trimEnd().split('\n')
  assert.equal(version, '{"historyVersion":2}')
  assert.ok(lines.every(line => line.startsWith('{"v":2,"')))
  first.history.close()
  const second = start()
  assert.equal(second.outageLog.outages()[0]?.refused, 7)
  assert.equal(second.overrideLog.inForce?.reason, 'fiber work')
  // A rollback and a second upgrade do not replace the first copy.
  writeFileSync(file, `${JSON.stringify({ outage: OUTAGE })}\n`)
  start().see('+')
  assert.equal(readFileSync(`${file}.v1`, 'utf8'), before)
})

test('lines of version 1 among others are read too, because the older program may have run in between', t => {
  const { start } = fileWith(t, [
    { historyVersion: 2 },
    { v: 2, outage: { [AT]: OUTAGE } },
    { outage: { ...OUTAGE, refused: 9, endedAt: END } },
  ])
  const { outageLog, history } = start()
  assert.deepEqual([outageLog.outages()[0]?.refused, history.skippedLines], [9, 0])
})

for (const lines of [
  [{ historyVersion: 3 }, { v: 3, outage: { [AT]: OUTAGE } }],
  [{ historyVersion: 2 }, { v: 2, outage: {} }, { v: 7, anything: 'else' }],
]) {
  test(`a file of a newer version is left unchanged, with one warning: ${JSON.stringify(lines[0])}`, t => {
    const { file, start } = fileWith(t, lines)
    const before = readFileSync(file, 'utf8')
    const program = start()
    program.see('+ - +++++++ -')
    program.history.close()
    assert.equal(readFileSync(file, 'utf8'), before)
    assert.equal(existsSync(`${file}.v1`), false)
    assert.equal(program.history.isKeeping, false)
    assert.deepEqual(program.faults.length, 1)
    assert.match(String(program.faults[0]), /history version [37] is newer than 2/)
    assert.equal(program.outageLog.outages().length, 2, 'the history continues in memory')
  })
}

test('records of a newer program of the same version survive a rewrite by this one', t => {
  const later = {
    ...OUTAGE,
    weather: { rain: true },
    openedBy: { ...OPENED_BY, confidence: 0.5 },
    notes: [{ at: AT, by: 'someone' }],
  }
  const unknownCause = { ...OUTAGE, startedAt: END, cause: 'overheated' }
  const { file, start } = fileWith(t, [
    { historyVersion: 2 },
    { v: 2, outage: { [AT]: later, [END]: unknownCause }, moon: { full: { at: AT } }, tide: 'high' },
    { v: 2, moon: { new: { at: END }, full: { at: END } } },
    { v: 2, moon: { new: null } },
  ])
  const program = start()
  assert.equal(program.outageLog.outages().length, 1)
  // The outage changes, and then the whole file is written.
  program.see('-')
  program.rewrite()
  const text = readFileSync(file, 'utf8')
  const lines: unknown[] = text
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line))
  const recordOf = (kind: string, key: string) =>
    lines.map(line => Object(Object(line)[kind])[key]).findLast(record => record !== undefined)
  const kept = recordOf('outage', AT)
  assert.deepEqual(kept.weather, { rain: true })
  assert.deepEqual(kept.openedBy, { ...OPENED_BY, confidence: 0.5 })
  assert.deepEqual(kept.notes, later.notes)
  assert.equal(kept.restarts, 1)
  assert.deepEqual(recordOf('outage', END), unknownCause)
  assert.deepEqual(recordOf('moon', 'full'), { at: END })
  assert.equal(recordOf('moon', 'new'), undefined)
  assert.match(text, /"tide":\{"":"high"\}/)
})

test('a known optional member that this program removes does not return', t => {
  const { file, start } = fileWith(t, [
    { historyVersion: 2 },
    { v: 2, standing: { override: { ...IN_FORCE, silent: true, more: 1 } } },
  ])
  const program = start()
  program.breaker.setOverride({ state: 'closed', reason: 'now', forSeconds: 60 }, '192.0.2.9')
  assert.match(
    readFileSync(file, 'utf8'),
    /"standing":\{"override":\{"state":"closed",[^}]*"silent":false,"more":1\}\}/,
  )
})

test('the override in force is kept, also a declared one, and its end is recorded once', t => {
  const { start } = fileWith(t, [])
  const first = start()
  const until = HOUR_MS * 5
  const declared = { state: 'open', reason: 'planned', since: first.clock(), until, by: DECLARED_BY } as const
  first.breaker.declareOverride(declared)
  assert.deepEqual(start().overrideLog.inForce, { ...declared, silent: false })
  first.pass(1000)
  first.breaker.setOverride({ state: 'closed', reason: 'over it', forSeconds: 60 }, '192.0.2.9')
  assert.equal(start().overrideLog.inForce?.reason, 'over it')
  first.pass(1000)
  first.breaker.removeOverride('192.0.2.9')
  assert.equal(start().overrideLog.inForce?.reason, 'planned')
  first.pass(1000)
  first.breaker.declareOverride(null)
  const { overrideLog } = start()
  assert.equal(overrideLog.inForce, undefined)
  assert.deepEqual(
    overrideLog.past.map(({ reason, end }) => `${reason} ${end}`),
    ['planned removed', 'over it removed', 'planned replaced'],
  )
})

for (const what of ['removed', 'truncated', 'cut in the middle of a line'] as const) {
  test(`a file that is ${what} while the program is running is rewritten as a whole`, t => {
    const { file, start } = fileWith(t, [
      { historyVersion: 2 },
      { v: 2, outage: { [AT]: { ...OUTAGE, endedAt: END } }, moon: { full: { at: AT } } },
    ])
    const program = start()
    program.see('+')
    if (what === 'removed') rmSync(file)
    else truncateSync(file, what === 'truncated' ? 0 : 50)
    program.see('-')
    assert.match(readFileSync(file, 'utf8'), /^\{"historyVersion":2\}\n[\s\S]*"moon":\{"full"/)
    assert.equal(program.history.bytes, statSync(file).size)
    program.history.close()
    const next = start()
    assert.deepEqual([next.outageLog.outages().length, next.history.skippedLines], [2, 0])
  })
}

test('a file of version 1 that could not be replaced at first is copied once it can be', t => {
  const { file, start } = fileWith(t, [{ outage: OUTAGE }])
  const before = readFileSync(file, 'utf8')
  const program = start()
  t.mock.method(fs, 'renameSync', () => {
    throw new Error('no')
  })
  syncBuiltinESMExports()
  try {
    program.see('+')
  } finally {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  }
  assert.equal(existsSync(`${file}.v1`), false)
  assert.ok(readFileSync(file, 'utf8').startsWith(`${before}{"historyVersion":2}\n`), 'appended meanwhile')
  program.rewrite()
  assert.ok(readFileSync(`${file}.v1`, 'utf8').startsWith(before))
})

test('the metrics show whether the history can be written, and the size of its file', async t => {
  const { file, start } = fileWith(t, [{ historyVersion: 2 }])
  const program = start()
  const { breaker, clock, history } = program
  const metrics = new Metrics({
    breaker,
    clock,
    history,
    version: '1',
    waiting: () => 0,
    linesDropped: () => 0,
  })
  const shown = async () =>
    (await metrics.exposition()).match(/^focus_breaker_history_(writable|bytes) \d+$/gm)?.join()
  const sizeOf = () => statSync(file).size
  program.see('+ -')
  assert.equal(await shown(), `focus_breaker_history_writable 1,focus_breaker_history_bytes ${sizeOf()}`)
  rmSync(file)
  mkdirSync(file)
  program.see('+++++++')
  assert.match(String(await shown()), /writable 0,/)
  rmdirSync(file)
  program.see('-')
  assert.equal(await shown(), `focus_breaker_history_writable 1,focus_breaker_history_bytes ${sizeOf()}`)
})

test('the copy of a version 1 file is complete; a partial copy left by a kill does not count', t => {
  const { file, start } = fileWith(t, [{ outage: OUTAGE }])
  const before = readFileSync(file, 'utf8')
  const leftover = `${file}.v1.0123456789abcdef.new`
  writeFileSync(leftover, before.slice(0, 20))
  const old = Date.now() / 1000 - 120
  utimesSync(leftover, old, old)
  start().see('+')
  assert.equal(readFileSync(`${file}.v1`, 'utf8'), before)
  assert.equal(existsSync(leftover), false)
})

test('the file never exceeds 16 MiB, whatever is remembered and however long it is written', t => {
  const { file, start } = fileWith(t, [])
  const program = start()
  const text = 'x'.repeat(400_000)
  const records = new Map<string, { readonly text: string }>()
  const changes = program.joinTexts(records)
  let largest = 0
  for (let index = 0; index < 150; index += 1) {
    records.set(`key ${index}`, { text })
    changes.changed(`key ${index}`)
    program.history.write()
    largest = Math.max(largest, statSync(file).size)
  }
  t.diagnostic(`60 MB of records: the file held at most ${largest} bytes`)
  assert.ok(largest <= 16 * 1_048_576, `${largest} bytes`)
  const again = new Map<string, { readonly text: string }>()
  start().joinTexts(again)
  // The newest records are kept.
  assert.ok(again.has('key 149') && again.has('key 145') && !again.has('key 1'))
})

/** A file with these lines, and programs that use it. */
function fileWith(t: TestContext, lines: readonly object[]) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-versions-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'history.jsonl')
  writeFileSync(file, lines.map(line => `${JSON.stringify(line)}\n`).join(''))
  const start = () => {
    const all = setUp()
    const faults: unknown[] = []
    const clock = () => all.clock() + HOUR_MS
    const history = new HistoryFile({ file, clock, onFault: error => faults.push(error) })
    t.after(() => history.close())
    const lifetime = new Lifetime(clock(), history)
    const outageLog = new OutageLog(history)
    const overrideLog = new OverrideLog(history)
    for (const each of [outageLog, overrideLog, history]) each.attach(all.breaker)
    const joinTexts = (records: Map<string, { readonly text: string }>) =>
      history.join({
        kind: 'text',
        schema: TextRecord,
        maxBytes: Number.POSITIVE_INFINITY,
        records: () => records,
        record: key => records.get(key),
        resume: known => {
          for (const [key, record] of known) records.set(key, record)
        },
      })
    return {
      ...{ ...all, faults, history, lifetime, outageLog, overrideLog, joinTexts },
      /** Writes enough that the file is replaced. */
      rewrite: () => {
        const { ino } = statSync(file)
        const records = new Map([['key', { text: 'x'.repeat(500_000) }]])
        const changes = joinTexts(records)
        for (let count = 0; count < 20 && statSync(file).ino === ino; count += 1) {
          changes.changed('key')
          history.write()
        }
        assert.notEqual(statSync(file).ino, ino, 'it was not replaced')
      },
    }
  }
  return { file, start }
}
