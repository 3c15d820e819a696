import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Agreement,
  afterEntry,
  alone,
  type Entry,
  effective,
  heard,
  joined,
  type Message,
  type Shared,
  told,
  unshared,
} from '../../src/domain/agreement.js'
import { startingKnowledge } from '../../src/domain/knowledge.js'
import type { Reading } from '../../src/domain/reading.js'

const RULES = {
  thresholds: { waiting: 1, unreachable: 3, ready: 2 },
  recovery: { initialConcurrency: 2, maxConcurrency: 30, rampMs: 3000 },
}

/** One replica of the simulated ones. */
type Replica = {
  readonly origin: string
  agreement: Agreement
  sequence: number
  /** How much of the log it has read. */
  read: number
  /** On the way to the log, in order. */
  sending: Entry[]
  /** Its latest own reading. */
  own: Reading | undefined
  /** Every reading that it knows, by itself or from the log. */
  known: Reading[]
}

/** Replicas, and a log between them that can be lost, reached late, and written twice. */
class World {
  now = 1000
  isFiberThere = true
  #log: Entry[] = []
  /** What the log began with. */
  #base: Shared | undefined
  readonly replicas: readonly Replica[]

  constructor(count: number) {
    this.replicas = Array.from({ length: count }, (_, index) => ({
      origin: `replica ${index}`,
      agreement: { isJoined: false, shared: newShared(), pending: [] },
      sequence: 0,
      read: 0,
      sending: [],
      own: undefined,
      known: [],
    }))
  }

  /** The replica looks at the fiber. */
  look(replica: Replica, isFiberThere = this.isFiberThere): void {
    const finding = isFiberThere
      ? ({ kind: 'ready', metadata: {} } as const)
      : ({ kind: 'waiting', metadata: {}, missing: ['prr'] } as const)
    this.now += 1
    this.#tell(replica, { at: this.now, source: 'probe', ...finding })
  }

  /** The first of its messages reaches the log, `times` times; only an answer to the last one reaches the replica. */
  send(replica: Replica, times: number): void {
    const [entry, ...rest] = replica.sending
    if (entry === undefined) return
    for (let count = 0; count < times; count += 1) this.#log.push(entry)
    if (times > 0) replica.sending = rest
  }

  read(replica: Replica, count: number): void {
    if (!replica.agreement.isJoined) return
    for (const entry of this.#log.slice(replica.read, replica.read + count)) {
      replica.agreement = heard(replica.agreement, entry, RULES)
      replica.read += 1
      if (entry.message.kind === 'reading') replica.known.push(entry.message.reading)
    }
  }

  /** The connection breaks: what was on its way is lost, and nobody tells the replica what arrived. */
  cut(replica: Replica): void {
    replica.agreement = alone(replica.agreement, RULES)
    replica.sending = []
  }

  /** The connection is back. The replica reads the whole log, and writes its latest reading if that is not older. */
  join(replica: Replica): void {
    if (replica.agreement.isJoined) return
    // The first one after a loss of the log begins it with what it knows.
    this.#base ??= replica.agreement.shared
    const shared = this.sharedAt(this.#log.length)
    replica.agreement = joined(shared)
    replica.read = this.#log.length
    const logged = this.#log.flatMap(({ message }) => (message.kind === 'reading' ? [message.reading] : []))
    const { reading } = this.#base.knowledge
    replica.known = reading === null ? logged : [reading, ...logged]
    const { own } = replica
    if (own !== undefined && own.kind !== 'ready') replica.known.push(own)
    if (own !== undefined && own.at >= shared.knowledge.newestAt) this.#tell(replica, own)
  }

  /** The log comes back empty; everybody notices. */
  wipe(): void {
    for (const replica of this.replicas) this.cut(replica)
    this.#log = []
    this.#base = undefined
  }

  /** What a replica knows that has read this much of the log. */
  sharedAt(length: number): Shared {
    assert.ok(this.#base !== undefined)
    const seen = new Set<string>()
    const isFirst = ({ origin, sequence }: Entry) => {
      const name = `${origin} ${sequence}`
      return !seen.has(name) && seen.add(name)
    }
    const log = this.#log.slice(0, length).filter(isFirst)
    return log.reduce((shared, entry) => afterEntry(shared, entry, RULES), this.#base)
  }

  /** Everybody is connected, everything arrives. */
  settle(): void {
    for (const replica of this.replicas) {
      this.join(replica)
      while (replica.sending.length > 0) this.send(replica, 1)
    }
    for (const replica of this.replicas) this.read(replica, this.#log.length)
  }

  #tell(replica: Replica, reading: Reading): void {
    replica.sequence += 1
    const message: Message = { kind: 'reading', reading, isCounted: true }
    const entry = { origin: replica.origin, sequence: replica.sequence, message }
    replica.agreement = told(replica.agreement, entry, RULES)
    replica.own = reading
    // A ready one counts for the replica itself when it comes back from the log.
    if (!replica.agreement.isJoined || reading.kind !== 'ready') replica.known.push(reading)
    if (replica.agreement.isJoined) replica.sending.push(entry)
  }
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
    assert.equal(effective(agreement, RULES).knowledge.circuit.state, 'open', `${origin} knows better`)
  }
}

const anyStep = fc.record({
  who: fc.nat({ max: 3 }),
  what: fc.constantFrom(
    ...['look', 'look', 'look', 'send', 'send', 'send', 'twice', 'read', 'read', 'cut', 'join', 'join'],
    ...['fiber', 'later', 'wipe'],
  ),
  amount: fc.integer({ min: 1, max: 4 }),
})

test('replicas agree when they have read the same, none admits against its newest reading, and all come together', () => {
  const runs = { numRuns: Number(process.env.AGREEMENT_RUNS ?? 1000) }
  const any = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.array(anyStep, { maxLength: 60, size: 'max' }))
  const property = fc.property(any, ([count, steps]) => {
    const world = new World(count)
    for (const { who, what, amount } of steps) {
      const replica = world.replicas[who % count]
      assert.ok(replica !== undefined)
      if (what === 'look') world.look(replica)
      else if (what === 'send') world.send(replica, 1)
      else if (what === 'twice') world.send(replica, 2)
      else if (what === 'read') world.read(replica, amount)
      else if (what === 'cut') world.cut(replica)
      else if (what === 'join') world.join(replica)
      else if (what === 'fiber') world.isFiberThere = !world.isFiberThere
      else if (what === 'later') world.now += amount * 1000
      else world.wipe()
      assertAgree(world)
      assertNoneAdmitsAfterBad(world)
    }
    world.settle()
    assertAgree(world)
    const [first, ...others] = world.replicas
    assert.ok(first !== undefined)
    for (const { agreement } of others) assert.deepEqual(agreement, first.agreement)
    assert.deepEqual(first.agreement.pending, [])
    // The fiber is there for good: the ramp ends everywhere with the same reading.
    for (let looks = 0; looks < 5; looks += 1) {
      world.now += 1000
      world.look(first, true)
      world.settle()
    }
    for (const { agreement } of world.replicas) {
      assert.equal(effective(agreement, RULES).knowledge.circuit.state, 'closed')
    }
  })
  fc.assert(property, runs)
})
