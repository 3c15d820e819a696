import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Outcome } from '../../src/breaker/breaker.js'
import {
  answered,
  forwards,
  hold,
  missingFiber,
  NothingLearnedError,
  OPERATOR,
  run,
  setUp,
} from '../support/breaker-set-up.js'
import { readings, thresholds } from '../support/play.js'

test("focus-server's word that the fiber is missing opens at once, whatever the thresholds", async () => {
  const { breaker, told, see, pass } = setUp({ thresholds: { waiting: 9, unreachable: 9, ready: 9 } })
  see('+')
  pass(500)
  told.length = 0
  await run(breaker, async () => ({ kind: 'missing-fiber', missing: ['prr', 'dx'] }))
  const expected = { at: 1500, source: 'configure', kind: 'waiting', metadata: {}, missing: ['prr', 'dx'] }
  assert.deepEqual(breaker.snapshot().reading, expected)
  assert.deepEqual(told, ['waiting by configure', 'closed to open, waiting, after 0 ms', 'doubt'])
  assert.equal(await forwards(breaker), false)
})

test('of many requests in flight the first such answer opens, and the others change nothing', async () => {
  const { breaker, told, see } = setUp()
  see('+')
  const held = Array.from({ length: 5 }, () => hold(breaker))
  told.length = 0
  for (const { end } of held) await end(missingFiber)
  const readingsTold = told.filter(line => line !== 'doubt')
  assert.deepEqual(readingsTold, ['waiting by configure', 'closed to open, waiting, after 0 ms'])
  assert.equal(breaker.snapshot().streak, 1)
})

test('such an answer to a request from before a transition raises a doubt alone', async () => {
  for (const [since, states] of [
    ['-', 'open'],
    ['-++', 'half-open'],
    ['-+++++', 'closed'],
  ] as const) {
    const { breaker, told, see, state } = setUp()
    see('+')
    const old = hold(breaker)
    see(since)
    assert.equal(state(), states)
    const before = breaker.snapshot()
    told.length = 0
    await old.end(missingFiber)
    assert.deepEqual(told, ['doubt'])
    assert.deepEqual(breaker.snapshot(), { ...before, inFlight: 0 })
    see('+')
    assert.equal(breaker.disagreement, null)
  }
})

test('such an answer in a recovery ends it, and the outage goes on as the same', async () => {
  const { breaker, told, see, pass } = setUp({ thresholds: { ...thresholds, waiting: 9 } })
  see('+xxx++')
  pass(700)
  told.length = 0
  await run(breaker, async () => missingFiber)
  assert.deepEqual(told, ['waiting by configure', 'half-open to open, waiting, after 2700 ms', 'doubt'])
})

test('such an answer under an override starts the count of good readings anew', async () => {
  const { breaker, see, state } = setUp()
  see('+-+')
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, OPERATOR)
  await run(breaker, async () => missingFiber)
  see('+')
  assert.equal(state(), 'open')
  see('+')
  assert.equal(state(), 'half-open')
})

test('in mode observe such an answer opens the circuit too', async () => {
  const { breaker, see, state } = setUp({ mode: 'observe' })
  see('+')
  await run(breaker, async () => missingFiber)
  assert.equal(state(), 'open')
})

test('a probe that was under way when the answer came does not take it back', async () => {
  const { breaker, see, pass, state } = setUp({ thresholds: { ...thresholds, ready: 1 } })
  see('+')
  pass(300)
  await run(breaker, async () => missingFiber)
  for (const probe of readings('+')) breaker.observe({ ...probe, at: 1299 })
  assert.equal(state(), 'open')
  for (const probe of readings('+')) breaker.observe({ ...probe, at: 1301 })
  assert.equal(state(), 'half-open')
})

const DOUBTS: readonly (readonly [that: string, forward: () => Promise<Outcome>, doubts: number])[] = [
  ...[500, 501, 502, 503, 504, 599].map(code => [`a ${code}`, async () => answered(code), 1] as const),
  ...[200, 201, 208, 304, 400, 404, 422, 429, 499].map(
    code => [`a ${code}`, async () => answered(code), 0] as const,
  ),
  ['a reset', () => Promise.reject(new Error('reset')), 1],
  ['an error that is none', () => Promise.reject('reset'), 1],
  ['a client that left before its request was sent', () => Promise.reject(new NothingLearnedError()), 0],
]

