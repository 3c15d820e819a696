import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { makeCore } from '../src/assembly/core.js'
import { observe } from '../src/assembly/observers.js'
import { load } from '../src/config/load.js'
import { replaceFile } from '../src/outages/replace-file.js'
import { yearOfHistory } from './year-of-history.js'

/** Prints the cost of a start with a year of history: 10,000 outages, their clients, and every minute of six hours. */

const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-year-'))
try {
  const file = join(directory, 'history.jsonl')
  replaceFile(file, [...yearOfHistory(Date.now())].join(''))
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
