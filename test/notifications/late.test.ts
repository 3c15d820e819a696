import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Delivery, type DeliveryFailure, type Pending } from '../../src/notifications/delivery.js'
import type { OutageMessage } from '../../src/notifications/message.js'
import { NotificationFile } from '../../src/notifications/notification-file.js'
import { idOf, type Webhook } from '../../src/notifications/webhook.js'
import { ask } from '../support/breaker-set-up.js'
import { at, until } from '../support/harness.js'
import { HOUR_MS, notifying, OUTAGE, RECOVERY, underWay } from '../support/notifying.js'
import { type Answer, receiver } from '../support/webhook-receiver.js'

const TOGETHER = { concurrency: 20 }
const MESSAGE: OutageMessage = {
  ...{ kind: 'outage.opened', name: 'lab', source: 'focus-server:5000', at: 0 },
  ...{ outage: underWay(), unreported: 0 },
}
const ROUTING_KEY = 'R0123456789abcdefghijklmnopqrstu'

/** Responds with a status and these headers. */
const answer =
  (status: number, headers: Record<string, string>): Answer =>
  response => {
    response.writeHead(status, headers).end()
  }

/** The pending message after a failed attempt, with this number of earlier ones. */
async function afterFailure(
  t: TestContext,
  { headers = {}, attempts = 0, retryForMs = HOUR_MS }: Partial<Given>,
) {
  const { url } = await receiver(t, () => answer(503, headers))
  const webhook: Webhook = { url, format: 'json' }
  const failures: DeliveryFailure[] = []
  const restored: Pending = {
    ...{ webhook: idOf(webhook), id: 'msg_1', message: MESSAGE },
    ...{ queuedAt: 0, attempts, notBefore: 0 },
  }
  const delivery = new Delivery(
    {
      settings: () => ({ webhooks: [webhook], retryForMs }),
      clock: () => 0,
      random: () => 0,
      present: () => ({ handling: 'circuit', isFollowed: false }),
      onChange: () => undefined,
      onFailure: failure => failures.push(failure),
    },
    [restored],
  )
  t.after(() => delivery.close(true))
  delivery.start()
  await until(() => failures.length > 0 || delivery.pending()[0]?.notBefore !== 0)
  return { pauseMs: delivery.pending()[0]?.notBefore, failures }
}

type Given = {
  readonly headers: Record<string, string>
  readonly attempts: number
  readonly retryForMs: number
}

describe('the pause before the next attempt', TOGETHER, () => {
  const rows: readonly (readonly [what: string, given: Partial<Given>, pauseMs: number])[] = [
    ['is a second, plus or minus a half, at first', {}, 500],
    ['doubles', { attempts: 4 }, 8000],
    ['is at most five minutes, plus or minus a half', { attempts: 40 }, 150_000],
    ['is at least the seconds of Retry-After', { headers: { 'retry-after': '7' } }, 7000],
    [
      'is at least until the date of Retry-After, by the clock of the receiver',
      {
        headers: { date: 'Sun, 06 Nov 1994 08:49:37 GMT', 'retry-after': 'Sun, 06 Nov 1994 08:51:37 GMT' },
      },
      120_000,
    ],
    ['is not shortened by a shorter Retry-After', { headers: { 'retry-after': '1' }, attempts: 4 }, 8000],
    ['is not endless with an endless Retry-After', { headers: { 'retry-after': '9'.repeat(30) } }, HOUR_MS],
    ['ignores an invalid Retry-After', { headers: { 'retry-after': '-7' } }, 500],
    ['ends with notify.retryForMs', { attempts: 40, retryForMs: 9000 }, 9000],
    [
      'may be longer than that when the receiver asks for it',
      { headers: { 'retry-after': '20' }, retryForMs: 9000 },
      20_000,
    ],
  ]
  for (const [what, given, pauseMs] of rows) {
    test(what, async t => {
      assert.deepEqual(await afterFailure(t, given), { pauseMs, failures: [] })
    })
  }

  test('does not occur when notify.retryForMs is 0', async t => {
    const { failures } = await afterFailure(t, { retryForMs: 0 })
    assert.deepEqual(
      failures.map(({ attempts, problem }) => ({ attempts, problem })),
      [{ attempts: 1, problem: 'responded with 503' }],
    )
  })
})

