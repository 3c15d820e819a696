import assert from 'node:assert/strict'
import { test } from 'node:test'
import fastify from 'fastify'
import type { Past } from '../../src/breaker/breaker.js'
import { bodyOf } from '../../src/notifications/message.js'
import { OutageLog } from '../../src/outages/log.js'
import { Refusals } from '../../src/proxy/refusal.js'
import { fiber } from '../../src/routes/fiber-route.js'
import { setUp } from '../support/breaker-set-up.js'
import { at } from '../support/harness.js'

const T = (seconds: number) => new Date(seconds * 1000).toISOString()

/** An outage with this cause that started ten seconds before this process. */
const resumed = (cause: 'waiting' | 'unreachable'): Past => ({
  underWay: { openedAt: -10_000, cause, causeSince: -10_000 },
})

/** A drawn outage, with the start of its last state and cause and the start of the outage, in seconds. */
const PLAYS: readonly {
  readonly that: string
  readonly past?: Past
  readonly given: string
  readonly circuit: readonly [state: string, cause: string, since: number, outage: number]
}[] = [
  { that: 'a missing fiber', given: '+-', circuit: ['open', 'waiting', 2, 2] },
  { that: 'a dead server', given: '+xxx', circuit: ['open', 'unreachable', 4, 4] },
  {
    that: 'a server that fails while the fiber is missing',
    given: '+-------xxx',
    circuit: ['open', 'unreachable', 9, 2],
  },
  {
    that: 'a dead server that comes back without a fiber',
    given: '+xxxxxxxxx-',
    circuit: ['open', 'waiting', 11, 4],
  },
  { that: 'a recovery', given: '+-------++', circuit: ['half-open', 'waiting', 10, 2] },
  {
    that: 'a recovery that fails for the same cause',
    given: '+-------++-',
    circuit: ['open', 'waiting', 11, 2],
  },
  {
    that: 'a recovery that fails for another cause',
    given: '+-------++x',
    circuit: ['open', 'unreachable', 11, 2],
  },
  {
    that: 'a cause from before a restart',
    past: resumed('waiting'),
    given: '--',
    circuit: ['open', 'waiting', -10, -10],
  },
  {
    that: 'a server that was dead before a restart and still is',
    past: resumed('unreachable'),
    given: 'x',
    circuit: ['open', 'unreachable', -10, -10],
  },
  {
    that: 'another cause after a restart',
    past: resumed('waiting'),
    given: 'x',
    circuit: ['open', 'unreachable', 1, -10],
  },
  {
    that: 'an outage from before a restart that recovers',
    past: resumed('waiting'),
    given: '-++',
    circuit: ['half-open', 'waiting', 3, -10],
  },
]

for (const { that, past = {}, given, circuit } of PLAYS) {
  test(`${that} is dated by its cause and shown within its outage, in every form: ${given}`, async t => {
    const { breaker, see, pass, clock } = setUp({ maxConcurrency: 0 }, past)
    const outageLog = new OutageLog()
    outageLog.attach(breaker)
    t.after(() => breaker.shutdown())
    see(given)
    pass(1000)
    const refusals = new Refusals({
      breaker,
      settings: () => ({ statusCode: 503, retryAfter: { minSeconds: 1, maxSeconds: 5 } }),
      random: () => 0,
    })
    const app = fastify()
    t.after(() => app.close())
    fiber(app, { breaker, refusals, clock })
    const [state, cause, since, outage] = circuit
    const expected = { state, since: T(since), cause, outageStartedAt: T(outage) }
    for (const accept of ['application/json', 'application/problem+json']) {
      const decision = { admitted: false, code: 'waiting_for_fiber', retryInMs: 0 } as const
      const { body } = refusals.response({ id: 'an-id', accept, clientPrefix: '' }, decision)
      assert.deepEqual(at(JSON.parse(body.toString()), 'circuit'), expected, accept)
    }
    assert.deepEqual(at((await app.inject('/-/fiber')).json(), 'circuit'), expected)
    const now = clock() / 1000
    const within = since - outage > 5 ? `, within an outage of ${now - outage} s` : ''
    const text = await app.inject({ url: '/-/fiber', headers: { accept: 'text/plain' } })
    assert.ok(text.body.includes(`circuit ${state} for ${now - since} s${within}`), text.body)
    // A notification uses the outage history, which does not contain an outage before this process.
    const current = outageLog.current()
    assert.ok(current)
    if (past.underWay !== undefined || state === 'half-open') return
    assert.deepEqual([current.causeSince, current.startedAt], [since * 1000, outage * 1000])
    const message = {
      kind: 'outage.lasting',
      name: 'lab',
      source: 'lab',
      at: clock(),
      outage: current,
      unreported: 0,
    } as const
    const webhook = { url: 'http://192.0.2.1/', format: 'json' } as const
    const body = bodyOf(message, webhook, { handling: 'circuit', isFollowed: false })
    const data = at(JSON.parse(body ?? ''), 'data')
    assert.deepEqual([at(data, 'startedAt'), at(data, 'causeSince')], [T(outage), T(since)])
    const sentence = String(at(data, 'message'))
    assert.ok(sentence.includes(`outage for ${now - outage} s`), sentence)
    assert.equal(sentence.includes(`for the last ${now - since} s `), within !== '', sentence)
  })
}

