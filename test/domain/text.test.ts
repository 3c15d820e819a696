import assert from 'node:assert/strict'
import { test } from 'node:test'
import { oneLine } from '../../src/domain/text.js'

test('in a text on one line, a space replaces each sequence of line breaks and control characters', () => {
  for (const [text, line] of [
    ['plain text, ä and 😀', 'plain text, ä and 😀'],
    ['a\nb', 'a b'],
    ['a\r\n\r\nb', 'a b'],
    ['a\u2028b\u2029c', 'a b c'],
    ['a\u0000\u001b[31mb', 'a [31mb'],
    ['a\u200b\u202eb', 'a b'],
    ['\n::error::x', ' ::error::x'],
  ] as const) {
    assert.equal(oneLine(text), line)
  }
})
