import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { OverrideEvent } from '../../src/breaker/events.js'
import { DECLARED_BY, type Override } from '../../src/domain/override.js'
import {
  answered,
  ask,
  forwards,
  hold,
  OPERATOR,
  setUp,
  setUpWithTimers,
  verdict,
} from '../support/breaker-set-up.js'

const forcedOpen = { state: 'open', reason: 'maintenance', forSeconds: 600 } as const
const forcedClosed = { state: 'closed', reason: 'a test', forSeconds: 600 } as const
const OTHER_OPERATOR = '192.0.2.10'

test('an open override refuses what the readings admit, with its own code', async () => {
  const { breaker, emitted, see, state } = setUp()
  see('+')
  emitted.length = 0
  const override = breaker.setOverride(forcedOpen, OPERATOR)
  assert.deepEqual(override, {
    state: 'open',
    reason: 'maintenance',
    since: 1000,
    until: 601_000,
    by: OPERATOR,
  })
  assert.deepEqual(breaker.snapshot().override, override)
  assert.equal(await forwards(breaker), false)
  assert.deepEqual(ask(breaker), { admitted: false, code: 'forced_open', retryInMs: 600_000 })
  assert.equal(state(), 'closed')
  assert.deepEqual(emitted, ['override open set: maintenance', 'refused: forced_open'])
})

test('a closed override forwards what the readings refuse', async () => {
  for (const history of ['', '-', '+-', '+-++', '+xxx']) {
    const { breaker, see, state } = setUp()
    see(history)
    const before = state()
    breaker.setOverride(forcedClosed, OPERATOR)
    const held = Array.from({ length: 50 }, () => hold(breaker))
    assert.ok(held.every(({ began }) => began()))
    assert.equal(breaker.snapshot().inFlight, 50)
    assert.equal(state(), before)
    await Promise.all(held.map(({ end }) => end(answered(404))))
    assert.equal(breaker.snapshot().inFlight, 0)
  }
})

test('a closed override ignores the limits of the ramp and of the configuration', () => {
  const { breaker, see } = setUp({ maxConcurrency: 1 })
  see('+')
  hold(breaker)
  assert.equal(verdict(breaker), 'overloaded in 1000 ms')
  breaker.setOverride(forcedClosed, OPERATOR)
  assert.equal(verdict(breaker), 'admitted')
})

test('readings continue under an override, and decide again when it is removed', async () => {
  const { breaker, emitted, see, state } = setUp()
  see('+')
  breaker.setOverride(forcedClosed, OPERATOR)
  emitted.length = 0
  see('-')
  assert.deepEqual(emitted, ['waiting', 'closed to open, waiting, after 0 ms'])
  assert.equal(await forwards(breaker), true)
  assert.equal(breaker.removeOverride(OTHER_OPERATOR), true)
  assert.equal(emitted.at(-1), `override closed removed: a test, ${OTHER_OPERATOR}`)
  assert.deepEqual([breaker.snapshot().override, state()], [null, 'open'])
  assert.equal(await forwards(breaker), false)
  assert.equal(verdict(breaker), 'waiting_for_fiber in 4000 ms')
})

test('an override that refuses admits no request, whatever the circuit does underneath', async () => {
  const { breaker, see } = setUp()
  see('+')
  breaker.setOverride(forcedOpen, OPERATOR)
  const admitted: boolean[] = []
  for (const mark of '-++++++') {
    see(mark)
    admitted.push(await forwards(breaker))
  }
  assert.deepEqual(admitted, Array(7).fill(false))
  breaker.removeOverride(OPERATOR)
  assert.equal(await forwards(breaker), true)
})

test('an override that admits refuses no request, whatever the circuit does underneath', async () => {
  const { breaker, see } = setUp()
  breaker.setOverride(forcedClosed, OPERATOR)
  const admitted: boolean[] = []
  for (const mark of 'x-++++++-xxx') {
    see(mark)
    admitted.push(await forwards(breaker))
  }
  assert.deepEqual(admitted, Array(12).fill(true))
  breaker.removeOverride(OPERATOR)
  assert.equal(await forwards(breaker), false)
})

test('at its exact end an override is no longer in force, even before any timer fires', async () => {
  for (const [history, request, during, after] of [
    ['+', forcedOpen, false, true],
    ['+-', forcedClosed, true, false],
  ] as const) {
    const { breaker, see, pass } = setUp()
    see(history)
    const override = breaker.setOverride(request, OPERATOR)
    pass(600_000 - 0.25)
    assert.deepEqual(breaker.snapshot().override, override)
    assert.equal(await forwards(breaker), during)
    pass(0.25)
    assert.equal(breaker.snapshot().override, null)
    assert.equal(await forwards(breaker), after)
  }
})

