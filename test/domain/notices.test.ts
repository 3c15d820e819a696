import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  afterClaim,
  type Claim,
  lastOpenedAt,
  MAX_NOTICES,
  NOT_WAITING,
  type Noted,
  type Notices,
  noted,
  noticeOf,
  unreportedIn,
  type Waiting,
} from '../../src/domain/notices.js'

const outage = (startedAt: number, endedAt: number | null, more: Partial<Noted> = {}): Noted => ({
  ...{ startedAt, endedAt, openedAt: null, isLasting: false, isHeld: false, isFound: false },
  ...more,
})

/** The notices after several replicas have noted outages in order. */
const after = (now: number, ...all: readonly Noted[]): Notices =>
  all.reduce((notices, each) => noted(notices, each, now), [] as Notices)

describe('the outages that a group has reported', () => {
  test('an outage whose start replicas noticed at different times is one outage, with the key of the first that noted it', () => {
    const [first, second, third] = [outage(1000, null), outage(400, null), outage(2000, 9000)]
    const notices = after(3000, first, second, third)
    assert.deepEqual(
      notices.map(({ key, endedAt }) => [key, endedAt]),
      [[1000, 9000]],
    )
    for (const each of [first, second, third]) assert.equal(noticeOf(notices, each)?.key, 1000)
  })

  test('an outage after the end of another one is a new outage', () => {
    const notices = after(7000, outage(1000, 5000), outage(5000, null), outage(6000, null))
    assert.deepEqual(
      notices.map(({ key }) => key),
      [1000, 5000],
    )
  })

  test('an outage that no replica has noted for a minute has ended', () => {
    const started = after(1000, outage(1000, null))
    assert.equal(noted(started, outage(60_999, null), 61_000).length, 1)
    assert.equal(noted(started, outage(61_000, null), 61_001).length, 2)
    const noted2 = noted(started, outage(1000, null), 50_000)
    assert.equal(noted(noted2, outage(61_000, null), 61_001).length, 1, 'it was noted again in between')
  })

  test('noting what is already known changes nothing, so nothing is written', () => {
    const notices = after(1000, outage(1000, null, { openedAt: 1000 }))
    assert.equal(noted(notices, outage(1000, null, { openedAt: 1000 }), 2000), notices)
    assert.equal(noted(notices, outage(1003, null), 2000), notices)
    assert.notEqual(noted(notices, outage(1000, null), 11_000), notices, 'it is noted again after a while')
  })

  test('an outage keeps its key even if Redis was emptied in between', () => {
    const notices = after(100_000, outage(2000, null, { key: 1000, openedAt: 1500 }), outage(1000, null))
    assert.deepEqual(
      notices.map(({ key, openedAt }) => [key, openedAt]),
      [[1000, 1500]],
    )
  })

  test('the first replica that reports more about an outage prevails', () => {
    const [notice] = after(
      9000,
      outage(1000, null, { isFound: true, isHeld: true }),
      outage(1000, null, { isFound: true, openedAt: 4000 }),
      outage(1000, null, { isFound: false, openedAt: 5000, isLasting: true }),
    )
    assert.deepEqual(notice, {
      ...{ key: 1000, endedAt: null, seenAt: 9000, openedAt: 4000 },
      ...{ isLasting: true, isHeld: true, isFound: false },
    })
  })

  test('the cooldown counts from the last start that any replica reported', () => {
    assert.equal(lastOpenedAt([]), null)
    const notices = after(
      99_000,
      outage(1000, 2000, { openedAt: 1500 }),
      outage(3000, 4000, { openedAt: 3500 }),
      outage(5000, 6000, { isHeld: true }),
      outage(7000, 8000, { isHeld: true }),
      outage(8500, 8600),
      outage(9000, null, { isHeld: true }),
    )
    assert.equal(lastOpenedAt(notices), 3500)
    assert.equal(unreportedIn(notices), 2, 'only ended outages that the cooldown suppressed')
    assert.equal(unreportedIn(noted(notices, outage(9000, null, { openedAt: 9500 }), 9500)), 0)
  })

  test('a limited number of outages is remembered', () => {
    const many = Array.from({ length: 200 }, (_, index) => outage(index * 10, index * 10 + 5))
    const notices = after(0, ...many)
    assert.equal(notices.length, MAX_NOTICES)
    assert.equal(notices.at(-1)?.key, 1990)
  })

  test('the order in which replicas note an outage does not change what is reported about it', () => {
    const span = fc.record({
      startedAt: fc.integer({ min: 900, max: 1100 }),
      endedAt: fc.option(fc.integer({ min: 5000, max: 5200 })),
      openedAt: fc.option(fc.integer({ min: 1200, max: 1300 })),
      isLasting: fc.boolean(),
      isHeld: fc.boolean(),
      isFound: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(span, { minLength: 1, maxLength: 5 }), all => {
        for (const order of [all, all.toReversed()]) {
          const notices = after(5300, ...order)
          assert.equal(notices.length, 1)
          assert.equal(
            notices[0]?.openedAt !== null,
            all.some(({ openedAt }) => openedAt !== null),
          )
          assert.equal(
            notices[0]?.isLasting,
            all.some(({ isLasting }) => isLasting),
          )
          assert.equal(
            notices[0]?.isFound,
            all.every(({ isFound }) => isFound),
          )
        }
      }),
    )
  })
})

