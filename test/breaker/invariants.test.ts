import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Breaker, type Outcome } from '../../src/breaker/breaker.js'
import { WaitingRoom } from '../../src/breaker/waiting-room.js'
import { startingCircuit, step } from '../../src/domain/circuit.js'
import type { Override } from '../../src/domain/override.js'
import type { Reading } from '../../src/domain/reading.js'
import { answered, hold, missingFiber, OPERATOR, SETTINGS } from '../support/breaker-set-up.js'
import { anyRules, anySourced, readings } from '../support/play.js'

const RUNS = 1000

/**
 * Events that may happen to a breaker. Time passes in whole milliseconds; `late` readings began that long ago; the
 * timers of the process may lag behind its clock.
 */
type Event =
  | {
      readonly kind: 'read'
      readonly mark: string
      readonly source: Reading['source']
      readonly lateMs: number
    }
  | { readonly kind: 'pass'; readonly ms: number; readonly timersCome: boolean }
  | { readonly kind: 'set'; readonly state: Override['state']; readonly forSeconds: number }
  | { readonly kind: 'remove' }
  | { readonly kind: 'ask' }
  | { readonly kind: 'end'; readonly which: number; readonly outcome: Outcome }

const anyEvent: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc
      .record({
        kind: fc.constant('read' as const),
        sourced: anySourced,
        lateMs: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.nat(5000)),
      })
      .map(({ kind, sourced, lateMs }) => ({ kind, ...sourced, lateMs })),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('pass' as const),
      ms: fc.oneof(fc.nat(3000), fc.constantFrom(999, 1000, 1001)),
      timersCome: fc.boolean(),
    }),
  },
  fc.record({
    kind: fc.constant('set' as const),
    state: fc.constantFrom('open' as const, 'closed' as const),
    forSeconds: fc.integer({ min: 1, max: 8 }),
  }),
  fc.record({ kind: fc.constant('remove' as const) }),
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('ask' as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('end' as const),
      which: fc.nat(20),
      outcome: fc.constantFrom<Outcome>(answered(200), answered(404), answered(503), missingFiber),
    }),
  },
)

const anyEvents = fc.array(anyEvent, { maxLength: 60, size: 'max' })
const anySite = fc.record({
  rules: anyRules,
  maxConcurrency: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 4 })),
})

/** The world outside the breaker: the events that it received, without its conclusions. */
type World = {
  readonly breaker: Breaker
  readonly now: number
  /** The newest reading that was not late. */
  readonly last: Reading | null
  /** The circuit that results from the readings only. */
  readonly circuit: ReturnType<typeof startingCircuit>
  /** The last manual override, even if it has ended. */
  readonly word: { readonly state: Override['state']; readonly since: number; readonly until: number } | null
  /** The event that has just happened, and for `ask`, whether the request was forwarded. */
  readonly event: Event
  readonly forwarded: boolean | undefined
  readonly wasLate: boolean
  /** The number of guarded requests in flight before the event. */
  readonly inFlightBefore: number
}

