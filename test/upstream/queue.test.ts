import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UpstreamQueue, type UpstreamQueueOptions } from '../../src/upstream/queue.js'
import { seeded } from '../support/seeded.js'

/** A queue and its events: `+a` means that request a started, `-a full` that it was refused. */
function queue(options: Partial<UpstreamQueueOptions>) {
  const events: string[] = []
  const it = new UpstreamQueue({ concurrency: 1, capacity: 10, timeoutMs: 1000, ...options })
  const enter = (name: string, client?: string) =>
    it.enter(
      () => events.push(`+${name}`),
      why => events.push(`-${name} ${why}`),
      client,
    )
  return { queue: it, enter, events }
}

test('requests up to the concurrency start at once, and the others in the order of arrival', () => {
  const { queue: it, enter, events } = queue({ concurrency: 2 })
  for (const name of ['a', 'b', 'c', 'd', 'e']) enter(name)
  assert.deepEqual(events, ['+a', '+b'])
  assert.equal(it.waiting, 3)
  it.leave()
  assert.deepEqual(events.slice(2), ['+c'])
  it.leave()
  it.leave()
  assert.deepEqual(events.slice(2), ['+c', '+d', '+e'])
  assert.equal(it.waiting, 0)
})

test('a slot is free again after all requests have left', () => {
  const { queue: it, enter, events } = queue({ capacity: 0 })
  for (const name of ['a', 'b']) {
    enter(name)
    it.leave()
  }
  assert.deepEqual(events, ['+a', '+b'])
})

test('a request above the capacity is refused at once, and with capacity 0 every request without a free slot', () => {
  const some = queue({ capacity: 1 })
  for (const name of ['a', 'b', 'c']) some.enter(name)
  assert.deepEqual(some.events, ['+a', '-c full'])
  const none = queue({ capacity: 0 })
  for (const name of ['a', 'b']) none.enter(name)
  assert.deepEqual(none.events, ['+a', '-b full'])
})

test('a request that is queued too long is refused, frees its place, and is not started later', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { queue: it, enter, events } = queue({ capacity: 2, timeoutMs: 100 })
  enter('a')
  enter('b')
  t.mock.timers.tick(60)
  enter('c')
  enter('d')
  t.mock.timers.tick(40)
  assert.deepEqual(events, ['+a', '-d full', '-b late'])
  enter('e')
  it.leave()
  assert.deepEqual(events.slice(3), ['+c'])
  t.mock.timers.tick(1000)
  assert.deepEqual(events.slice(4), ['-e late'])
  it.leave()
  assert.equal(events.length, 5)
})

test('a started request is not affected by the queue timeout', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { queue: it, enter, events } = queue({ timeoutMs: 100 })
  enter('a')
  enter('b')
  it.leave()
  t.mock.timers.tick(1000)
  assert.deepEqual(events, ['+a', '+b'])
})

test('giving up frees the place in the queue once, and returns whether the request was queued', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { queue: it, enter, events } = queue({ capacity: 2, timeoutMs: 100 })
  const first = enter('a')
  const second = enter('b')
  const third = enter('c')
  const refused = enter('d')
  assert.equal(first(), false, 'it had started')
  assert.equal(refused(), false, 'it was refused')
  assert.equal(second(), true)
  assert.equal(second(), false)
  assert.equal(it.waiting, 1)
  it.leave()
  assert.deepEqual(events, ['+a', '-d full', '+c'])
  assert.equal(third(), false, 'it was started later')
  t.mock.timers.tick(1000)
  assert.equal(events.length, 3)
})

test('if each request leaves as soon as it starts, all of them are started', () => {
  const it = new UpstreamQueue({ concurrency: 1, capacity: 1000, timeoutMs: 1000 })
  let started = 0
  const release: (() => void)[] = []
  it.enter(
    () => release.push(() => it.leave()),
    () => assert.fail(),
  )
  for (let index = 0; index < 1000; index += 1) {
    it.enter(
      () => {
        started += 1
        it.leave()
      },
      () => assert.fail(),
    )
  }
  release[0]?.()
  assert.equal(started, 1000)
  assert.equal(it.waiting, 0)
})

