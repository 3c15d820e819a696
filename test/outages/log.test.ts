import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { Outage, UnreachablePeriod } from '../../src/domain/outage.js'
import { ClientLog } from '../../src/observability/client-log.js'
import { HistoryFile } from '../../src/outages/file.js'
import { OutageLog } from '../../src/outages/log.js'
import { ask, CLIENT, OPERATOR, setUpWithTimers } from '../support/breaker-set-up.js'
import { keptIn } from '../support/kept-history.js'

const HOUR_MS = 3_600_000

test('an outage lasts from the opening of the circuit to its closing, however often its recovery fails', t => {
  const { see, outageLog } = keepingOutageLog(t)
  see('+ - - ++ - ++++++ ++')
  assert.deepEqual(shown(outageLog.outages()), [
    { from: 2, to: 11, cause: 'waiting', openedBy: 'waiting at 2', closedBy: 'ready at 11', restarts: 0 },
  ])
  assert.equal(outageLog.current(), undefined)
})

test('the newest outage comes first, and one in progress has no end', t => {
  const { see, outageLog } = keepingOutageLog(t)
  see('+ - +++++++ xxx ++++++ -')
  assert.deepEqual(
    shown(outageLog.outages()).map(({ from, to, cause }) => ({ from, to, cause })),
    [
      { from: 19, to: null, cause: 'waiting' },
      { from: 12, to: 17, cause: 'unreachable' },
      { from: 2, to: 7, cause: 'waiting' },
    ],
  )
  assert.equal(outageLog.current(), outageLog.outages()[0])
})

test('a fiber that is present at the start is not an outage', t => {
  const { see, outageLog, reopened } = keepingOutageLog(t)
  see('++++')
  assert.deepEqual(outageLog.outages(), [])
  assert.deepEqual(reopened().outages, [])
})

test('a fiber that is missing at the start is an outage from the first reading on', t => {
  const { see, outageLog } = keepingOutageLog(t)
  see('--')
  assert.deepEqual(
    shown(outageLog.outages()).map(({ from, cause }) => ({ from, cause })),
    [{ from: 1, cause: 'waiting' }],
  )
})

const CAUSES: readonly (readonly [drawing: string, causes: string])[] = [
  ['+ xxx -', 'waiting'],
  ['+ - xxx', 'unreachable'],
  ['+ - x -', 'waiting'],
  // The recovery fails with a cause of its own.
  ['+ - ++ x', 'unreachable'],
  ['+ xxx ++ -', 'waiting'],
  ['+ xxx ++ - ++++++', 'waiting'],
]
for (const [drawing, cause] of CAUSES) {
  test(`an outage has its latest cause, in the file too: ${drawing} has ${cause}`, t => {
    const { see, outageLog, reopened } = keepingOutageLog(t)
    see(drawing)
    assert.deepEqual(
      outageLog.outages().map(outage => outage.cause),
      [cause],
    )
    assert.deepEqual(
      reopened().outages.map(outage => outage.cause),
      [cause],
    )
  })
}

test('every time in which the metadata cannot be read is an unreachable period, whether or not it opened the circuit', t => {
  const { see, outageLog } = keepingOutageLog(t)
  see('+ x + xx + - x - x')
  assert.deepEqual(periodsOf(outageLog.unreachablePeriods()), ['10-', '8-9', '4-6', '2-3'])
})

test('a late reading neither starts nor ends an unreachable period', t => {
  const { see, breaker, outageLog } = keepingOutageLog(t)
  see('+ x')
  breaker.observe({ at: 1500, source: 'probe', kind: 'ready', metadata: {} })
  assert.deepEqual(periodsOf(outageLog.unreachablePeriods()), ['2-'])
  see('+')
  breaker.observe({ at: 2500, source: 'probe', kind: 'unreachable', problem: 'slow' })
  assert.deepEqual(periodsOf(outageLog.unreachablePeriods()), ['2-3'])
})

test('when a listener is notified of a transition, it is already in the file', t => {
  const { breaker, see, reopened } = keepingOutageLog(t)
  const found: (string | null | undefined)[] = []
  breaker.on('transition', ({ from, to }) => {
    const last = reopened().outages.at(-1)
    found.push(`${from} ${to}: ${last?.endedAt === null ? 'in progress' : last && 'ended'}`)
  })
  see('+ - +++++++')
  assert.deepEqual(found, [
    'open closed: undefined',
    'closed open: in progress',
    'open half-open: in progress',
    'half-open closed: ended',
  ])
})

