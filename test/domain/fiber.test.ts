import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_READY_WHEN, judge, looksLikeMetadata, type Predicate } from '../../src/domain/fiber.js'
import { liveMetadata } from '../../src/simulator/samples.js'

const VERSION = '11.17.10513'

/** Documents as focus-server would send them, and how the default rule judges them. */
const DOCUMENTS: readonly (readonly [that: string, json: string, verdict: string])[] = [
  ['a connected fiber', liveMetadata.present, 'ready'],
  ['no fiber', liveMetadata.missing, 'waiting: prr'],
  ['a fiber that is coming back', liveMetadata.partial, 'waiting: sw_version'],

  ['an empty object', '{}', 'waiting: prr'],
  ['no prr', `{"sw_version":"${VERSION}"}`, 'waiting: prr'],
  ['no sw_version', '{"prr":2000}', 'waiting: sw_version'],
  ['prr null', metadata('null'), 'waiting: prr'],
  ['sw_version null', metadata('2000', 'null'), 'waiting: sw_version'],

  ['prr negative', metadata('-1'), 'waiting: prr'],
  ['prr -0', metadata('-0'), 'waiting: prr'],
  ['prr 0e0', metadata('0e0'), 'waiting: prr'],
  ['prr too small for a double', metadata('1e-400'), 'waiting: prr'],
  ['prr the smallest', metadata('5e-324'), 'ready'],
  ['prr an integer', metadata('2000'), 'ready'],

  ['prr a number as text', metadata('"2000"'), 'unreadable: prr: expected a number, got a string'],
  ['prr "None"', metadata('"None"'), 'unreadable: prr: expected a number, got a string'],
  ['prr "NaN"', metadata('"NaN"'), 'unreadable: prr: expected a number, got a string'],
  ['prr empty text', metadata('""'), 'unreadable: prr: expected a number, got a string'],
  ['prr true', metadata('true'), 'unreadable: prr: expected a number, got a boolean'],
  ['prr a list', metadata('[2000]'), 'unreadable: prr: expected a number, got a list'],
  ['prr an object', metadata('{"value":2000}'), 'unreadable: prr: expected a number, got an object'],
  [
    'sw_version a number',
    metadata('2000', '11.17'),
    'unreadable: sw_version: expected a string, got a number',
  ],
  ['sw_version false', metadata('2000', 'false'), 'unreadable: sw_version: expected a string, got a boolean'],
  [
    'a wrong type after a missing field',
    metadata('0', '5'),
    'unreadable: sw_version: expected a string, got a number',
  ],

  ['sw_version in another case', metadata('2000', '"Waiting For Fiber"'), 'waiting: sw_version'],
  ['sw_version in capitals', metadata('2000', '"WAITING FOR FIBER"'), 'waiting: sw_version'],
  [
    'sw_version with whitespace around it',
    metadata('2000', '" \\twaiting for fiber\\r\\n"'),
    'waiting: sw_version',
  ],
  ['sw_version that only starts with it', metadata('2000', '"waiting for fiber 2"'), 'ready'],
  ['sw_version with different whitespace inside', metadata('2000', '"waiting  for fiber"'), 'ready'],
  ['sw_version empty', metadata('2000', '""'), 'ready'],

  [
    'another fiber_description',
    `{"prr":1,"sw_version":"1","fiber_description":"waiting for fiber"}`,
    'ready',
  ],
  ['number_of_channels is ignored', `{"prr":1,"sw_version":"1","number_of_channels":2447.75}`, 'ready'],
  ['a key that every object has', `{"__proto__":{"prr":1,"sw_version":"1"}}`, 'waiting: prr'],

  ['a list', '[]', 'unreadable: expected a JSON object, got a list'],
  [
    'a list that contains a document',
    `[${liveMetadata.present}]`,
    'unreadable: expected a JSON object, got a list',
  ],
  ['null', 'null', 'unreadable: expected a JSON object, got null'],
  ['text', '"ready"', 'unreadable: expected a JSON object, got a string'],
  ['a number', '2000', 'unreadable: expected a JSON object, got a number'],
  ['true', 'true', 'unreadable: expected a JSON object, got a boolean'],
]

for (const [that, json, verdict] of DOCUMENTS) {
  test(`${that} is ${verdict}`, () => {
    assert.equal(verdictOf(judge(JSON.parse(json), DEFAULT_READY_WHEN)), verdict)
  })
}

const NUMBERS: readonly (readonly [
  operator: '>' | '>=' | '<' | '<=' | '==' | '!=',
  holdsFor: readonly number[],
])[] = [
  ['>', [3]],
  ['>=', [2, 3]],
  ['<', [1]],
  ['<=', [1, 2]],
  ['==', [2]],
  ['!=', [1, 3]],
]

for (const [operator, holdsFor] of NUMBERS) {
  test(`a number ${operator} 2 holds for ${holdsFor.join(' and ')} of 1, 2 and 3`, () => {
    assert.deepEqual(
      [1, 2, 3].filter(a => judge({ a }, [{ field: 'a', operator, value: 2 }]).kind === 'ready'),
      holdsFor,
    )
  })
}

