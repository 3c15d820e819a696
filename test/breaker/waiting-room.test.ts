import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type TestContext, test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Settings } from '../../src/breaker/breaker.js'
import { WaitingRoom } from '../../src/breaker/waiting-room.js'
import { concurrencyAt } from '../../src/domain/recovery.js'
import { answered, hold, OPERATOR, setUpWithTimers } from '../support/breaker-set-up.js'
import { recovery } from '../support/play.js'
import { seeded } from '../support/seeded.js'

const forcedOpen = { state: 'open', reason: 'maintenance', forSeconds: 600 } as const
const forcedClosed = { state: 'closed', reason: 'a test', forSeconds: 600 } as const

type Held = ReturnType<typeof hold>

/** A waiting room and its breaker, both with the clock of the test; a released request takes a slot. */
function open(
  t: TestContext,
  options: {
    readonly settings?: Partial<Settings>
    readonly capacity?: number
    readonly concurrency?: number
  } = {},
) {
  const all = setUpWithTimers(t, options.settings)
  const { breaker } = all
  let clockReads = 0
  const room = new WaitingRoom({
    breaker,
    clock: () => {
      clockReads += 1
      return all.clock()
    },
    capacity: () => options.capacity ?? 1000,
    policy: { kind: 'by-place', concurrency: () => options.concurrency ?? 30 },
  })
  room.attach(breaker)
  const released: string[] = []
  const running: Held[] = []
  let mostInFlight = 0
  return {
    ...all,
    room,
    /** Which requests were released (`3`) or refused (`-3`), in order. */
    released,
    running,
    /** How often the room has read the clock: once at each entry and at each check of the waiting requests. */
    clockReads: () => clockReads,
    mostInFlight: () => mostInFlight,
    enter(name: number | string, waitMs = 60_000) {
      return room.enter(true, waitMs, ({ admitted }) => {
        released.push(admitted ? `${name}` : `-${name}`)
        if (!admitted) return
        const request = hold(breaker)
        assert.ok(request.began(), `${name} was released but not admitted`)
        running.push(request)
        mostInFlight = Math.max(mostInFlight, breaker.snapshot().inFlight)
      })
    },
    /** Ends the request that has been running longest. */
    async endOne() {
      await running.shift()?.end(answered(200))
    },
  }
}

const names = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => `${from + index}`)

test('waiting requests are released in order of arrival, as many as the ramp allows', async t => {
  const { enter, released, see, endOne, room } = open(t)
  see('+-')
  for (const name of names(1, 5)) enter(name)
  assert.deepEqual([released, room.size], [[], 5])
  see('++')
  assert.deepEqual([released, room.size], [['1', '2'], 3])
  await endOne()
  assert.deepEqual(released, ['1', '2', '3'])
  await endOne()
  await endOne()
  assert.deepEqual(released, ['1', '2', '3', '4', '5'])
  assert.equal(room.size, 0)
})

test('waiting requests are released as the ramp grows, never above it', t => {
  const { enter, released, see, pass, clock, breaker, mostInFlight } = open(t)
  see('+-')
  for (const name of names(1, 100)) enter(name)
  see('++')
  const since = clock()
  for (let count = 0; count < 60; count += 1) {
    pass(50)
    const limit = concurrencyAt(clock(), since, recovery)
    assert.equal(breaker.snapshot().inFlight, limit)
    assert.equal(mostInFlight(), limit)
  }
  assert.deepEqual(released, names(1, 30))
})

