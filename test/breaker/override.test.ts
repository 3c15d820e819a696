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

test('an override that is open refuses what the readings admit, in its own name', async () => {
  const { breaker, told, see, state } = setUp()
  see('+')
  told.length = 0
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
  assert.deepEqual(told, ['override open set: maintenance', 'refused: forced_open'])
})

test('an override that is closed really forwards what the readings refuse', async () => {
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

test('an override that is closed has no limit, as a recovery or a busy site has', () => {
  const { breaker, see } = setUp({ maxConcurrency: 1 })
  see('+')
  hold(breaker)
  assert.equal(verdict(breaker), 'overloaded in 1000 ms')
  breaker.setOverride(forcedClosed, OPERATOR)
  assert.equal(verdict(breaker), 'admitted')
})

test('readings go on underneath, and rule again when the override is removed', async () => {
  const { breaker, told, see, state } = setUp()
  see('+')
  breaker.setOverride(forcedClosed, OPERATOR)
  told.length = 0
  see('-')
  assert.deepEqual(told, ['waiting', 'closed to open, waiting, after 0 ms'])
  assert.equal(await forwards(breaker), true)
  assert.equal(breaker.removeOverride(OTHER_OPERATOR), true)
  assert.equal(told.at(-1), `override closed removed: a test, ${OTHER_OPERATOR}`)
  assert.deepEqual([breaker.snapshot().override, state()], [null, 'open'])
  assert.equal(await forwards(breaker), false)
  assert.equal(verdict(breaker), 'waiting_for_fiber in 4000 ms')
})

test('a circuit that opens, recovers and closes underneath lets nobody past a word that refuses', async () => {
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

test('a circuit that opens and closes underneath stops nobody against a word that admits', async () => {
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

test('at its exact end an override rules no more, before any timer has come', async () => {
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

test('its end is told once, and not early', t => {
  const { breaker, told, see, pass } = setUpWithTimers(t)
  see('+')
  told.length = 0
  breaker.setOverride(forcedOpen, OPERATOR)
  pass(599_999, 1000)
  assert.deepEqual([told.length, breaker.pastOverrides.length], [1, 0])
  pass(1)
  assert.deepEqual(told, ['override open set: maintenance', 'override open ended: maintenance'])
  assert.deepEqual(
    breaker.pastOverrides.map(({ reason }) => reason),
    ['maintenance'],
  )
  pass(86_400_000, 3_600_000)
  assert.equal(told.length, 2)
})

test('the longest override, of a day, ends as well', t => {
  const { breaker, told, pass } = setUpWithTimers(t)
  breaker.setOverride({ ...forcedOpen, forSeconds: 86_400 }, OPERATOR)
  pass(86_399_999)
  assert.equal(verdict(breaker), 'forced_open in 1 ms')
  pass(1)
  assert.equal(told.at(-1), 'override open ended: maintenance')
})

test('a timer that comes before its time ends nothing, and comes again', t => {
  const { breaker, told, clock, pass } = setUpWithTimers(t)
  breaker.setOverride({ ...forcedOpen, forSeconds: 1 }, OPERATOR)
  // The timers have gone further than the clock.
  t.mock.timers.tick(1000)
  assert.deepEqual([clock(), told.length], [0, 1])
  assert.equal(verdict(breaker), 'forced_open in 1000 ms')
  pass(999)
  assert.equal(told.length, 1)
  pass(1)
  assert.equal(told.at(-1), 'override open ended: maintenance')
})

test('who listens to an override sees the decision that it makes', t => {
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

test('of several operators the last one wins, and the earlier words are kept, newest first', async t => {
  const { breaker, told, see, pass } = setUpWithTimers(t)
  see('+')
  told.length = 0
  breaker.setOverride(forcedOpen, OPERATOR)
  pass(1000)
  breaker.setOverride({ ...forcedClosed, forSeconds: 1200 }, OTHER_OPERATOR)
  assert.equal(verdict(breaker), 'admitted')
  pass(1000)
  const third = breaker.setOverride({ ...forcedOpen, reason: 'the amplifier', forSeconds: 1200 }, OPERATOR)
  assert.deepEqual(told, [
    'override open set: maintenance',
    'override closed set: a test, over maintenance',
    'override open set: the amplifier, over a test',
  ])
  assert.deepEqual(breaker.snapshot().override, third)
  const history = () => breaker.pastOverrides.map(({ reason, by }) => `${reason} by ${by}`)
  assert.deepEqual(history(), [`a test by ${OTHER_OPERATOR}`, `maintenance by ${OPERATOR}`])
  // The ends of those that were replaced are the ends of nothing.
  pass(1_199_999, 1000)
  assert.equal(told.length, 3)
  assert.equal(verdict(breaker), 'forced_open in 1 ms')
  pass(1)
  assert.equal(told.at(-1), 'override open ended: the amplifier')
  assert.deepEqual(history()[0], `the amplifier by ${OPERATOR}`)
  assert.equal(history().length, 3)
})

test('the event of a replacement holds both words', () => {
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

test('without an override there is none to remove, and nothing is told', () => {
  const { breaker, told } = setUp()
  assert.equal(breaker.removeOverride(OPERATOR), false)
  breaker.setOverride(forcedOpen, OPERATOR)
  assert.equal(breaker.removeOverride(OPERATOR), true)
  told.length = 0
  assert.equal(breaker.removeOverride(OPERATOR), false)
  assert.deepEqual(told, [])
  assert.equal(breaker.pastOverrides.length, 1)
})

test('an override that was removed does not end a second time', t => {
  const { breaker, told, pass } = setUpWithTimers(t)
  breaker.setOverride(forcedOpen, OPERATOR)
  breaker.removeOverride(OPERATOR)
  told.length = 0
  pass(700_000, 1000)
  assert.deepEqual(told, [])
})

// The timer comes late when the process is busy; what an operator does meanwhile finds the word over.
for (const [that, act] of [
  ['removed', breaker => breaker.removeOverride(OPERATOR)],
  ['replaced', breaker => breaker.setOverride(forcedClosed, OPERATOR)],
] satisfies readonly (readonly [string, (breaker: ReturnType<typeof setUp>['breaker']) => unknown])[]) {
  test(`an override that ended by itself and is ${that} before its timer comes is told as ended`, () => {
    const { breaker, told, pass } = setUp()
    breaker.setOverride(forcedOpen, OPERATOR)
    pass(600_000)
    act(breaker)
    assert.equal(told[1], 'override open ended: maintenance', `it was told: ${told.slice(1)}`)
    assert.equal(breaker.pastOverrides[0]?.reason, 'maintenance')
  })
}

test('in mode observe a word that refuses is counted and carried out no more than others', async () => {
  const { breaker, told, see } = setUp({ mode: 'observe' })
  see('+')
  breaker.setOverride(forcedOpen, OPERATOR)
  assert.equal(ask(breaker).admitted, false)
  assert.equal(await forwards(breaker), true)
  assert.equal(told.at(-1), 'would refuse: forced_open')
})

/** What is remembered of the earlier overrides, newest first. */
const spans = ({ breaker }: Pick<ReturnType<typeof setUp>, 'breaker'>) =>
  breaker.pastOverrides.map(
    ({ reason, since, endedAt, end, endedBy }) => `${reason} ${since}-${endedAt} ${end} ${endedBy}`,
  )

test('an earlier override says from when to when it was in force, how it ended, and by whom', t => {
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

test('an override that ended before its timer came ended when its time was over, whatever is done then', () => {
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

test('a declared override has a span for each time in which nothing outranked it', t => {
  const all = setUpWithTimers(t)
  const { breaker, pass, told, clock } = all
  breaker.declareOverride(declared('file', 1e6))
  pass(1000)
  breaker.setOverride({ ...forcedClosed, forSeconds: 5 }, OPERATOR)
  // The same again, and then another one, while neither is in force.
  breaker.declareOverride(declared('file', 1e6, clock()))
  breaker.declareOverride(declared('file, changed', 1e6, clock()))
  pass(9000)
  assert.equal(breaker.snapshot().override?.since, 6000)
  breaker.setOverride({ ...forcedClosed, reason: 'again' }, OPERATOR)
  pass(1000)
  breaker.removeOverride(OTHER_OPERATOR)
  pass(1000)
  told.length = 0
  breaker.declareOverride(declared('file, changed', 1e6, clock()))
  assert.deepEqual(told, [], 'a file that says the same')
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

test('a declared override that another one outranked until its end ended when it was replaced', t => {
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

test('an override of an earlier process goes on, or has ended while none ran', t => {
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
  const goesOn = setUp({}, { override, pastOverrides: [earlier] })
  assert.deepEqual(goesOn.breaker.snapshot().override, override)
  assert.deepEqual(goesOn.breaker.pastOverrides, [earlier])
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  const over = setUp({}, { override: { ...override, until: -1000 }, pastOverrides: [earlier] })
  assert.equal(over.breaker.snapshot().override, null)
  assert.deepEqual(over.told, [])
  t.mock.timers.tick(1)
  assert.deepEqual(over.told, ['override open ended: maintenance'], 'as soon as there are listeners')
  assert.deepEqual(spans(over), [
    'maintenance -60000--1000 expired null',
    `earlier -60000--70000 removed ${OPERATOR}`,
  ])
})

for (const [what, said, happens] of [
  ['goes on if the file says the same', declared('file', 9000, 5000), []],
  ['is replaced by another one', declared('other', 9000, 5000), ['override open set: other, over file']],
  ['is removed with the file', null, ['override open removed: file, override.file']],
] as const) {
  test(`a declared override of an earlier process ${what}`, () => {
    // As the history file has it.
    const earlier = { ...declared('file', 9000, -60_000), silent: false }
    const all = setUp({}, { declared: earlier })
    all.pass(1000)
    assert.equal(all.breaker.snapshot().override?.since, -60_000)
    all.breaker.declareOverride(said)
    assert.deepEqual(all.told, happens)
    all.pass(1000)
    all.breaker.declareOverride(null)
    assert.equal(
      spans(all).at(-1),
      `file -60000-${happens.length === 0 ? '2000 removed' : spanEnd(said)} override.file`,
    )
  })
}

function spanEnd(said: Override | null): string {
  return said === null ? '1000 removed' : '1000 replaced'
}

test('a declared override whose time was over before the start has ended, with or without a new one', () => {
  for (const said of [null, declared('next', 9000)]) {
    const all = setUp({}, { declared: declared('file', -1000, -60_000) })
    assert.equal(all.breaker.snapshot().override, null)
    all.breaker.declareOverride(said)
    assert.equal(all.told[0], 'override open ended: file')
    assert.equal(spans(all).at(-1), 'file -60000--1000 expired null')
  }
})

test('requests in flight when a word refuses go on to their end', async () => {
  const { breaker, see, told } = setUp()
  see('+')
  const running = hold(breaker)
  breaker.setOverride(forcedOpen, OPERATOR)
  told.length = 0
  await running.end(answered(200))
  assert.deepEqual([breaker.snapshot().inFlight, told], [0, []])
})