test('refusals and operations are counted for the outage in progress, except those of an override', t => {
  const { breaker, see, pass, outageLog } = keepingOutageLog(t)
  see('+ -')
  for (let attempt = 0; attempt < 4; attempt += 1) {
    ask(breaker)
    pass(3000)
  }
  breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 60 }, OPERATOR)
  const forced = breaker.decide()
  assert.ok(!forced.admitted)
  breaker.refused(forced, { ...CLIENT, address: '192.0.2.8' })
  assert.deepEqual(countsOf(outageLog), [{ refused: 4, operations: 1 }])
})

test('the next outage counts its own operations, also of a client that sent the same request just before', t => {
  const { breaker, see, outageLog } = keepingOutageLog(t)
  see('+ -')
  ask(breaker)
  see('+++++++ -')
  ask(breaker)
  ask(breaker)
  assert.deepEqual(countsOf(outageLog), [
    { refused: 2, operations: 1 },
    { refused: 1, operations: 1 },
  ])
})

test('in mode observe nothing is refused, and the outage counts the requests that would have been', t => {
  const { breaker, see, change, outageLog } = keepingOutageLog(t)
  change({ mode: 'observe' })
  see('+ -')
  ask(breaker)
  assert.deepEqual(countsOf(outageLog), [{ refused: 0, operations: 1 }])
  assert.equal(outageLog.current()?.wouldRefuse, 1)
})

test('refusals count as spared while the fiber is missing, not while focus-server is unreachable or an override refuses', t => {
  const { breaker, see, outageLog } = keepingOutageLog(t)
  see('+-')
  ask(breaker)
  see('xxx')
  ask(breaker)
  ask(breaker)
  see('-++')
  breaker.setOverride({ state: 'open', reason: 'a test', forSeconds: 60 }, OPERATOR)
  ask(breaker)
  const { cause, causeSince, refused, spared } = outageLog.current() ?? {}
  assert.deepEqual(
    { cause, causeSince, refused, spared },
    { cause: 'waiting', causeSince: 6000, refused: 3, spared: 1 },
  )
})

test('counts are on disk after a second, in one line however many there are, and at once at shutdown', t => {
  const { breaker, see, pass, file, reopened, lines } = keepingOutageLog(t)
  see('+ -')
  const before = lines()
  for (let attempt = 0; attempt < 1000; attempt += 1) ask(breaker)
  assert.equal(lines(), before)
  pass(1000)
  assert.equal(lines(), before + 1)
  assert.equal(reopened().outages[0]?.refused, 1000)
  pass(60_000, 1000)
  assert.equal(lines(), before + 1, 'a line was written although nothing was refused')
  ask(breaker)
  file.close()
  assert.equal(reopened().outages[0]?.refused, 1001)
})

test('an outage in progress at a restart continues as the same one, with its counts', t => {
  const before = keepingOutageLog(t)
  before.see('+ xxx')
  for (let attempt = 0; attempt < 7; attempt += 1) ask(before.breaker)
  before.pass(1000)
  const after = keepingOutageLog(t, before.path)
  after.pass(60_000)
  assert.equal(after.outageLog.current()?.restarts, 0, 'no reading has shown yet that it continues')
  after.see('--')
  ask(after.breaker)
  assert.deepEqual(shown(after.outageLog.outages()), [
    { from: 4, to: null, cause: 'waiting', openedBy: 'unreachable at 4', closedBy: null, restarts: 1 },
  ])
  assert.deepEqual(countsOf(after.outageLog), [{ refused: 8, operations: 2 }])
  assert.deepEqual(periodsOf(after.outageLog.unreachablePeriods()), ['2-61'])
  after.see('+++++++')
  assert.deepEqual(
    shown(after.reopened().outages).map(({ from, to, restarts }) => ({ from, to, restarts })),
    [{ from: 4, to: 67, restarts: 1 }],
  )
})

test('an outage that ended while the program was stopped ends with the first reading', t => {
  const before = keepingOutageLog(t)
  before.see('+ -')
  const after = keepingOutageLog(t, before.path)
  after.pass(60_000)
  after.see('+')
  assert.deepEqual(
    shown(after.reopened().outages).map(({ from, to, restarts }) => ({ from, to, restarts })),
    [{ from: 2, to: 61, restarts: 0 }],
  )
})

test('a restart without an outage neither starts nor ends one', t => {
  const before = keepingOutageLog(t)
  before.see('+ - +++++++ ++')
  const first = before.outageLog.outages()
  const after = keepingOutageLog(t, before.path)
  after.pass(60_000)
  after.see('++')
  assert.deepEqual(shown(after.outageLog.outages()), shown(first))
  after.see('-')
  assert.equal(after.outageLog.outages().length, 2)
})

