import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitSeconds } from '../../src/domain/prefer.js'

const FIELDS: readonly (readonly [field: string | undefined, seconds: number | undefined])[] = [
  [undefined, undefined],
  ['', undefined],
  ['wait=10', 10],
  ['wait=0', 0],
  ['wait=007', 7],
  ['wait=3600', 3600],
  ['WAIT=10', 10],
  ['Wait=10', 10],
  ['wait="10"', 10],
  ['wait = 10', 10],
  ['  wait=10  ', 10],
  ['respond-async, wait=10', 10],
  ['respond-async,wait=10', 10],
  ['wait=10, respond-async', 10],
  ['respond-async, wait=10, handling=lenient', 10],
  ['return=minimal; foo="some parameter", wait=10', 10],
  ['wait=10; foo=bar', 10],
  ['wait=10;foo', 10],
  ['wait=5, wait=20', 5],
  ['respond-async', undefined],
  ['handling=lenient', undefined],
  ['wait', undefined],
  ['wait=', undefined],
  ['wait=""', undefined],
  ['wait=soon', undefined],
  ['wait=-1', undefined],
  ['wait=+1', undefined],
  ['wait=1.5', undefined],
  ['wait=1e3', undefined],
  ['wait=0x10', undefined],
  ['wait=10s', undefined],
  ['wait=10 20', undefined],
  ['wait:10', undefined],
  ['await=10', undefined],
  ['x-wait=10', undefined],
  ['waiting=10', undefined],
  ['return=wait=10', undefined],
  [`${'wait='.repeat(5000)}`, undefined],
  [`${' '.repeat(16_000)}wait=3`, 3],
]

for (const [field, seconds] of FIELDS) {
  test(`Prefer: ${field?.trim().slice(0, 50)} waits ${seconds ?? 'for nothing'}`, () => {
    assert.equal(waitSeconds(field), seconds)
  })
}

/** RFC 7240, section 2: parameters after a `;` belong to their preference, and quoted text to its value. */
const WAITS_OF_OTHERS: readonly string[] = [
  'foo;wait=10',
  'foo; wait=10',
  'return=minimal; wait=10',
  'note="a, wait=10"',
  'note="a, wait=10, b"',
]

for (const field of WAITS_OF_OTHERS) {
  test(`Prefer: ${field} contains no preference to wait`, () => {
    assert.equal(waitSeconds(field), undefined)
  })
}

test('a header of any length with any quotes is parsed within a few milliseconds', () => {
  for (const piece of ['"', '"a', '"\\', '\\', ',', ' ', 'wait', 'wait=', '"wait=1,', 'a"b"']) {
    const field = piece.repeat(16_384 / piece.length)
    // Processor time: the machine may have other work.
    const before = process.cpuUsage()
    waitSeconds(field)
    waitSeconds(`${field}, wait=1`)
    const tookMs = process.cpuUsage(before).user / 1000
    assert.ok(tookMs < 100, `${tookMs} ms for ${piece}`)
  }
})

test('the first wait counts, even if it is not a whole number', () => {
  assert.equal(waitSeconds('wait=soon, wait=5'), undefined)
})

test('a whole number of any size is accepted', () => {
  assert.ok(Number(waitSeconds('wait=10000000000')) >= 1e9)
})
