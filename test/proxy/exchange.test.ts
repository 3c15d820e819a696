import assert from 'node:assert/strict'
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { type EndedExchange, ExchangeEvents } from '../../src/observability/exchange-events.js'
import { Exchange } from '../../src/proxy/exchange.js'
import type { WhenOver } from '../../src/server/connection.js'
import { answered, hold as holdPlace, setUp } from '../support/breaker-set-up.js'
import { viewFrom } from '../support/client-view.js'

/** How an exchange ends for its client: it has its response, or it is gone. */
const ENDS = [
  ['has its response', true],
  ['is gone', false],
] as const

/** Reports synchronously, so that the order of all events is visible. */
class PromptEvents extends ExchangeEvents {
  override forwardedSoon(run: string | undefined): void {
    this.emit('forwarded', run)
  }

  override endedSoon(exchange: EndedExchange): void {
    this.emit('ended', exchange)
  }
}

/** A new exchange, and a list of everything that happens to it. */
function begin({ guarded = true } = {}) {
  const events = new PromptEvents()
  const happened: string[] = []
  events.on('forwarded', () => happened.push('forwarded'))
  events.on('ended', ended => happened.push(`ended ${ended.guarded ? 'guarded ' : ''}${ended.statusCode}`))
  let endClient: WhenOver = () => assert.fail('the exchange does not listen')
  const exchange = new Exchange({
    id: 'an id',
    received: new IncomingMessage(new Socket()),
    view: viewFrom('192.0.2.1'),
    target: { target: '/configure', guarded },
    events,
    whenOver: over => {
      endClient = over
    },
  })
  return {
    exchange,
    events,
    happened,
    over: (hasResponse: boolean) => endClient(hasResponse),
    hold: (name: string) => exchange.hold(() => happened.push(name)),
  }
}

for (const [how, hasResponse] of ENDS) {
  test(`when the client ${how}, everything is released once, in the order in which it was taken`, () => {
    const { exchange, happened, over, hold } = begin()
    for (const name of ['a', 'b', 'c']) hold(name)
    assert.deepEqual([happened, exchange.hasEnded], [[], false])
    over(hasResponse)
    assert.deepEqual([happened, exchange.hasEnded], [['a', 'b', 'c'], true])
    assert.equal(exchange.isClientGone, !hasResponse)
    over(true)
    over(false)
    exchange.fail()
    assert.deepEqual(happened, ['a', 'b', 'c'])
  })

  test(`a resource that is taken after the client ${how} is released at once`, () => {
    const { happened, over, hold } = begin()
    over(hasResponse)
    const release = hold('late')
    assert.deepEqual(happened, ['late'])
    assert.equal(release(), false)
    assert.deepEqual(happened, ['late'])
  })
}

test('a resource that was released early is not released again at the end', () => {
  const { happened, over, hold } = begin()
  hold('a')
  const release = hold('b')
  assert.equal(release(), true)
  assert.equal(release(), false)
  assert.deepEqual(happened, ['b'])
  over(true)
  assert.equal(release(), false)
  assert.deepEqual(happened, ['b', 'a'])
})

test('a failure releases everything, and the exchange ends with its client', () => {
  const { exchange, happened, over, hold } = begin()
  hold('queue place')
  exchange.fail()
  assert.deepEqual([happened, exchange.hasEnded], [['queue place'], false])
  hold('response timer')
  exchange.fail()
  hold('another')
  over(true)
  assert.deepEqual([happened, exchange.hasEnded], [['queue place', 'response timer', 'another'], true])
})

for (const [when, act] of [
  ['at the end', ({ over }) => over(false)],
  ['after a failure', ({ exchange }) => exchange.fail()],
] satisfies readonly (readonly [string, (begun: ReturnType<typeof begin>) => void])[]) {
  test(`${when}, a release may release others, take more and fail`, () => {
    const begun = begin()
    const { exchange, happened, hold } = begun
    const others: (() => boolean)[] = []
    exchange.hold(() => {
      happened.push('first')
      for (const release of others) release()
      hold('taken meanwhile')
      exchange.fail()
    })
    hold('second')
    others.push(hold('third'))
    hold('fourth')
    act(begun)
    assert.deepEqual(happened.toSorted(), ['first', 'fourth', 'second', 'taken meanwhile', 'third'])
    assert.deepEqual(happened.slice(0, 2), ['first', 'third'])
  })
}

test('work that must finish first delays the end after the client is gone', () => {
  const { exchange, happened, over, hold } = begin()
  hold('a')
  const finished = exchange.finishFirst()
  over(false)
  assert.deepEqual([happened, exchange.isClientGone, exchange.hasEnded], [[], true, false])
  hold('b')
  finished()
  assert.deepEqual([happened, exchange.hasEnded], [['a', 'b'], true])
  finished()
  assert.deepEqual(happened, ['a', 'b'])
})

test('work that finishes while the client waits does not end the exchange', () => {
  const { exchange, happened, over, hold } = begin()
  hold('a')
  exchange.finishFirst()()
  assert.deepEqual([happened, exchange.hasEnded], [[], false])
  over(true)
  assert.deepEqual([happened, exchange.hasEnded], [['a'], true])
})

test('work that has failed no longer delays the end', () => {
  const gone = begin()
  gone.hold('a')
  gone.exchange.finishFirst()
  gone.over(false)
  gone.exchange.fail()
  assert.deepEqual([gone.happened, gone.exchange.hasEnded], [['a'], true])
  const there = begin()
  there.exchange.finishFirst()
  there.exchange.fail()
  assert.equal(there.exchange.hasEnded, false)
  there.over(false)
  assert.equal(there.exchange.hasEnded, true)
})

