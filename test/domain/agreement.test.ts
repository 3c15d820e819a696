import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Agreement,
  afterEntry,
  alone,
  type Entry,
  effective,
  isPending,
  joined,
  type Message,
  news,
  notJoined,
  received,
  rejected,
  type Shared,
  sent,
  unshared,
} from '../../src/domain/agreement.js'
import { afterReading, startingKnowledge } from '../../src/domain/knowledge.js'
import type { Reading } from '../../src/domain/reading.js'

const RULES = {
  thresholds: { waiting: 1, unreachable: 3, ready: 2 },
  recovery: { initialConcurrency: 2, maxConcurrency: 30, rampMs: 3000 },
}

/** An entry in transit to the log; `needsLease` for a probe of the prober. */
type Sent = { readonly entry: Entry; readonly needsLease: boolean }

/** How long a log without new entries is trusted. */
const LEFT_MS = 5000

/** One simulated replica. */
type Replica = {
  readonly origin: string
  agreement: Agreement
  sequence: number
  /** The number of log entries that it has read. */
  read: number
  /** Entries in transit to the log, in order. */
  sending: Sent[]
  /** Entries from a connection that has been cut, which may still arrive. */
  late: Sent[]
  /** Its latest own reading. */
  own: Extract<Message, { kind: 'reading' }> | undefined
  /** Every reading that it acts on, its own or from the log. */
  known: Reading[]
  /** Whether it is suspended, so that it neither sends nor reads. */
  isPaused: boolean
  /** A probe that was sent before it was suspended, and whose result has not been used yet. */
  underWay: Reading | undefined
}

/** Replicas and their log, which can be lost, and whose entries can arrive late or twice. */
class World {
  now = 1000
  isFiberConnected = true
  /** The replica that holds the lease. */
  prober: Replica | undefined
  #log: Entry[] = []
  /** The state with which the log started. */
  #base: Shared | undefined
  /** When the log was last written. */
  #usedAt = 0
  readonly replicas: readonly Replica[]

  constructor(count: number) {
    this.replicas = Array.from({ length: count }, (_, index) => ({
      ...{ origin: `replica ${index}`, sequence: 0, read: 0, sending: [], late: [], known: [] },
      agreement: notJoined(newShared()),
      ...{ own: undefined, isPaused: false, underWay: undefined },
    }))
  }

  /** The replica probes if it is the prober. */
  probe(replica: Replica): void {
    if (replica.isPaused || (replica.agreement.isJoined && this.prober !== replica)) return
    this.#observe(replica, this.#reading('probe'))
  }

  /** The replica receives the response to a configure. */
  learn(replica: Replica): void {
    if (replica.isPaused || this.isFiberConnected) return
    this.#observe(replica, this.#reading('configure'))
  }