test('the end of an override is reported once, and not early', t => {
  const { breaker, emitted, see, pass } = setUpWithTimers(t)
  see('+')
  emitted.length = 0
  breaker.setOverride(forcedOpen, OPERATOR)
  pass(599_999, 1000)
  assert.deepEqual([emitted.length, breaker.pastOverrides.length], [1, 0])
  pass(1)
  assert.deepEqual(emitted, ['override open set: maintenance', 'override open ended: maintenance'])
  assert.deepEqual(
    breaker.pastOverrides.map(({ reason }) => reason),
    ['maintenance'],
  )
  pass(86_400_000, 3_600_000)
  assert.equal(emitted.length, 2)
})

test('the longest override, of one day, ends too', t => {
  const { breaker, emitted, pass } = setUpWithTimers(t)
  breaker.setOverride({ ...forcedOpen, forSeconds: 86_400 }, OPERATOR)
  pass(86_399_999)
  assert.equal(verdict(breaker), 'forced_open in 1 ms')
  pass(1)
  assert.equal(emitted.at(-1), 'override open ended: maintenance')
})

test('a timer that fires early does not end the override, and is set again', t => {
  const { breaker, emitted, clock, pass } = setUpWithTimers(t)
  breaker.setOverride({ ...forcedOpen, forSeconds: 1 }, OPERATOR)
  // The timers are ahead of the clock.
  t.mock.timers.tick(1000)
  assert.deepEqual([clock(), emitted.length], [0, 1])
  assert.equal(verdict(breaker), 'forced_open in 1000 ms')
  pass(999)
  assert.equal(emitted.length, 1)
  pass(1)
  assert.equal(emitted.at(-1), 'override open ended: maintenance')
})

test('listeners of an override see the decision that results from it', t => {
  const { breaker, see, pass } = setUpWithTimers(t)
  see('+')
  const seen: string[] = []
  breaker.on('override', ({ kind }) => seen.push(`${kind}: ${breaker.decide().admitted}`))
  breaker.setOverride(forcedOpen, OPERATOR)
  breaker.removeOverride(OPERATOR)
  breaker.setOverride(forcedOpen, OPERATOR)
  pass(600_000)
  assert.deepEqual(seen, ['set: false', 'removed: true', 'set: false', 'ended: true'])
})

test('the last of several overrides wins, and the earlier ones are kept, newest first', async t => {
  const { breaker, emitted, see, pass } = setUpWithTimers(t)
  see('+')
  emitted.length = 0
  breaker.setOverride(forcedOpen, OPERATOR)
  pass(1000)
  breaker.setOverride({ ...forcedClosed, forSeconds: 1200 }, OTHER_OPERATOR)
  assert.equal(verdict(breaker), 'admitted')
  pass(1000)
  const third = breaker.setOverride({ ...forcedOpen, reason: 'the amplifier', forSeconds: 1200 }, OPERATOR)
  assert.deepEqual(emitted, [
    'override open set: maintenance',
    'override closed set: a test, over maintenance',
    'override open set: the amplifier, over a test',
  ])
  assert.deepEqual(breaker.snapshot().override, third)
  const history = () => breaker.pastOverrides.map(({ reason, by }) => `${reason} by ${by}`)
  assert.deepEqual(history(), [`a test by ${OTHER_OPERATOR}`, `maintenance by ${OPERATOR}`])
  // When the replaced overrides would have ended, nothing happens.
  pass(1_199_999, 1000)
  assert.equal(emitted.length, 3)
  assert.equal(verdict(breaker), 'forced_open in 1 ms')
  pass(1)
  assert.equal(emitted.at(-1), 'override open ended: the amplifier')
  assert.deepEqual(history()[0], `the amplifier by ${OPERATOR}`)
  assert.equal(history().length, 3)
})

test('the event of a replacement contains both overrides', () => {
  const { breaker, pass } = setUp()
  const events: OverrideEvent[] = []
  breaker.on('override', event => events.push(event))
  const first = breaker.setOverride(forcedOpen, OPERATOR)
  pass(5000)
  const second = breaker.setOverride(forcedClosed, OTHER_OPERATOR)
  assert.deepEqual(events, [
    { kind: 'set', override: first, replaced: null },
    {
      kind: 'set',
      override: second,
      replaced: { ...first, endedAt: 5000, end: 'replaced', endedBy: OTHER_OPERATOR },
    },
  ])
  assert.deepEqual([second.since, second.until], [5000, 605_000])
})

test('the last two hundred overrides are kept', () => {
  const { breaker } = setUp()
  for (let count = 0; count < 300; count += 1) {
    breaker.setOverride({ ...forcedOpen, reason: `${count}` }, OPERATOR)
  }
  assert.deepEqual(
    breaker.pastOverrides.map(({ reason }) => reason),
    Array.from({ length: 200 }, (_, index) => `${298 - index}`),
  )
})

