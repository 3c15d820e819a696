import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseLoosely } from '../../src/domain/loose-json.js'

test("Python's numbers that JSON does not have are read in any place", () => {
  for (const [text, value] of [
    ['NaN', Number.NaN],
    [' [Infinity, -Infinity] ', [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]],
    [
      '{"a": NaN, "b": "NaN", "c": {"d": [1, -2.5e3, "\\u00e9\\n"]}}',
      { a: Number.NaN, b: 'NaN', c: { d: [1, -2500, 'é\n'] } },
    ],
    [
      '{"__proto__": NaN}',
      JSON.parse('{"__proto__": 0}', (key, inner) => (key === '__proto__' ? Number.NaN : inner)),
    ],
    ['[NaN, true, false, null, {}, []]', [Number.NaN, true, false, null, {}, []]],
  ] as const) {
    assert.deepEqual(parseLoosely(text), { ok: true, value }, text)
  }
})

test('the position is that of the first unexpected character', () => {
  for (const [text, position] of [
    ['', 0],
    ['<html>', 0],
    ['{"a":1', 6],
    ['{"a":1}x', 7],
    ['{"a" 1}', 5],
    ['{a:1}', 1],
    ['[1,]', 3],
    ['{"a":1,}', 7],
    ['"ab', 0],
    ['["\u0000"]', 1],
    ['{"a":nan}', 5],
    ['01', 1],
    ["{'a':1}", 1],
  ] as const) {
    assert.deepEqual(parseLoosely(text), { ok: false, position }, text)
  }
})

test('the result is the same as that of JSON.parse, except for the three extra literals', () => {
  const pieces = ['{', '}', '[', ']', ',', ':', '"a"', '1', '-0.5', 'true', 'null', ' ', 'tru', '"', '1e']
  let seed = 7
  const next = () => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31
    return seed
  }
  for (let round = 0; round < 20_000; round += 1) {
    const text = Array.from({ length: 1 + (next() % 9) }, () => pieces[next() % pieces.length]).join('')
    let expected: unknown
    let isJson = true
    try {
      expected = JSON.parse(text)
    } catch {
      isJson = false
    }
    const parsed = parseLoosely(text)
    assert.equal(parsed.ok, isJson, text)
    if (parsed.ok) assert.deepEqual(parsed.value, expected, text)
    // The slow parser reads it too.
    if (isJson)
      assert.deepEqual(parseLoosely(`[NaN,${text}]`), { ok: true, value: [Number.NaN, expected] }, text)
  }
})

test('endless nesting and a megabyte of text neither crash nor are slow', () => {
  assert.equal(parseLoosely('['.repeat(1_000_000)).ok, false)
  assert.equal(parseLoosely(`{"a":NaN,"b":"${'\\n'.repeat(500_000)}"}`).ok, true)
  assert.equal(parseLoosely(`{"a":NaN,"b":"${'x'.repeat(1_000_000)}`).ok, false)
})