describe('at the end of the cooldown', TOGETHER, () => {
  test('an outage that began during it and still lasts is reported, with the others counted', async t => {
    const { url, nth, types, received } = await receiver(t)
    const { see, pass } = notifying(t, [url], { cooldownMs: 30_000 })
    see(`+${`${OUTAGE}${RECOVERY}`.repeat(3)}${OUTAGE}`)
    await nth(2)
    await delay(50)
    assert.deepEqual(types(), ['outage.opened', 'outage.closed'])
    pass(30_000)
    see('-')
    await nth(3)
    see(RECOVERY)
    await nth(4)
    assert.deepEqual(types(), ['outage.opened', 'outage.closed', 'outage.opened', 'outage.closed'])
    assert.equal(at(received[2]?.body, 'data', 'untoldOutages'), 2)
    assert.match(
      String(at(received[2]?.body, 'data', 'message')),
      /: outage for 31 s, the fiber is missing; /,
    )
  })

  test('it is reported without a reading at that time', async t => {
    const { url, nth } = await receiver(t)
    const { see, pass } = notifying(t, [url], { cooldownMs: 7200 })
    // The outage begins at 8 s, 200 ms before the cooldown of the one at 1 s ends.
    see(`+${OUTAGE}${RECOVERY}${OUTAGE}`)
    pass(250)
    assert.equal(at((await nth(3)).body, 'type'), 'outage.opened')
  })
})

describe('a late message', TOGETHER, () => {
  test('about the start of an outage shows when it ended, and pages no one', async t => {
    let isUp = false
    const { url, received } = await receiver(t, () => (isUp ? 200 : 503))
    const { see } = notifying(t, [
      { url: `${url}/json`, format: 'json' },
      { url: `${url}/pager`, format: 'pagerduty', routingKey: ROUTING_KEY },
    ])
    see(`+${OUTAGE}`)
    await until(() => received.length >= 2)
    see(RECOVERY)
    isUp = true
    const from = (path: string) => received.slice(2).filter(each => each.path === path)
    await until(() => from('/json').length >= 2 && from('/pager').length >= 1)
    const [opened, closed] = from('/json').map(({ body }) => body)
    assert.equal(at(opened, 'type'), 'outage.opened')
    assert.equal(at(opened, 'data', 'endedAt'), '1970-01-01T00:00:07.000Z')
    assert.equal(
      at(opened, 'data', 'message'),
      'focus-server:5000: outage from 1970-01-01T00:00:02.000Z to 1970-01-01T00:00:07.000Z, the fiber was missing; it has ended.',
    )
    assert.equal(at(closed, 'type'), 'outage.closed')
    await delay(50)
    assert.deepEqual(
      from('/pager').map(({ body }) => at(body, 'event_action')),
      ['resolve'],
    )
  })

  test('about the end of an outage mentions that another one has started', async t => {
    const { url, received, nth } = await receiver(t, index => (index === 1 ? 503 : 200))
    const { see } = notifying(t, [url])
    see(`+${OUTAGE}`)
    await nth(1)
    see(RECOVERY)
    await nth(2)
    see(OUTAGE)
    await nth(4)
    assert.match(
      String(at(received[2]?.body, 'data', 'message')),
      /: outage ended after 5 s at 1970-01-01T00:00:07\.000Z; another one has started since\.$/,
    )
    assert.equal(at(received[3]?.body, 'type'), 'outage.opened')
  })
})