for (const [that, history, act] of [
  ['a circuit that closes without a ramp', '++', () => undefined],
  ['an override that admits', '', room => room.breaker.setOverride(forcedClosed, OPERATOR)],
  [
    'an override that refused and is removed',
    '',
    room => {
      room.breaker.setOverride(forcedOpen, OPERATOR)
      room.see('++')
      assert.deepEqual([room.state(), room.released.length], ['closed', 0])
      room.breaker.removeOverride(OPERATOR)
    },
  ],
  [
    'an override that refused and has ended',
    '',
    room => {
      room.breaker.setOverride({ ...forcedOpen, forSeconds: 10 }, OPERATOR)
      room.see('++')
      assert.deepEqual([room.state(), room.released.length], ['closed', 0])
      room.pass(10_000)
    },
  ],
] satisfies readonly (readonly [string, string, (room: ReturnType<typeof open>) => unknown])[]) {
  test(`${that} releases all waiting requests in order, thirty at a time`, async t => {
    const all = open(t, { settings: { recovery: { ...recovery, rampMs: 0 } } })
    const { enter, released, see, pass, endOne, mostInFlight, room, running } = all
    see('+-')
    for (const name of names(1, 200)) enter(name)
    see(history)
    act(all)
    assert.deepEqual(released, names(1, 30))
    pass(1000, 50)
    assert.equal(released.length, 30)
    while (running.length > 0) await endOne()
    assert.deepEqual(released, names(1, 200))
    assert.deepEqual([mostInFlight(), room.size], [30, 0])
  })
}

test('a circuit that closes at the end of its ramp continues with thirty at a time', async t => {
  const { enter, released, see, mostInFlight, state, running, endOne } = open(t)
  see('+-')
  for (const name of names(1, 100)) enter(name)
  see('+++++')
  assert.equal(state(), 'closed')
  assert.equal(released.length, 30)
  while (running.length > 0) await endOne()
  assert.deepEqual([released.length, mostInFlight()], [100, 30])
})

test('requests that did not wait take slots too', async t => {
  const { enter, released, see, breaker, state } = open(t, {
    settings: { recovery: { ...recovery, rampMs: 0 } },
    concurrency: 3,
  })
  see('+')
  const others = [hold(breaker), hold(breaker), hold(breaker), hold(breaker)]
  see('-')
  enter(1)
  see('++')
  assert.equal(state(), 'closed')
  await others[0]?.end()
  assert.deepEqual(released, [])
  await others[1]?.end()
  assert.deepEqual(released, ['1'])
})

test('the concurrency limit applies to waiting requests as well', async t => {
  const { enter, released, see, endOne, mostInFlight } = open(t, {
    settings: { recovery: { ...recovery, rampMs: 0 }, maxConcurrency: 2 },
  })
  see('+-')
  for (const name of names(1, 4)) enter(name)
  see('++')
  assert.deepEqual(released, ['1', '2'])
  await endOne()
  await endOne()
  assert.deepEqual([released, mostInFlight()], [names(1, 4), 2])
})

test('a failed recovery keeps the rest waiting', async t => {
  const { enter, released, see, pass, endOne } = open(t)
  see('+-')
  for (const name of names(1, 4)) enter(name)
  see('++x')
  await endOne()
  pass(2000, 50)
  assert.deepEqual(released, ['1', '2'])
  see('++')
  assert.deepEqual(released, ['1', '2', '3'])
})

test('a wait expires on time, within a twentieth of a second, and no other does', t => {
  const { enter, released, see, pass, room } = open(t)
  see('+-')
  enter('short', 1000)
  enter('long', 3000)
  pass(999, 1)
  assert.deepEqual(released, [])
  pass(50, 1)
  assert.deepEqual([released, room.size], [['-short'], 1])
  pass(1950, 1)
  assert.deepEqual(released, ['-short'])
  pass(50, 1)
  assert.deepEqual([released, room.size], [['-short', '-long'], 0])
})

test('a full room accepts no request until one has left', t => {
  const { enter, released, see, pass, room } = open(t, { capacity: 2 })
  see('+-')
  const leave = enter(1)
  assert.ok(leave)
  assert.ok(enter(2, 1000))
  assert.equal(enter(3), undefined)
  leave()
  assert.ok(enter(4))
  assert.equal(enter(5), undefined)
  pass(1050, 50)
  assert.ok(enter(6))
  assert.deepEqual([released, room.size], [['-2'], 2])
})

test('a room with capacity 0 accepts no request', t => {
  const { enter, room } = open(t, { capacity: 0 })
  assert.equal(enter(1), undefined)
  assert.equal(room.size, 0)
})