test('a recovery from a dead server does not state that the fiber is back', () => {
  const { breaker, see } = setUp({ recovery: { initialConcurrency: 0, maxConcurrency: 30, rampMs: 3000 } })
  see('+xxx++')
  const refusals = new Refusals({
    breaker,
    settings: () => ({ statusCode: 503, retryAfter: { minSeconds: 1, maxSeconds: 5 } }),
    random: () => 0,
  })
  const decision = breaker.decide()
  assert.ok(!decision.admitted)
  const { body } = refusals.response({ id: 'an-id', accept: undefined, clientPrefix: '' }, decision)
  assert.match(
    String(at(JSON.parse(body.toString()), 'message')),
    /^focus-server's metadata can be read again/,
  )
  breaker.shutdown()
})

test('a request that an override admits is not shown as admitted by the circuit', async t => {
  const { breaker, see, clock } = setUp()
  t.after(() => breaker.shutdown())
  see('+-')
  breaker.setOverride({ state: 'closed', reason: 'a laser\ncheck', forSeconds: 60 }, '192.0.2.9')
  const refusals = new Refusals({
    breaker,
    settings: () => ({ statusCode: 503, retryAfter: { minSeconds: 1, maxSeconds: 5 } }),
    random: () => 0,
  })
  const app = fastify()
  t.after(() => app.close())
  fiber(app, { breaker, refusals, clock })
  const text = await app.inject({ url: '/-/fiber', headers: { accept: 'text/plain' } })
  assert.match(
    text.body,
    /^admitted: let through by an operator until 1970-01-01T00:01:02.000Z: a laser check; circuit open for /,
  )
  const { message, admits } = (await app.inject('/-/fiber')).json()
  assert.deepEqual([message, admits], [text.body.trimEnd(), true])
})

test('a notification during the recovery does not state that everything is refused', () => {
  const { breaker, see, clock } = setUp()
  const outageLog = new OutageLog()
  outageLog.attach(breaker)
  see('+-++')
  const outage = outageLog.current() ?? assert.fail()
  const common = { kind: 'outage.opened', name: 'lab', source: 'lab', at: clock(), outage, unreported: 0 }
  const effect = {
    circuit: 'configure requests are admitted a few at a time',
    observe: 'configure requests are still forwarded (mode observe)',
    'forced-closed': 'configure requests are still forwarded because of a manual override',
    'forced-open': 'configure requests are also refused by a manual override',
  } as const
  for (const handling of ['circuit', 'observe', 'forced-closed', 'forced-open'] as const) {
    const body = bodyOf(
      { ...common, kind: 'outage.opened' },
      { url: 'http://192.0.2.1/', format: 'slack' },
      { handling, isFollowed: false, isRecovering: true },
    )
    const words = `the fiber is back and the recovery has begun; ${effect[handling]}.`
    assert.ok(String(at(JSON.parse(body ?? ''), 'text')).endsWith(words), body)
  }
  breaker.shutdown()
})