describe('a message about a lasting outage', TOGETHER, () => {
  const FORMATS: readonly Omit<Webhook, 'url'>[] = [
    { format: 'json' },
    { format: 'slack' },
    { format: 'teams' },
    { format: 'pagerduty', routingKey: ROUTING_KEY },
  ]

  for (const webhook of FORMATS) {
    test(`is not sent in format ${webhook.format} when the outage has ended meanwhile`, async t => {
      let isUp = true
      const { url, received, nth } = await receiver(t, () => (isUp ? 200 : 503))
      const { see, pass, failures } = notifying(t, [{ ...webhook, url }], { lastingAfterMs: 8000 })
      see(`+${OUTAGE}`)
      await nth(1)
      isUp = false
      see('--------')
      await nth(2)
      see(RECOVERY)
      pass(1)
      isUp = true
      // It is retried after half a second, and so is the message behind it.
      await until(() => received.some(({ text }) => /outage\.closed|outage ended|resolve/.test(text)))
      await delay(50)
      const after = received.filter(({ text }) => /outage\.lasting|outage for|it has ended/.test(text))
      assert.equal(after.length, 1, 'only the attempt that failed')
      assert.deepEqual(failures, [])
    })
  }

  test('shows the state at the time of the attempt: the duration, the cause and the refusals', async t => {
    const { url, nth, received } = await receiver(t, index => (index === 1 ? 503 : 200))
    const { see, breaker } = notifying(t, [url], { lastingAfterMs: 8000 })
    see(`+${OUTAGE}`)
    await nth(1)
    see('--------')
    await nth(2)
    see('xxx')
    ask(breaker)
    await nth(3)
    assert.equal(
      at(received[2]?.body, 'data', 'message'),
      "focus-server:5000: outage for 11 s, for the last 2 s focus-server's metadata cannot be read (connection refused); 1 request was refused so far.",
    )
    assert.equal(at(received[2]?.body, 'data', 'seconds'), 11)
    assert.equal(at(received[2]?.body, 'data', 'problem'), 'connection refused')
  })

  test('waits for the end of a recovery, and is sent if the recovery fails', async t => {
    const { url, nth, types } = await receiver(t)
    const { see } = notifying(t, [url], { lastingAfterMs: 4000 })
    see(`+${OUTAGE}`)
    await nth(1)
    // The recovery begins two seconds into the outage and includes the fourth second.
    see('++++')
    await delay(50)
    assert.deepEqual(types(), ['outage.opened'])
    see('-')
    const { body } = await nth(2)
    assert.deepEqual(types(), ['outage.opened', 'outage.lasting'])
    assert.match(String(at(body, 'data', 'message')), /: outage for 5 s, now the fiber is missing; /)
  })

  test('is not sent by a process that was suspended until a reading confirms the outage', async t => {
    const { url, nth, types } = await receiver(t)
    const { see, pass } = notifying(t, [url], { lastingAfterMs: 100 })
    see(`+${OUTAGE}`)
    pass(HOUR_MS)
    await nth(1)
    await delay(250)
    assert.deepEqual(types(), ['outage.opened'])
    see('-')
    await nth(2)
    assert.deepEqual(types(), ['outage.opened', 'outage.lasting'])
  })

  for (const [what, past] of [
    ['that has ended while no process was running', [{ ...underWay(), startedAt: 2000, endedAt: 9000 }]],
    ['that is no longer known', []],
  ] as const) {
    test(`is not sent by the next process about an outage ${what}`, async t => {
      const { history } = directory(t)
      let isUp = false
      const { url, types, received } = await receiver(t, () => (isUp ? 200 : 503))
      const first = notifying(t, [url], { file: fileOf(history), lastingAfterMs: 3000, cooldownMs: HOUR_MS })
      first.see(`+${OUTAGE}`)
      await until(() => received.length > 0)
      first.see('----')
      await until(() => readFileSync(`${history}.notifications`, 'utf8').includes('outage.lasting'))
      await first.notifier.close()
      const tried = types().length
      isUp = true
      const next = notifying(t, [url], { past, file: fileOf(history), lastingAfterMs: 3000 })
      next.pass(10_000)
      next.see('+')
      await until(() => types().length > tried)
      await until(() => !readFileSync(`${history}.notifications`, 'utf8').includes('pending'))
      assert.ok(!types().slice(tried).includes('outage.lasting'))
    })
  }

  test('and its outage keep their identity when the clock is set back', t => {
    const { history } = directory(t)
    const file = fileOf(history)
    const outage = underWay()
    const queued: Pending = {
      ...{ webhook: '01234567', id: `msg_${'0'.repeat(36)}`, queuedAt: 0, attempts: 1, notBefore: 0 },
      message: { ...MESSAGE, kind: 'outage.lasting', outage: { ...outage, startedAt: 9000 } },
    }
    file.save({ outage: 9000, at: 9000, lasting: 9000, unreported: 0 }, [queued])
    const { reported, pending } = fileOf(history).load(5000, 4999)
    assert.deepEqual(reported, { outage: 4999, at: 5000, lasting: 4999, unreported: 0 })
    assert.equal(at(pending[0], 'message', 'outage', 'startedAt'), 4999)
  })
})

