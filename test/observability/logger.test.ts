import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogger } from '../../src/observability/logger.js'

test('a line for people has the date, the local time and its zone', t => {
  const { TZ } = process.env
  t.after(() => {
    if (TZ === undefined) delete process.env.TZ
    else process.env.TZ = TZ
  })
  for (const [zone, offset, aheadMinutes] of [
    ['Asia/Kathmandu', '+0545', 345],
    ['UTC', '+0000', 0],
  ] as const) {
    process.env.TZ = zone
    const lines: string[] = []
    const destination = { write: (line: string) => lines.push(line) }
    const before = Date.now()
    createLogger({ level: 'info', format: 'pretty', destination }).info({ port: 1 }, 'listening')
    const [, date, time, shown] =
      /^\[(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d{3}) ([+-]\d{4})\] INFO: listening/.exec(lines[0] ?? '') ?? []
    assert.equal(shown, offset, lines[0])
    const at = Date.parse(`${date}T${time}Z`) - aheadMinutes * 60_000
    assert.ok(at >= before && at <= Date.now(), lines[0])
  }
})
