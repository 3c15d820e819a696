import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Webhook } from '../../src/notifications/webhook.js'
import { ask } from '../support/breaker-set-up.js'
import { at, freePort, until } from '../support/harness.js'
import { HOUR_MS, notifying, OUTAGE, RECOVERY, underWay } from '../support/notifying.js'
import { hang, type Received, receiver } from '../support/webhook-receiver.js'

const TOGETHER = { concurrency: 20 }

describe('notifications about outages', TOGETHER, () => {
  test('an outage is reported when it opens and when it closes, in plain JSON', async t => {
    const { url, nth } = await receiver(t)
    const { see, breaker } = notifying(t, [`${url}/hook?to=ops`])
    see(`+${OUTAGE}`)
    for (let count = 0; count < 3; count += 1) ask(breaker)
    see(RECOVERY)
    const opened = await nth(1)
    assert.equal(opened.path, '/hook?to=ops')
    assert.equal(opened.headers['content-type'], 'application/json')
    assert.deepEqual(opened.body, {
      type: 'outage.opened',
      timestamp: '1970-01-01T00:00:02.000Z',
      data: {
        name: 'focus-server:5000',
        message:
          'focus-server:5000: outage, the fiber is missing; configure requests are refused until it is back.',
        startedAt: '1970-01-01T00:00:02.000Z',
        endedAt: null,
        cause: 'waiting',
        causeSince: '1970-01-01T00:00:02.000Z',
        seconds: 0,
        ...{ refused: 0, wouldRefuse: 0, spared: 0 },
        operations: 0,
        untoldOutages: 0,
      },
    })
    const closed = await nth(2)
    assert.deepEqual(closed.body, {
      type: 'outage.closed',
      timestamp: '1970-01-01T00:00:07.000Z',
      data: {
        name: 'focus-server:5000',
        message: 'focus-server:5000: outage ended after 5 s: configure requests pass again; 3 were refused.',
        startedAt: '1970-01-01T00:00:02.000Z',
        endedAt: '1970-01-01T00:00:07.000Z',
        cause: 'waiting',
        causeSince: '1970-01-01T00:00:02.000Z',
        seconds: 5,
        ...{ refused: 3, wouldRefuse: 0, spared: 3 },
        operations: 0,
        untoldOutages: 0,
      },
    })
    assert.notEqual(opened.headers['webhook-id'], closed.headers['webhook-id'])
  })

  test('Slack gets the text that its incoming webhooks accept', async t => {
    const { url, nth } = await receiver(t)
    const { see } = notifying(t, [{ url, format: 'slack' }])
    see('+xxx')
    see(RECOVERY)
    assert.deepEqual((await nth(1)).body, {
      text: "focus-server:5000: outage, focus-server's metadata cannot be read (connection refused); configure requests are refused until it is back.",
    })
    assert.deepEqual((await nth(2)).body, {
      text: 'focus-server:5000: outage ended after 5 s: configure requests pass again; 0 were refused.',
    })
  })

  test('a lasting outage is reported one more time, but not one that closed before', async t => {
    const { url, nth, types } = await receiver(t)
    const { see, pass } = notifying(t, [url], { lastingAfterMs: 100 })
    see(`+${OUTAGE}`)
    pass(120)
    const lasting = await nth(2)
    assert.equal(at(lasting.body, 'data', 'message'), LASTS)
    see(`-x-${RECOVERY}`)
    await nth(3)
    see(`${OUTAGE}${RECOVERY}`)
    await nth(5)
    await delay(300)
    assert.deepEqual(types(), [
      ...['outage.opened', 'outage.lasting', 'outage.closed'],
      ...['outage.opened', 'outage.closed'],
    ])
  })

  test('a reload changes the time after which the outage in progress counts as lasting', async t => {
    const { url, nth, types } = await receiver(t)
    const { see, reload } = notifying(t, [url])
    see(`+${OUTAGE}`)
    await nth(1)
    reload({ lastingAfterMs: 3000 })
    see('--')
    await delay(50)
    assert.deepEqual(types(), ['outage.opened'])
    see('-')
    await nth(2)
    see('---')
    await delay(50)
    assert.deepEqual(types(), ['outage.opened', 'outage.lasting'])
  })

  test('failed recoveries are neither ends nor starts', async t => {
    const { url, nth, types } = await receiver(t)
    const { see } = notifying(t, [url])
    see('+ - ++ - ++ x ++ - ++++++')
    await nth(2)
    await delay(50)
    assert.deepEqual(types(), ['outage.opened', 'outage.closed'])
  })

  test('a fiber that is missing from the start is reported, and a present one is not', async t => {
    const { url, nth, types } = await receiver(t)
    notifying(t, [url]).see('+++')
    notifying(t, [url]).see('---')
    await nth(1)
    await delay(50)
    assert.deepEqual(types(), ['outage.opened'])
  })

  test('in mode observe, no notification claims that requests are refused', async t => {
    const { url, nth } = await receiver(t)
    const { see } = notifying(t, [url], { mode: 'observe' })
    see(`+${OUTAGE}`)
    assert.equal(
      at((await nth(1)).body, 'data', 'message'),
      'focus-server:5000: outage, the fiber is missing; configure requests are still forwarded (mode observe).',
    )
    see(RECOVERY)
    assert.equal(at((await nth(2)).body, 'data', 'message'), 'focus-server:5000: outage ended after 5 s.')
  })
})