test('a request that leaves is forgotten, and leaving twice or late has no effect', async t => {
  const { enter, released, see, pass, room, breaker } = open(t)
  see('+-')
  const [first, second] = [enter(1), enter(2)]
  enter(3)
  first?.()
  first?.()
  assert.equal(room.size, 2)
  see('++')
  assert.deepEqual(released, ['2', '3'])
  second?.()
  first?.()
  pass(100_000, 50)
  assert.deepEqual([released, room.size, breaker.snapshot().inFlight], [['2', '3'], 0, 2])
})

test('a closed room refuses all waiting requests and accepts no more', t => {
  const { enter, released, see, pass, room } = open(t)
  see('+-')
  for (const name of names(1, 3)) enter(name)
  room.close()
  assert.deepEqual([released, room.size], [['-1', '-2', '-3'], 0])
  assert.equal(enter(4), undefined)
  see('++++')
  pass(100_000, 1000)
  room.close()
  assert.deepEqual(released, ['-1', '-2', '-3'])
})

test('a request that leaves while others are refused is not released', t => {
  const { room, released, enter } = open(t)
  let leave: (() => void) | undefined
  room.enter(true, 60_000, () => leave?.())
  leave = enter('left early')
  enter('still waiting')
  room.close()
  assert.deepEqual([released, room.size], [['-still waiting'], 0])
})

test('an empty room has no timer, however it became empty', t => {
  const { enter, see, pass, room } = open(t)
  // Not the timers of node:test: they restore an interval that is cleared in its own callback.
  const timers = new Map<NodeJS.Timeout, () => void>()
  t.mock.method(globalThis, 'setInterval', (call: () => void) => {
    const timer = setTimeout(() => undefined, 1e9)
    timers.set(timer, call)
    return timer
  })
  t.mock.method(globalThis, 'clearInterval', (timer: NodeJS.Timeout) => timers.delete(timer))
  see('+-')
  assert.equal(timers.size, 0)
  const leave = enter('a request that leaves')
  const leaveToo = enter('a request that leaves too')
  assert.equal(timers.size, 1)
  leave?.()
  assert.equal(timers.size, 1)
  leaveToo?.()
  assert.equal(timers.size, 0)
  enter('a request whose wait expires', 600)
  assert.equal(timers.size, 1)
  pass(600)
  for (const callback of timers.values()) callback()
  assert.deepEqual([room.size, timers.size], [0, 0])
  enter('a request that is released')
  assert.equal(timers.size, 1)
  see('++')
  assert.deepEqual([room.size, timers.size], [0, 0])
  see('-')
  enter('a request that is refused')
  assert.equal(timers.size, 1)
  room.close()
  assert.equal(timers.size, 0)
})

test('one timer serves all waiting requests', t => {
  const { enter, see, pass, clockReads } = open(t)
  see('+-')
  for (const name of names(1, 50)) enter(name)
  const before = clockReads()
  pass(1000, 50)
  assert.equal(clockReads() - before, 20)
})

test('a waiter does not keep the process alive', async () => {
  const at = (path: string) => JSON.stringify(new URL(`../../src/breaker/${path}.js`, import.meta.url).href)
  const program = `
    import { Breaker } from ${at('breaker')}
    import { WaitingRoom } from ${at('waiting-room')}
    const settings = ${JSON.stringify({ thresholds: { waiting: 1, unreachable: 3, ready: 2 }, recovery, probePeriodMs: 2000, maxConcurrency: 0, mode: 'enforce' })}
    const breaker = new Breaker(() => settings, () => 0)
    const room = new WaitingRoom({ breaker, clock: () => 0, capacity: () => 9, policy: { kind: 'by-place', concurrency: () => 9 } })
    room.attach(breaker)
    room.enter(true, 60000, () => {})
    breaker.setOverride({ state: 'open', reason: 'r', forSeconds: 600 }, 'me')`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'inherit' })
  const late = setTimeout(() => child.kill(), 20_000)
  const [code] = await once(child, 'exit')
  clearTimeout(late)
  assert.equal(code, 0)
})