for (const mode of ['enforce', 'observe'] as const) {
  for (const [that, forward, doubts] of DOUBTS) {
    test(`${that} raises ${doubts === 0 ? 'no doubt' : 'a doubt'}, and is no reading (${mode})`, async () => {
      const { breaker, told, see } = setUp({ mode })
      see(mode === 'enforce' ? '+' : '-')
      const before = breaker.snapshot()
      told.length = 0
      await run(breaker, forward)
      assert.deepEqual(told, Array(doubts).fill('doubt'))
      assert.deepEqual(breaker.snapshot(), before)
    })
  }
}

test('a place is told free once for each request that was forwarded, when it is free', async () => {
  const { breaker, see } = setUp({ maxConcurrency: 4 })
  see('+')
  const free: number[] = []
  breaker.on('freed', () => free.push(breaker.snapshot().inFlight))
  const held = Array.from({ length: 4 }, () => hold(breaker))
  assert.equal(await forwards(breaker), false)
  assert.deepEqual(free, [])
  await held[0]?.end(answered(200))
  await held[1]?.fail(new Error('reset'))
  await held[2]?.fail(new NothingLearnedError())
  await held[3]?.end(missingFiber)
  assert.deepEqual(free, [3, 2, 1, 0])
})

/** A breaker that heard of a missing fiber from a configure, at 1000, and of nothing else since. */
async function denied() {
  const all = setUp()
  all.see('+')
  await run(all.breaker, async () => missingFiber)
  all.told.length = 0
  return {
    ...all,
    /** How often the disagreement was told. */
    disagreements: () => all.told.filter(line => line.startsWith('disagreement')),
  }
}

test('metadata that says ready against configure is told once, with its beginning', async () => {
  const { breaker, told, see, disagreements } = await denied()
  assert.equal(breaker.disagreement, null)
  see('+')
  assert.deepEqual(told, ['ready', 'disagreement since 1000: prr'])
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
  see('+++')
  assert.equal(disagreements().length, 1)
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
})

test('metadata that a client fetched counts in it as a probe does', async () => {
  const { breaker, disagreements } = await denied()
  for (const reading of readings('+', 1000)) breaker.observe({ ...reading, source: 'client' })
  assert.deepEqual(disagreements(), ['disagreement since 1000: prr'])
})

test('a second such answer of configure goes on with the same disagreement', async () => {
  const { breaker, see, disagreements, state } = await denied()
  see('++')
  assert.equal(state(), 'half-open')
  await run(breaker, async () => ({ kind: 'missing-fiber', missing: ['dx'] }))
  assert.equal(state(), 'open')
  see('++')
  assert.deepEqual(disagreements(), ['disagreement since 1000: prr'])
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
})

test('a disagreement began with the first such answer of configure', async () => {
  const { breaker, see, pass } = setUp({ mode: 'observe' })
  see('+')
  await run(breaker, async () => missingFiber)
  pass(500)
  await run(breaker, async () => ({ kind: 'missing-fiber', missing: ['dx'] }))
  see('+')
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
})

test('metadata that says waiting ends the disagreement, and before it there is none', async () => {
  const before = await denied()
  before.see('-+++')
  assert.deepEqual([before.breaker.disagreement, before.disagreements()], [null, []])
  const after = await denied()
  after.see('+-')
  assert.equal(after.breaker.disagreement, null)
  after.see('+++')
  assert.equal(after.disagreements().length, 1)
})

test('a configure that succeeds ends the disagreement, and the next one is told anew', async () => {
  for (const code of [200, 201, 208]) {
    const { breaker, see, disagreements } = await denied()
    see('++')
    await run(breaker, async () => answered(code))
    assert.equal(breaker.disagreement, null)
    see('+')
    assert.equal(disagreements().length, 1)
    await run(breaker, async () => missingFiber)
    see('+')
    assert.deepEqual(disagreements(), ['disagreement since 1000: prr', 'disagreement since 4000: prr'])
  }
})

test('a configure that fails for another reason does not end the disagreement', async () => {
  for (const code of [304, 400, 404, 422, 500, 503]) {
    const { breaker, see } = await denied()
    see('++')
    await run(breaker, async () => answered(code))
    assert.notEqual(breaker.disagreement, null)
  }
})

test('metadata that cannot be read is no agreement', async () => {
  const during = await denied()
  during.see('+x')
  assert.notEqual(during.breaker.disagreement, null, 'one slow probe ended the disagreement')
  const before = await denied()
  before.see('x+')
  assert.equal(before.disagreements().length, 1, 'one slow probe made configure forgotten')
})