const LASTS = 'focus-server:5000: outage for 120 ms, the fiber is missing; 0 requests were refused so far.'

test('notifications show the effect of a manual override', TOGETHER, async t => {
  const { url, nth } = await receiver(t)
  const { see, breaker } = notifying(t, [url])
  const text = async (count: number) => String(at((await nth(count)).body, 'data', 'message'))
  const force = (state: 'open' | 'closed') =>
    breaker.setOverride({ state, reason: 'x', forSeconds: 60 }, '::1')
  force('closed')
  see(`+${OUTAGE}`)
  assert.match(
    await text(1),
    /is missing; configure requests are still forwarded because of a manual override/,
  )
  force('open')
  see(RECOVERY)
  assert.match(await text(2), /ended after 5 s: configure requests are still refused by a manual override\.$/)
  see(OUTAGE)
  assert.match(await text(3), /is missing; configure requests are also refused by a manual override\.$/)
  force('closed')
  see(RECOVERY)
  assert.match(await text(4), /ended after 5 s; 0 configure requests were refused\.$/)
  breaker.shutdown()
})

describe('the cooldown', TOGETHER, () => {
  test('the first outage of a flapping fiber is reported, and later the number of unreported ones', async t => {
    const { url, nth, types, received } = await receiver(t)
    const { see, pass } = notifying(t, [url], { cooldownMs: 60_000 })
    // Five outages of 6 s each: the others begin within a minute of the first.
    see(`+${`${OUTAGE}${RECOVERY}`.repeat(5)}`)
    await nth(2)
    pass(60_000)
    see(`${OUTAGE}${RECOVERY}`)
    await nth(4)
    await delay(50)
    // The end of an unreported outage is not reported.
    assert.deepEqual(types(), ['outage.opened', 'outage.closed', 'outage.opened', 'outage.closed'])
    assert.deepEqual(
      received.map(({ body }) => at(body, 'data', 'untoldOutages')),
      [0, 0, 4, 0],
    )
    assert.match(String(at(received[2]?.body, 'data', 'message')), / 4 shorter outages were not reported\.$/)
  })

  test('an unreported outage is reported once it lasts, and then its end; it does not count itself', async t => {
    const { url, nth, types, received } = await receiver(t)
    const { see } = notifying(t, [url], { cooldownMs: HOUR_MS, lastingAfterMs: 8000 })
    see(`+${OUTAGE}${RECOVERY}${OUTAGE}${RECOVERY}`)
    see('----------')
    await nth(3)
    see(RECOVERY)
    await nth(4)
    assert.deepEqual(types(), ['outage.opened', 'outage.closed', 'outage.lasting', 'outage.closed'])
    assert.deepEqual(
      received.map(({ body }) => at(body, 'data', 'untoldOutages')),
      [0, 0, 1, 0],
    )
    assert.match(String(at(received[2]?.body, 'data', 'message')), / 1 shorter outage was not reported\.$/)
  })

  test('of 0 reports every outage', async t => {
    const { url, nth, types } = await receiver(t)
    notifying(t, [url]).see(`+${`${OUTAGE}${RECOVERY}`.repeat(3)}`)
    await nth(6)
    assert.deepEqual(types(), [...PAIR, ...PAIR, ...PAIR])
  })
})