test('a request that ends before it is forwarded passes its slot to the next', async t => {
  const { enter, released, see, running } = open(t)
  see('+-')
  for (const name of names(1, 3)) enter(name)
  see('++')
  await running[0]?.fail(new Error('reset'))
  await nextTurn()
  assert.deepEqual(released, ['1', '2', '3'])
})

/** A room whose waiters belong to clients; each is named by its client and a number. */
function openShared(
  t: TestContext,
  policy: ConstructorParameters<typeof WaitingRoom>[0]['policy'],
  capacity = 4,
) {
  const all = setUpWithTimers(t)
  const room = new WaitingRoom({ breaker: all.breaker, clock: all.clock, capacity: () => capacity, policy })
  room.attach(all.breaker)
  const released: string[] = []
  const enter = (name: string, client = name.slice(0, 1)) =>
    room.enter(true, 60_000, ({ admitted }) => released.push(admitted ? name : `-${name}`), client)
  return { ...all, room, released, enter }
}

const byPlace = { kind: 'by-place', concurrency: () => 30 } as const
const atRandom = { kind: 'at-random', random: seeded(1).next } as const

for (const policy of [byPlace, atRandom]) {
  test(`${policy.kind}: in a full room, the newest waiter of the client with the most gives way`, t => {
    const { room, released, enter, see } = openShared(t, policy)
    see('-')
    for (const name of ['a1', 'a2', 'a3', 'a4']) assert.ok(enter(name))
    assert.equal(enter('a5'), undefined)
    assert.ok(enter('b1'))
    assert.ok(enter('c1'))
    assert.equal(enter('a6'), undefined)
    assert.ok(enter('d1'))
    assert.equal(enter('e1'), undefined, 'each client has one place')
    assert.deepEqual([released, room.size], [['-a4', '-a3', '-a2'], 4])
  })

  test(`${policy.kind}: a place that was released early no longer counts for its client`, t => {
    const { released, enter, see } = openShared(t, policy)
    see('-')
    const leaves = ['a1', 'a2', 'a3', 'b1'].map(name => enter(name))
    leaves[1]?.()
    leaves[2]?.()
    for (const name of ['b2', 'c1']) assert.ok(enter(name))
    assert.equal(enter('a2'), undefined)
    assert.ok(enter('d1'))
    assert.deepEqual(released, ['-b2'])
  })
}

test('at-random: every waiter is released once, some with each tick, and not in order of arrival', t => {
  const COUNT = 200
  const { room, released, enter, see, pass } = openShared(t, atRandom, COUNT)
  see('-')
  const waiters = names(1, COUNT)
  for (const name of waiters) enter(name)
  see('++++++')
  assert.deepEqual(released, [], 'the change itself releases no request')
  // 200 waiters are spread over 4 s, in ticks of 50 ms.
  for (let tick = 1; tick <= 80; tick += 1) {
    pass(50)
    assert.ok(released.length <= tick * 3, `${released.length} were released after ${tick} ticks`)
  }
  assert.equal(room.size, 0)
  assert.notDeepEqual(released, waiters)
  assert.deepEqual(released.toSorted(), waiters.toSorted())
})

test('at-random: released requests are chosen at random, not in order of arrival', t => {
  const { released, enter, see, pass } = openShared(t, { kind: 'at-random', random: () => 0.999 })
  see('-')
  for (const name of ['a1', 'b1', 'c1', 'd1']) enter(name)
  see('++++++')
  pass(1000, 50)
  assert.deepEqual(released, ['d1', 'c1', 'b1', 'a1'])
})

/** The number released with each tick, until all waiters have been released. */
function releasedByTick({ pass, released, room }: ReturnType<typeof openShared>): readonly number[] {
  const counts: number[] = []
  while (room.size > 0) {
    const before = released.length
    pass(50)
    counts.push(released.length - before)
  }
  return counts
}

