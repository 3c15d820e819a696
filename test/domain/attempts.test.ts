import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Attempts,
  cadenceSeconds,
  firstAttempt,
  nextAttempt,
  together,
} from '../../src/domain/attempts.js'

/** Attempts at these seconds, of the same request unless named. */
function tried(...attempts: readonly (number | readonly [seconds: number, request: string])[]): Attempts {
  let known: Attempts | undefined
  for (const attempt of attempts) {
    const [seconds, request] = typeof attempt === 'number' ? [attempt, 'POST /configure'] : attempt
    const at = seconds * 1000
    known = known === undefined ? firstAttempt(request, at) : nextAttempt(known, request, at)
  }
  assert.ok(known !== undefined)
  return known
}

test('four attempts of one retrying call are one operation', () => {
  const { first, last, attempts, operations } = tried(0, 5, 10, 15)
  assert.deepEqual(
    { first, last, attempts, operations },
    { first: 0, last: 15_000, attempts: 4, operations: 1 },
  )
})

const OPERATIONS: readonly (readonly [what: string, expected: number, attempts: Attempts])[] = [
  ['the same request a minute later', 1, tried(0, 60)],
  ['the same request later than that', 2, tried(0, 60.001)],
  ['one that is repeated every minute stays one operation', 1, tried(0, 60, 120, 180, 240)],
  ['another request', 2, tried([0, 'a'], [1, 'b'])],
  ['two that alternate', 2, tried([0, 'a'], [1, 'b'], [5, 'a'], [6, 'b'], [10, 'a'])],
  ['the minute counts for each request separately', 3, tried([0, 'a'], [30, 'b'], [61, 'a'])],
]
for (const [what, expected, { operations }] of OPERATIONS) {
  test(`${what}: ${expected} operation${expected === 1 ? '' : 's'}`, () => assert.equal(operations, expected))
}

test('the latest twenty requests are tracked for a client that never repeats one', () => {
  const known = tried(...Array.from({ length: 500 }, (_, index) => [index, `request ${index}`] as const))
  assert.equal(known.requests.size, 20)
  assert.equal(known.operations, 500)
  assert.ok(known.requests.has('request 499') && known.requests.has('request 480'))
  // A repeated request becomes the latest, so the next new one displaces another.
  const again = nextAttempt(nextAttempt(known, 'request 480', 500_000), 'new', 500_001)
  assert.ok(again.requests.has('request 480') && !again.requests.has('request 481'))
})

const CADENCES: readonly (readonly [what: string, expected: number | null, attempts: Attempts])[] = [
  ['every three seconds', 3, tried(0, 3, 6, 9, 12, 15)],
  ['five attempts show no rhythm yet', null, tried(0, 3, 6, 9, 12)],
  ['a single attempt', null, tried(7)],
  ['every 3 to 4 seconds, as the desktop application does', 3.5, tried(0, 3, 7, 10.5, 14, 17, 21, 24.5)],
  ['a pause in the middle does not hide it', 2, tried(0, 2, 4, 6, 8, 600, 602, 604)],
  ['urllib3 every five seconds, with pauses between tests', 5, tried(0, 5, 10, 15, 40, 45, 50, 55)],
  ['irregular intervals', null, tried(0, 1, 9, 10, 30, 31, 70, 71)],
  ['twice as fast recently: the latest intervals count', 1, tried(...steps(20, 2), ...steps(20, 1, 40))],
  ['tenths of a second', 0.3, tried(...steps(10, 0.3))],
]
for (const [what, expected, attempts] of CADENCES) {
  test(`${what}: ${expected === null ? 'no rhythm' : `every ${expected} s`}`, () => {
    assert.equal(cadenceSeconds(attempts), expected)
  })
}

test('for any attempts: at least one operation, no more than attempts, and bounded memory', () => {
  const anyAttempts = fc.array(fc.tuple(fc.nat(90_000), fc.nat(30)), { minLength: 1, maxLength: 200 })
  fc.assert(
    fc.property(anyAttempts, steps => {
      let now = 0
      let known: Attempts | undefined
      for (const [gapMs, name] of steps) {
        now += gapMs
        const before = known
        known = before === undefined ? firstAttempt(`${name}`, now) : nextAttempt(before, `${name}`, now)
        const begun = known.operations - (before?.operations ?? 0)
        assert.ok(begun === 0 || begun === 1)
        assert.equal(known.last, now)
      }
      assert.ok(known !== undefined)
      assert.equal(known.attempts, steps.length)
      assert.ok(known.operations >= 1 && known.operations <= known.attempts)
      assert.ok(known.requests.size <= 20 && known.intervals.length <= 12)
      const cadence = cadenceSeconds(known)
      assert.ok(cadence === null || (cadence >= 0 && cadence <= 90))
    }),
  )
})

/** Moments at equal intervals. */
function steps(count: number, span: number, from = 0): readonly number[] {
  return Array.from({ length: count }, (_, index) => from + index * span)
}

test('two clients combined have the attempts of both, from the first to the last', () => {
  const [one, other] = [tried(10, 15, 20), tried([5, 'a'], [30, 'b'])]
  for (const [a, b] of [
    [one, other],
    [other, one],
  ] as const) {
    const { first, last, attempts, operations, intervals } = together(a, b)
    assert.deepEqual([first, last, attempts, operations], [5000, 30_000, 5, 3])
    assert.equal(intervals, a.intervals)
  }
})
