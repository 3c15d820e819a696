import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  inForce,
  type Override,
  overrideAsJson,
  parseDeclaredOverride,
  parseOverride,
  resumed,
} from '../../src/domain/override.js'

const asked = { state: 'open', reason: 'maintenance of the amplifier', forSeconds: 600 }
const override: Override = { state: 'open', reason: 'r', since: 1000, until: 10_000, by: '192.0.2.9' }

test('an override is in force until its end, exclusive', () => {
  assert.equal(inForce(override, 1000), override)
  assert.equal(inForce(override, 9999.999), override)
  assert.equal(inForce(override, 10_000), null)
  assert.equal(inForce(override, 1e12), null)
  assert.equal(inForce(null, 0), null)
})

const ACCEPTED: readonly (readonly [that: string, members: object, request: object])[] = [
  ['open', {}, asked],
  ['closed', { state: 'closed' }, { ...asked, state: 'closed' }],
  ['the shortest', { forSeconds: 1 }, { ...asked, forSeconds: 1 }],
  ['silent', { silent: true }, { ...asked, silent: true }],
  ['not silent', { state: 'closed', silent: false }, { ...asked, state: 'closed' }],
  ['a whole day', { forSeconds: 86_400 }, { ...asked, forSeconds: 86_400 }],
  ['a reason of one character', { reason: 'x' }, { ...asked, reason: 'x' }],
  ['a reason of 500 characters', { reason: 'x'.repeat(500) }, { ...asked, reason: 'x'.repeat(500) }],
  [
    'whitespace around the reason, which is removed',
    { reason: '\n the fiber, cut\t ' },
    { ...asked, reason: 'the fiber, cut' },
  ],
]

for (const [that, members, request] of ACCEPTED) {
  test(`accepted: ${that}`, () => {
    assert.deepEqual(parseOverride({ ...asked, ...members }), { ok: true, request })
  })
}

const STATE = 'state: expected "open" or "closed"'
const REASON = 'reason: expected text of 1 to 500 characters'
const FOR_SECONDS = 'forSeconds: expected a whole number from 1 to 86400'
const OBJECT = 'expected a JSON object {"state":"open"|"closed","reason":"…","forSeconds":600}'

const FAULTY: readonly (readonly [that: string, value: unknown, faults: readonly string[]])[] = [
  ['nothing at all', {}, [STATE, REASON, FOR_SECONDS]],
  [
    'everything wrong, and unknown members',
    { state: 'half-open', reason: ' \n ', forSeconds: '600', until: 5, by: 'me' },
    [STATE, REASON, FOR_SECONDS, 'until: unknown member', 'by: unknown member'],
  ],
  ['no state', { reason: 'r', forSeconds: 1 }, [STATE]],
  ['no reason', { state: 'open', forSeconds: 1 }, [REASON]],
  ['no end', { state: 'open', reason: 'r' }, [FOR_SECONDS]],
  ['a state in capitals', { ...asked, state: 'OPEN' }, [STATE]],
  ['a state that is true', { ...asked, state: true }, [STATE]],
  ['an empty reason', { ...asked, reason: '' }, [REASON]],
  ['a reason of spaces', { ...asked, reason: '   ' }, [REASON]],
  ['a reason of 501 characters', { ...asked, reason: 'x'.repeat(501) }, [REASON]],
  ['a reason that is a number', { ...asked, reason: 5 }, [REASON]],
  ['a reason that is null', { ...asked, reason: null }, [REASON]],
  ['a duration of zero', { ...asked, forSeconds: 0 }, [FOR_SECONDS]],
  ['an end in the past', { ...asked, forSeconds: -600 }, [FOR_SECONDS]],
  ['a second more than a day', { ...asked, forSeconds: 86_401 }, [FOR_SECONDS]],
  ['a fraction of a second', { ...asked, forSeconds: 1.5 }, [FOR_SECONDS]],
  ['forever', { ...asked, forSeconds: Number.POSITIVE_INFINITY }, [FOR_SECONDS]],
  ['seconds as text', { ...asked, forSeconds: '600' }, [FOR_SECONDS]],
  ['seconds in a list', { ...asked, forSeconds: [600] }, [FOR_SECONDS]],
  ['seconds that are true', { ...asked, forSeconds: true }, [FOR_SECONDS]],
  ['an unknown member', { ...asked, untill: 5 }, ['untill: unknown member']],
  [
    'a prototype',
    JSON.parse('{"state":"open","reason":"r","forSeconds":1,"__proto__":{}}'),
    ['__proto__: unknown member'],
  ],
  [
    'a member with a very long name',
    { ...asked, ['n'.repeat(1000)]: 5 },
    [`${'n'.repeat(64)}: unknown member`],
  ],
  ['silent that is text', { ...asked, silent: 'yes' }, ['silent: expected true or false']],
  [
    'a silent override that admits',
    { ...asked, state: 'closed', silent: true },
    ['silent: allowed only with state "open"'],
  ],
  ['a list', [asked], [OBJECT]],
  ['null', null, [OBJECT]],
  ['text', 'open', [OBJECT]],
  ['nothing sent', undefined, [OBJECT]],
]

