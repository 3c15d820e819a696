import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { makeCore } from '../src/assembly/core.js'
import { observe } from '../src/assembly/observers.js'
import { load } from '../src/config/load.js'
import { rfc3339 } from '../src/domain/time.js'
import { HEADER, historyLine } from '../src/outages/history-text.js'
import { replaceFile } from '../src/outages/replace-file.js'

/** Prints what it costs to start with a year of history: 10,000 outages, their clients, and every minute of six hours. */

const OUTAGES = 10_000
const YEAR_MS = 365 * 86_400_000
const now = Date.now()

function* lines(): Iterable<string> {
  const line = (kind: string, key: string, record: object) => historyLine(new Map([[kind, [[key, record]]]]))
  yield HEADER
  for (let index = 0; index < OUTAGES; index += 1) {
    const at = rfc3339(now - YEAR_MS + (index * YEAR_MS) / OUTAGES)
    const to = rfc3339(Date.parse(at) + 300_000)
    const kind = index % 3 === 0 ? 'unreachable' : 'waiting'
    const what = kind === 'waiting' ? { missing: ['prr', 'sw_version'] } : { problem: 'connection refused' }
    yield line('outage', at, {
      ...{ startedAt: at, endedAt: to, cause: kind, causeSince: at },
      openedBy: { kind, at, source: 'probe', ...what },
      closedBy: { kind: 'ready', at: to, source: 'probe' },
      ...{ refused: 480, wouldRefuse: 0, operations: 12, spared: 480, restarts: 0 },
    })
  }
  for (let index = 0; index < 1000; index += 1) {
    const from = rfc3339(now - YEAR_MS + index * 1000)
    yield line('unreachable', from, { from, to: from, problem: 'connection refused' })
    const address = `192.0.2.${index}`
    const times = { first: from, last: from, attempts: 40, operations: 9, intervals: [1000, 2000, 1500] }
    yield line('client', JSON.stringify([address, 'python-requests/2.32']), {
      ...{ address, userAgent: 'python-requests/2.32', ...times },
    })
    yield line('run', `run-${index}`, { forwarded: 10, refused: 30, first: from, last: from })
    const state = { from, state: 'open', cause: 'waiting', override: null }
    yield line('state', from, state)
  }
  for (let index = 0; index < 360; index += 1) {
    const minute = rfc3339(Math.floor(now / 60_000 - index) * 60_000)
    yield line('minute', minute, { minute, refused: 100, wouldRefuse: 0 })
  }
}

const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-year-'))
try {
  const file = join(directory, 'history.jsonl')
  replaceFile(file, [...lines()].join(''))
  const loaded = load({
    environment: { FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1', FOCUS_BREAKER_HISTORY_FILE: file },
  })
  if (!loaded.ok) throw new Error(JSON.stringify(loaded.faults))
  const { config } = loaded
  const before = process.cpuUsage()
  const core = makeCore(config, pino({ level: 'silent' }), 'bench')
  const observers = observe(core, { linesDropped: () => 0 })
  const { user, system } = process.cpuUsage(before)
  const outages = core.outageLog.outages().length
  console.log(
    `${outages} outages in ${statSync(file).size} bytes: loaded in ${Math.round((user + system) / 1000)} ms of CPU`,
  )
  observers.logSummary.close()
  await observers.notifier.close()
  core.breaker.shutdown()
  core.historyFile?.close()
} finally {
  rmSync(directory, { recursive: true })
}
