import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UpstreamQueue, type UpstreamQueueOptions } from '../../src/upstream/queue.js'

/** A queue, and what happened to whom: `+a` went, `-a full` could not. */
function queue(options: Partial<UpstreamQueueOptions>) {
  const events: string[] = []
  const it = new UpstreamQueue({ concurrency: 1, capacity: 10, timeoutMs: 1000, ...options })
  const enter = (name: string) =>
    it.enter(
      () => events.push(`+${name}`),
      why => events.push(`-${name} ${why}`),
    )
  return { queue: it, enter, events }
}

test('as many go as may, at once, and the others in the order of their coming', () => {
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

test('a place that everybody has left is there for whoever comes', () => {
  const { queue: it, enter, events } = queue({ capacity: 0 })
  for (const name of ['a', 'b']) {
    enter(name)
    it.leave()
  }
  assert.deepEqual(events, ['+a', '+b'])
})

test('beyond the capacity one is refused at once; with none, everybody who cannot go', () => {
  const some = queue({ capacity: 1 })
  for (const name of ['a', 'b', 'c']) some.enter(name)
  assert.deepEqual(some.events, ['+a', '-c full'])
  const none = queue({ capacity: 0 })
  for (const name of ['a', 'b']) none.enter(name)
  assert.deepEqual(none.events, ['+a', '-b full'])
})

test('whoever waits too long is refused, makes room to wait, and is not started later', t => {
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

test('a turn that came is not taken back by the time', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { queue: it, enter, events } = queue({ timeoutMs: 100 })
  enter('a')
  enter('b')
  it.leave()
  t.mock.timers.tick(1000)
  assert.deepEqual(events, ['+a', '+b'])
})

test('giving up frees the place in the queue, once, and answers whether there was one', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { queue: it, enter, events } = queue({ capacity: 2, timeoutMs: 100 })
  const first = enter('a')
  const second = enter('b')
  const third = enter('c')
  const refused = enter('d')
  assert.equal(first(), false, 'it was on its way')
  assert.equal(refused(), false, 'it was refused')
  assert.equal(second(), true)
  assert.equal(second(), false)
  assert.equal(it.waiting, 1)
  it.leave()
  assert.deepEqual(events, ['+a', '-d full', '+c'])
  assert.equal(third(), false, 'its turn had come')
  t.mock.timers.tick(1000)
  assert.equal(events.length, 3)
})

test('whoever leaves as soon as it starts lets the next go, and all of them are started', () => {
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

test('never more than the concurrency are on their way, and nobody is forgotten', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const CONCURRENCY = 3
  const it = new UpstreamQueue({ concurrency: CONCURRENCY, capacity: 5, timeoutMs: 50 })
  // A generator of its own, so that a failure comes again.
  let state = 1
  const random = (below: number) => {
    state = (state * 48_271) % 2_147_483_647
    return state % below
  }
  let onTheirWay = 0
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
              onTheirWay += 1
              counts.started += 1
            },
            why => {
              counts[why] += 1
            },
          ),
        )
        break
      case 2:
        if (onTheirWay > 0) {
          onTheirWay -= 1
          it.leave()
        }
        break
      case 3:
        if (giveUps.splice(random(giveUps.length + 1), 1)[0]?.()) counts.gaveUp += 1
        break
      default:
        t.mock.timers.tick(random(30))
    }
    assert.ok(onTheirWay <= CONCURRENCY, `${onTheirWay} on their way after ${index} steps`)
    assert.ok(it.waiting <= 5)
    assert.ok(onTheirWay === CONCURRENCY || it.waiting === 0, 'somebody waits while there is room')
  }
  while (onTheirWay > 0) {
    onTheirWay -= 1
    it.leave()
  }
  assert.equal(it.waiting, 0)
  const { entered, started, full, late, gaveUp } = counts
  assert.equal(started + full + late + gaveUp, entered)
  for (const count of Object.values(counts)) assert.ok(count > 0, JSON.stringify(counts))
})