test('at-random: after many waiters have left, the pace is that of the fewer new ones', t => {
  const all = openShared(t, atRandom, 2000)
  const { enter, see, pass, room, released } = all
  see('-')
  const leaves = names(1, 2000).map(name => enter(name))
  see('++++++')
  pass(50)
  assert.equal(released.length, 20)
  for (const leave of leaves) leave?.()
  assert.equal(room.size, 0)
  for (const name of names(1, 40)) enter(name)
  assert.equal(Math.max(...releasedByTick(all)), 3, '40 waiters are spread over 800 ms, in ticks of 50 ms')
})

test('at-random: a failed recovery resets the pace, and the next one depends on the remaining waiters', t => {
  const all = openShared(t, atRandom, 2000)
  const { enter, see, pass, room } = all
  see('-')
  const leaves = names(1, 2000).map(name => enter(name))
  see('++')
  pass(50)
  assert.equal(room.size, 1980)
  see('-')
  for (const leave of leaves) if (room.size > 40) leave?.()
  pass(50)
  assert.equal(room.size, 40)
  see('++++++')
  assert.equal(Math.max(...releasedByTick(all)), 3)
})

test('at-random: even very many waiters are all released within the longest span', t => {
  const { room, enter, see, pass } = openShared(t, atRandom, 2000)
  see('-')
  for (const name of names(1, 2000)) enter(name)
  see('++++++')
  pass(5000, 50)
  assert.equal(room.size, 0, 'the pace fell with the number of waiters')
})

test('at-random: while the recovery has no free slot, the pace is kept', t => {
  const { breaker, room, enter, see, pass } = openShared(t, atRandom, 2000)
  see('-')
  for (const name of names(1, 2000)) enter(name)
  see('++')
  pass(2500, 50)
  assert.equal(room.size, 1000)
  const held: Held[] = []
  while (breaker.decide().admitted) held.push(hold(breaker))
  pass(50)
  assert.equal(room.size, 1000)
  breaker.setOverride(forcedClosed, OPERATOR)
  pass(50)
  assert.equal(room.size, 980)
})

test('at-random: the pace during an outage is not carried over into the recovery', t => {
  const all = openShared(t, atRandom, 2000)
  const { room, enter, see, pass } = all
  see('-')
  const leaves = names(1, 2000).map(name => enter(name))
  pass(50)
  for (const leave of leaves) if (room.size > 40) leave?.()
  see('++++++')
  assert.equal(Math.max(...releasedByTick(all)), 3)
})

test('at-random: after the last wait expires in a tick that admits, the next waiter is released too', t => {
  const { breaker, clock, pass, see } = setUpWithTimers(t)
  const room = new WaitingRoom({ breaker, clock, capacity: () => 9, policy: atRandom })
  see('-')
  const released: string[] = []
  room.enter(true, 50, () => released.push('first'))
  see('++++++')
  t.mock.timers.tick(50)
  assert.deepEqual(released, ['first'])
  room.enter(true, 60_000, () => released.push('second'))
  pass(50)
  assert.deepEqual(released, ['first', 'second'])
})

test('waits that expire together are ended 200 at a time', t => {
  const { enter, released, see, pass } = open(t)
  see('+-')
  for (const name of names(1, 450)) enter(name, 1000)
  pass(950, 50)
  assert.equal(released.length, 0)
  const answered = [200, 400, 450].map(() => {
    pass(50)
    return released.length
  })
  assert.deepEqual(answered, [200, 400, 450])
})

test('clients that have left the room use no memory', t => {
  const { room } = open(t)
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc')
  const heapUsed = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const comeAndGo = (from: number, count: number) => {
    for (let index = from; index < from + count; index += 1) {
      room.enter(true, 60_000, () => undefined, `2001:db8::${index}`)?.()
    }
  }
  comeAndGo(0, 1000)
  const before = heapUsed()
  comeAndGo(1000, 50_000)
  const grownBy = (heapUsed() - before) / 50_000
  assert.ok(grownBy < 50, `${grownBy} bytes for each`)
})