test('a configure from before the outage that succeeds late says nothing of the disagreement', async () => {
  const { breaker, see } = setUp()
  see('+')
  const old = hold(breaker)
  await run(breaker, async () => missingFiber)
  see('+')
  assert.notEqual(breaker.disagreement, null)
  await old.end(answered(200))
  assert.notEqual(breaker.disagreement, null, 'an answer of an earlier state ended the disagreement')
})

for (const [that, needsFiber, outcome, ends] of [
  ['a live job', true, answered(200), true],
  ['a historic job that the circuit lets through', false, answered(200), false],
  ['a historic job that a closed circuit admits', true, { ...answered(200), isHistoric: true }, false],
  ['a job that is known to be live', true, { ...answered(200), isHistoric: false }, true],
] as const) {
  test(`the success of ${that} ${ends ? 'ends' : 'does not end'} a disagreement`, async () => {
    const { breaker, see } = await denied()
    see('++')
    await run(breaker, async () => outcome, needsFiber)
    assert.equal(breaker.disagreement === null, ends)
  })
}

const LETS_PASS = {
  'mode observe': () => setUp({ mode: 'observe' }),
  'an override closed': () => {
    const all = setUp()
    all.breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, OPERATOR)
    return all
  },
} as const

for (const [that, make] of Object.entries(LETS_PASS)) {
  for (const [probe, words] of [
    ['+', 'ready'],
    ['-', 'waiting'],
    ['x', 'unreachable'],
  ] as const) {
    test(`under ${that} a probe that a failing configure overtakes is told: ${words}`, async () => {
      const { breaker, told, see, pass, state } = make()
      see('+')
      await run(breaker, async () => missingFiber)
      told.length = 0
      const overtaken = 5
      for (let count = 1; count <= overtaken; count += 1) {
        // It was sent before this configure failed, and its answer comes after.
        pass(1000)
        const sentAt = 1000 + count * 1000
        await run(breaker, async () => missingFiber)
        for (const reading of readings(probe)) breaker.observe({ ...reading, at: sentAt - 1 })
      }
      assert.equal(told.filter(line => line === words).length, overtaken)
      assert.equal(state(), 'open', 'what is older than the evidence moves nothing')
      assert.equal(breaker.snapshot().reading?.source, 'configure')
      assert.equal(
        breaker.disagreement !== null,
        probe === '+',
        'metadata and configure disagree all the same',
      )
    })
  }
}

test('a probe from before the first such answer of configure says nothing against it', async () => {
  const { breaker, disagreements, see } = await denied()
  for (const reading of readings('+')) breaker.observe({ ...reading, at: 999 })
  for (const reading of readings('-')) breaker.observe({ ...reading, at: 999 })
  assert.deepEqual([breaker.disagreement, disagreements()], [null, []])
  see('+')
  assert.equal(disagreements().length, 1)
})

test('a breaker that ignores readings takes none, of any source, and frees the places of what ends', async () => {
  const { breaker, told, see, state } = setUp()
  see('+')
  const held = [missingFiber, answered(500), answered(200)].map(outcome => ({ outcome, ...hold(breaker) }))
  breaker.ignoreReadings()
  told.length = 0
  see('-x-')
  for (const reading of readings('-', 5000)) breaker.observe({ ...reading, source: 'client' })
  for (const { end, outcome } of held) await end(outcome)
  assert.deepEqual(told, [])
  assert.equal(state(), 'closed')
  assert.equal(breaker.snapshot().inFlight, 0)
})

for (const [periodMs, afterMs, disagrees] of [
  [2000, 6000, true],
  [2000, 6001, false],
  [50, 150, true],
  [50, 151, false],
] as const) {
  test(`metadata ${afterMs} ms after the last such answer ${disagrees ? 'contradicts' : 'does not contradict'} it, with a period of ${periodMs} ms`, async () => {
    const { breaker, see } = setUp({ probePeriodMs: periodMs, mode: 'observe' })
    see('+')
    await run(breaker, async () => missingFiber)
    for (const reading of readings('+')) breaker.observe({ ...reading, at: 1000 + afterMs })
    assert.equal(breaker.disagreement !== null, disagrees)
    // What is forgotten does not come back with the next reading.
    for (const reading of readings('+')) breaker.observe({ ...reading, at: 1000 + afterMs })
    assert.equal(breaker.disagreement !== null, disagrees)
  })
}