describe('notify.pageUrl', TOGETHER, () => {
  const pageUrl = 'https://focus.example.com/-/?a=1&b=2'

  test('is a link in every format', async t => {
    const { url, nth, received } = await receiver(t)
    const webhooks: Webhook[] = [
      { url: `${url}/json`, format: 'json' },
      { url: `${url}/slack`, format: 'slack' },
      { url: `${url}/teams`, format: 'teams' },
      { url: `${url}/pagerduty`, format: 'pagerduty', routingKey: ROUTING_KEY },
    ]
    notifying(t, webhooks, { pageUrl }).see(`+${OUTAGE}`)
    await nth(4)
    const to = (path: string) => received.find(each => each.path === path)?.body
    const text = 'Open the status page'
    assert.equal(at(to('/json'), 'data', 'pageUrl'), pageUrl)
    assert.match(
      String(at(to('/slack'), 'text')),
      /until it is back\. <https:\/\/focus\.example\.com\/-\/\?a=1&amp;b=2\|Open the status page>$/,
    )
    assert.deepEqual(at(to('/teams'), 'attachments', 0, 'content', 'actions'), [
      { type: 'Action.OpenUrl', title: text, url: pageUrl },
    ])
    assert.deepEqual(at(to('/pagerduty'), 'links'), [{ href: pageUrl, text }])
  })
})

describe('a silent override', TOGETHER, () => {
  const silence = { state: 'open', reason: 'laser service', forSeconds: 3600, silent: true } as const

  test('suppresses an outage that begins and ends while it is in force', async t => {
    const { url, types } = await receiver(t)
    const { see, breaker } = notifying(t, [url], { lastingAfterMs: 1000 })
    see('+')
    breaker.setOverride(silence, '::1')
    see(`${OUTAGE}---${RECOVERY}`)
    breaker.removeOverride('::1')
    await delay(100)
    assert.deepEqual(types(), [])
    breaker.shutdown()
  })

  for (const how of ['is removed', 'is replaced by one that is not silent', 'ends'] as const) {
    test(`no longer suppresses an outage that still lasts when it ${how}`, async t => {
      const { url, nth, types } = await receiver(t)
      const { see, pass, breaker } = notifying(t, [url])
      see('+')
      breaker.setOverride({ ...silence, forSeconds: 60 }, '::1')
      see(OUTAGE)
      await delay(50)
      assert.deepEqual(types(), [])
      if (how === 'is removed') breaker.removeOverride('::1')
      else if (how === 'ends') {
        pass(60_000)
        see('-')
      } else breaker.setOverride({ ...silence, silent: false }, '::1')
      assert.equal(at((await nth(1)).body, 'type'), 'outage.opened')
      breaker.removeOverride('::1')
      see(RECOVERY)
      assert.equal(at((await nth(2)).body, 'type'), 'outage.closed')
      assert.equal(at((await nth(2)).body, 'data', 'untoldOutages'), 0)
      breaker.shutdown()
    })
  }

  test('does not suppress the end of an outage that was reported before', async t => {
    const { url, nth, types } = await receiver(t)
    const { see, breaker } = notifying(t, [url])
    see(`+${OUTAGE}`)
    await nth(1)
    breaker.setOverride(silence, '::1')
    see(RECOVERY)
    await nth(2)
    assert.deepEqual(types(), ['outage.opened', 'outage.closed'])
    breaker.shutdown()
  })
})

