import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Breaker, type Group } from '../../src/breaker/breaker.js'
import { afterEntry, type Message, type Shared, unshared } from '../../src/domain/agreement.js'
import { startingKnowledge } from '../../src/domain/knowledge.js'
import type { Reading } from '../../src/domain/reading.js'

const SETTINGS = {
  thresholds: { waiting: 1, unreachable: 3, ready: 1 },
  recovery: { initialConcurrency: 4, maxConcurrency: 8, rampMs: 60_000 },
  probePeriodMs: 1000,
  maxConcurrency: 0,
  mode: 'enforce',
} as const

/** A breaker whose others take what it tells, and give it back when they are asked to. */
function setUp({ maxConcurrency = 0 } = {}) {
  let now = 1000
  const told: Message[] = []
  const group = { isCurrent: true, places: 2, lacked: 0 }
  const settings = { ...SETTINGS, maxConcurrency }
  const port: Group = {
    tell: message => told.push(message),
    get isCurrent() {
      return group.isCurrent
    },
    share: limit => Math.min(limit, group.places),
    lacksPlace: () => {
      group.lacked += 1
    },
  }
  const breaker = new Breaker(
    () => settings,
    () => now,
    {},
    port,
  )
  const heard: string[] = []
  breaker.on('reading', ({ kind }, isNewest, isOwn) => {
    heard.push(`${isOwn ? 'own' : 'other'} ${kind}${isNewest ? '' : ' (old)'}`)
  })
  breaker.on('transition', ({ from, to, outageStartedAt }) =>
    heard.push(`${from} to ${to} of ${outageStartedAt}`),
  )
  breaker.on('override', ({ kind, override }) => heard.push(`override ${kind}: ${override.reason}`))
  let shared: Shared = unshared(startingKnowledge(0))
  let sequence = 0
  return {
    ...{ breaker, told, heard, group },
    /** The log has one more message, of this replica or of another. */
    log(message: Message, isOwn = false): void {
      sequence += 1
      shared = afterEntry(shared, { origin: 'log', sequence, message }, settings)
      breaker.adopt(shared, { message, isOwn })
    },
    reading(kind: 'ready' | 'waiting', source: Reading['source'] = 'probe'): Message {
      now += 1000
      const base = { at: now, source }
      const reading: Reading =
        kind === 'ready' ? { ...base, kind, metadata: {} } : { ...base, kind, metadata: {}, missing: ['prr'] }
      return { kind: 'reading', reading, isCounted: true }
    },
  }
}

test('a reading is sent to the others, and moves the circuit only when they all go by it', () => {
  const { breaker, told, heard, log, reading } = setUp()
  const message = reading('ready')
  assert.ok(message.kind === 'reading')
  breaker.observe(message.reading)
  assert.deepEqual(told, [message])
  assert.equal(breaker.snapshot().circuit.state, 'open')
  log(message, true)
  assert.equal(breaker.snapshot().circuit.state, 'closed')
  assert.deepEqual(heard, ['own ready', 'open to closed of 1000'])
})

test('what clients keep asking is sent once a second, and news at once', () => {
  const { breaker, told, log, reading } = setUp()
  log(reading('waiting'))
  const { reading: last } = breaker.snapshot()
  assert.ok(last !== null)
  for (const source of ['client', 'configure'] as const)
    breaker.observe({ ...last, at: last.at + 10, source })
  breaker.observe({ ...last, at: last.at + 20, source: 'client' }, false)
  assert.deepEqual(told, [])
  breaker.observe({ ...last, at: last.at + 1000, source: 'client' })
  breaker.observe({ at: last.at + 30, source: 'client', kind: 'ready', metadata: {} })
  breaker.observe({ ...last, at: last.at + 40, source: 'probe' })
  assert.equal(told.length, 3)
})

