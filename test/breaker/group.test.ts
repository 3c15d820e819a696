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

/** A breaker with other replicas that collect its messages and return them on request. */
function setUp({ maxConcurrency = 0 } = {}) {
  let now = 1000
  const sent: Message[] = []
  const group = { isCurrent: true, places: 2, lacked: 0 }
  const settings = { ...SETTINGS, maxConcurrency }
  const port: Group = {
    send: message => sent.push(message),
    get isCurrent() {
      return group.isCurrent
    },
    share: limit => Math.min(limit, group.places),
    lacksSlot: () => {
      group.lacked += 1
    },
  }
  const breaker = new Breaker(
    () => settings,
    () => now,
    {},
    port,
  )
  const events: string[] = []
  breaker.on('reading', ({ kind }, isNewest, isOwn) => {
    events.push(`${isOwn ? 'own' : 'other'} ${kind}${isNewest ? '' : ' (old)'}`)
  })
  breaker.on('transition', ({ from, to, outageStartedAt }) =>
    events.push(`${from} to ${to} of ${outageStartedAt}`),
  )
  breaker.on('override', ({ kind, override }) => events.push(`override ${kind}: ${override.reason}`))
  let shared: Shared = unshared(startingKnowledge(0))
  let sequence = 0
  return {
    ...{ breaker, sent, events, group },
    /** Adds a message to the log, from this replica or another one. */
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

test('a reading is sent to the other replicas, and moves the circuit only once all of them act on it', () => {
  const { breaker, sent, events, log, reading } = setUp()
  const message = reading('ready')
  assert.ok(message.kind === 'reading')
  breaker.observe(message.reading)
  assert.deepEqual(sent, [message])
  assert.equal(breaker.snapshot().circuit.state, 'open')
  log(message, true)
  assert.equal(breaker.snapshot().circuit.state, 'closed')
  assert.deepEqual(events, ['own ready', 'open to closed of 1000'])
})

test('repeated readings of clients are sent once a second, and new ones at once', () => {
  const { breaker, sent, log, reading } = setUp()
  log(reading('waiting'))
  const { reading: last } = breaker.snapshot()
  assert.ok(last !== null)
  for (const source of ['client', 'configure'] as const)
    breaker.observe({ ...last, at: last.at + 10, source })
  breaker.observe({ ...last, at: last.at + 20, source: 'client' }, false)
  assert.deepEqual(sent, [])
  breaker.observe({ ...last, at: last.at + 1000, source: 'client' })
  breaker.observe({ at: last.at + 30, source: 'client', kind: 'ready', metadata: {} })
  breaker.observe({ ...last, at: last.at + 40, source: 'probe' })
  assert.equal(sent.length, 3)
})

test('an override is sent, and is in force once the replicas act on it', () => {
  const { breaker, sent, events, log } = setUp()
  const override = breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 60 }, '192.0.2.7')
  assert.equal(breaker.snapshot().override, null)
  const [message] = sent
  assert.ok(message !== undefined)
  log(message, true)
  assert.deepEqual(breaker.snapshot().override, override)
  assert.equal(breaker.removeOverride('192.0.2.8'), true)
  const [, removal] = sent
  assert.ok(removal !== undefined)
  log(removal, false)
  assert.equal(breaker.removeOverride('192.0.2.8'), false)
  assert.deepEqual(events, ['override set: a test', 'override removed: a test'])
})

test('a replica that joins during an outage reports its start', () => {
  const { breaker, events, reading } = setUp()
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
  assert.deepEqual(events, [])
})

test('two outages that other replicas observed count as two here, although the circuit was open before and after', () => {
  const { breaker, events, log, reading } = setUp()
  log(reading('ready'))
  log(reading('waiting'))
  events.length = 0
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
  assert.deepEqual(events, ['open to closed of 3000', 'closed to open of 6000'])
})

for (const { name, maxConcurrency, isHalfOpen, code } of [
  { name: 'in the ramp', maxConcurrency: 0, isHalfOpen: true, code: 'recovering' },
  { name: 'of focus-server', maxConcurrency: 5, isHalfOpen: false, code: 'overloaded' },
]) {
  test(`a replica admits as many as its share of the slots ${name}, and asks for more when it has none`, () => {
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

test('a process that was suspended refuses until it has new information, even if the circuit was closed', () => {
  const { breaker, group, log, reading } = setUp()
  log(reading('ready'))
  assert.ok(breaker.decide().admitted)
  group.isCurrent = false
  const decision = breaker.decide()
  assert.equal(!decision.admitted && decision.code, 'metadata_unavailable')
  assert.equal(breaker.decide(false).admitted, true, 'a historic job does not need the fiber')
  group.isCurrent = true
  assert.ok(breaker.decide().admitted)
})

test('a missing fiber that focus-server reported to another replica contradicts the metadata here', () => {
  const { breaker, log, reading } = setUp()
  log(reading('ready'))
  log(reading('waiting', 'configure'))
  const missing = () => breaker.disagreement?.missing
  assert.equal(missing(), undefined)
  log(reading('ready'))
  assert.deepEqual(missing(), ['prr'])
})