test('without an override, there is nothing to remove and nothing is reported', () => {
  const { breaker, emitted } = setUp()
  assert.equal(breaker.removeOverride(OPERATOR), false)
  breaker.setOverride(forcedOpen, OPERATOR)
  assert.equal(breaker.removeOverride(OPERATOR), true)
  emitted.length = 0
  assert.equal(breaker.removeOverride(OPERATOR), false)
  assert.deepEqual(emitted, [])
  assert.equal(breaker.pastOverrides.length, 1)
})

test('a removed override does not end a second time', t => {
  const { breaker, emitted, pass } = setUpWithTimers(t)
  breaker.setOverride(forcedOpen, OPERATOR)
  breaker.removeOverride(OPERATOR)
  emitted.length = 0
  pass(700_000, 1000)
  assert.deepEqual(emitted, [])
})

// When the process is busy the timer fires late; an operator's action meanwhile finds the override expired.
for (const [that, act] of [
  ['removed', breaker => breaker.removeOverride(OPERATOR)],
  ['replaced', breaker => breaker.setOverride(forcedClosed, OPERATOR)],
] satisfies readonly (readonly [string, (breaker: ReturnType<typeof setUp>['breaker']) => unknown])[]) {
  test(`an override that expired and is ${that} before its timer fires is reported as ended`, () => {
    const { breaker, emitted, pass } = setUp()
    breaker.setOverride(forcedOpen, OPERATOR)
    pass(600_000)
    act(breaker)
    assert.equal(emitted[1], 'override open ended: maintenance', `it was reported: ${emitted.slice(1)}`)
    assert.equal(breaker.pastOverrides[0]?.reason, 'maintenance')
  })
}

test('in mode observe, an override that refuses is only counted', async () => {
  const { breaker, emitted, see } = setUp({ mode: 'observe' })
  see('+')
  breaker.setOverride(forcedOpen, OPERATOR)
  assert.equal(ask(breaker).admitted, false)
  assert.equal(await forwards(breaker), true)
  assert.equal(emitted.at(-1), 'would refuse: forced_open')
})

/** The past overrides, newest first. */
const spans = ({ breaker }: Pick<ReturnType<typeof setUp>, 'breaker'>) =>
  breaker.pastOverrides.map(
    ({ reason, since, endedAt, end, endedBy }) => `${reason} ${since}-${endedAt} ${end} ${endedBy}`,
  )

test('a past override shows when it was in force, how it ended, and who ended it', t => {
  const all = setUpWithTimers(t)
  const { breaker, pass } = all
  pass(1000)
  breaker.setOverride({ ...forcedOpen, reason: 'one' }, OPERATOR)
  pass(1000)
  breaker.setOverride({ ...forcedOpen, reason: 'two' }, OTHER_OPERATOR)
  pass(1000)
  breaker.removeOverride(OPERATOR)
  pass(1000)
  breaker.setOverride({ ...forcedClosed, reason: 'three', forSeconds: 2 }, OPERATOR)
  pass(5000)
  assert.deepEqual(spans(all), [
    'three 4000-6000 expired null',
    `two 2000-3000 removed ${OPERATOR}`,
    `one 1000-2000 replaced ${OTHER_OPERATOR}`,
  ])
})

test('an override that expired before its timer fired ended at its own end, whatever happens then', () => {
  for (const act of [
    ({ breaker }: ReturnType<typeof setUp>) => breaker.removeOverride(OTHER_OPERATOR),
    ({ breaker }: ReturnType<typeof setUp>) => breaker.setOverride(forcedClosed, OTHER_OPERATOR),
    ({ breaker }: ReturnType<typeof setUp>) => breaker.declareOverride(declared('file', 2e6)),
  ]) {
    const all = setUp()
    all.breaker.setOverride(forcedOpen, OPERATOR)
    all.pass(700_000)
    act(all)
    assert.deepEqual(spans(all), ['maintenance 0-600000 expired null'])
  }
})

/** An override as `override.file` declares it. */
function declared(reason: string, until: number, since = 0): Override {
  return { state: 'open', reason, since, until, by: DECLARED_BY }
}