test('an override is sent, and is in force when the others go by it', () => {
  const { breaker, told, heard, log } = setUp()
  const override = breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 60 }, '192.0.2.7')
  assert.equal(breaker.snapshot().override, null)
  const [message] = told
  assert.ok(message !== undefined)
  log(message, true)
  assert.deepEqual(breaker.snapshot().override, override)
  assert.equal(breaker.removeOverride('192.0.2.8'), true)
  const [, removal] = told
  assert.ok(removal !== undefined)
  log(removal, false)
  assert.equal(breaker.removeOverride('192.0.2.8'), false)
  assert.deepEqual(heard, ['override set: a test', 'override removed: a test'])
})

test('a replica that joins in the middle of an outage reports since when it is', () => {
  const { breaker, heard, reading } = setUp()
  const shared = unshared(startingKnowledge(0))
  const rules = SETTINGS
  const messages = [reading('ready'), reading('waiting'), reading('waiting')]
  const joined = messages.reduce(
    (known, message, index) => afterEntry(known, { origin: 'other', sequence: index + 1, message }, rules),
    shared,
  )
  const circuits: number[] = []
  breaker.on('cause', ({ outageStartedAt }) => circuits.push(outageStartedAt))
  breaker.adopt(joined)
  assert.deepEqual(circuits, [3000])
  assert.deepEqual(heard, [])
})

test('two outages that were seen by the others are two here, though the circuit was open before and after', () => {
  const { breaker, heard, log, reading } = setUp()
  log(reading('ready'))
  log(reading('waiting'))
  heard.length = 0
  const { circuit, ...known } = breaker.knowledge
  const later = [reading('ready'), reading('ready'), reading('waiting')].map(message => {
    assert.ok(message.kind === 'reading')
    return message.reading
  })
  const [ready, , waiting] = later
  assert.ok(ready !== undefined && waiting !== undefined && circuit.state === 'open')
  breaker.adopt({
    ...unshared({
      ...known,
      circuit: { ...circuit, openedAt: waiting.at, since: waiting.at, judgedAt: waiting.at },
      ...{ reading: waiting, lastReadyAt: ready.at, newestAt: waiting.at, countedAt: waiting.at },
    }),
  })
  assert.deepEqual(heard, ['open to closed of 3000', 'closed to open of 6000'])
})

for (const { name, maxConcurrency, isHalfOpen, code } of [
  { name: 'in the ramp', maxConcurrency: 0, isHalfOpen: true, code: 'recovering' },
  { name: 'of focus-server', maxConcurrency: 5, isHalfOpen: false, code: 'overloaded' },
]) {
  test(`a replica admits as many as its share of the places ${name}, and asks for more when it has no place`, () => {
    const { breaker, group, log, reading } = setUp({ maxConcurrency })
    log(reading('ready'))
    if (isHalfOpen) {
      log(reading('waiting'))
      log(reading('ready'))
      assert.equal(breaker.snapshot().circuit.state, 'half-open')
    }
    const first = breaker.admit()
    assert.ok(first.admitted && breaker.admit().admitted)
    assert.equal(group.lacked, 0)
    const third = breaker.admit()
    assert.equal(third.admitted, false)
    assert.equal(!third.admitted && third.code, code)
    assert.equal(group.lacked, 1)
    group.places = 3
    assert.ok(breaker.admit().admitted)
    group.places = 0
    first.permit.settle({ kind: 'nothing-learned' })
    assert.equal(breaker.admit().admitted, false)
  })
}

test('a process that was suspended refuses until it knows again, also where the circuit was closed', () => {
  const { breaker, group, log, reading } = setUp()
  log(reading('ready'))
  assert.ok(breaker.decide().admitted)
  group.isCurrent = false
  const decision = breaker.decide()
  assert.equal(!decision.admitted && decision.code, 'metadata_unavailable')
  assert.equal(breaker.decide(false).admitted, true, 'a historic job needs no fiber')
  group.isCurrent = true
  assert.ok(breaker.decide().admitted)
})

test('that focus-server said to another replica that the fiber is missing contradicts what the metadata says here', () => {
  const { breaker, log, reading } = setUp()
  log(reading('ready'))
  log(reading('waiting', 'configure'))
  const missing = () => breaker.disagreement?.missing
  assert.equal(missing(), undefined)
  log(reading('ready'))
  assert.deepEqual(missing(), ['prr'])
})
