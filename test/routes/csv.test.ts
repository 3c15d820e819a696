import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { csv } from '../../src/routes/csv.js'

test('a text that a spreadsheet would interpret as a formula becomes plain text', () => {
  for (const text of [
    '=1+1',
    '+1',
    '-1',
    '@SUM(A1)',
    '\t=1',
    ' =1',
    '\r=1',
    '＝1',
    '\u0000=1',
    '=HYPERLINK("x")',
  ]) {
    const [cell] = parse(csv([[text]]).toString())[0] ?? []
    assert.equal(cell, `'${text}`)
  }
  assert.equal(
    csv([['Mozilla/5.0 (X11; +http://example.com)', 'a=b', -1, 2.5, null]]).toString(),
    'Mozilla/5.0 (X11; +http://example.com),a=b,-1,2.5,\r\n',
  )
})

test('every text is preserved, except for the apostrophe before a formula', () => {
  const anyText = fc.oneof(
    fc.string(),
    fc.string({ unit: fc.constantFrom('"', ',', '\r', '\n', ' ', '=', 'a', "'") }),
  )
  const anyRow = fc.array(anyText, { minLength: 2, maxLength: 4 })
  fc.assert(
    fc.property(fc.array(anyRow, { minLength: 1, maxLength: 4 }), rows => {
      const parsed = parse(csv(rows).toString())
      assert.equal(parsed.length, rows.length)
      for (const [index, row] of rows.entries()) {
        const cells = parsed[index] ?? []
        assert.equal(cells.length, row.length)
        for (const [column, text] of row.entries()) {
          const cell = cells[column] ?? ''
          assert.ok(cell === text || cell === `'${text}`, JSON.stringify([text, cell]))
          assert.doesNotMatch(cell, /^[=+\-@\t\r]/)
        }
      }
    }),
  )
})

/** Parses CSV (RFC 4180). */
function parse(text: string): readonly (readonly string[])[] {
  const rows: string[][] = []
  let row: string[] = []
  const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/gy
  for (const [, quoted, plain = '', end] of text.matchAll(cell)) {
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'))
    if (end === ',') continue
    rows.push(row)
    row = []
  }
  return rows
}
