import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Outage } from '../../src/domain/outage.js'
import { causesOf, type OutageDetail } from '../../src/domain/outage-detail.js'
import { plus, sumOf, totalOf } from '../../src/domain/refusal-counts.js'
import { OPERATOR } from '../support/breaker-set-up.js'
import { historyPath, runProcess } from '../support/kept-buckets.js'

const MINUTE = 60_000

test('an outage shows the states that its circuit entered, with the readings that caused them', () => {
  const { see, ...all } = runProcess(undefined, 0)
  see('+ - xxx ++ - ++ ++++')
  const { outage, detail } = newest(all)
  assert.deepEqual(
    detail.changes.map(({ at, state, cause, reading }) => [at, state, cause, reading?.kind, reading?.at]),
    [
      [2000, 'open', 'waiting', 'waiting', 2000],
      // The change of cause is dated by the first of three such readings.
      [3000, 'open', 'unreachable', 'unreachable', 5000],
      [7000, 'half-open', 'unreachable', 'ready', 7000],
      [8000, 'open', 'waiting', 'waiting', 8000],
      [10_000, 'half-open', 'waiting', 'ready', 10_000],
      [13_000, 'closed', null, 'ready', 13_000],
    ],
  )
  assert.deepEqual(causesOf(outage, detail.changes), [
    { cause: 'waiting', from: 2000, to: 3000 },
    { cause: 'unreachable', from: 3000, to: 8000 },
    { cause: 'waiting', from: 8000, to: 13_000 },
  ])
})

test('minutes, clients and test runs each add up to the refusals of their own outage', () => {
  const { see, ask, pass, ...all } = runProcess(undefined, 0)
  see('+ -')
  for (let attempt = 0; attempt < 100; attempt += 1) {
    ask({ address: `192.0.2.${attempt % 30}`, run: attempt % 3 === 0 ? `run-${attempt % 27}` : undefined })
    pass(3000)
  }
  see('++')
  // These are admitted.
  ask()
  ask()
  see('+++++++ -')
  ask()
  const [second, first] = all.outageLog.outages()
  assert.deepEqual([first?.refused, second?.refused], [100, 1])
  for (const outage of all.outageLog.outages()) assertSums(outage, all.details.of(outage))
  assert.equal(first?.spared, 100)
})

test('requests that were admitted while the circuit was half-open are listed, with the operation and the test run', () => {
  const { see, ask, pass, ...all } = runProcess(undefined, 0)
  see('+')
  ask()
  see('- ++')
  ask({ run: 'nightly', request: 'POST /configure 212' })
  pass(500)
  ask({ address: '192.0.2.8', request: 'POST /configure ' })
  see('++++')
  ask()
  const { detail } = newest(all)
  assert.deepEqual(
    detail.letIn.map(({ at, address, run, operation }) => [at, address, run, operation]),
    [
      [4000, '192.0.2.7', 'nightly', 'POST /configure'],
      [4500, '192.0.2.8', null, 'POST /configure'],
    ],
  )
  assert.equal(detail.letInTotal, 2)
})

test('refusals by an override do not belong to the outage', () => {
  const { see, ask, breaker, ...all } = runProcess(undefined, 0)
  see('+ -')
  ask()
  breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 60 }, OPERATOR)
  ask()
  ask()
  breaker.removeOverride(OPERATOR)
  ask()
  const { outage, detail } = newest(all)
  assert.equal(outage.refused, 2)
  assertSums(outage, detail)
  breaker.shutdown()
})

test('in mode observe the detail counts what would have been refused', () => {
  const { see, ask, ...all } = runProcess(undefined, 0, { mode: 'observe' })
  see('+ -')
  for (let attempt = 0; attempt < 5; attempt += 1) ask({ run: 'nightly' })
  const { outage, detail } = newest(all)
  assert.deepEqual([outage.refused, outage.wouldRefuse, outage.spared], [0, 5, 0])
  assertSums(outage, detail)
  assert.deepEqual(detail.runs.items, [{ run: 'nightly', refused: 0, wouldRefuse: 5 }])
})

