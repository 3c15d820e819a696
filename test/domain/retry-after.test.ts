import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  jitteredRetryAfterSeconds,
  parseRetryAfter,
  retryAfterSeconds,
} from '../../src/domain/retry-after.js'

const SECONDS: readonly (readonly [retryInMs: number, min: number, max: number, seconds: number])[] = [
  [0, 1, 5, 1],
  [1, 1, 5, 1],
  [1000, 1, 5, 1],
  [1000.5, 1, 5, 2],
  [4000, 1, 5, 4],
  [4001, 1, 5, 5],
  [3_600_000, 1, 5, 5],
  [Number.POSITIVE_INFINITY, 1, 5, 5],
  [-2000, 1, 5, 1],
  [500, 3, 5, 3],
  [9000, 3, 3, 3],
]

for (const [retryInMs, minSeconds, maxSeconds, seconds] of SECONDS) {
  test(`${retryInMs} ms within ${minSeconds} to ${maxSeconds} s are ${seconds} s`, () => {
    assert.equal(retryAfterSeconds(retryInMs, { minSeconds, maxSeconds }), seconds)
  })
}

const SPREAD: readonly (readonly [retryInMs: number, min: number, max: number, values: readonly number[]])[] =
  [
    [0, 1, 5, [1, 2]],
    [2500, 1, 5, [3, 4]],
    [4000, 1, 5, [4, 5]],
    [5000, 1, 5, [4, 5]],
    [60_000, 1, 5, [4, 5]],
    [60_000, 5, 5, [5]],
    [0, 1, 1, [1]],
    [0, 4, 5, [4, 5]],
  ]

for (const [retryInMs, minSeconds, maxSeconds, values] of SPREAD) {
  test(`${retryInMs} ms within ${minSeconds} to ${maxSeconds} s are spread over ${values.join(' and ')} s`, () => {
    const draws = [0, 0.25, 0.499, 0.5, 0.75, 1 - Number.EPSILON]
    const seen = draws.map(random => jitteredRetryAfterSeconds(retryInMs, { minSeconds, maxSeconds }, random))
    assert.deepEqual([...new Set(seen)], values)
  })
}

test('a date is relative to the clock of the response that contains it', () => {
  const [now, inAMinute] = [Date.parse('2026-01-31T08:00:00Z'), 'Sat, 31 Jan 2026 08:01:00 GMT']
  assert.equal(parseRetryAfter(inAMinute, now), 60_000)
  assert.equal(parseRetryAfter(inAMinute, now, 'Sat, 31 Jan 2026 08:00:50 GMT'), 10_000)
  assert.equal(parseRetryAfter(inAMinute, now, 'nonsense'), 60_000)
  assert.equal(parseRetryAfter(inAMinute, now + 120_000), 0)
  // The oldest format has no time zone, and is in UTC.
  assert.equal(parseRetryAfter('Sat Jan 31 08:01:00 2026', now), 60_000)
  for (const text of ['soon', '', '-5', '1.5', '2026-01-31T08:01:00Z', 'on Sat, 31 Jan 2026 08:01:00 GMT']) {
    assert.equal(parseRetryAfter(text, now), undefined, text)
  }
})

test('for any random number: a whole number of at least 1 within the bounds', () => {
  const anyBounds = fc
    .record({ minSeconds: fc.integer({ min: 1, max: 3600 }), more: fc.nat(3600) })
    .map(({ minSeconds, more }) => ({ minSeconds, maxSeconds: minSeconds + more }))
  const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
  const retryInMs = fc.double({ min: -1e7, max: 1e10, noNaN: true })
  fc.assert(
    fc.property(retryInMs, anyBounds, random, (retryInMs, bounds, random) => {
      for (const seconds of [
        retryAfterSeconds(retryInMs, bounds),
        jitteredRetryAfterSeconds(retryInMs, bounds, random),
      ]) {
        assert.ok(Number.isInteger(seconds) && seconds >= 1)
        assert.ok(seconds >= bounds.minSeconds && seconds <= bounds.maxSeconds)
      }
    }),
  )
})

const NOW = Date.parse('1994-11-06T08:49:37Z')
const PARSED: readonly (readonly [value: string, waitMs: number | undefined])[] = [
  ['0', 0],
  [' 120 ', 120_000],
  ['Sun, 06 Nov 1994 08:50:37 GMT', 60_000],
  ['Sunday, 06-Nov-94 08:50:37 GMT', 60_000],
  ['Sun Nov  6 08:50:37 1994', 60_000],
  ['Sun, 06 Nov 1994 08:00:00 GMT', 0],
  ...['', '-1', '1.5', '1e3', '0x10', 'soon', 'Sun', '1994-11-06T08:50:37Z', '1, 2'].map(
    value => [value, undefined] as const,
  ),
]

for (const [value, waitMs] of PARSED) {
  test(`a Retry-After of ${JSON.stringify(value)} is ${waitMs === undefined ? 'none' : `${waitMs} ms`}`, () => {
    assert.equal(parseRetryAfter(value, NOW), waitMs)
  })
}
