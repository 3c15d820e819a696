import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turnOver } from 'node:timers/promises'
import { ExchangeEvents } from '../../src/observability/exchange-events.js'

test('all events of one turn of the event loop are reported at its end, in their order', async () => {
  const events = new ExchangeEvents()
  const heard: string[] = []
  events.on('forwarded', run => heard.push(`forwarded ${run}`))
  events.on('ended', ({ statusCode }) => heard.push(`ended ${statusCode}`))
  for (const run of ['a', 'b']) events.forwardedSoon(run)
  for (const statusCode of [200, 503]) events.endedSoon({ guarded: true, statusCode, durationMs: 1 })
  assert.deepEqual(heard, [])
  await turnOver()
  assert.deepEqual(heard, ['forwarded a', 'forwarded b', 'ended 200', 'ended 503'])
  events.endedSoon({ guarded: false, statusCode: 404, durationMs: 1 })
  await turnOver()
  assert.equal(heard.length, 5)
})
