import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHistoric } from '../../src/domain/configure-request.js'
import { requireOrSkip } from '../support/harness.js'
import { startFocusServer } from '../support/uvicorn-focus-server.js'

/** Values of every JSON type, including edge cases, as they are written. */
const VALUES = [
  ...[
    '1',
    '1764946703',
    '1764946703.0',
    '1.764946703e9',
    '0',
    '-0',
    '-1',
    '1.5',
    '1e308',
    '9007199254740993',
  ],
  ...[
    '"1"',
    '"1764946703"',
    '"0001"',
    '""',
    '" "',
    '"0"',
    '"00"',
    '"-1"',
    '"+1"',
    '" 1"',
    '"1.0"',
    '"1_000"',
  ],
  ...['"null"', '"now"', '"2025-12-05T00:00:00Z"', '"\\uff11"', 'null', 'true', 'false', '[]', '[1]', '{}'],
]

test('a job that counts as historic also counts as historic in the validation of a real FastAPI', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const focusServer = await startFocusServer(t)
  const bodies = VALUES.flatMap(start => VALUES.map(end => `{"start_time":${start},"end_time":${end}}`))
  const taken = await focusServer.takesForTimeRange(bodies)
  const passed = bodies.filter(isHistoric)
  assert.deepEqual(
    passed.filter(body => taken[bodies.indexOf(body)] !== true),
    [],
  )
  assert.ok(passed.length >= 36, `${passed.length} pass, too few to be conclusive`)
})