describe('the formats', TOGETHER, () => {
  test('teams is an Adaptive Card in the envelope of Workflows, and does not interpret the name as markup', async t => {
    const { url, nth } = await receiver(t, () => 202)
    const { see } = notifying(t, [{ url, format: 'teams' }], { name: '[lab](https://example.com) *2*' })
    see(`+${OUTAGE}`)
    assert.deepEqual((await nth(1)).body, {
      type: 'message',
      attachments: [
        {
          contentType: 'application/vnd.microsoft.card.adaptive',
          contentUrl: null,
          content: {
            $schema: 'http://adaptivecards.io/schemas/adaptive-card.json',
            type: 'AdaptiveCard',
            version: '1.2',
            body: [
              {
                type: 'RichTextBlock',
                inlines: [
                  {
                    type: 'TextRun',
                    text: '[lab](https://example.com) *2*: outage, the fiber is missing; configure requests are refused until it is back.',
                  },
                ],
              },
            ],
          },
        },
      ],
    })
  })

  test('pagerduty triggers and resolves one alert for each outage, even if a reload changes names', async t => {
    const { url, nth, received } = await receiver(t, () => 202)
    const { see, reload } = notifying(t, [{ url, format: 'pagerduty', routingKey: ROUTING_KEY }], {
      name: 'lab 2',
    })
    see(`+${OUTAGE}`)
    const opened = (await nth(1)).body
    assert.deepEqual(opened, {
      routing_key: ROUTING_KEY,
      event_action: 'trigger',
      dedup_key: 'focus-breaker focus-server:5000 1970-01-01T00:00:02.000Z',
      client: 'focus-breaker',
      payload: {
        summary: 'lab 2: outage, the fiber is missing; configure requests are refused until it is back.',
        source: 'focus-server:5000',
        severity: 'critical',
        timestamp: '1970-01-01T00:00:02.000Z',
        custom_details: at(opened, 'payload', 'custom_details'),
      },
    })
    assert.equal(at(opened, 'payload', 'custom_details', 'cause'), 'waiting')
    reload({ name: 'lab 3' })
    see(RECOVERY)
    assert.deepEqual((await nth(2)).body, {
      routing_key: ROUTING_KEY,
      event_action: 'resolve',
      dedup_key: at(opened, 'dedup_key'),
    })
    see(OUTAGE)
    await nth(3)
    assert.notEqual(at(received[2]?.body, 'dedup_key'), at(opened, 'dedup_key'))
  })

  test('two PagerDuty integrations share one URL, and each gets its events', async t => {
    const { url, nth, received } = await receiver(t, () => 202)
    const keys = [ROUTING_KEY, ROUTING_KEY.toUpperCase()]
    const { see } = notifying(
      t,
      keys.map(routingKey => ({ url, format: 'pagerduty', routingKey })),
    )
    see(`+${OUTAGE}`)
    await nth(2)
    assert.deepEqual(new Set(received.map(({ body }) => at(body, 'routing_key'))), new Set(keys))
  })

  test('each can have its own headers, which outrank the credentials of the URL', async t => {
    const { url, nth } = await receiver(t)
    const headers = { Authorization: 'Bearer abc', 'X-Scope-OrgID': 'lab 2' }
    const { see } = notifying(t, [{ url: url.replace('//', '//u:p@'), format: 'json', headers }])
    see(`+${OUTAGE}`)
    const { headers: sent } = await nth(1)
    assert.equal(sent.authorization, 'Bearer abc')
    assert.equal(sent['x-scope-orgid'], 'lab 2')
    assert.equal(sent['content-type'], 'application/json')
  })
})