const PAIR = ['outage.opened', 'outage.closed']

test('a notification contains the name of the installation, which Slack does not interpret as markup', async t => {
  const { url, nth } = await receiver(t)
  const slack: Webhook = { url: `${url}/slack`, format: 'slack' }
  const { see } = notifying(t, [url, slack], { name: 'lab <2> & <!channel>' })
  see(`+${OUTAGE}`)
  const bodies = [(await nth(1)).body, (await nth(2)).body]
  const plain = bodies.find(body => at(body, 'type') !== undefined)
  assert.equal(at(plain, 'data', 'name'), 'lab <2> & <!channel>')
  const text = at(
    bodies.find(body => body !== plain),
    'text',
  )
  assert.match(String(text), /^lab &lt;2&gt; &amp; &lt;!channel&gt;: outage, the fiber is missing; /)
})

describe('the signature', TOGETHER, () => {
  test('is verified here as in the reference of Standard Webhooks', () => {
    const headers = {
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    }
    const key = Buffer.from('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64')
    assert.ok(isSigned({ headers, text: '{"test": 2432232314}' }, key))
    assert.ok(!isSigned({ headers, text: '{"test": 2432232315}' }, key))
  })

  const bytes = Buffer.from([...Array(24).keys()].map(index => index * 11))
  const secrets = [
    ['the base64 after whsec_', `whsec_${bytes.toString('base64')}`, bytes],
    ['the text of any other secret', 'a plain sécret of ours', Buffer.from('a plain sécret of ours')],
  ] as const
  for (const [what, secret, key] of secrets) {
    test(`uses ${what} as its key`, async t => {
      const { url, nth } = await receiver(t)
      const { see } = notifying(t, [url, { url: `${url}/slack`, format: 'slack' }], { secret })
      see(`+${OUTAGE}${RECOVERY}`)
      await nth(4)
      for (const count of [1, 2, 3, 4]) {
        const notification = await nth(count)
        assert.ok(isSigned(notification, key))
        const seconds = Number(notification.headers['webhook-timestamp'])
        assert.ok(Math.abs(seconds - Date.now() / 1000) < 60, 'it contains the time of the attempt')
      }
    })
  }

  test('is omitted without a secret, and the id is still present', async t => {
    const { url, nth } = await receiver(t)
    notifying(t, [url]).see(`+${OUTAGE}`)
    const { headers } = await nth(1)
    assert.equal(headers['webhook-signature'], undefined)
    assert.match(String(headers['webhook-id']), /^msg_/)
  })

  test('does not replace the credentials of the URL', async t => {
    const { url, nth } = await receiver(t)
    const { see } = notifying(t, [url.replace('//', '//ops:p%40ss@')], { secret: 'sixteen letters!' })
    see(`+${OUTAGE}`)
    const notification = await nth(1)
    assert.equal(notification.headers.authorization, `Basic ${Buffer.from('ops:p@ss').toString('base64')}`)
    assert.ok(isSigned(notification, Buffer.from('sixteen letters!')))
  })
})

