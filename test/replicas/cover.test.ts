import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { covering } from '../../src/replicas/cover.js'

const anyStretch = fc
  .record({ from: fc.nat(20), length: fc.nat(10) })
  .map(({ from, length }) => ({ from, to: from + length }))

test('the pieces cover the same time as the given stretches, without overlaps', () => {
  fc.assert(
    fc.property(fc.array(anyStretch, { maxLength: 8 }), stretches => {
      const pieces = covering(stretches.map((stretch, of) => ({ ...stretch, of })))
      for (let at = 0.5; at < 31; at += 1) {
        const isIn = ({ from, to }: { readonly from: number; readonly to: number }) => from < at && at < to
        const found = pieces.filter(isIn)
        assert.equal(found.length, stretches.some(isIn) ? 1 : 0, `at ${at}`)
        for (const { of } of found) assert.ok(isIn(stretches[of] ?? { from: 0, to: 0 }))
      }
      for (const [index, { from }] of pieces.entries()) assert.ok(from >= (pieces[index - 1]?.to ?? 0))
    }),
    { numRuns: 1000 },
  )
})

test('a stretch that contains the others is the only piece, and the first of equal ones is used', () => {
  const all = [
    { from: 3, to: 9, of: 'within' },
    { from: 0, to: 10, of: 'whole' },
    { from: 0, to: 10, of: 'the same' },
    { from: 0, to: 4, of: 'begin' },
  ]
  assert.deepEqual(covering(all), [{ from: 0, to: 10, of: 'whole' }])
  assert.deepEqual(covering([]), [])
})
