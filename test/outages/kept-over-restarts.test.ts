import assert from 'node:assert/strict'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { ClientLog } from '../../src/observability/client-log.js'
import { RecentHours } from '../../src/observability/recent-hours.js'
import { Runs } from '../../src/observability/runs.js'
import { Totals } from '../../src/observability/totals.js'
import { Buckets } from '../../src/outages/buckets.js'
import { OutageDetails } from '../../src/outages/details.js'
import { HistoryFile } from '../../src/outages/file.js'
import { Lifetime } from '../../src/outages/lifetime.js'
import { OutageLog } from '../../src/outages/log.js'
import { OverrideLog } from '../../src/outages/override-log.js'
import { RefusalBatches } from '../../src/outages/refusal-batches.js'
import { CLIENT, setUp } from '../support/breaker-set-up.js'
import { historyPath } from '../support/kept-buckets.js'

const HOUR_MS = 3_600_000

test('after a restart all counts of refusals, also those of mode observe, continue', t => {
  const path = historyPath(t)
  const first = startProcess(t, path)
  first.see('+-')
  first.ask(3)
  first.change({ mode: 'observe' })
  first.ask(4)
  first.runs.forwarded('nightly')
  first.totals.forwarded()
  const before = first.counts()
  first.history.close()
  const second = startProcess(t, path, HOUR_MS)
  assert.deepEqual(second.counts(), before)
  second.change({ mode: 'observe' })
  second.ask(2)
  second.change({ mode: 'enforce' })
  second.ask(1)
  assert.deepEqual(second.counts(), {
    client: { attempts: 10, wouldRefuse: 6 },
    run: { forwarded: 1, refused: 4, wouldRefuse: 6 },
    totals: { forwarded: 1, refused: 4, wouldRefuse: 6 },
    outage: { refused: 4, wouldRefuse: 6 },
    minutes: { refused: 4, wouldRefuse: 6 },
  })
})

test('a flood of invented clients and test runs with long names neither exceeds the size limit nor displaces the real ones', t => {
  const path = historyPath(t)
  const first = startProcess(t, path)
  first.see('+-')
  first.ask(20)
  let largest = 0
  for (let round = 0; round < 20; round += 1) {
    for (let index = 0; index < 500; index += 1) {
      const number = round * 500 + index
      first.ask(1, {
        address: `192.0.2.${number % 250}:${number}`,
        userAgent: `${number} ${'é'.repeat(200)}`,
        run: `${number}-${'x'.repeat(50)}`,
      })
    }
    first.history.write()
    largest = Math.max(largest, statSync(path).size)
  }
  assert.ok(largest <= 16 * 1_048_576, `${largest} bytes`)
  first.history.close()
  const second = startProcess(t, path, HOUR_MS)
  assert.deepEqual([second.counts().client?.attempts, second.counts().run?.refused], [20, 20])
  assert.equal(second.counts().totals.refused, 10_020)
})