test('the end of a forwarded request is reported once, with its status, after everything is released', () => {
  const { exchange, happened, over, hold } = begin()
  let beforehand = 0
  exchange.whenForwarded(() => {
    beforehand += 1
  })
  hold('a')
  assert.equal(exchange.isForwarded, false)
  exchange.forwarded()
  assert.deepEqual([happened, beforehand, exchange.isForwarded], [['forwarded'], 1, true])
  exchange.statusCode = 200
  over(true)
  exchange.report()
  assert.deepEqual(happened, ['forwarded', 'a', 'ended guarded 200'])
})

test('an end that was reported early is not reported again', () => {
  const { exchange, happened, over } = begin({ guarded: false })
  exchange.forwarded()
  exchange.statusCode = 101
  exchange.report()
  exchange.report()
  over(false)
  assert.deepEqual(happened, ['forwarded', 'ended 101'])
})

test('a request that was not forwarded is not reported', () => {
  const { exchange, happened, over } = begin()
  exchange.report()
  exchange.fail()
  over(true)
  assert.deepEqual(happened, [])
})

test('an exchange describes its client, always with the same object', () => {
  const { exchange } = begin()
  Object.assign(exchange.received, { method: 'POST', headers: { 'user-agent': 'a test' } })
  const { client } = exchange
  assert.equal(exchange.address, '192.0.2.1')
  assert.equal(client.address, '192.0.2.1')
  assert.equal(client.userAgent, 'a test')
  assert.match(client.request, /^POST \/configure/)
  assert.equal(exchange.client, client)
})

test('a response without marks gets no extra headers', () => {
  assert.deepEqual(begin().exchange.marks, [])
})

test('the reported duration is the time since the request was classified', t => {
  let now = 5000
  t.mock.method(performance, 'now', () => now)
  const { exchange, events, over } = begin()
  const durations: number[] = []
  events.on('ended', ({ durationMs }) => durations.push(durationMs))
  exchange.forwarded()
  now += 40
  over(true)
  assert.deepEqual(durations, [40])
})

test('a slot is taken once, and released at the end without an outcome', () => {
  const { breaker, emitted, see } = setUp({ maxConcurrency: 2 })
  see('+')
  const before = emitted.length
  const { exchange, over } = begin()
  assert.equal(exchange.admit(breaker), undefined)
  assert.equal(exchange.admit(breaker), undefined)
  assert.equal(breaker.snapshot().inFlight, 1)
  over(false)
  assert.deepEqual([breaker.snapshot().inFlight, emitted.slice(before)], [0, []])
})

test('a slot that was settled is not released again', () => {
  const { breaker, see } = setUp()
  see('+')
  holdPlace(breaker)
  const { exchange, over } = begin()
  exchange.admit(breaker)
  exchange.permit?.settle(answered(200))
  over(true)
  assert.equal(breaker.snapshot().inFlight, 1)
})

test('a request that is not admitted takes no slot and may try again', () => {
  const { breaker, see } = setUp()
  see('+-')
  const { exchange, over } = begin()
  assert.equal(exchange.admit(breaker)?.code, 'waiting_for_fiber')
  assert.equal(exchange.permit, undefined)
  exchange.needsFiber = false
  assert.equal(exchange.admit(breaker), undefined)
  assert.equal(breaker.snapshot().inFlight, 1)
  over(true)
  assert.equal(breaker.snapshot().inFlight, 0)
})

/** What may happen to an exchange, in any order. */
const anyAct = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('hold' as const), alsoReleases: fc.option(fc.nat(9)) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('release' as const), which: fc.nat(9) }) },
  fc.record({ kind: fc.constantFrom('finish first', 'finish', 'fail', 'forward', 'report') }),
  fc.record({ kind: fc.constant('over' as const), hasResponse: fc.boolean() }),
)

test('whatever happens, every resource is released once, and at most one end is reported', () => {
  fc.assert(
    fc.property(fc.array(anyAct, { maxLength: 40, size: 'max' }), acts => {
      const { exchange, happened, over } = begin()
      const released: number[] = []
      const releases: (() => boolean)[] = []
      const finishes: (() => void)[] = []
      let wasForwardedInTime = false
      for (const act of acts) {
        const hadEnded = exchange.hasEnded
        if ('which' in act) releases[act.which]?.()
        else if ('hasResponse' in act) over(act.hasResponse)
        else if ('alsoReleases' in act) {
          const index = released.push(0) - 1
          const release = exchange.hold(() => {
            released[index] = (released[index] ?? 0) + 1
            if (act.alsoReleases !== null) releases[act.alsoReleases]?.()
          })
          releases.push(release)
        } else if (act.kind === 'finish first') finishes.push(exchange.finishFirst())
        else if (act.kind === 'finish') finishes.pop()?.()
        else if (act.kind === 'fail') exchange.fail()
        else if (act.kind === 'report') exchange.report()
        else {
          wasForwardedInTime ||= !hadEnded
          exchange.forwarded()
        }
        assert.ok(exchange.hasEnded || !hadEnded, 'an end is final')
        if (exchange.hasEnded)
          assert.ok(
            released.every(times => times === 1),
            `released: ${released}`,
          )
        assert.ok(
          released.every(times => times <= 1),
          `released: ${released}`,
        )
      }
      over(false)
      for (const finish of finishes) finish()
      assert.equal(exchange.hasEnded, true)
      assert.ok(
        released.every(times => times === 1),
        `released: ${released}`,
      )
      const ends = happened.filter(each => each.startsWith('ended')).length
      assert.ok(ends <= 1, `${ends} ends`)
      if (wasForwardedInTime) assert.equal(ends, 1)
    }),
    { numRuns: 2000 },
  )
})
