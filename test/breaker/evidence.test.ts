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

test('a configure response that reports a missing fiber opens the circuit at once, whatever the thresholds', async () => {
  const { breaker, emitted, see, pass } = setUp({ thresholds: { waiting: 9, unreachable: 9, ready: 9 } })
  see('+')
  pass(500)
  emitted.length = 0
  await run(breaker, async () => ({ kind: 'missing-fiber', missing: ['prr', 'dx'] }))
  const expected = { at: 1500, source: 'configure', kind: 'waiting', metadata: {}, missing: ['prr', 'dx'] }
  assert.deepEqual(breaker.snapshot().reading, expected)
  assert.deepEqual(emitted, [
    'waiting by configure',
    'closed to open, waiting, after 0 ms',
    'probe requested',
  ])
  assert.equal(await forwards(breaker), false)
})

test('the first response that reports a missing fiber opens the circuit, and those of other requests in flight change nothing', async () => {
  const { breaker, emitted, see } = setUp()
  see('+')
  const held = Array.from({ length: 5 }, () => hold(breaker))
  emitted.length = 0
  for (const { end } of held) await end(missingFiber)
  const emittedReadings = emitted.filter(line => line !== 'probe requested')
  assert.deepEqual(emittedReadings, ['waiting by configure', 'closed to open, waiting, after 0 ms'])
  assert.equal(breaker.snapshot().streak, 1)
})

test('a missing fiber reported to a request from before a transition only requests a probe', async () => {
  for (const [since, states] of [
    ['-', 'open'],
    ['-++', 'half-open'],
    ['-+++++', 'closed'],
  ] as const) {
    const { breaker, emitted, see, state } = setUp()
    see('+')
    const old = hold(breaker)
    see(since)
    assert.equal(state(), states)
    const before = breaker.snapshot()
    emitted.length = 0
    await old.end(missingFiber)
    assert.deepEqual(emitted, ['probe requested'])
    assert.deepEqual(breaker.snapshot(), { ...before, inFlight: 0 })
    see('+')
    assert.equal(breaker.disagreement, null)
  }
})

test('a missing fiber reported during a recovery ends the recovery, and the same outage continues', async () => {
  const { breaker, emitted, see, pass } = setUp({ thresholds: { ...thresholds, waiting: 9 } })
  see('+xxx++')
  pass(700)
  emitted.length = 0
  await run(breaker, async () => missingFiber)
  assert.deepEqual(emitted, [
    'waiting by configure',
    'half-open to open, waiting, after 2700 ms',
    'probe requested',
  ])
})

test('a missing fiber reported under an override resets the count of good readings', async () => {
  const { breaker, see, state } = setUp()
  see('+-+')
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 600 }, OPERATOR)
  await run(breaker, async () => missingFiber)
  see('+')
  assert.equal(state(), 'open')
  see('+')
  assert.equal(state(), 'half-open')
})

test('in mode observe, a configure response that reports a missing fiber opens the circuit too', async () => {
  const { breaker, see, state } = setUp({ mode: 'observe' })
  see('+')
  await run(breaker, async () => missingFiber)
  assert.equal(state(), 'open')
})

test('a probe that was running when configure reported a missing fiber does not undo the effect', async () => {
  const { breaker, see, pass, state } = setUp({ thresholds: { ...thresholds, ready: 1 } })
  see('+')
  pass(300)
  await run(breaker, async () => missingFiber)
  for (const probe of readings('+')) breaker.observe({ ...probe, at: 1299 })
  assert.equal(state(), 'open')
  for (const probe of readings('+')) breaker.observe({ ...probe, at: 1301 })
  assert.equal(state(), 'half-open')
})

const OUTCOMES: readonly (readonly [that: string, forward: () => Promise<Outcome>, requests: number])[] = [
  ...[500, 501, 502, 503, 504, 599].map(code => [`a ${code}`, async () => answered(code), 1] as const),
  ...[200, 201, 208, 304, 400, 404, 422, 429, 499].map(
    code => [`a ${code}`, async () => answered(code), 0] as const,
  ),
  ['a reset', () => Promise.reject(new Error('reset')), 1],
  ['a rejection that is not an Error', () => Promise.reject('reset'), 1],
  ['a client that left before its request was sent', () => Promise.reject(new NothingLearnedError()), 0],
]

for (const mode of ['enforce', 'observe'] as const) {
  for (const [that, forward, requests] of OUTCOMES) {
    test(`${that} requests ${requests === 0 ? 'no probe' : 'a probe'} and is not a reading (${mode})`, async () => {
      const { breaker, emitted, see } = setUp({ mode })
      see(mode === 'enforce' ? '+' : '-')
      const before = breaker.snapshot()
      emitted.length = 0
      await run(breaker, forward)
      assert.deepEqual(emitted, Array(requests).fill('probe requested'))
      assert.deepEqual(breaker.snapshot(), before)
    })
  }
}