test('the concurrency is never exceeded, and no request is forgotten', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const CONCURRENCY = 3
  const it = new UpstreamQueue({ concurrency: CONCURRENCY, capacity: 5, timeoutMs: 50 })
  // A seeded generator, so that a failure is reproducible.
  let state = 1
  const random = (below: number) => {
    state = (state * 48_271) % 2_147_483_647
    return state % below
  }
  let active = 0
  const counts = { entered: 0, started: 0, full: 0, late: 0, gaveUp: 0 }
  const giveUps: (() => boolean)[] = []
  for (let index = 0; index < 20_000; index += 1) {
    switch (random(5)) {
      case 0:
      case 1:
        counts.entered += 1
        giveUps.push(
          it.enter(
            () => {
              active += 1
              counts.started += 1
            },
            why => {
              counts[why] += 1
            },
          ),
        )
        break
      case 2:
        if (active > 0) {
          active -= 1
          it.leave()
        }
        break
      case 3:
        if (giveUps.splice(random(giveUps.length + 1), 1)[0]?.()) counts.gaveUp += 1
        break
      default:
        t.mock.timers.tick(random(30))
    }
    assert.ok(active <= CONCURRENCY, `${active} active requests after ${index} steps`)
    assert.ok(it.waiting <= 5)
    assert.ok(active === CONCURRENCY || it.waiting === 0, 'a request is queued although a slot is free')
  }
  while (active > 0) {
    active -= 1
    it.leave()
  }
  assert.equal(it.waiting, 0)
  const { entered, started, full, late, gaveUp } = counts
  assert.equal(started + full + late + gaveUp, entered)
  for (const count of Object.values(counts)) assert.ok(count > 0, JSON.stringify(counts))
})

for (const [concurrency, clientShare, most] of [
  [4, 0.75, 3],
  [4, 0.3, 2],
  [4, 0.01, 1],
  [1, 0.5, 1],
  [4, 1, 4],
] as const) {
  test(`with a share of ${clientShare}, a client gets ${most} of ${concurrency} slots`, () => {
    const { queue: it, enter, events } = queue({ concurrency, clientShare })
    for (let n = 1; n <= 5; n += 1) enter(`a${n}`, 'a')
    assert.equal(events.length, most)
    it.leave('a')
    assert.deepEqual(events.at(-1), `+a${most + 1}`)
  })
}

test('without a share, and for requests without a client, only the concurrency limits', () => {
  const alone = queue({ concurrency: 3 })
  for (const name of ['a1', 'a2', 'a3']) alone.enter(name, 'a')
  assert.deepEqual(alone.events, ['+a1', '+a2', '+a3'])
  const unnamed = queue({ concurrency: 3, clientShare: 0.1 })
  for (const name of ['1', '2', '3']) unnamed.enter(name)
  assert.deepEqual(unnamed.events, ['+1', '+2', '+3'])
})

test('a client at its share is queued and does not block others behind it', () => {
  const { queue: it, enter, events } = queue({ concurrency: 3, clientShare: 0.5 })
  for (const name of ['a1', 'a2', 'a3', 'a4']) enter(name, 'a')
  enter('b1', 'b')
  assert.deepEqual(events, ['+a1', '+a2', '+b1'])
  enter('c1', 'c')
  it.leave('b')
  assert.deepEqual(events.slice(3), ['+c1'])
  assert.equal(it.waiting, 2)
  it.leave('c')
  assert.deepEqual(events.slice(4), [], 'a slot is free, and the queued clients have used their shares')
  it.leave('a')
  assert.deepEqual(events.slice(4), ['+a3'])
  enter('d1', 'd')
  assert.deepEqual(events.slice(5), ['+d1'])
})

test('a new request replaces the newest of the client with the most queued requests, until the shares are even', () => {
  const { enter, events, queue: it } = queue({ capacity: 4 })
  enter('first', 'z')
  for (const name of ['a1', 'a2', 'a3']) enter(name, 'a')
  enter('b1', 'b')
  enter('a4', 'a')
  enter('c1', 'c')
  enter('b2', 'b')
  enter('c2', 'c')
  assert.deepEqual(events.slice(1), ['-a4 full', '-a3 full', '-b2 full', '-c2 full'])
  for (const client of ['z', 'a', 'a', 'b']) it.leave(client)
  assert.deepEqual(events.slice(5), ['+a1', '+a2', '+b1', '+c1'])
})