describe('a webhook that fails', TOGETHER, () => {
  test('with 500 is retried after growing pauses, with the same id, until it accepts the message', async t => {
    const { url, nth, received } = await receiver(t, index => (index < 2 ? 500 : 204))
    const { see, failures } = notifying(t, [url], { secret: 'sixteen letters!' })
    see(`+${OUTAGE}`)
    await nth(3)
    assertOneMessage(received)
    const [first = 0, second = 0, third = 0] = received.map(({ atMs }) => atMs)
    // Half a second and a whole one: the shortest possible pauses.
    assert.ok(second - first >= 450, `${second - first} ms`)
    assert.ok(third - second >= 950, `${third - second} ms`)
    for (const each of received) assert.ok(isSigned(each, Buffer.from('sixteen letters!')))
    assert.deepEqual(failures, [])
  })

  for (const status of [408, 429]) {
    test(`with ${status} is retried`, async t => {
      const { url, nth, received } = await receiver(t, index => (index === 0 ? status : 200))
      const { see, failures } = notifying(t, [url])
      see(`+${OUTAGE}`)
      await nth(2)
      assertOneMessage(received)
      assert.deepEqual(failures, [])
    })
  }

  test('by hanging is retried after five seconds', async t => {
    const { url, nth, received } = await receiver(t, index => (index === 0 ? hang : 200))
    const { see, failures } = notifying(t, [url])
    // Not counted from the first receipt, which may be late on a busy machine.
    const startedAtMs = performance.now()
    see(`+${OUTAGE}`)
    await nth(2)
    assertOneMessage(received)
    const [, second = 0] = received.map(({ atMs }) => atMs)
    assert.ok(second - startedAtMs >= 5400, `${second - startedAtMs} ms`)
    assert.deepEqual(failures, [])
  })

  test('by dropping the connection is retried', async t => {
    const { url, nth, received } = await receiver(t, index =>
      index === 0 ? response => response.destroy() : 200,
    )
    const { see, failures } = notifying(t, [url])
    see(`+${OUTAGE}`)
    await nth(2)
    assertOneMessage(received)
    assert.deepEqual(failures, [])
  })

  test('by refusing connections is retried', async t => {
    const port = await freePort()
    const { see, failures } = notifying(t, [`http://127.0.0.1:${port}/`])
    see(`+${OUTAGE}`)
    await delay(250)
    // It listens only from now on.
    const { nth, received } = await receiver(t, () => 200, port)
    await nth(1)
    assertOneMessage(received)
    assert.deepEqual(failures, [])
  })

  test('permanently is given up after notify.retryForMs, and reported without the path of its URL', async t => {
    let isUp = false
    const { url, nth, received, types } = await receiver(t, () => (isUp ? 200 : 500))
    const refusing = await freePort()
    const { see, pass, failed } = notifying(t, [
      `${url}/T0/secret`,
      `http://u:p@127.0.0.1:${refusing}/T0/secret`,
    ])
    see(`+${OUTAGE}`)
    await nth(2)
    pass(HOUR_MS)
    const failures = await failed(2)
    const kind = 'outage.opened'
    assert.deepEqual(
      new Set(failures.map(({ attempts: _, ...failure }) => failure)),
      new Set([
        { kind, webhook: url, item: 1, problem: 'responded with 500' },
        { kind, webhook: `http://127.0.0.1:${refusing}`, item: 2, problem: 'connection refused' },
      ]),
    )
    for (const { attempts } of failures) assert.ok(attempts >= 2 && attempts <= 4, `${attempts} attempts`)
    assertOneMessage(received)
    isUp = true
    see(RECOVERY)
    await until(() => types().at(-1) === 'outage.closed', {
      what: 'the next message is sent as usual',
    })
  })

  for (const status of [301, 307, 400, 401, 404, 410]) {
    test(`with ${status} is not retried`, async t => {
      const elsewhere = await receiver(t)
      const { url, received } = await receiver(t, () => response => {
        response.writeHead(status, { location: elsewhere.url }).end()
      })
      const { see, failed } = notifying(t, [`${url}/secret`])
      see(`+${OUTAGE}`)
      assert.deepEqual(await failed(), [
        { kind: 'outage.opened', webhook: url, item: 1, attempts: 1, problem: `responded with ${status}` },
      ])
      await delay(700)
      assert.equal(received.length, 1)
      assert.deepEqual(elsewhere.received, [])
    })
  }

  test('only in the body of its response has still accepted the message', async t => {
    const { url, received } = await receiver(t, index => response => {
      response.writeHead(200, { 'content-length': 1000 }).flushHeaders()
      if (index > 0) response.destroy()
    })
    const { see, failures } = notifying(t, [url])
    see(`+${OUTAGE}${RECOVERY}`)
    await until(() => received.length === 2, { what: 'the second message is sent', timeoutMs: 15_000 })
    await delay(1000)
    assert.deepEqual(
      received.map(({ body }) => at(body, 'type')),
      PAIR,
    )
    assert.deepEqual(failures, [])
  })

  test('keeps the order of its messages', async t => {
    const { url, nth, types } = await receiver(t, index => (index === 0 ? 500 : 200))
    notifying(t, [url]).see(`+${`${OUTAGE}${RECOVERY}`.repeat(2)}`)
    await nth(5)
    assert.deepEqual(types(), ['outage.opened', ...PAIR, ...PAIR])
  })

  test('does not delay other webhooks, on another server or on the same one', async t => {
    const bad = await receiver(t, (_index, path) => (path === '/bad' ? hang : 200))
    const good = await receiver(t)
    const { see } = notifying(t, [`${bad.url}/bad`, good.url, `${bad.url}/good`])
    const startedAtMs = performance.now()
    see(`+${OUTAGE}${RECOVERY}`)
    await good.nth(2)
    await until(() => bad.received.filter(({ path }) => path === '/good').length === 2)
    // Well before the first attempt at the hanging webhook times out.
    assert.ok(performance.now() - startedAtMs < 4000)
    assert.equal(bad.received.filter(({ path }) => path === '/bad').length, 1)
  })

  test('loses the oldest messages when too many are queued, and that is reported', async t => {
    const { url } = await receiver(t, () => hang)
    const { see, failed } = notifying(t, [url])
    // One message is being sent and twenty are queued: of 22, the oldest queued one is lost.
    see(`+${`${OUTAGE}${RECOVERY}`.repeat(11)}`)
    assert.deepEqual(await failed(), [
      {
        kind: 'outage.closed',
        webhook: url,
        item: 1,
        attempts: 0,
        problem: 'queue full: 20 newer notifications are waiting',
      },
    ])
  })
})