test('a free slot is reported once for each forwarded request, when it is free', async () => {
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

/** A breaker that learned of a missing fiber from a configure at 1000, and of nothing since. */
async function denied() {
  const all = setUp()
  all.see('+')
  await run(all.breaker, async () => missingFiber)
  all.emitted.length = 0
  return {
    ...all,
    /** The reported disagreements. */
    disagreements: () => all.emitted.filter(line => line.startsWith('disagreement')),
  }
}

test('metadata that contradicts configure is reported once, with the start of the disagreement', async () => {
  const { breaker, emitted, see, disagreements } = await denied()
  assert.equal(breaker.disagreement, null)
  see('+')
  assert.deepEqual(emitted, ['ready', 'disagreement since 1000: prr'])
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
  see('+++')
  assert.equal(disagreements().length, 1)
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
})

test('metadata that a client fetched contradicts configure like a probe', async () => {
  const { breaker, disagreements } = await denied()
  for (const reading of readings('+', 1000)) breaker.observe({ ...reading, source: 'client' })
  assert.deepEqual(disagreements(), ['disagreement since 1000: prr'])
})

test('a second configure response that reports a missing fiber continues the same disagreement', async () => {
  const { breaker, see, disagreements, state } = await denied()
  see('++')
  assert.equal(state(), 'half-open')
  await run(breaker, async () => ({ kind: 'missing-fiber', missing: ['dx'] }))
  assert.equal(state(), 'open')
  see('++')
  assert.deepEqual(disagreements(), ['disagreement since 1000: prr'])
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
})

test('a disagreement starts with the first configure response that reports a missing fiber', async () => {
  const { breaker, see, pass } = setUp({ mode: 'observe' })
  see('+')
  await run(breaker, async () => missingFiber)
  pass(500)
  await run(breaker, async () => ({ kind: 'missing-fiber', missing: ['dx'] }))
  see('+')
  assert.deepEqual(breaker.disagreement, { since: 1000, missing: ['prr'] })
})

test('metadata that shows a missing fiber ends the disagreement, or prevents it', async () => {
  const before = await denied()
  before.see('-+++')
  assert.deepEqual([before.breaker.disagreement, before.disagreements()], [null, []])
  const after = await denied()
  after.see('+-')
  assert.equal(after.breaker.disagreement, null)
  after.see('+++')
  assert.equal(after.disagreements().length, 1)
})

test('a configure that succeeds ends the disagreement, and the next one is reported again', async () => {
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

test('metadata that cannot be read does not end the disagreement', async () => {
  const during = await denied()
  during.see('+x')
  assert.notEqual(during.breaker.disagreement, null, 'one slow probe ended the disagreement')
  const before = await denied()
  before.see('x+')
  assert.equal(before.disagreements().length, 1, 'one slow probe discarded the configure response')
})

test('a late success of a configure from before the outage does not affect the disagreement', async () => {
  const { breaker, see } = setUp()
  see('+')
  const old = hold(breaker)
  await run(breaker, async () => missingFiber)
  see('+')
  assert.notEqual(breaker.disagreement, null)
  await old.end(answered(200))
  assert.notEqual(breaker.disagreement, null, 'a response from an earlier state ended the disagreement')
})

for (const [that, needsFiber, outcome, ends] of [
  ['a live job', true, answered(200), true],
  ['a historic job that passes an open circuit', false, answered(200), false],
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
    test(`under ${that}, a probe that a failing configure overtakes is still reported as ${words}`, async () => {
      const { breaker, emitted, see, pass, state } = make()
      see('+')
      await run(breaker, async () => missingFiber)
      emitted.length = 0
      const overtaken = 5
      for (let count = 1; count <= overtaken; count += 1) {
        // The probe was sent before this configure failed, and its response arrives afterwards.
        pass(1000)
        const sentAt = 1000 + count * 1000
        await run(breaker, async () => missingFiber)
        for (const reading of readings(probe)) breaker.observe({ ...reading, at: sentAt - 1 })
      }
      assert.equal(emitted.filter(line => line === words).length, overtaken)
      assert.equal(state(), 'open', 'a reading older than the evidence changes nothing')
      assert.equal(breaker.snapshot().reading?.source, 'configure')
      assert.equal(breaker.disagreement !== null, probe === '+', 'metadata and configure still disagree')
    })
  }
}

test('a probe from before the first configure response that reports a missing fiber does not contradict it', async () => {
  const { breaker, disagreements, see } = await denied()
  for (const reading of readings('+')) breaker.observe({ ...reading, at: 999 })
  for (const reading of readings('-')) breaker.observe({ ...reading, at: 999 })
  assert.deepEqual([breaker.disagreement, disagreements()], [null, []])
  see('+')
  assert.equal(disagreements().length, 1)
})

test('a breaker that ignores readings ignores every source, and still frees slots', async () => {
  const { breaker, emitted, see, state } = setUp()
  see('+')
  const held = [missingFiber, answered(500), answered(200)].map(outcome => ({ outcome, ...hold(breaker) }))
  breaker.ignoreReadings()
  emitted.length = 0
  see('-x-')
  for (const reading of readings('-', 5000)) breaker.observe({ ...reading, source: 'client' })
  for (const { end, outcome } of held) await end(outcome)
  assert.deepEqual(emitted, [])
  assert.equal(state(), 'closed')
  assert.equal(breaker.snapshot().inFlight, 0)
})

for (const [periodMs, afterMs, disagrees] of [
  [2000, 6000, true],
  [2000, 6001, false],
  [50, 150, true],
  [50, 151, false],
] as const) {
  test(`with a period of ${periodMs} ms, metadata ${afterMs} ms after the last report of a missing fiber ${disagrees ? 'contradicts' : 'does not contradict'} it`, async () => {
    const { breaker, see } = setUp({ probePeriodMs: periodMs, mode: 'observe' })
    see('+')
    await run(breaker, async () => missingFiber)
    for (const reading of readings('+')) breaker.observe({ ...reading, at: 1000 + afterMs })
    assert.equal(breaker.disagreement !== null, disagrees)
    // A discarded response does not return with the next reading.
    for (const reading of readings('+')) breaker.observe({ ...reading, at: 1000 + afterMs })
    assert.equal(breaker.disagreement !== null, disagrees)
  })
}
