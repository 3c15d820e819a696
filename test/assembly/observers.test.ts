import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { pino } from 'pino'
import { makeCore } from '../../src/assembly/core.js'
import { observe } from '../../src/assembly/observers.js'
import { load } from '../../src/config/load.js'
import { Notifier } from '../../src/notifications/notifier.js'
import { ChangeLog } from '../../src/observability/change-log.js'
import { ClientLog } from '../../src/observability/client-log.js'
import { EventRing } from '../../src/observability/event-ring.js'
import { LogSummary } from '../../src/observability/log-summary.js'
import { Metrics } from '../../src/observability/metrics.js'
import { RecentHours } from '../../src/observability/recent-hours.js'
import { Runs } from '../../src/observability/runs.js'
import { Totals } from '../../src/observability/totals.js'
import { HistoryFile } from '../../src/outages/file.js'
import { OutageLog } from '../../src/outages/log.js'
import { OverrideLog } from '../../src/outages/override-log.js'
import { readings } from '../support/play.js'

/** The first stages of the assembly, with a history file. `onLine` is called with each log line. */
function stages(t: TestContext, onLine: (line: string, history: string) => void = () => undefined) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'history')
  const environment = {
    FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1',
    FOCUS_BREAKER_HISTORY_FILE: file,
  }
  const loaded = load({ environment })
  assert.ok(loaded.ok)
  const write = (line: string) => onLine(line, existsSync(file) ? readFileSync(file, 'utf8') : '')
  const core = makeCore(loaded.config, pino({}, { write }), 'test')
  t.after(() => core.breaker.shutdown())
  const observers = observe(core, { linesDropped: () => 0 })
  t.after(() => observers.logSummary.close())
  t.after(() => observers.notifier.close())
  return { core, observers }
}

test('what the log reports is already in the history file', t => {
  const reported: [line: string, isEnded: boolean, state: string | undefined][] = []
  const { core } = stages(t, (line, history) => {
    const change = /circuit (opened|half-opened|closed)/.exec(line)?.[1]
    const states = [...history.matchAll(/"state":"([a-z-]+)"/g)].map(([, state]) => state)
    if (change !== undefined) reported.push([change, /"endedAt":"/.test(history), states.at(-1)])
  })
  const { breaker, clock } = core
  const startedAt = clock()
  for (const reading of readings('+-++')) breaker.observe({ ...reading, at: startedAt + reading.at })
  for (const reading of readings('+')) breaker.observe({ ...reading, at: startedAt + 60_000 })
  assert.deepEqual(reported, [
    ['opened', false, 'open'],
    ['half-opened', false, 'half-open'],
    ['closed', true, 'closed'],
  ])
})

test('everything that stores a change is called before anything that reports it', t => {
  const attached: string[] = []
  const classes = {
    OutageLog,
    OverrideLog,
    ClientLog,
    Runs,
    Totals,
    RecentHours,
    HistoryFile,
    Notifier,
    ChangeLog,
    LogSummary,
    Metrics,
    EventRing,
  }
  for (const [name, { prototype }] of Object.entries(classes)) {
    const attach = prototype.attach
    t.mock.method(prototype, 'attach', function (this: never, breaker: never) {
      attached.push(name)
      return Reflect.apply(attach, this, [breaker])
    })
  }
  stages(t)
  const keeping = ['OutageLog', 'OverrideLog', 'ClientLog', 'Runs', 'Totals', 'RecentHours']
  assert.equal(
    attached[keeping.length],
    'HistoryFile',
    'the history file is written after everything that stores the change is called',
  )
  assert.deepEqual(attached.slice(0, keeping.length).toSorted(), keeping.toSorted())
  assert.equal(attached.length, Object.keys(classes).length)
})