describe('the notifications file', TOGETHER, () => {
  test('keeps undelivered messages and what was reported, without secrets, readable only by its owner', async t => {
    const { history, path } = directory(t)
    const { url, nth } = await receiver(t, () => 503)
    const webhook: Webhook = {
      ...{ url: `${url.replace('//', '//user:hunter2@')}/T0PATH?key=K0QUERY`, format: 'pagerduty' },
      ...{ routingKey: ROUTING_KEY, headers: { authorization: 'Bearer H0HEADER' } },
    }
    const first = notifying(t, [webhook], { file: fileOf(history), secret: 'S0SECRET of sixteen' })
    first.see(`+${OUTAGE}`)
    await nth(1)
    await first.notifier.close()
    assert.deepEqual(first.failures, [])
    const text = readFileSync(path, 'utf8')
    assert.doesNotMatch(text, /hunter2|T0PATH|K0QUERY|H0HEADER|S0SECRET|127\.0\.0\.1/)
    assert.ok(!text.includes(ROUTING_KEY))
    assert.equal(statSync(path).mode & 0o777, 0o600)
    const { reported, pending } = fileOf(history).load(Date.now())
    assert.deepEqual(reported, { outage: 2000, at: 2000, lasting: null, unreported: 0 })
    assert.deepEqual(
      pending.map(({ message }) => message.kind),
      ['outage.opened'],
    )
  })

  test('is read with malformed lines skipped, within limits, and without times in the future', async t => {
    const { history, path } = directory(t)
    const { url, nth } = await receiver(t, () => 503)
    const { see, notifier } = notifying(t, [url], { file: fileOf(history) })
    see(`+${OUTAGE}`)
    await nth(1)
    await notifier.close()
    const [reported = '', pending = ''] = readFileSync(path, 'utf8').split('\n')
    const late = pending.replaceAll('1970-', '2970-')
    const broken = ['{', 'null', '{"pending":{}}', pending.replace('opened', 'eaten'), pending.slice(0, -9)]
    const leap = pending.replace(/"queuedAt":"[^"]*"/, '"queuedAt":"1990-12-31T23:59:60Z"')
    writeFileSync(path, [reported, ...broken, leap, late, ...Array(100).fill(pending)].join('\n'))
    const file = fileOf(history)
    const kept = file.load(5000)
    assert.equal(file.skippedLines, broken.length + 1)
    assert.equal(kept.pending.length, 21)
    const [first] = kept.pending
    assert.deepEqual([first?.queuedAt, first?.message.at, first?.notBefore], [5000, 5000, 5000 + HOUR_MS])
  })

  test('is left unchanged when it is not a notifications file', t => {
    const { history, path } = directory(t)
    for (const text of ['something else\n', 'x'.repeat(5_000_000)]) {
      writeFileSync(path, text)
      const faults: unknown[] = []
      const file = new NotificationFile(history, error => faults.push(error))
      assert.deepEqual(file.load(0), { reported: undefined, pending: [] })
      file.save({ outage: null, at: null, lasting: null, unreported: 0 }, [])
      assert.equal(faults.length, 1)
      assert.equal(file.isWorking, false)
      assert.equal(readFileSync(path, 'utf8'), text)
    }
  })

  test('is not created without a webhook', async t => {
    const { history, folder } = directory(t)
    const { see, notifier } = notifying(t, [], { file: fileOf(history) })
    see(`+${OUTAGE}${RECOVERY}`)
    await notifier.close()
    assert.deepEqual(readdirSync(folder), [])
  })
})

/** A directory for a history, for the duration of a test. */
function directory(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-notifications-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const history = join(folder, 'outages.jsonl')
  return { folder, history, path: `${history}.notifications` }
}

const fileOf = (history: string) => new NotificationFile(history, error => assert.ifError(error))