test('a declared override is recorded for each period in which nothing outranked it', t => {
  const all = setUpWithTimers(t)
  const { breaker, pass, emitted, clock } = all
  breaker.declareOverride(declared('file', 1e6))
  pass(1000)
  breaker.setOverride({ ...forcedClosed, forSeconds: 5 }, OPERATOR)
  // The same override again, and then another one, while neither is in force.
  breaker.declareOverride(declared('file', 1e6, clock()))
  breaker.declareOverride(declared('file, changed', 1e6, clock()))
  pass(9000)
  assert.equal(breaker.snapshot().override?.since, 6000)
  breaker.setOverride({ ...forcedClosed, reason: 'again' }, OPERATOR)
  pass(1000)
  breaker.removeOverride(OTHER_OPERATOR)
  pass(1000)
  emitted.length = 0
  breaker.declareOverride(declared('file, changed', 1e6, clock()))
  assert.deepEqual(emitted, [], 'a file with the same override')
  breaker.declareOverride(declared('third', 1e6, clock()))
  pass(1000)
  breaker.declareOverride(null)
  assert.deepEqual(spans(all), [
    'third 12000-13000 removed override.file',
    'file, changed 11000-12000 replaced override.file',
    `again 10000-11000 removed ${OTHER_OPERATOR}`,
    `file, changed 6000-10000 replaced ${OPERATOR}`,
    'a test 1000-6000 expired null',
    `file 0-1000 replaced ${OPERATOR}`,
  ])
})

test('a declared override that was outranked until its end ended when it was replaced', t => {
  const all = setUpWithTimers(t)
  const { breaker, pass } = all
  breaker.declareOverride(declared('file', 5000))
  pass(1000)
  breaker.setOverride(forcedClosed, OPERATOR)
  pass(9000)
  breaker.removeOverride(OPERATOR)
  breaker.declareOverride(declared('later', 12_000, 10_000))
  pass(3000)
  assert.deepEqual(spans(all), [
    'later 10000-12000 expired null',
    `a test 1000-10000 removed ${OPERATOR}`,
    `file 0-1000 replaced ${OPERATOR}`,
  ])
})

test('an override of an earlier process continues, or has expired while none was running', t => {
  const override = {
    state: 'open',
    reason: 'maintenance',
    since: -60_000,
    until: 5000,
    by: OPERATOR,
  } as const
  const earlier = {
    ...override,
    reason: 'earlier',
    endedAt: -70_000,
    end: 'removed',
    endedBy: OPERATOR,
  } as const
  const continued = setUp({}, { override, pastOverrides: [earlier] })
  assert.deepEqual(continued.breaker.snapshot().override, override)
  assert.deepEqual(continued.breaker.pastOverrides, [earlier])
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  const expired = setUp({}, { override: { ...override, until: -1000 }, pastOverrides: [earlier] })
  assert.equal(expired.breaker.snapshot().override, null)
  assert.deepEqual(expired.emitted, [])
  t.mock.timers.tick(1)
  assert.deepEqual(expired.emitted, ['override open ended: maintenance'], 'as soon as there are listeners')
  assert.deepEqual(spans(expired), [
    'maintenance -60000--1000 expired null',
    `earlier -60000--70000 removed ${OPERATOR}`,
  ])
})

for (const [what, declaration, happens] of [
  ['continues if the file has the same override', declared('file', 9000, 5000), []],
  ['is replaced by another one', declared('other', 9000, 5000), ['override open set: other, over file']],
  ['is removed with the file', null, ['override open removed: file, override.file']],
] as const) {
  test(`a declared override of an earlier process ${what}`, () => {
    // As in the history file.
    const earlier = { ...declared('file', 9000, -60_000), silent: false }
    const all = setUp({}, { declared: earlier })
    all.pass(1000)
    assert.equal(all.breaker.snapshot().override?.since, -60_000)
    all.breaker.declareOverride(declaration)
    assert.deepEqual(all.emitted, happens)
    all.pass(1000)
    all.breaker.declareOverride(null)
    assert.equal(
      spans(all).at(-1),
      `file -60000-${happens.length === 0 ? '2000 removed' : spanEnd(declaration)} override.file`,
    )
  })
}

function spanEnd(declaration: Override | null): string {
  return declaration === null ? '1000 removed' : '1000 replaced'
}

test('a declared override that expired before the start has ended, with or without a new one', () => {
  for (const declaration of [null, declared('next', 9000)]) {
    const all = setUp({}, { declared: declared('file', -1000, -60_000) })
    assert.equal(all.breaker.snapshot().override, null)
    all.breaker.declareOverride(declaration)
    assert.equal(all.emitted[0], 'override open ended: file')
    assert.equal(spans(all).at(-1), 'file -60000--1000 expired null')
  }
})

test('requests in flight continue when an override refuses', async () => {
  const { breaker, see, emitted } = setUp()
  see('+')
  const running = hold(breaker)
  breaker.setOverride(forcedOpen, OPERATOR)
  emitted.length = 0
  await running.end(answered(200))
  assert.deepEqual([breaker.snapshot().inFlight, emitted], [0, []])
})
