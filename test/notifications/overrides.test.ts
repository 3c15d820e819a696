import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { NotificationFile } from '../../src/notifications/notification-file.js'
import { OPERATOR } from '../support/breaker-set-up.js'
import { at, until } from '../support/harness.js'
import { notifying, OUTAGE } from '../support/notifying.js'
import { receiver } from '../support/webhook-receiver.js'

const ON = { overrides: true }
const REFUSE = { state: 'open', reason: 'fiber work\nuntil four', forSeconds: 600 } as const
const LET_THROUGH = { state: 'closed', reason: 'a trial', forSeconds: 60 } as const

describe('notifications about overrides', { concurrency: 20 }, () => {
  test('report an override that is set, replaced and removed, with its author and effect', async t => {
    const { url, nth, received, types } = await receiver(t)
    const { see, pass, breaker } = notifying(t, [url], ON)
    see('+')
    breaker.setOverride(REFUSE, OPERATOR)
    const set = (await nth(1)).body
    assert.deepEqual(set, {
      type: 'override.set',
      timestamp: '1970-01-01T00:00:01.000Z',
      data: {
        message:
          'focus-server:5000: override set by 192.0.2.9: configure requests are refused until 1970-01-01T00:10:01.000Z: fiber work until four.',
        name: 'focus-server:5000',
        override: {
          ...{ state: 'open', reason: 'fiber work\nuntil four', by: OPERATOR, silent: false },
          ...{ since: '1970-01-01T00:00:01.000Z', until: '1970-01-01T00:10:01.000Z' },
        },
        past: null,
      },
    })
    pass(30_000)
    breaker.setOverride(LET_THROUGH, '192.0.2.8')
    const replaced = (await nth(2)).body
    assert.equal(
      at(replaced, 'data', 'message'),
      'focus-server:5000: override replaced by 192.0.2.8: configure requests are admitted until 1970-01-01T00:01:31.000Z: a trial. It replaces: fiber work until four.',
    )
    assert.equal(at(replaced, 'data', 'past', 'end'), 'replaced')
    assert.equal(at(replaced, 'data', 'past', 'endedBy'), '192.0.2.8')
    pass(20_000)
    breaker.removeOverride(OPERATOR)
    await nth(3)
    assert.equal(
      at(received[2]?.body, 'data', 'message'),
      'focus-server:5000: override removed by 192.0.2.9 after 20 s: the circuit decides again. Its reason was: a trial.',
    )
    assert.equal(at(received[2]?.body, 'data', 'override'), null)
    assert.deepEqual(types(), ['override.set', 'override.replaced', 'override.removed'])
    breaker.shutdown()
  })

  test('report an override that expires, and planned maintenance', async t => {
    const { url, nth } = await receiver(t)
    const { see, pass, breaker } = notifying(t, [{ url, format: 'slack' }], ON)
    see('+')
    breaker.setOverride({ ...REFUSE, reason: 'laser', forSeconds: 1, silent: true }, OPERATOR)
    assert.match(
      String(at((await nth(1)).body, 'text')),
      /: planned maintenance, configure requests are refused until 1970-/,
    )
    pass(1000)
    assert.equal(
      at((await nth(2)).body, 'text'),
      'focus-server:5000: override ended after 1 s: the circuit decides again. Its reason was: laser.',
    )
    breaker.shutdown()
  })

  test('state in mode observe that nothing is refused, also during an outage', async t => {
    const { url, nth } = await receiver(t)
    const { see, breaker } = notifying(t, [{ url, format: 'slack' }], { ...ON, mode: 'observe' })
    see('+')
    breaker.setOverride(REFUSE, OPERATOR)
    assert.match(String(at((await nth(1)).body, 'text')), /refused \(mode observe: still forwarded\) until/)
    see(OUTAGE)
    assert.match(
      String(at((await nth(2)).body, 'text')),
      /the fiber is missing; configure requests are still forwarded \(mode observe\)\./,
    )
    breaker.shutdown()
  })

  test('are not sent without notify.overrides, and not to PagerDuty', async t => {
    const { url, received } = await receiver(t)
    const pager = { url, format: 'pagerduty', routingKey: 'R0123456789abcdefghijklmnopqrstu' } as const
    for (const { see, breaker } of [notifying(t, [url]), notifying(t, [pager], ON)]) {
      see('+')
      breaker.setOverride(REFUSE, OPERATOR)
      breaker.removeOverride(OPERATOR)
      breaker.shutdown()
    }
    await delay(100)
    assert.deepEqual(received, [])
  })

  test('that are late do not claim that an ended override is in force', async t => {
    let isUp = false
    const { url, received, types } = await receiver(t, () => (isUp ? 200 : 503))
    const { see, breaker } = notifying(t, [url], ON)
    see('+')
    breaker.setOverride(REFUSE, OPERATOR)
    await until(() => received.length === 1)
    breaker.removeOverride(OPERATOR)
    isUp = true
    await until(() => types().includes('override.removed'))
    assert.equal(
      at(received[1]?.body, 'data', 'message'),
      'focus-server:5000: override set by 192.0.2.9 at 1970-01-01T00:00:01.000Z: fiber work until four; it has ended.',
    )
    breaker.shutdown()
  })

  test('are kept across a restart, and do not displace a notification about an outage', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-notifications-'))
    t.after(() => rmSync(folder, { recursive: true }))
    const history = join(folder, 'outages.jsonl')
    const file = () => new NotificationFile(history, error => assert.ifError(error))
    let isUp = false
    const { url, received, types } = await receiver(t, () => (isUp ? 200 : 503))
    const first = notifying(t, [url], { ...ON, file: file() })
    first.see('+')
    first.breaker.setOverride(REFUSE, OPERATOR)
    first.see(OUTAGE)
    for (let count = 0; count < 15; count += 1) {
      first.breaker.removeOverride(OPERATOR)
      first.breaker.setOverride(REFUSE, OPERATOR)
    }
    await until(() => received.length > 0)
    first.breaker.shutdown()
    await first.notifier.close()
    assert.ok(first.failures.length > 0)
    assert.deepEqual(new Set(first.failures.map(({ kind }) => kind.split('.')[0])), new Set(['override']))
    assert.match(readFileSync(`${history}.notifications`, 'utf8'), /outage\.opened/)
    const tried = received.length
    isUp = true
    const next = notifying(t, [url], { ...ON, file: file() })
    next.see('-')
    const reported = () => new Set(types().slice(tried))
    await until(() => reported().has('outage.opened') && reported().has('override.removed'))
  })
})