/** Plays a history to a breaker, and checks it after each event. */
async function live(
  tick: (ms: number) => void,
  { rules, maxConcurrency }: Site,
  events: readonly Event[],
  check: (world: World) => void,
): Promise<Pick<World, 'breaker' | 'now' | 'circuit'> & { readonly emitted: readonly string[] }> {
  const settings = { ...SETTINGS, ...rules, maxConcurrency }
  // Not 0, so that a reading can be older than the breaker.
  let now = 10_000
  let lagMs = 0
  const breaker = new Breaker(
    () => settings,
    () => now,
  )
  let circuit = startingCircuit(now)
  let generation = 0
  let last: Reading | null = null
  let word: World['word'] = null
  const emitted: string[] = []
  breaker.on('reading', reading => emitted.push(reading.kind))
  breaker.on('transition', ({ to }) => emitted.push(to))
  breaker.on('override', ({ kind, override }) => {
    emitted.push(kind)
    if (kind === 'ended') assert.ok(now >= override.until, 'an override was reported as ended before its end')
  })
  const running: { readonly request: ReturnType<typeof hold>; readonly generation: number }[] = []
  const judge = (reading: Reading) => {
    if (reading.at < circuit.judgedAt) return false
    last = reading
    const next = step(circuit, reading, rules.thresholds, rules.recovery)
    if (next.state !== circuit.state) generation += 1
    circuit = next
    return true
  }
  for (const event of events) {
    const inFlightBefore = running.length
    let forwarded: boolean | undefined
    let wasLate = false
    switch (event.kind) {
      case 'read':
        for (const finding of readings(event.mark)) {
          const reading: Reading = { ...finding, source: event.source, at: now - event.lateMs }
          const before = breaker.snapshot()
          const emittedBefore = emitted.length
          wasLate = !judge(reading)
          breaker.observe(reading)
          if (!wasLate) continue
          const lastReadyAt: number | null =
            reading.kind === 'ready' ? Math.max(before.lastReadyAt ?? 0, reading.at) : before.lastReadyAt
          assert.deepEqual(breaker.snapshot(), { ...before, lastReadyAt })
          assert.deepEqual(emitted.slice(emittedBefore), [reading.kind])
        }
        break
      case 'pass':
        now += event.ms
        lagMs += event.ms
        if (event.timersCome) {
          tick(lagMs)
          lagMs = 0
        }
        break
      case 'set':
        breaker.setOverride({ ...event, reason: 'r' }, OPERATOR)
        word = { state: event.state, since: now, until: now + event.forSeconds * 1000 }
        break
      case 'remove':
        assert.equal(breaker.removeOverride(OPERATOR), word !== null && now < word.until)
        word = null
        break
      case 'ask': {
        const request = hold(breaker)
        forwarded = request.began()
        if (forwarded) running.push({ request, generation })
        else await request.done.catch(() => undefined)
        break
      }
      case 'end': {
        const [ended] = running.splice(event.which % Math.max(1, running.length), 1)
        if (ended === undefined) break
        await ended.request.end(event.outcome)
        if (event.outcome.kind === 'missing-fiber' && ended.generation === generation) {
          judge({
            at: now,
            source: 'configure',
            kind: 'waiting',
            metadata: {},
            missing: event.outcome.missing,
          })
        }
        break
      }
    }
    assert.equal(breaker.snapshot().inFlight, running.length)
    check({ breaker, now, last, circuit, word, event, forwarded, wasLate, inFlightBefore })
  }
  breaker.shutdown()
  return { breaker, now, circuit, emitted }
}

/** The manual override that is in force in this world. */
function overrideIn({ word, now }: World): World['word'] {
  return word !== null && now >= word.since && now < word.until ? word : null
}

type Site = {
  readonly rules: Pick<typeof SETTINGS, 'thresholds' | 'recovery'>
  readonly maxConcurrency: number
}

/** Checks a sentence on many histories of a breaker; `check` returns whether the sentence applied to this moment. */
function always(sentence: string, check: (world: World, site: Site) => boolean) {
  test(`for any events: ${sentence}`, async t => {
    t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
    let moments = 0
    await fc.assert(
      fc.asyncProperty(anySite, anyEvents, async (site, events) => {
        const tick = (ms: number) => t.mock.timers.tick(ms)
        await live(tick, site, events, world => {
          moments += Number(check(world, site))
        })
      }),
      { numRuns: RUNS },
    )
    assert.ok(moments > RUNS / 10, `it applied to only ${moments} moments`)
  })
}

always(
  'no guarded request passes while an override that refuses is in force, and each refusal names the override',
  world => {
    if (overrideIn(world)?.state !== 'open') return false
    const decision = world.breaker.decide()
    assert.ok(!decision.admitted && decision.code === 'forced_open')
    assert.notEqual(world.forwarded, true)
    return world.event.kind === 'ask'
  },
)

always('every guarded request passes while an override that admits is in force', world => {
  if (overrideIn(world)?.state !== 'closed') return false
  assert.equal(world.breaker.decide().admitted, true)
  assert.notEqual(world.forwarded, false)
  return world.event.kind === 'ask'
})

always('every decision is carried out', ({ breaker, event, forwarded, inFlightBefore }) => {
  if (event.kind !== 'ask') return false
  assert.equal(breaker.snapshot().inFlight, inFlightBefore + Number(forwarded))
  if (forwarded === false) assert.equal(breaker.decide().admitted, false)
  return true
})

always(
  'without an override, none passes while the circuit is not closed and the last reading is bad',
  world => {
    const { circuit, last } = world
    if (overrideIn(world) !== null || circuit.state === 'closed' || last?.kind === 'ready') return false
    assert.equal(world.breaker.decide().admitted, false)
    assert.notEqual(world.forwarded, true)
    return world.event.kind === 'ask'
  },
)