test('whatever a record of any kind contains, neither the start nor the next write fails', t => {
  const path = historyPath(t)
  const first = startProcess(t, path)
  first.see('+-')
  first.ask(2)
  const set = { state: 'open', reason: 'a test', forSeconds: 3600 } as const
  first.breaker.setOverride(set, '192.0.2.9')
  first.pass(1000)
  first.breaker.setOverride({ ...set, reason: 'another' }, '192.0.2.9')
  first.history.close()
  const text = readFileSync(path, 'utf8')
  const spoilers: readonly ((text: string) => string)[] = [
    each => each.replaceAll(/"\d{4}-\d\d-\d\dT[^"]*"(?=[,}])/g, '"2016-12-31T23:59:60Z"'),
    each => each.replaceAll(/"\d{4}-\d\d-\d\dT[^"]*"(?=:)/g, '"no time"'),
    each => each.replaceAll(/"countedTo":"[^"]*"/g, '"countedTo":"0000-01-01T00:00:00Z"'),
    each => each.replaceAll(/"\d{4}-\d\d-\d\dT[^"]*"/g, '"9999-12-31T23:59:59.999Z"'),
    each => each.replaceAll(/"\d{4}-\d\d-\d\dT[^"]*"/g, '"0000-01-01T00:00:00Z"'),
    each => each.replaceAll(/(?<!"v"):\d+(?=[,}])/g, ':1e308'),
    each => each.replaceAll('"nightly"', '"__proto__"'),
    each => each.replaceAll(/"(192[^"]*)"/g, '"constructor"'),
    each => each.replaceAll(/(\{[^{}]*\})/g, '[$1]'),
    each => each.replaceAll(/(\{[^{}]*\})/g, `${'['.repeat(20_000)}$1${']'.repeat(20_000)}`),
    each => `${each}{"v":2,"run":{"x":${'{"y":'.repeat(20_000)}1${'}'.repeat(20_000)}}}\n`,
    each => `${each}${'{"v":2,"outage":'.repeat(1000)}\n`,
    each => each.replaceAll('\n', '\0\n'),
  ]
  for (const [index, spoil] of spoilers.entries()) {
    const [header = '', ...lines] = text.split('\n')
    writeFileSync(path, `${header}\n${spoil(lines.join('\n'))}`)
    for (const at of [HOUR_MS, 2 * HOUR_MS]) {
      const next = startProcess(t, path, at)
      next.see('-')
      next.ask(1)
      next.counts()
      next.history.close()
      assert.deepEqual(next.faults, [], `spoiler ${index}`)
    }
  }
})

/** The keepers that count, in one process. */
function startProcess(t: TestContext, path: string, at = 0) {
  const all = setUp({}, {}, at)
  const { breaker, clock } = all
  const faults: unknown[] = []
  const history = new HistoryFile({ file: path, clock, onFault: error => faults.push(error) })
  t.after(() => history.close())
  const lifetime = new Lifetime(clock(), history)
  const outageLog = new OutageLog(history)
  const clientLog = new ClientLog(clock, () => outageLog.countOperation(), history)
  const runs = new Runs(clock, history)
  const totals = new Totals(history)
  const recentHours = new RecentHours(breaker, clock, { store: history, lifetime })
  const overrideLog = new OverrideLog(history)
  const batches = new RefusalBatches(clock, outageLog)
  const buckets = new Buckets({ outageLog, batches, clock, store: history, phase: () => 'waiting' })
  const details = new OutageDetails({ outageLog, batches, stoppedAt: buckets.stoppedAt, store: history })
  const keeping = [outageLog, batches, details, buckets, overrideLog, clientLog, runs, totals, recentHours]
  for (const each of [...keeping, history]) each.attach(breaker)
  return {
    ...{ ...all, history, runs, totals, overrideLog, faults },
    ask(times: number, more: Partial<typeof CLIENT> = {}) {
      for (let count = 0; count < times; count += 1) {
        const decision = breaker.decide()
        if (!decision.admitted) breaker.refused(decision, { ...CLIENT, run: 'nightly', ...more })
      }
    },
    counts() {
      const known = clientLog.list().find(({ address }) => address === CLIENT.address)?.attempts
      const run = runs.get('nightly')
      const outage = outageLog.outages()[0]
      const minutes = recentHours.past().refused
      buckets.buckets()
      if (outage !== undefined) details.of(outage)
      const { forwarded, refused, wouldRefuse } = totals.counts()
      return {
        client: known && { attempts: known.attempts, wouldRefuse: known.wouldRefuse },
        run: run && { forwarded: run.forwarded, refused: run.refused, wouldRefuse: run.wouldRefuse },
        totals: { forwarded, refused, wouldRefuse },
        outage: outage && { refused: outage.refused, wouldRefuse: outage.wouldRefuse },
        minutes: {
          refused: minutes.reduce((sum, each) => sum + each.refused, 0),
          wouldRefuse: minutes.reduce((sum, each) => sum + each.wouldRefuse, 0),
        },
      }
    },
  }
}
