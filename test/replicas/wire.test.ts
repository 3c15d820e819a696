import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { afterEntry, type Entry, type Message, unshared } from '../../src/domain/agreement.js'
import { startingKnowledge } from '../../src/domain/knowledge.js'
import { entryFields, parseEntry, parseMember, parseShared, sharedText } from '../../src/replicas/wire.js'

const RULES = {
  thresholds: { waiting: 1, unreachable: 3, ready: 2 },
  recovery: { initialConcurrency: 2, maxConcurrency: 30, rampMs: 3000 },
}
const anyTime = fc.double({ min: 0, max: 4e12, noNaN: true })
const anyMetadata = fc.dictionary(
  fc.string({ maxLength: 20 }).filter(name => name !== '__proto__'),
  fc.oneof(fc.string({ maxLength: 50 }), fc.integer(), fc.boolean(), fc.constant(null)),
  { noNullPrototype: true },
)
const base = { at: anyTime, source: fc.constantFrom('probe', 'client', 'configure') }
const anyReading = fc.oneof(
  fc.record({ ...base, kind: fc.constant('ready'), metadata: anyMetadata }),
  fc.record({
    ...base,
    ...{
      kind: fc.constant('waiting'),
      metadata: anyMetadata,
      missing: fc.array(fc.string({ maxLength: 64 })),
    },
  }),
  fc.record({ ...base, kind: fc.constant('unreachable'), problem: fc.string({ maxLength: 200 }) }),
)
const anyOverride = fc.record({
  ...{ state: fc.constantFrom('open', 'closed'), reason: fc.string({ maxLength: 500 }) },
  ...{ since: anyTime, until: anyTime, by: fc.string({ maxLength: 60 }) },
})
const anyMessage: fc.Arbitrary<Message> = fc.oneof(
  fc.record({ kind: fc.constant('reading'), reading: anyReading, isCounted: fc.boolean() }),
  fc.record({
    ...{ kind: fc.constant('override'), override: fc.option(anyOverride) },
    ...{ at: anyTime, by: fc.string({ maxLength: 60 }) },
  }),
  fc.record({ kind: fc.constant('probe-request') }),
)
const anyEntry: fc.Arbitrary<Entry> = fc.record({
  origin: fc.uuid(),
  sequence: fc.integer({ min: 1, max: 1e9 }),
  message: anyMessage,
})

test('an entry is read back as it was written', () => {
  fc.assert(
    fc.property(anyEntry, entry => {
      assert.deepEqual(parseEntry(entryFields(entry)), JSON.parse(JSON.stringify(entry)))
    }),
  )
})

test('a state is read back as it was stored, whatever led to it', () => {
  fc.assert(
    fc.property(fc.array(anyEntry, { maxLength: 20 }), entries => {
      const shared = entries.reduce(
        (known, entry) => afterEntry(known, entry, RULES),
        unshared(startingKnowledge(0)),
      )
      assert.deepEqual(parseShared(sharedText(shared)), JSON.parse(JSON.stringify(shared)))
    }),
  )
})

test('no text in Redis makes the parsers throw', () => {
  const context = { now: 0, shiftMs: 0, self: 'a', leaseMs: 3000 }
  fc.assert(
    fc.property(
      fc.oneof(fc.string(), fc.json()),
      fc.array(fc.oneof(fc.string(), fc.json())),
      (text, fields) => {
        parseShared(text)
        parseMember('a', text, context)
        parseMember('a', `1 2 3 4 5 0 ${text}`, context)
        parseEntry(fields)
        parseEntry(['v', '1', 'o', 'a', 's', '1', 'm', text])
      },
    ),
  )
})

test('unknown members are left out', () => {
  const reading = { at: 1, source: 'probe', kind: 'ready', metadata: {}, secret: 'x' }
  const message = JSON.stringify({ kind: 'reading', reading, isCounted: true, more: 1 })
  assert.deepEqual(parseEntry(['v', '1', 'o', 'a', 's', '1', 'm', message]), {
    ...{ origin: 'a', sequence: 1 },
    message: {
      ...{ kind: 'reading', isCounted: true },
      reading: { at: 1, source: 'probe', kind: 'ready', metadata: {} },
    },
  })
})