  /** Sets an override, or removes it. */
  override(replica: Replica, isSet: boolean): void {
    if (replica.isPaused) return
    this.now += 1
    const { now: at } = this
    const override = {
      state: 'open',
      reason: 'a test',
      since: at,
      until: at + 1e6,
      by: replica.origin,
    } as const
    this.#send(
      replica,
      { kind: 'override', override: isSet ? override : null, at, by: replica.origin },
      false,
    )
  }

  /** The first of its messages reaches the log, `times` times. */
  send(replica: Replica, times: number): void {
    const [sent, ...rest] = replica.sending
    if (sent === undefined || replica.isPaused || times === 0) return
    replica.sending = rest
    for (let count = 0; count < times; count += 1) this.#append(replica, sent)
  }

  /** Entries from a cut connection arrive after all; the replica gets no response. */
  arriveLate(replica: Replica): void {
    const [sent, ...rest] = replica.late
    replica.late = rest
    if (sent !== undefined && (!sent.needsLease || this.prober === replica)) this.#add(sent.entry)
  }

  read(replica: Replica, count: number): void {
    if (!replica.agreement.isJoined || replica.isPaused) return
    for (const entry of this.#log.slice(replica.read, replica.read + count)) {
      const isKnown = isPending(replica.agreement, entry)
      replica.agreement = received(replica.agreement, entry, RULES)
      replica.read += 1
      if (!isKnown) know(replica, entry.message)
    }
  }

  /** The connection breaks. Entries in transit are lost or arrive late, and the replica gets no response. */
  cut(replica: Replica, arrivesLate = false): void {
    replica.agreement = alone(replica.agreement, RULES)
    if (arrivesLate) replica.late.push(...replica.sending)
    replica.sending = []
    if (this.prober === replica) this.prober = undefined
  }

  /** The connection is back. The replica reads the whole log, and sends what the log does not contain. */
  join(replica: Replica): void {
    if (replica.agreement.isJoined || replica.isPaused) return
    // After the log was lost, the first replica starts a new one with what it knows.
    if (this.#base === undefined) this.#usedAt = this.now
    this.#base ??= { ...replica.agreement.shared, sequences: [] }
    const shared = this.sharedAt(this.#log.length)
    const isLeft = this.prober === undefined && this.now - this.#usedAt > LEFT_MS
    const messages = news(shared, replica.agreement, replica.own, isLeft)
    replica.agreement = joined(shared)
    replica.read = this.#log.length
    const { reading } = shared.knowledge
    replica.known = reading === null ? [] : [reading]
    for (const message of messages) this.#send(replica, message, false)
  }

  /** The lease passes to a replica, even if the previous prober does not know. */
  lease(replica: Replica): void {
    if (replica.agreement.isJoined && !replica.isPaused) this.prober = replica
  }

  pause(replica: Replica): void {
    if (replica.isPaused) return
    replica.isPaused = true
    replica.underWay = this.#reading('probe')
  }

  /** The replica resumes, and uses the result of its old probe. */
  resume(replica: Replica): void {
    const { underWay } = replica
    replica.isPaused = false
    replica.underWay = undefined
    if (underWay !== undefined) this.#observe(replica, underWay)
  }

  /** The log comes back empty; every replica notices. */
  wipe(): void {
    for (const replica of this.replicas) this.cut(replica)
    for (const replica of this.replicas) replica.late = []
    this.#log = []
    this.#base = undefined
  }

  /** The state of a replica that has read this part of the log. */
  sharedAt(length: number): Shared {
    assert.ok(this.#base !== undefined)
    return this.#log.slice(0, length).reduce((shared, entry) => afterEntry(shared, entry, RULES), this.#base)
  }

  /** The state of the log results from its distinct readings, each counted once, in the order of their first arrival. */
  assertCountsOnce(): void {
    if (this.#base === undefined) return
    let { knowledge } = this.#base
    const counted = new Set<string>()
    const sequences = new Map<string, number>()
    const count = (reading: Reading | null) => {
      if (reading === null) return
      const name = `${reading.at} ${reading.source} ${reading.kind}`
      if (!counted.has(name)) knowledge = afterReading(knowledge, reading, true, RULES)
      counted.add(name)
    }
    const { reading: first } = knowledge
    if (first !== null) counted.add(`${first.at} ${first.source} ${first.kind}`)
    for (const { origin, sequence, message } of this.#log) {
      // Entries that a cut connection delivers after newer ones are left out, because they were sent again.
      if (sequence <= (sequences.get(origin) ?? 0)) continue
      sequences.set(origin, sequence)
      if (message.kind === 'reading') count(message.reading)
      if (message.kind !== 'knowledge') continue
      if (message.extends !== knowledge.newestAt) count(message.knowledge.reading)
      else {
        knowledge = message.knowledge
        const { reading } = knowledge
        if (reading !== null) counted.add(`${reading.at} ${reading.source} ${reading.kind}`)
      }
    }
    assert.deepEqual(this.sharedAt(this.#log.length).knowledge, knowledge)
  }

  /** Every replica is connected, and everything arrives. */
  settle(): void {
    for (const replica of this.replicas) this.resume(replica)
    for (const replica of this.replicas) this.join(replica)
    for (const replica of this.replicas) {
      while (replica.late.length > 0) this.arriveLate(replica)
      while (replica.sending.length > 0) this.send(replica, 1)
    }
    for (const replica of this.replicas) this.read(replica, this.#log.length)
  }

  #add(entry: Entry): void {
    this.#log.push(entry)
    this.#usedAt = this.now
  }

  #reading(source: 'probe' | 'configure'): Reading {
    this.now += 1
    const finding = this.isFiberConnected
      ? ({ kind: 'ready', metadata: {} } as const)
      : ({ kind: 'waiting', metadata: {}, missing: ['prr'] } as const)
    return { at: this.now, source, ...finding }
  }

  #observe(replica: Replica, reading: Reading): void {
    replica.own = { kind: 'reading', reading, isCounted: true }
    this.#send(replica, replica.own, reading.source === 'probe')
  }

  #send(replica: Replica, message: Message, needsLease: boolean): void {
    replica.sequence += 1
    const entry = { origin: replica.origin, sequence: replica.sequence, message }
    replica.agreement = sent(replica.agreement, entry, RULES)
    const actsNow = !replica.agreement.isJoined || isPending(replica.agreement, entry)
    // A ready reading counts for the replica itself only when it comes back from the log.
    if (actsNow) know(replica, message)
    if (replica.agreement.isJoined) replica.sending.push({ entry, needsLease })
  }

  #append(replica: Replica, { entry, needsLease }: Sent): void {
    if (!needsLease || this.prober === replica) {
      this.#add(entry)
      return
    }
    replica.agreement = rejected(replica.agreement, entry)
    const { message } = entry
    if (message.kind === 'reading') replica.known = replica.known.filter(each => each !== message.reading)
  }
}

/** After a time without the log, the newest reading counts if the rest comes too late to count as a whole. */
function know(replica: Replica, message: Message): void {
  if (message.kind === 'reading') replica.known.push(message.reading)
  if (message.kind !== 'knowledge') return
  const { reading } = message.knowledge
  if (reading !== null) replica.known.push(reading)
}

function newShared(): Shared {
  return unshared(startingKnowledge(0))
}

function assertAgree(world: World): void {
  for (const { agreement, read } of world.replicas) {
    if (agreement.isJoined) assert.deepEqual(agreement.shared, world.sharedAt(read))
  }
}

function assertNoneAdmitsAfterBad(world: World): void {
  for (const { agreement, known, origin } of world.replicas) {
    const newest = known.reduce<Reading | undefined>(
      (sofar, reading) => (sofar === undefined || reading.at >= sofar.at ? reading : sofar),
      undefined,
    )
    if (newest === undefined || newest.kind === 'ready') continue
    assert.equal(effective(agreement, RULES).knowledge.circuit.state, 'open', `${origin} has a newer reading`)
  }
}

const ACTIONS: ReadonlyMap<string, (world: World, replica: Replica, amount: number) => void> = new Map([
  ['probe', (world, replica) => world.probe(replica)],
  ['learn', (world, replica) => world.learn(replica)],
  ['set override', (world, replica) => world.override(replica, true)],
  ['remove override', (world, replica) => world.override(replica, false)],
  ['send', (world, replica) => world.send(replica, 1)],
  ['send twice', (world, replica) => world.send(replica, 2)],
  ['read', (world, replica, amount) => world.read(replica, amount)],
  ['cut', (world, replica, amount) => world.cut(replica, amount % 2 === 0)],
  ['arrive late', (world, replica) => world.arriveLate(replica)],
  ['join', (world, replica) => world.join(replica)],
  ['lease', (world, replica) => world.lease(replica)],
  ['pause', (world, replica) => world.pause(replica)],
  ['resume', (world, replica) => world.resume(replica)],
  [
    'fiber changes',
    world => {
      world.isFiberConnected = !world.isFiberConnected
    },
  ],
  [
    'time passes',
    (world, _, amount) => {
      world.now += amount * 1000
    },
  ],
  ['wipe', world => world.wipe()],
])

const anyStep = fc.record({
  who: fc.nat({ max: 3 }),
  what: fc.constantFrom(
    ...ACTIONS.keys(),
    ...['probe', 'probe', 'send', 'send', 'read', 'read', 'join', 'join', 'lease'],
  ),
  amount: fc.integer({ min: 1, max: 4 }),
})

test('replicas that have read the same entries agree, count each reading once, never admit against their newest reading, and converge', () => {
  const runs = { numRuns: Number(process.env.AGREEMENT_RUNS ?? 1000) }
  const any = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.array(anyStep, { maxLength: 80, size: 'max' }))
  const property = fc.property(any, ([count, steps]) => {
    const world = new World(count)
    for (const { who, what, amount } of steps) {
      const replica = world.replicas[who % count]
      assert.ok(replica !== undefined)
      ACTIONS.get(what)?.(world, replica, amount)
      assertAgree(world)
      assertNoneAdmitsAfterBad(world)
      world.assertCountsOnce()
    }
    world.settle()
    assertAgree(world)
    const [first, ...others] = world.replicas
    assert.ok(first !== undefined)
    for (const { agreement } of others) assert.deepEqual(agreement, first.agreement)
    assert.deepEqual(first.agreement.pending, [])
    // The fiber stays connected: the ramp ends everywhere with the same reading.
    world.isFiberConnected = true
    world.lease(first)
    for (let probes = 0; probes < 5; probes += 1) {
      world.now += 1000
      world.probe(first)
      world.settle()
    }
    for (const { agreement } of world.replicas) {
      assert.equal(effective(agreement, RULES).knowledge.circuit.state, 'closed')
    }
  })
  fc.assert(property, runs)
})