always(
  'without an override, none passes while the last reading is a configure that reported a missing fiber',
  world => {
    const { last } = world
    if (overrideIn(world) !== null || last?.kind !== 'waiting' || last.source !== 'configure') return false
    assert.equal(world.breaker.decide().admitted, false)
    assert.notEqual(world.forwarded, true)
    return world.event.kind === 'ask'
  },
)

always(
  'the ramp admits up to its limit and the concurrency limit, and none above them',
  (world, { rules: { recovery }, maxConcurrency }) => {
    const { circuit } = world
    if (overrideIn(world) !== null || circuit.state !== 'half-open' || world.event.kind !== 'ask')
      return false
    const { initialConcurrency: first, maxConcurrency: most, rampMs } = recovery
    const part = Math.min(1, (world.now - circuit.since) / rampMs)
    const ramp = first + Math.floor((most - first) * part)
    const limit = maxConcurrency === 0 ? ramp : Math.min(ramp, maxConcurrency)
    assert.equal(world.forwarded, world.inFlightBefore < limit)
    return true
  },
)

always(
  'a closed circuit admits up to the concurrency limit, and none above it',
  (world, { maxConcurrency }) => {
    if (overrideIn(world) !== null || world.circuit.state !== 'closed' || world.event.kind !== 'ask')
      return false
    assert.equal(world.forwarded, maxConcurrency === 0 || world.inFlightBefore < maxConcurrency)
    return maxConcurrency > 0
  },
)

always(
  'an override is in force from its start until its end, exclusive, whether or not a timer fires',
  world => {
    const expected = overrideIn(world)
    const { override } = world.breaker.snapshot()
    assert.deepEqual(
      override && { state: override.state, since: override.since, until: override.until },
      expected,
    )
    return world.word !== null
  },
)

always('the circuit results from the readings, whatever overrides were set meanwhile', world => {
  const { circuit, reading } = world.breaker.snapshot()
  assert.deepEqual(circuit, world.circuit)
  assert.deepEqual(reading, world.last)
  return world.event.kind === 'read' && overrideIn(world) !== null
})

always('a reading older than the newest one is reported and changes nothing', world => world.wasLate)

test('for any events: an outage keeps its start until it ends', async t => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  await fc.assert(
    fc.asyncProperty(anySite, anyEvents, async (site, events) => {
      let openedAt: number | undefined
      await live(
        ms => t.mock.timers.tick(ms),
        site,
        events,
        ({ breaker }) => {
          const { circuit } = breaker.snapshot()
          if (circuit.state === 'closed') openedAt = undefined
          else if (circuit.cause !== 'starting') {
            openedAt ??= circuit.openedAt
            assert.equal(circuit.openedAt, openedAt)
          }
        },
      )
    }),
    { numRuns: RUNS },
  )
})

test('for any events: enough good readings close the circuit, and then requests pass', async t => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  await fc.assert(
    fc.asyncProperty(anySite, anyEvents, fc.nat(3000), async (site, events, gapMs) => {
      const { ready } = site.rules.thresholds
      const good = (ms: number): readonly Event[] => [
        { kind: 'pass', ms, timersCome: true },
        { kind: 'read', mark: '+', source: 'probe', lateMs: 0 },
      ]
      const history = [
        ...events,
        { kind: 'remove' } as const,
        ...Array.from({ length: ready }, () => good(gapMs)).flat(),
        ...good(site.rules.recovery.rampMs),
      ]
      const { breaker } = await live(
        ms => t.mock.timers.tick(ms),
        { ...site, maxConcurrency: 0 },
        history,
        () => undefined,
      )
      assert.equal(breaker.snapshot().circuit.state, 'closed')
      assert.equal(breaker.decide().admitted, true)
    }),
    { numRuns: RUNS },
  )
})