for (const end of ['SIGTERM', 'kill -9'] as const) {
  test(`the detail of an outage continues after ${end}, and shows when focus-breaker was not running`, t => {
    const path = historyPath(t)
    const before = runProcess(path, 0)
    before.see('+ -')
    for (let attempt = 0; attempt < 40; attempt += 1) {
      before.ask({ address: `192.0.2.${attempt % 25}` })
      before.pass(MINUTE)
    }
    before.write()
    if (end === 'SIGTERM') before.close()
    else before.breaker.shutdown()

    const after = runProcess(path, 60 * MINUTE)
    const known = newest(after)
    assert.equal(known.outage.refused, 40)
    assertSums(known.outage, known.detail)
    after.see('-')
    after.ask({ address: '192.0.2.24' })
    after.see('++ ++++')
    const { outage, detail } = newest(after)
    assert.equal(outage.refused, 41)
    assertSums(outage, detail)
    assert.deepEqual(
      detail.changes.map(({ at, state, cause }) => [at, state, cause]),
      [
        [2000, 'open', 'waiting'],
        [2000 + 40 * MINUTE, null, null],
        [60 * MINUTE + 1000, 'open', 'waiting'],
        [60 * MINUTE + 3000, 'half-open', 'waiting'],
        [60 * MINUTE + 6000, 'closed', null],
      ],
    )
    assert.equal(detail.minutes.counts.length, 41)
    assert.deepEqual(causesOf(outage, detail.changes), [
      { cause: 'waiting', from: 2000, to: 60 * MINUTE + 6000 },
    ])
    after.close()
  })
}

test('after a clock was ahead, the times of the detail are in the past, and nothing is lost', t => {
  const path = historyPath(t)
  const before = runProcess(path, 600 * MINUTE)
  before.see('+ -')
  for (let attempt = 0; attempt < 10; attempt += 1) {
    before.ask()
    before.pass(MINUTE)
  }
  before.close()
  const now = 300 * MINUTE
  const after = runProcess(path, now)
  const known = newest(after)
  assert.equal(known.outage.refused, 10)
  assertSums(known.outage, known.detail)
  after.see('-')
  after.ask()
  after.see('++ ++++')
  const { outage, detail } = newest(after)
  assert.equal(outage.refused, 11)
  assertSums(outage, detail)
  assert.ok(detail.changes.every(({ at }) => at <= after.clock()))
  assert.ok(detail.minutes.counts.every(({ minute }) => minute * MINUTE <= after.clock()))
  after.close()
})

test('the details of the newest 1,000 outages are remembered', () => {
  const { see, ask, ...all } = runProcess(undefined, 0)
  see('+')
  for (let outage = 0; outage < 1005; outage += 1) {
    see('-')
    ask()
    see('+++++')
  }
  const outages = all.outageLog.outages()
  assert.equal(outages.length, 1005)
  for (const outage of outages.slice(0, 1000)) assertSums(outage, all.details.of(outage))
  assert.ok(outages.slice(1000).every(outage => all.details.of(outage) === undefined))
})

function newest({ outageLog, details }: Pick<ReturnType<typeof runProcess>, 'outageLog' | 'details'>) {
  const [outage] = outageLog.outages()
  assert.ok(outage !== undefined)
  const detail = details.of(outage)
  assert.ok(detail !== undefined)
  return { outage, detail }
}

function assertSums({ refused, wouldRefuse }: Outage, detail: OutageDetail | undefined): void {
  assert.ok(detail !== undefined)
  const whole = { refused, wouldRefuse }
  assert.deepEqual(sumOf(detail.minutes.counts), whole)
  assert.deepEqual(totalOf(detail.clients), whole)
  assert.deepEqual(plus(totalOf(detail.runs), detail.withoutRun), whole)
}
