import assert from 'node:assert/strict'
import { test } from 'node:test'
import { outageId, startOfOutage } from '../../src/domain/outage-id.js'

test('the id of an outage is its start in UTC, to the whole millisecond', () => {
  assert.equal(outageId(Date.UTC(2026, 0, 31, 8, 30, 0, 7)), '20260131T083000007Z')
  assert.equal(outageId(Date.UTC(2026, 0, 31, 8, 30, 0, 7) + 0.9), '20260131T083000007Z')
})

test('every id can be parsed back to its start, and hardly any other text is an id', () => {
  for (const at of [0, 1, Date.UTC(2026, 11, 31, 23, 59, 59, 999), Date.UTC(9999, 0, 1)])
    assert.equal(startOfOutage(outageId(at)), at)
  for (const text of [
    '',
    '20260131',
    '20260131T083000Z',
    '20260131T083000007',
    '../status',
    '20260131T083000007Z\n',
    '20261331T083000007Z',
    '__proto__',
  ])
    assert.equal(startOfOutage(text), undefined, text)
})
