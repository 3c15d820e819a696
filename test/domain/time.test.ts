import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { inWords, rfc3339 } from '../../src/domain/time.js'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

const SPANS: readonly (readonly [spanMs: number, words: string])[] = [
  [-5, '0 ms'],
  [0, '0 ms'],
  [0.4, '0 ms'],
  [812, '812 ms'],
  [999, '999 ms'],
  [999.7, '1 s'],
  [SECOND, '1 s'],
  [42_400, '42 s'],
  [59_499, '59 s'],
  [59_500, '1 min'],
  [MINUTE, '1 min'],
  [MINUTE + 5 * SECOND, '1 min 5 s'],
  [HOUR - 1, '1 h'],
  [HOUR, '1 h'],
  [5 * HOUR + 12 * MINUTE + 59 * SECOND, '5 h 12 min'],
  [DAY, '1 d'],
  [3 * DAY + 4 * HOUR + 59 * MINUTE, '3 d 4 h'],
  [400 * DAY, '400 d'],
]

for (const [spanMs, words] of SPANS) {
  test(`${spanMs} ms are ${words}`, () => {
    assert.equal(inWords(spanMs), words)
  })
}

test('whatever the span: at most two units, each below the next one up', () => {
  const limits: Readonly<Record<string, number>> = { ms: 1000, s: 60, min: 60, h: 24 }
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e11, noNaN: true }), spanMs => {
      const words = inWords(spanMs)
      assert.match(words, /^\d+ (ms|s|min|h|d)( \d+ (s|min|h))?$/)
      for (const [, count, unit = ''] of words.matchAll(/(\d+) (\w+)/g)) {
        assert.ok(Number(count) < (limits[unit] ?? Number.POSITIVE_INFINITY), words)
      }
    }),
  )
})

test('a moment is written in UTC with milliseconds, its fractions dropped', () => {
  assert.equal(rfc3339(0), '1970-01-01T00:00:00.000Z')
  assert.equal(rfc3339(Date.UTC(2026, 0, 31, 8, 30) + 0.9), '2026-01-31T08:30:00.000Z')
})