const CLAIM_MS = 10_000

/** The claim of one notification in Redis, as the scripts of `notifications/group-notices` treat it. */
class Store {
  #held: { readonly by: string; readonly until: number } | undefined

  take(token: string, now: number): Claim {
    const held = this.#held !== undefined && this.#held.until > now ? this.#held : undefined
    if (held?.by === 'done') return { kind: 'done' }
    if (held !== undefined && held.by !== token) return { kind: 'taken', forMs: held.until - now }
    this.#held = { by: token, until: now + CLAIM_MS }
    return { kind: 'won' }
  }

  finish(): void {
    this.#held = { by: 'done', until: Number.POSITIVE_INFINITY }
  }

  empty(): void {
    this.#held = undefined
  }
}

/** One replica that has the notification to send. */
type Sender = {
  readonly token: string
  state: 'waiting' | 'sending' | 'sent' | 'over' | 'killed'
  waiting: Waiting
  /** When it next checks, renews its claim, or has delivered. */
  at: number
}

/** What happens to the replicas in a simulation. */
type Disturbance = ToOne | { readonly kind: 'redis-gone' | 'redis-back' | 'redis-empty'; readonly at: number }

/** `kill-before-done` kills it after its next delivery, before it has reported it. */
type ToOne = {
  readonly kind: 'kill' | 'kill-before-done' | 'pause' | 'lose-reply'
  readonly which: number
  readonly at: number
}

/**
 * Replicas that all have one notification to send, until each has sent it, knows that another one has sent it, or has
 * been killed. An attempt takes a while, and a receiver that is away for a time makes the claimer try again.
 */
function simulate(
  count: number,
  disturbances: readonly Disturbance[],
  { attemptMs, awayUntil }: { readonly attemptMs: number; readonly awayUntil: number },
) {
  const store = new Store()
  const senders: Sender[] = Array.from({ length: count }, (_, index) => ({
    ...{ token: `replica ${index}`, state: 'waiting', waiting: NOT_WAITING, at: index * 3 },
  }))
  const pending = disturbances.toSorted((one, other) => one.at - other.at)
  let isReached = true
  const lostReplies = new Set<string>()
  const doomed = new Set<string>()
  let sent = 0
  const claimOf = (sender: Sender, now: number): Claim => {
    if (!isReached) return { kind: 'unreached' }
    const claim = store.take(sender.token, now)
    return lostReplies.delete(sender.token) ? { kind: 'unreached' } : claim
  }
  const step = (sender: Sender, now: number) => {
    if (sender.state === 'sending') {
      if (now >= awayUntil) {
        sent += 1
        sender.state = doomed.has(sender.token) ? 'killed' : 'sent'
        if (sender.state === 'killed') return
        if (isReached) store.finish()
        else sender.at = now + 500
        return
      }
      // It keeps its claim by renewing it, and retries.
      claimOf(sender, now)
      Object.assign(sender, { state: 'waiting', at: now + 2000 })
      return
    }
    if (sender.state === 'sent') {
      if (isReached) store.finish()
      else sender.at = now + 500
      return
    }
    const next = afterClaim(claimOf(sender, now), sender.waiting, now)
    if (next.kind === 'drop') sender.state = 'over'
    else if (next.kind === 'send') Object.assign(sender, { state: 'sending', at: now + attemptMs })
    else Object.assign(sender, { waiting: next.waiting, at: now + next.inMs })
  }
  const disturb = (disturbance: Disturbance) => {
    if ('which' in disturbance) {
      const sender = senders[disturbance.which % count]
      if (sender === undefined) return
      if (disturbance.kind === 'lose-reply') lostReplies.add(sender.token)
      else if (disturbance.kind === 'kill-before-done') doomed.add(sender.token)
      else if (disturbance.kind === 'pause') sender.at += 30_000
      else sender.state = 'killed'
    } else if (disturbance.kind === 'redis-empty') store.empty()
    else isReached = disturbance.kind === 'redis-back'
  }
  for (let rounds = 0; rounds < 5000; rounds += 1) {
    const due = senders
      .filter(({ state }) => state === 'waiting' || state === 'sending')
      .toSorted((one, other) => one.at - other.at)[0]
    const late = senders.filter(
      ({ state, at }) => state === 'sent' && at <= (due?.at ?? Number.POSITIVE_INFINITY),
    )
    const next = pending[0]
    if (next !== undefined && next.at <= (due?.at ?? Number.POSITIVE_INFINITY)) {
      disturb(next)
      pending.shift()
    } else if (due === undefined) break
    else {
      for (const each of late) step(each, each.at)
      step(due, due.at)
    }
  }
  return { sent, senders }
}