describe('a reload', TOGETHER, () => {
  test('adds a webhook, and removes one between its attempts', async t => {
    const failing = await receiver(t, () => 500)
    const added = await receiver(t)
    const { see, reload, failures } = notifying(t, [failing.url])
    see(`+${OUTAGE}`)
    await failing.nth(1)
    reload({ webhooks: [{ url: added.url, format: 'json' }] })
    see(RECOVERY)
    assert.equal(at((await added.nth(1)).body, 'type'), 'outage.closed')
    await delay(1000)
    assert.equal(failing.received.length, 1)
    assert.deepEqual(failures, [])
  })
})

describe(
  'an outage in progress at the start of a process without a record of an earlier one',
  TOGETHER,
  () => {
    test('is not reported as opened within the cooldown, and is reported as closed, with its known duration', async t => {
      const { url, nth, types } = await receiver(t)
      const { see } = notifying(t, [url], { cooldownMs: 60_000 })
      see('---')
      await delay(50)
      assert.deepEqual(types(), [])
      see(RECOVERY)
      const { body } = await nth(1)
      assert.equal(at(body, 'type'), 'outage.closed')
      assert.equal(at(body, 'data', 'foundAtStart'), true)
      assert.match(
        String(at(body, 'data', 'message')),
        /: outage ended after at least 7 s: .*\. It was already in progress when focus-breaker started\.$/,
      )
      // The start of the next one was observed.
      see(`${OUTAGE}${RECOVERY}`)
      await nth(3)
      assert.deepEqual(types(), ['outage.closed', ...PAIR])
    })

    test('is reported as opened once it outlasts the cooldown', async t => {
      const { url, nth, types } = await receiver(t)
      const { see } = notifying(t, [url], { cooldownMs: 5000 })
      see('----')
      await delay(50)
      assert.deepEqual(types(), [])
      see('---')
      assert.equal(at((await nth(1)).body, 'data', 'foundAtStart'), true)
      see(RECOVERY)
      await nth(2)
      assert.deepEqual(types(), PAIR)
    })
  },
)