const EQUALITIES: readonly (readonly [value: string | boolean, equal: unknown, other: unknown])[] = [
  ['Site A', ' site a ', 'site b'],
  [true, true, false],
  [false, false, true],
]

for (const [value, equal, other] of EQUALITIES) {
  test(`== ${JSON.stringify(value)} holds for ${JSON.stringify(equal)} and != for ${JSON.stringify(other)}`, () => {
    const kinds = (operator: '==' | '!=') =>
      [equal, other, null].map(a => judge({ a }, [{ field: 'a', operator, value }]).kind)
    assert.deepEqual(kinds('=='), ['ready', 'waiting', 'waiting'])
    assert.deepEqual(kinds('!='), ['waiting', 'ready', 'waiting'])
  })
}

for (const field of [
  ...['dx', 'prr', 'fiber_start_meters', 'fiber_length_meters', 'sw_version', 'number_of_channels'],
  ...['fiber_description', 'own'],
]) {
  test(`a document with ${field} may be metadata, whatever else it contains`, () => {
    assert.ok(looksLikeMetadata({ other: 1, [field]: null }, OWN))
  })
}

test('a document without any metadata field comes from another server', () => {
  for (const document of [{ status: 'UP' }, {}, [], null, undefined, 'prr', 5]) {
    assert.equal(looksLikeMetadata(document, OWN), false)
  }
  assert.equal(looksLikeMetadata({ own: 1 }, DEFAULT_READY_WHEN), false)
})

test('NaN, Infinity and values of another type make the metadata unreadable', () => {
  const problem = (prr: unknown) => {
    const judgement = judge({ prr, sw_version: '1' }, DEFAULT_READY_WHEN)
    return judgement.kind === 'unreadable' ? judgement.problem : judgement.kind
  }
  assert.equal(problem(Number.NaN), 'prr: expected a number, got NaN')
  assert.equal(problem(Number.POSITIVE_INFINITY), 'prr: expected a number, got Infinity')
  assert.equal(problem(true), 'prr: expected a number, got a boolean')
})

test('a boolean field is judged and shown', () => {
  const isConnected: readonly Predicate[] = [{ field: 'connected', operator: '==', value: true }]
  assert.deepEqual(judge({ connected: true }, isConnected), { kind: 'ready', metadata: { connected: true } })
  assert.equal(judge({ connected: false }, isConnected).kind, 'waiting')
})

/** Predicates of an installation with a field of its own. */
const OWN: readonly Predicate[] = [
  { field: 'prr', operator: '>', value: 0 },
  { field: 'own', operator: '>', value: 0 },
]

test('a missing field fails every operator', () => {
  for (const operator of ['>', '>=', '<', '<=', '==', '!='] as const) {
    assert.equal(judge({}, [{ field: 'a', operator, value: 0 }]).kind, 'waiting', operator)
  }
})

test('a field that every JavaScript object has is missing if it was not sent', () => {
  for (const field of ['constructor', '__proto__', 'toString']) {
    assert.equal(judge({}, [{ field, operator: '==', value: 'x' }]).kind, 'waiting', field)
  }
})

test('the first predicate that fails is named, and the fields of all predicates are shown', () => {
  const readyWhen: readonly Predicate[] = [
    { field: 'a', operator: '>', value: 0 },
    { field: 'b', operator: '>', value: 0 },
    { field: 'c', operator: '>', value: 0 },
  ]
  assert.deepEqual(judge({ a: 1, b: 0, c: 0, d: 0 }, readyWhen), {
    kind: 'waiting',
    missing: ['b'],
    metadata: { a: 1, b: 0, c: 0 },
  })
})

test('a judgement shows the judged fields and the description, as they were sent', () => {
  assert.deepEqual(judge(JSON.parse(liveMetadata.missing), DEFAULT_READY_WHEN), {
    kind: 'waiting',
    missing: ['prr'],
    metadata: { prr: 0, sw_version: 'waiting for fiber', fiber_description: 'waiting for fiber' },
  })
  assert.deepEqual(judge({ prr: null, fiber_description: null }, DEFAULT_READY_WHEN), {
    kind: 'waiting',
    missing: ['prr'],
    metadata: { prr: null, fiber_description: null },
  })
})

test('the size of a judgement is bounded, whatever the document', () => {
  const document = {
    prr: 2000,
    sw_version: 'v'.repeat(10_000),
    fiber_description: { deep: 'x'.repeat(10_000) },
    ...Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`field${index}`, 'x'.repeat(100)])),
  }
  const { kind, ...rest } = judge(document, DEFAULT_READY_WHEN)
  assert.equal(kind, 'ready')
  assert.deepEqual(rest, { metadata: { prr: 2000, sw_version: 'v'.repeat(200) } })
})

/** A metadata document with these two fields, given as JSON. */
function metadata(prr: string, swVersion = JSON.stringify(VERSION)): string {
  return `{"prr":${prr},"sw_version":${swVersion}}`
}

function verdictOf(judgement: ReturnType<typeof judge>): string {
  switch (judgement.kind) {
    case 'ready':
      return 'ready'
    case 'waiting':
      return `waiting: ${judgement.missing.join()}`
    case 'unreadable':
      return `unreadable: ${judgement.problem}`
  }
}