test('a replica that was alone passes on the override last set there, and adopts a later one', () => {
  for (const isAloneLater of [true, false]) {
    const world = new World(2)
    const [one, other] = world.replicas
    assert.ok(one !== undefined && other !== undefined)
    world.join(one)
    const [earlier, later] = isAloneLater ? [one, other] : [other, one]
    world.override(earlier, true)
    world.override(later, true)
    world.settle()
    for (const { agreement } of world.replicas)
      assert.equal(agreement.shared.overridden.override?.by, later.origin)
  }
})

test('replicas that were all cut off pass on everything that they learned in the meantime', () => {
  const world = new World(2)
  const [one, other] = world.replicas
  assert.ok(one !== undefined && other !== undefined)
  world.isFiberConnected = false
  world.settle()
  world.lease(one)
  world.probe(one)
  world.settle()
  for (const replica of world.replicas) world.cut(replica)
  world.isFiberConnected = true
  for (const replica of world.replicas) {
    for (let probes = 0; probes < 3; probes += 1) {
      world.probe(replica)
      world.now += 3000
    }
    assert.equal(replica.agreement.shared.knowledge.circuit.state, 'closed')
  }
  for (const replica of world.replicas) {
    world.join(replica)
    assert.equal(effective(replica.agreement, RULES).knowledge.circuit.state, 'closed', 'without flapping')
  }
  world.settle()
  assert.deepEqual(one.agreement, other.agreement)
  assert.equal(one.agreement.shared.knowledge.circuit.state, 'closed')
})

test('a replica that was the only one cut off adopts what the others learned, and adds only its last reading', () => {
  const world = new World(2)
  const [away, other] = world.replicas
  assert.ok(away !== undefined && other !== undefined)
  world.settle()
  world.cut(away)
  world.lease(other)
  const probe = () => {
    world.probe(other)
    world.send(other, 1)
    world.read(other, 1)
  }
  for (let probes = 0; probes < 4; probes += 1) {
    probe()
    world.now += 3000
  }
  world.isFiberConnected = false
  world.probe(away)
  world.isFiberConnected = true
  probe()
  world.settle()
  assert.equal(away.agreement.shared.knowledge.circuit.state, 'closed')
  assert.equal(away.agreement.shared.knowledge.streak, 5)
})

test('late readings of a former prober change nothing', () => {
  const world = new World(2)
  const [old, now] = world.replicas
  assert.ok(old !== undefined && now !== undefined)
  world.settle()
  world.lease(old)
  world.pause(old)
  world.isFiberConnected = false
  world.lease(now)
  world.probe(now)
  world.settle()
  for (const { agreement } of world.replicas) {
    assert.equal(agreement.shared.knowledge.reading?.kind, 'waiting')
    assert.deepEqual(agreement.pending, [])
  }
})
