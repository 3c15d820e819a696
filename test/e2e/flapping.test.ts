import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { drawn, drawnUpstream } from '../support/drawn-upstream.js'
import { at, startProxy, statusOf, until } from '../support/harness.js'
import { clientPool, configure, runClients } from '../support/http-client.js'

const TIMES = { slowMs: 60, lateMs: 3000 }

/** Each reading is in the log, and one after 1 ms is past the ramp. */
const ENV = {
  FOCUS_BREAKER_LOG_LEVEL: 'trace',
  FOCUS_BREAKER_PROBE_PERIOD_MS: '50',
  FOCUS_BREAKER_PROBE_TIMEOUT_MS: '5000',
  FOCUS_BREAKER_RECOVERY_RAMP_MS: '1',
}

interface History {
  readonly what: string
  readonly readings: string
  readonly expected: string
  readonly env?: Readonly<Record<string, string>>
}

/** The resulting circuit; `[state]` follows the reading that led to it. */
const HISTORIES: readonly History[] = [
  {
    what: 'one bad reading in ten opens the circuit, and it recovers each time',
    readings: '++++++++++-+++++++++-+++++++++',
    expected: '+[closed]+++++++++-[open]++[half-open]+[closed]++++++-[open]++[half-open]+[closed]++++++',
  },
  {
    what: 'one bad reading in ten does nothing if the threshold is two',
    env: { FOCUS_BREAKER_CIRCUIT_WAITING_THRESHOLD: '2' },
    readings: '+++++++++-+++++++++-+++++++++-+',
    expected: '+[closed]++++++++-+++++++++-+++++++++-+',
  },
  {
    what: 'alternating readings leave the circuit open after the first bad one',
    readings: '+-+-+-+-+-+-+-+-',
    expected: '+[closed]-[open]+-+-+-+-+-+-+-',
  },
  {
    what: 'alternating pairs start a recovery, end it, and never close the circuit',
    readings: '++--++--++--++',
    expected: '+[closed]+-[open]-++[half-open]-[open]-++[half-open]-[open]-++[half-open]',
  },
  {
    what: 'slow probes within the timeout do nothing',
    readings: '+sssssssss+sssss',
    expected: '+[closed]+++++++++++++++',
  },
  {
    what: 'failed probes do nothing until there are three in a row',
    readings: '+!!+!!+!+!!+!!!+++',
    expected: '+[closed]xx+xx+x+xx+xxx[open]++[half-open]+[closed]',
  },
]

describe('readings that flap', { concurrency: true }, () => {
  for (const { what, readings, expected, env = {} } of HISTORIES) {
    test(what, async t => {
      const upstream = await drawnUpstream(t, `${readings}+`, TIMES)
      const proxy = await startProxy(t, { upstream, env: { ...ENV, ...env } })
      const history = await until(() => drawn(proxy, readings.length), {
        what: `all of ${readings} has been read`,
        timeoutMs: 30_000,
      })
      t.diagnostic(history)
      assert.equal(history, expected)
    })
  }
})

test('slow probes under load do not move the circuit, even when two in a row time out', async t => {
  const upstream = await drawnUpstream(t, '+xx+xs++', TIMES)
  // The timeout leaves a margin for a machine under load: `+` and `s` must be in time.
  const env = { ...ENV, FOCUS_BREAKER_PROBE_TIMEOUT_MS: '600' }
  const proxy = await startProxy(t, { upstream, env })
  const dispatcher = clientPool(t, 20)
  let isOver = false
  let served = 0
  const load = runClients(20, async () => {
    while (!isOver) {
      assert.equal((await configure(proxy, { dispatcher })).statusCode, 200)
      served += 1
      await delay(5)
    }
  })
  const history = await until(() => drawn(proxy, 7), { timeoutMs: 30_000, everyMs: 200 }).finally(() => {
    isOver = true
  })
  await load
  t.diagnostic(`${history}, while ${served} configures were served and none refused`)
  assert.equal(history, '+[closed]xx+x++')
  assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 0)
})
