import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { at, circuitIs, startProxy } from '../support/harness.js'
import { ask, FAST } from '../support/http-client.js'
import { Page } from '../support/recipe-page.js'
import { simulate } from '../support/simulate.js'

const AT = '2026-01-31T08:30:00.000Z'
const VERSION_1 = `${JSON.stringify({
  outage: {
    ...{ startedAt: AT, endedAt: '2026-01-31T08:40:00.000Z', cause: 'waiting' },
    openedBy: { kind: 'waiting', at: AT, source: 'probe', missing: ['prr'] },
    closedBy: { kind: 'ready', at: '2026-01-31T08:40:00.000Z', source: 'probe' },
    ...{ refused: 7, operations: 2, restarts: 0 },
  },
})}\n`

test('an upgrade of the history file, a second process, and the rollback', async t => {
  const page = new Page('upgrading.md')
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-upgrading-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'history.jsonl')
  writeFileSync(file, VERSION_1)
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: file }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'open')
  assert.equal(at((await ask(`${proxy.url}/-/outages`)).json, 'outages', 1, 'refused'), 7)
  const [version = '', line = ''] = readFileSync(file, 'utf8').split('\n')
  assert.ok(page.text.includes(`\`${version}\``), version)
  assert.ok(line.startsWith('{"v":2,"'), line)
  assert.equal(readFileSync(`${file}.v1`, 'utf8'), VERSION_1)

  const second = await startProxy(t, { upstream: simulator.url, env })
  const warning = /`(another process [^`]+)`/.exec(page.text)?.[1] ?? assert.fail()
  assert.equal(second.logs().filter(({ msg }) => String(msg).startsWith(warning)).length, 1)
  await second.stop()
  await proxy.stop()

  const command = /`(mv [^`]+)`/.exec(page.text)?.[1] ?? assert.fail()
  execFileSync('/bin/sh', ['-c', command], { cwd: directory })
  assert.equal(readFileSync(file, 'utf8'), VERSION_1)
  assert.ok(readFileSync(`${file}.v2`, 'utf8').startsWith(version))
  page.assertAllTaken()
})