for (const [that, value, faults] of FAULTY) {
  test(`refused, with each fault listed: ${that}`, () => {
    assert.deepEqual(parseOverride(value), { ok: false, faults })
  })
}

test('for any value: it is a request within the bounds, or it is invalid', () => {
  const anyMember = fc.oneof(fc.constantFrom('open', 'closed', ' ', 0, 1, 86_400, 86_401), fc.jsonValue())
  const anyAsked = fc.record(
    { state: anyMember, reason: anyMember, forSeconds: anyMember },
    { requiredKeys: [] },
  )
  fc.assert(
    fc.property(fc.oneof(anyAsked, fc.jsonValue()), value => {
      const parsed = parseOverride(value)
      if (!parsed.ok) return assert.ok(parsed.faults.length > 0)
      const { state, reason, forSeconds } = parsed.request
      assert.ok(state === 'open' || state === 'closed')
      assert.ok(reason.length >= 1 && reason.length <= 500 && reason === reason.trim())
      assert.ok(Number.isInteger(forSeconds) && forSeconds >= 1 && forSeconds <= 86_400)
    }),
  )
})

test('an override is sent with its times as text, and `silent` is true only if requested', () => {
  const json = {
    ...{ state: 'open', reason: 'r', since: '1970-01-01T00:00:01.000Z', until: '1970-01-01T00:00:10.000Z' },
    ...{ by: '192.0.2.9', silent: false },
  }
  assert.deepEqual(overrideAsJson(override), json)
  assert.deepEqual(overrideAsJson({ ...override, silent: true }), { ...json, silent: true })
})

test('a declared override may end at a time with a fraction of a second', () => {
  const declared = { state: 'open', reason: 'planned', until: '2026-01-31T08:30:00.125Z' }
  const parsed = parseDeclaredOverride(declared, 5)
  assert.equal(parsed.ok && parsed.override.until, Date.parse('2026-01-31T08:30:00.125Z'))
})

test('a declared override has a state, a reason and an end, and no other members', () => {
  const declared = { state: 'open', reason: 'planned', until: '2026-01-31T08:30:00+01:00' }
  assert.deepEqual(parseDeclaredOverride(declared, 5), {
    ok: true,
    override: {
      state: 'open',
      reason: 'planned',
      since: 5,
      until: Date.parse('2026-01-31T07:30:00Z'),
      by: 'override.file',
    },
  })
  const UNTIL = 'until: expected a time like 2026-01-31T08:30:00Z'
  const wrong: readonly (readonly [value: unknown, faults: readonly string[]])[] = [
    [null, ['expected the members state, reason and until']],
    [[], ['expected the members state, reason and until']],
    [{}, [STATE, REASON, UNTIL]],
    [{ ...declared, until: 'tomorrow' }, [UNTIL]],
    [{ ...declared, until: '2026-02-31T08:30:00' }, [UNTIL]],
    [{ ...declared, until: '2026-01-31T25:30:00Z' }, [UNTIL]],
    ...['2026-02-29', '2026-02-31', '2026-04-31', '2026-13-01', '2026-00-01', '2026-01-00'].map(
      day => [{ ...declared, until: `${day}T08:30:00Z` }, [UNTIL]] as const,
    ),
    [{ ...declared, until: 1_800_000_000 }, [UNTIL]],
    [{ ...declared, until: 'at 2026-01-31T08:30:00Z' }, [UNTIL]],
    [{ ...declared, until: '2026-01-31T08:30:00Z or so' }, [UNTIL]],
    ['open', ['expected the members state, reason and until']],
    [{ ...declared, forSeconds: 600 }, ['forSeconds: unknown member; use until']],
    [{ ...declared, more: 1 }, ['more: unknown member']],
  ]
  for (const [value, faults] of wrong)
    assert.deepEqual(parseDeclaredOverride(value, 5), { ok: false, faults })
})

test('an override from before a restart continues until its end, and never longer than it was set for', () => {
  assert.deepEqual(resumed(override, 5000), override)
  assert.equal(resumed(override, 10_000), null)
  // The clock was ahead when it was set.
  const ahead = { ...override, since: 1_000_000, until: 1_009_000 }
  assert.deepEqual(resumed(ahead, 5000), { ...override, since: 5000, until: 14_000 })
  assert.equal(resumed({ ...override, since: 9e12, until: 1 }, 5000), null)
  assert.deepEqual(resumed({ ...override, until: 9e12 }, 5000), { ...override, until: 5000 + 86_400_000 })
})