test('for any events: each override ends once: it expires, is removed or is replaced', async t => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  await fc.assert(
    fc.asyncProperty(anySite, anyEvents, async (site, events) => {
      // Timers fire at once; another test covers late timers.
      const prompt = events.map(event => (event.kind === 'pass' ? { ...event, timersCome: true } : event))
      const goesBy: Event = { kind: 'pass', ms: 9000, timersCome: true }
      const { emitted, breaker } = await live(
        ms => t.mock.timers.tick(ms),
        site,
        [...prompt, goesBy],
        () => undefined,
      )
      const words = emitted.filter(line => ['set', 'removed', 'ended'].includes(line))
      let isInForce = false
      for (const line of words) {
        if (line !== 'set') assert.equal(isInForce, true, `${words}`)
        isInForce = line === 'set'
      }
      assert.deepEqual([isInForce, breaker.snapshot().override], [false, null])
      assert.equal(breaker.pastOverrides.length, Math.min(200, words.filter(line => line === 'set').length))
    }),
    { numRuns: RUNS },
  )
})

/** Further events that may happen to a waiting room. */
type Coming =
  | Event
  | { readonly kind: 'enter'; readonly waitMs: number }
  | { readonly kind: 'leave'; readonly which: number }

const anyComing: fc.Arbitrary<Coming> = fc.oneof(
  { weight: 2, arbitrary: anyEvent },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('enter' as const), waitMs: fc.nat(6000) }) },
  fc.record({ kind: fc.constant('leave' as const), which: fc.nat(30) }),
)

test('for any events: waiting requests are released in order, once, within the limit, or refused in time', async t => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  let released = 0
  await fc.assert(
    fc.asyncProperty(
      anySite,
      fc.array(anyComing, { maxLength: 80, size: 'max' }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 10 }),
      async ({ rules, maxConcurrency }, coming, concurrency, capacity) => {
        let now = 10_000
        const settings = { ...SETTINGS, ...rules, maxConcurrency }
        const breaker = new Breaker(
          () => settings,
          () => now,
        )
        const room = new WaitingRoom({
          breaker,
          clock: () => now,
          capacity: () => capacity,
          policy: { kind: 'by-place', concurrency: () => concurrency },
        })
        room.attach(breaker)
        const waiting = new Map<number, { readonly until: number; readonly leave: () => void }>()
        const running: ReturnType<typeof hold>[] = []
        let newest = 0
        let isClosing = false
        const enter = (waitMs: number) => {
          newest += 1
          const name = newest
          const until = now + waitMs
          const leave = room.enter(true, waitMs, ({ admitted }) => {
            assert.ok(waiting.has(name), 'a request was released that does not wait')
            if (admitted) {
              // A request is released out of order when its wait expires or the room is full: a new request would be, too.
              const isInTurn = now < until && !isClosing
              if (isInTurn)
                assert.equal(name, Math.min(...waiting.keys()), 'a request was released out of order')
              assert.equal(breaker.decide().admitted, true)
              const request = hold(breaker)
              assert.equal(request.began(), true)
              running.push(request)
              if (isInTurn) assert.ok(breaker.snapshot().inFlight <= concurrency)
              released += 1
            } else {
              assert.ok(isClosing || now >= until, 'a request was refused too early')
            }
            waiting.delete(name)
          })
          assert.equal(leave === undefined, waiting.size >= capacity)
          if (leave !== undefined) waiting.set(name, { until, leave })
        }
        for (const event of coming) {
          switch (event.kind) {
            case 'enter':
              enter(event.waitMs)
              break
            case 'leave': {
              const name = [...waiting.keys()][event.which % Math.max(1, waiting.size)]
              if (name === undefined) break
              waiting.get(name)?.leave()
              waiting.delete(name)
              break
            }
            case 'read':
              for (const finding of readings(event.mark)) {
                breaker.observe({ ...finding, source: event.source, at: now - event.lateMs })
              }
              break
            case 'pass':
              now += event.ms
              t.mock.timers.tick(event.ms)
              for (const { until } of waiting.values())
                assert.ok(now < until + 50, 'a request waits too long')
              break
            case 'set':
              breaker.setOverride({ ...event, reason: 'r' }, OPERATOR)
              break
            case 'remove':
              breaker.removeOverride(OPERATOR)
              break
            case 'ask': {
              const request = hold(breaker)
              if (request.began()) running.push(request)
              break
            }
            case 'end':
              await running.splice(event.which % Math.max(1, running.length), 1)[0]?.end(event.outcome)
              break
          }
          assert.equal(room.size, waiting.size)
        }
        isClosing = true
        room.close()
        assert.equal(room.size, 0)
        breaker.shutdown()
      },
    ),
    { numRuns: RUNS },
  )
  assert.ok(released > 100, `only ${released} were released`)
})