describe('an outage that outlasts a restart', TOGETHER, () => {
  test('is not reported as opened again, and is reported as closed', async t => {
    const { url, nth, types } = await receiver(t)
    const { see } = notifying(t, [url], { past: [underWay()] })
    see('-')
    await delay(50)
    assert.deepEqual(types(), [])
    see(RECOVERY)
    const { body } = await nth(1)
    assert.equal(at(body, 'type'), 'outage.closed')
    assert.equal(at(body, 'data', 'startedAt'), '1969-12-31T23:59:57.000Z')
    assert.equal(at(body, 'data', 'refused'), 7)
  })

  test('is also reported as closed when the fiber came back while no process was running', async t => {
    const { url, nth } = await receiver(t)
    notifying(t, [url], { past: [underWay()] }).see('+')
    const { body } = await nth(1)
    assert.equal(at(body, 'type'), 'outage.closed')
    assert.equal(at(body, 'data', 'startedAt'), '1969-12-31T23:59:57.000Z')
  })

  test('is reported as lasting only by the process that is running at that time', async t => {
    const before = await receiver(t)
    notifying(t, [before.url], { past: [underWay()], lastingAfterMs: 3500 }).see('---')
    const after = await receiver(t)
    notifying(t, [after.url], { past: [underWay()], lastingAfterMs: 2500 }).see('---')
    await before.nth(1)
    await delay(300)
    assert.deepEqual(before.types(), ['outage.lasting'])
    assert.deepEqual(after.types(), [])
  })
})

describe('closing', TOGETHER, () => {
  test('immediately gives up hanging and queued messages, and reports that', async t => {
    const { url, nth } = await receiver(t, () => hang)
    const { see, notifier, failed } = notifying(t, [url])
    see(`+${OUTAGE}${RECOVERY}`)
    await nth(1)
    const startedAtMs = performance.now()
    await notifier.close()
    const problem = 'focus-breaker was stopped'
    assert.deepEqual(
      (await failed(2)).map(failure => [failure.kind, failure.problem]),
      [
        ['outage.opened', problem],
        ['outage.closed', problem],
      ],
    )
    assert.ok(performance.now() - startedAtMs < 2000)
  })

  test('does not wait for the next attempt', async t => {
    const { url, nth, received } = await receiver(t, () => 500)
    const { see, notifier, failed } = notifying(t, [url])
    see(`+${OUTAGE}`)
    await nth(1)
    await delay(100)
    await notifier.close()
    assert.equal((await failed()).length, 1)
    assert.equal(received.length, 1)
  })
})

/** Verified as a receiver does: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. */
function isSigned({ headers, text }: Pick<Received, 'headers' | 'text'>, key: Buffer): boolean {
  const signed = [headers['webhook-id'], headers['webhook-timestamp'], text].join('.')
  const expected = createHmac('sha256', key).update(signed).digest('base64')
  const given = headers['webhook-signature']
  return typeof given === 'string' && given.split(' ').includes(`v1,${expected}`)
}

/** Asserts that all are attempts of one message. */
function assertOneMessage(received: readonly Received[]): void {
  const [first] = received
  assert.ok(first !== undefined)
  for (const { headers, text } of received.slice(0, 6)) {
    assert.equal(headers['webhook-id'], first.headers['webhook-id'])
    assert.equal(text, first.text)
  }
}