const time = fc.integer({ min: 0, max: 60_000 })
const count = fc.integer({ min: 1, max: 5 })
const course = fc.record({ attemptMs: fc.integer({ min: 1, max: 4000 }), awayUntil: time })
const toOne = (kind: ToOne['kind']) => fc.record({ kind: fc.constant(kind), which: fc.nat(4), at: time })
const ALL_KINDS = ['kill', 'kill-before-done', 'pause', 'lose-reply'] as const
const toRedis = fc.record({
  kind: fc.constantFrom('redis-gone' as const, 'redis-back' as const, 'redis-empty' as const),
  at: time,
})

describe('which replica sends a notification', () => {
  test('exactly one replica sends it, however long the receiver is unavailable', () => {
    fc.assert(
      fc.property(count, course, (replicas, how) => {
        const { sent, senders } = simulate(replicas, [], how)
        assert.equal(sent, 1)
        assert.ok(senders.every(({ state }) => state === 'sent' || state === 'over'))
      }),
      { numRuns: 2000 },
    )
  })

  test('another one sends it if the one with the claim is killed, and a second time only if that was after the delivery', () => {
    const kill = fc.oneof(toOne('kill'), toOne('kill-before-done'))
    fc.assert(
      fc.property(count, fc.array(kill, { maxLength: 4 }), course, (replicas, kills, how) => {
        const { sent, senders } = simulate(replicas, kills, how)
        const killed = senders.filter(({ state }) => state === 'killed').length
        const late = new Set(
          kills.flatMap(({ kind, which }) => (kind === 'kill-before-done' ? [which % replicas] : [])),
        )
        assert.ok(sent <= 1 + late.size, `${sent} were sent`)
        if (killed < replicas) assert.ok(sent >= 1, 'no replica has sent it')
      }),
      { numRuns: 5000 },
    )
  })

  test('it is never lost, and sent twice only if replies are lost, a replica is paused, or Redis is down', () => {
    fc.assert(
      fc.property(
        count,
        fc.array(fc.oneof(...ALL_KINDS.map(toOne), toRedis), { maxLength: 12 }),
        course,
        (replicas, disturbances, how) => {
          const { sent, senders } = simulate(replicas, disturbances, how)
          const killed = senders.filter(({ state }) => state === 'killed').length
          if (killed < replicas) assert.ok(sent >= 1, 'no replica has sent it')
          const excuses = disturbances.filter(({ kind }) => !['kill', 'redis-back'].includes(kind))
          if (excuses.length === 0) assert.ok(sent <= 1)
          assert.ok(sent <= replicas, 'each replica sends it at most once')
          assert.ok(senders.every(({ state }) => state === 'sent' || state === 'over' || state === 'killed'))
        },
      ),
      { numRuns: 10_000 },
    )
  })

  test('a replica that knows of another claim waits until it expires before it sends without Redis', () => {
    const first = afterClaim({ kind: 'taken', forMs: 8000 }, NOT_WAITING, 1000)
    assert.ok(first.kind === 'check-again' && first.inMs <= 2000)
    assert.equal(first.waiting.takenUntil, 9000)
    const second = afterClaim({ kind: 'unreached' }, first.waiting, 2000)
    assert.ok(second.kind === 'check-again')
    assert.deepEqual(afterClaim({ kind: 'unreached' }, second.waiting, 9000), { kind: 'send' })
    assert.deepEqual(afterClaim({ kind: 'unreached' }, NOT_WAITING, 1000), { kind: 'send' })
  })
})