test('a replaced request has no timeout any more and cannot give up', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { enter, events } = queue({ capacity: 2, timeoutMs: 100 })
  enter('first', 'z')
  enter('a1', 'a')
  const giveUp = enter('a2', 'a')
  enter('b1', 'b')
  assert.equal(giveUp(), false)
  t.mock.timers.tick(100)
  assert.deepEqual(events, ['+first', '-a2 full', '-a1 late', '-b1 late'])
})

test('empty resolves when every request has left', async () => {
  const { queue: it, enter } = queue({ concurrency: 2 })
  await it.empty()
  enter('a1', 'a')
  enter('b1', 'b')
  let isEmpty = false
  const emptied = it.empty().then(() => {
    isEmpty = true
  })
  it.leave('a')
  await Promise.resolve()
  assert.equal(isEmpty, false)
  it.leave('b')
  await emptied
})

test('with several clients none exceeds its share, none waits while it could start, and none is forgotten', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const CLIENTS = ['a', 'b', 'c', 'd']
  const [CONCURRENCY, CAPACITY, MOST] = [5, 8, 3]
  const it = new UpstreamQueue({
    concurrency: CONCURRENCY,
    capacity: CAPACITY,
    timeoutMs: 50,
    clientShare: 0.5,
  })
  const random = seeded(1)
  const counts = { entered: 0, started: 0, full: 0, late: 0, gaveUp: 0 }
  const active = new Map(CLIENTS.map(client => [client, 0]))
  const waiting = new Map(CLIENTS.map(client => [client, 0]))
  const add = (to: Map<string, number>, client: string, count: number) =>
    to.set(client, (to.get(client) ?? 0) + count)
  const giveUps: (() => void)[] = []
  const enter = (client: string) => {
    counts.entered += 1
    let isWaiting = false
    const giveUp = it.enter(
      () => {
        counts.started += 1
        add(active, client, 1)
        if (isWaiting) add(waiting, client, -1)
      },
      why => {
        counts[why] += 1
        if (isWaiting) add(waiting, client, -1)
      },
      client,
    )
    // Queued requests can still give up; the others were started or refused before.
    isWaiting = it.waiting > [...waiting.values()].reduce((sum, count) => sum + count, 0)
    if (isWaiting) add(waiting, client, 1)
    giveUps.push(() => {
      if (!giveUp()) return
      counts.gaveUp += 1
      add(waiting, client, -1)
    })
  }
  const leave = (client: string) => {
    if (active.get(client) === 0) return
    add(active, client, -1)
    it.leave(client)
  }
  for (let step = 0; step < 20_000; step += 1) {
    const client = random.chance(0.5) ? 'a' : random.pick(CLIENTS)
    const act = random.integer(0, 19)
    if (act < 10) enter(client)
    else if (act < 16) leave(random.pick(CLIENTS))
    else if (act < 18) giveUps.splice(random.integer(0, giveUps.length), 1)[0]?.()
    else t.mock.timers.tick(random.integer(0, 30))
    const total = [...active.values()].reduce((sum, count) => sum + count, 0)
    assert.ok(total <= CONCURRENCY, `${total} active requests after ${step} steps`)
    assert.ok(it.waiting <= CAPACITY)
    for (const each of CLIENTS) {
      const count = active.get(each) ?? 0
      assert.ok(count <= MOST, `${count} active requests of ${each} after ${step} steps`)
      const couldGo = total < CONCURRENCY && count < MOST
      assert.ok(
        !couldGo || waiting.get(each) === 0,
        `${each} waits while it could start, after ${step} steps`,
      )
    }
  }
  for (let turn = 0; turn < 100; turn += 1) for (const client of CLIENTS) leave(client)
  assert.equal(it.waiting, 0)
  await it.empty()
  const { entered, started, full, late, gaveUp } = counts
  assert.equal(started + full + late + gaveUp, entered)
  for (const count of Object.values(counts)) assert.ok(count > 0, JSON.stringify(counts))
})
