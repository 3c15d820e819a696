import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { pino } from 'pino'
import { makeCore } from '../../src/assembly/core.js'
import { observe } from '../../src/assembly/observers.js'
import { load } from '../../src/config/load.js'
import { phaseOf } from '../../src/domain/timeline.js'
import { ask, CLIENT, OPERATOR } from '../support/breaker-set-up.js'
import { readings } from '../support/play.js'

const START = Date.parse('2026-01-31T08:00:00.000Z')

for (const end of ['a stop', 'kill -9'] as const) {
  test(`after ${end} all counts cover the same span as before, and agree with each other`, t => {
    const programs = programsOn(t)
    const first = programs.start()
    first.see('+ -')
    for (let count = 0; count < 10; count += 1) ask(first.core.breaker, { run: 'nightly' })
    for (let count = 0; count < 3; count += 1) ask(first.core.breaker, { userAgent: 'other' })
    first.observers.runs.forwarded('nightly')
    programs.pass(20_000)
    first.core.breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 600 }, OPERATOR)
    programs.pass(1000)
    first.core.breaker.removeOverride('192.0.2.10')
    const before = factsOf(first)
    assert.equal(before.refused, 13)
    if (end === 'a stop') first.core.historyFile?.close()
    programs.pass(60_000, false)

    const second = programs.start()
    const after = factsOf(second)
    const { states: _, ...counts } = before
    assert.deepEqual({ ...after, states: undefined }, { ...counts, states: undefined })
    // The time without a process is a separate span.
    assert.deepEqual(after.states, [...before.states, 'not-running', 'starting'])
    second.see('-')
    for (let count = 0; count < 7; count += 1) ask(second.core.breaker, { run: 'nightly' })
    const later = factsOf(second)
    for (const sum of [later.refused, later.ofMinutes, later.ofClients, later.ofOutages])
      assert.equal(sum, 20)
    assert.equal(later.run?.refused, 17)
    assert.equal(later.since, START)
    assert.deepEqual(
      second.core.breaker.pastOverrides.map(({ reason, end: how, endedBy }) => [reason, how, endedBy]),
      [['fiber work', 'removed', '192.0.2.10']],
    )
    // The killed process left its lock; there is no other file next to the history file.
    second.core.historyFile?.close()
    assert.deepEqual(readdirSync(programs.directory), ['history'])
  })
}

test('an override that expired while no process ran has ended on its own, and is in the history once', t => {
  const programs = programsOn(t)
  const first = programs.start()
  first.see('+')
  first.core.breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 60 }, OPERATOR)
  first.core.breaker.setOverride({ state: 'closed', reason: 'done', forSeconds: 60 }, OPERATOR)
  programs.pass(120_000, false)
  for (let restart = 0; restart < 2; restart += 1) {
    const { core } = programs.start()
    assert.equal(core.breaker.snapshot().override, null)
    // Its end is reported after the listeners are attached.
    programs.pass(10)
    assert.deepEqual(
      core.breaker.pastOverrides.map(({ reason, end }) => [reason, end]),
      [
        ['done', 'expired'],
        ['fiber work', 'replaced'],
      ],
    )
    core.historyFile?.close()
  }
})

test('without a history file all counts start with the process, and are reported as not kept', t => {
  const programs = programsOn(t, {})
  const { core, observers, see } = programs.start()
  see('+ -')
  ask(core.breaker)
  programs.pass(60_000)
  assert.deepEqual(core.lifetime.span, { since: new Date(START).toISOString(), kept: false })
  assert.equal(observers.recentHours.past().from, START)
})

/** Programs that use the same history file, one after another, with a mocked clock and timers. */
function programsOn(t: TestContext, environment?: Readonly<Record<string, string>>) {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-counts-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const loaded = load({
    environment: {
      FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1',
      ...(environment ?? { FOCUS_BREAKER_HISTORY_FILE: join(directory, 'history') }),
    },
  })
  assert.ok(loaded.ok)
  const { config } = loaded
  let now = START
  const start = () => {
    const core = makeCore(config, pino({ level: 'silent' }), 'test', () => now)
    const observers = observe(core, { linesDropped: () => 0 })
    t.after(() => {
      core.breaker.shutdown()
      observers.logSummary.close()
      return observers.notifier.close()
    })
    const see = (drawing: string) => {
      for (const reading of readings(drawing, now)) {
        now = reading.at
        core.breaker.observe(reading)
      }
    }
    return { core, observers, see }
  }
  return {
    directory,
    start,
    pass: (ms: number, withTimers = true) => {
      now += ms
      if (withTimers) t.mock.timers.tick(ms)
    },
  }
}

type Program = ReturnType<ReturnType<typeof programsOn>['start']>

function factsOf({ core, observers }: Program) {
  const sum = (counts: readonly number[]) => counts.reduce((all, count) => all + count, 0)
  const { refused, states } = observers.recentHours.past()
  const { probes: _, ...totals } = observers.totals.counts()
  return {
    ...totals,
    ofMinutes: sum(refused.map(minute => minute.refused)),
    ofClients: sum(observers.clientLog.list().map(({ attempts }) => attempts.attempts)),
    ofOutages: sum(core.outageLog.outages().map(outage => outage.refused)),
    run: observers.runs.get('nightly'),
    clients: observers.clientLog
      .list()
      .map(({ userAgent, attempts }) => `${userAgent}: ${attempts.attempts}, ${attempts.operations}`)
      .toSorted(),
    since: core.lifetime.since,
    states: states.map(phaseOf),
    address: CLIENT.address,
  }
}
