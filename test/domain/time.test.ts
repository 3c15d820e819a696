import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { inWords, parseSpan, rfc3339 } from '../../src/domain/time.js'

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

test('for any span: at most two units, each smaller than one of the next larger unit', () => {
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

const WRITTEN: readonly (readonly [text: string, spanMs: number])[] = [
  ['500ms', 500],
  ['60s', MINUTE],
  ['10m', 10 * MINUTE],
  ['10min', 10 * MINUTE],
  ['1h', HOUR],
  ['1.5h', 1.5 * HOUR],
  ['0.25s', 250],
  ['90', 90 * SECOND],
  ['1.125', 1125],
  ['1h30m', 1.5 * HOUR],
  ['1h30min5s250ms', 1.5 * HOUR + 5250],
  ['1m90s', 2.5 * MINUTE],
  ['1h0.5s', HOUR + 500],
  ['0', 0],
  ['0ms', 0],
  ['007s', 7 * SECOND],
  // An encoded space of a query, and remains of shell quotes.
  [' 5s\n', 5 * SECOND],
]

for (const [text, spanMs] of WRITTEN) {
  test(`${JSON.stringify(text)} is a span of ${spanMs} ms`, () => {
    assert.equal(parseSpan(text), spanMs)
  })
}

for (const text of [
  ...['', ' ', 's', 'soon', '-1', '-5s', '+5s', '.5s', '5.s', '1e3', '0x10', '1,5s', 'Infinity', 'NaN'],
  ...[
    '1d',
    '10M',
    '1H',
    '5 s',
    '1h 30m',
    '30m1h',
    '1h1h',
    '1m1min',
    '1h30',
    '90h1',
    '5ss',
    '1.2345s',
    '1234567890s',
    '٣s',
    '5s\n5s',
  ],
]) {
  test(`${JSON.stringify(text)} is not a span`, () => {
    assert.equal(parseSpan(text), undefined)
  })
}

test('for any text: not a span, or one that is finite and not negative', () => {
  const pieces = fc.constantFrom(...'0123456789.-+ \neE', 'ms', 's', 'm', 'min', 'h')
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 12 }), given => {
      const spanMs = parseSpan(given.join(''))
      assert.ok(spanMs === undefined || (Number.isFinite(spanMs) && spanMs >= 0), given.join(''))
    }),
  )
})