test('the latest ten thousand outages and thousand unreachable periods are remembered', t => {
  const { breaker, see } = setUpWithTimers(t)
  const outageLog = new OutageLog()
  outageLog.attach(breaker)
  see('+')
  for (let count = 0; count < 10_050; count += 1) see('xxx +++++')
  assert.equal(outageLog.outages().length, 10_000)
  assert.equal(outageLog.unreachablePeriods().length, 1000)
  assert.equal(outageLog.outages().at(-1)?.startedAt, (1 + 50 * 8 + 3) * 1000)
})

test('an outage without a recorded end ends no later than the start of the next one', t => {
  const { see, outageLog, path } = keepingOutageLog(t)
  see('+ - +++++++ - +++++++ -')
  const [version, ...lines] = readFileSync(path, 'utf8').trimEnd().split('\n')
  const endless = lines.filter(line => !line.includes('"closedBy":{'))
  assert.equal(endless.length, 3)
  writeFileSync(path, [version, ...endless].map(line => `${line}\n`).join(''))
  const outages = keepingOutageLog(t, path).outageLog.outages()
  assert.deepEqual(
    shown(outages).map(({ from, to }) => ({ from, to })),
    shown(outageLog.outages()).map(({ from }, index, all) => ({ from, to: all[index - 1]?.from ?? null })),
  )
})

test('an outage that began in the future and was corrected stays one outage in the file', t => {
  const before = keepingOutageLog(t)
  before.pass(HOUR_MS)
  before.see('+ xxx')
  const text = readFileSync(before.path, 'utf8')
  const counts: number[] = []
  let startedAt: number | undefined
  for (const restarts of [1, 2]) {
    const after = keepingOutageLog(t, before.path, true)
    if (restarts === 1) assert.equal(after.outageLog.corrected.size, 2)
    // The current clock may be the wrong one, so reading does not change the file.
    if (restarts === 1) assert.equal(readFileSync(before.path, 'utf8'), text)
    after.pass(10_000 * restarts)
    after.see('x')
    counts.push(after.outageLog.outages().length, after.outageLog.unreachablePeriods().length)
    startedAt ??= after.outageLog.current()?.startedAt
    assert.equal(after.outageLog.current()?.startedAt, startedAt)
    assert.equal(after.outageLog.current()?.restarts, restarts)
    const { outages, unreachablePeriods, skippedLines } = after.reopened()
    assert.deepEqual(
      outages.map(outage => outage.startedAt),
      [startedAt],
    )
    counts.push(unreachablePeriods.length, skippedLines)
  }
  assert.deepEqual(counts, [1, 1, 1, 0, 1, 1, 1, 0])
})

/** An outage log that listens to a breaker as in the program, with the file of an earlier process. */
function keepingOutageLog(t: TestContext, earlier?: string, isClockBack = false) {
  if (earlier !== undefined) t.mock.timers.reset()
  const all = setUpWithTimers(t)
  const path = earlier ?? join(mkdtempSync(join(tmpdir(), 'focus-breaker-ledger-')), 'history.jsonl')
  t.after(() => rmSync(join(path, '..'), { recursive: true, force: true }))
  const fail = (error: unknown) => assert.fail(String(error))
  const file = new HistoryFile({
    file: path,
    // Each process starts at 0, like the breaker.
    clock: () => all.clock() + (isClockBack ? 0 : HOUR_MS),
    onFault: fail,
  })
  const outageLog = new OutageLog(file)
  const clientLog = new ClientLog(all.clock, () => outageLog.countOperation())
  outageLog.attach(all.breaker)
  clientLog.attach(all.breaker)
  file.attach(all.breaker)
  return {
    ...all,
    path,
    outageLog,
    /** The history as another process would read it. */
    reopened: () => keptIn(path),
    file,
    lines: () => readFileSync(path, 'utf8').trimEnd().split('\n').length,
  }
}

/** Times as whole seconds of the drawn history. */
function shown(outages: readonly Outage[]) {
  return outages.map(({ startedAt, endedAt, cause, openedBy, closedBy, restarts }) => ({
    from: startedAt / 1000,
    to: endedAt && endedAt / 1000,
    cause,
    openedBy: `${openedBy.kind} at ${openedBy.at / 1000}`,
    closedBy: closedBy && `${closedBy.kind} at ${closedBy.at / 1000}`,
    restarts,
  }))
}

function periodsOf(periods: readonly UnreachablePeriod[]): readonly string[] {
  return periods.map(({ from, to }) => `${from / 1000}-${to === null ? '' : to / 1000}`)
}

function countsOf(outageLog: OutageLog) {
  return outageLog.outages().map(({ refused, operations }) => ({ refused, operations }))
}
