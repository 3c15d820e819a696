import assert from 'node:assert/strict'
import { test } from 'node:test'
import fastify from 'fastify'
import type { Breaker, Past } from '../../src/breaker/breaker.js'
import type { Refusal } from '../../src/breaker/events.js'
import { circuitAsJson } from '../../src/domain/circuit.js'
import { rfc3339 } from '../../src/domain/time.js'
import { Refusals, type Refused, refusalWords, sendLine, wantsText } from '../../src/proxy/refusal.js'
import { hold, OPERATOR, SETTINGS, setUp } from '../support/breaker-set-up.js'
import { at } from '../support/harness.js'
import { STEP_MS } from '../support/play.js'

const REQUEST: Refused = { id: 'an-id', accept: undefined, clientPrefix: '' }

/** Past outages, which make a forecast possible. */
const PAST: Past = {
  outages: [10, 20, 30, 40, 50, 60].flatMap(seconds =>
    (['waiting', 'unreachable'] as const).map(cause => ({ cause, lengthMs: seconds * 1000 })),
  ),
}

const refusalsOf = (breaker: Breaker, random = () => 0) =>
  new Refusals({
    breaker,
    settings: () => ({ statusCode: 503, retryAfter: { minSeconds: 1, maxSeconds: 5 } }),
    random,
  })

/** The current decision, which must be a refusal. */
function refusalNow(breaker: Breaker): Refusal {
  const decision = breaker.decide()
  assert.ok(!decision.admitted, 'the breaker admits')
  return decision
}

/** The members of a response body. */
function parsed({ body }: { readonly body: string | Buffer }): Record<string, unknown> {
  const value: unknown = JSON.parse(body.toString())
  assert.ok(typeof value === 'object' && value !== null)
  return { ...value }
}

/** The expected documented members of a refusal, according to the breaker. */
function members(breaker: Breaker, code: string) {
  const { circuit, reading, lastReadyAt, override } = breaker.snapshot()
  const forecast = breaker.forecast()
  return {
    status: code,
    details: reading === null || reading.kind === 'unreachable' ? {} : reading.metadata,
    forwarded: false,
    circuit: circuitAsJson(circuit),
    observedAt: reading === null ? null : rfc3339(reading.at),
    lastReadyAt: lastReadyAt === null ? null : rfc3339(lastReadyAt),
    ...(forecast !== null && code !== 'forced_open' && { forecast }),
    ...(override !== null && {
      override: {
        ...override,
        since: rfc3339(override.since),
        until: rfc3339(override.until),
        silent: false,
      },
    }),
    requestId: 'an-id',
  }
}

test('after each kind of change, a cached refusal equals a new one', () => {
  const { breaker, see, pass, change, clock } = setUp({}, PAST)
  const kept = refusalsOf(breaker)
  const bodies = new Set<string>()
  const changes: readonly (readonly [string, string, () => unknown])[] = [
    ['nothing is known yet', 'metadata_unavailable', () => undefined],
    ['a first reading', 'waiting_for_fiber', () => see('-')],
    ['a fiber that was present and is missing now', 'waiting_for_fiber', () => see('++++++-')],
    ['another reading of the same kind', 'waiting_for_fiber', () => see('-')],
    ['a reading of another kind', 'waiting_for_fiber', () => see('x')],
    ['a new forecast, with the time alone', 'waiting_for_fiber', () => pass(10_000)],
    [
      'an override, which has no forecast',
      'forced_open',
      () => breaker.setOverride({ state: 'open', reason: 'early', forSeconds: 60 }, OPERATOR),
    ],
    ['no more forecast', 'waiting_for_fiber', () => pass(60_000)],
    [
      'a reading that does not count',
      'waiting_for_fiber',
      () => {
        pass(STEP_MS)
        const finding = { kind: 'waiting', metadata: { prr: -1 }, missing: ['prr'] } as const
        breaker.observe({ at: clock(), source: 'client', ...finding }, false)
      },
    ],
    ['another cause', 'metadata_unavailable', () => see('xx')],
    ['another code', 'recovering', () => see('+')],
    [
      'an override',
      'forced_open',
      () => breaker.setOverride({ state: 'open', reason: 'one', forSeconds: 600 }, OPERATOR),
    ],
    [
      'another override',
      'forced_open',
      () => breaker.setOverride({ state: 'open', reason: 'two', forSeconds: 2 }, OPERATOR),
    ],
    ['a reading under an override', 'forced_open', () => see('-')],
    ['an override that has ended', 'waiting_for_fiber', () => pass(STEP_MS)],
    [
      'an override that is removed',
      'waiting_for_fiber',
      () => {
        breaker.setOverride({ state: 'open', reason: 'three', forSeconds: 600 }, OPERATOR)
        assert.equal(at(parsed(kept.response(REQUEST, refusalNow(breaker))), 'status'), 'forced_open')
        breaker.removeOverride(OPERATOR)
        see('-')
      },
    ],
    [
      'a half-open circuit that is full',
      'recovering',
      () => {
        see('++')
        hold(breaker)
        hold(breaker)
      },
    ],
    ['a full concurrency limit', 'overloaded', () => change({ ...SETTINGS, maxConcurrency: 1 })],
  ]
  for (const [what, code, act] of changes) {
    act()
    const decision = refusalNow(breaker)
    assert.equal(decision.code, code, what)
    const [first, second] = [kept.response(REQUEST, decision), kept.response(REQUEST, decision)]
    assert.deepEqual(second, first, what)
    assert.deepEqual(first, refusalsOf(breaker).response(REQUEST, decision), what)
    const { error, message, reason, retryAfterSeconds, ...rest } = parsed(first)
    assert.deepEqual(rest, members(breaker, code), what)
    assert.ok([error, message, reason].every(text => typeof text === 'string' && text !== ''))
    assert.equal(first.headers[first.headers.indexOf('retry-after') + 1], String(retryAfterSeconds))
    bodies.add(first.body.toString())
  }
  assert.equal(bodies.size, changes.length, 'two changes gave the same text')
  breaker.shutdown()
})

test('each response has its own seconds and id, even with a cached text', () => {
  const { breaker, see } = setUp()
  see('+-')
  let random = 0
  const refusals = refusalsOf(breaker, () => random)
  const decision = refusalNow(breaker)
  for (const [id, share, seconds] of [
    ['one', 0, '4'],
    ['two', 0.99, '5'],
    ['three', 0, '4'],
  ] as const) {
    random = share
    const response = refusals.response({ ...REQUEST, id }, decision)
    assert.equal(response.headers[response.headers.indexOf('retry-after') + 1], seconds)
    const body = parsed(response)
    assert.deepEqual([at(body, 'retryAfterSeconds'), at(body, 'requestId')], [Number(seconds), id])
  }
})

test('texts that look like placeholders or like JSON are kept', () => {
  const traps = ['\u0007', '"\u0007"', '-7777777', '"retryAfterSeconds":-7777777', '","requestId":"\u0007"}']
  for (const trap of traps) {
    const { breaker } = setUp()
    const metadata = { prr: -7777777, retryAfterSeconds: -7777777, requestId: trap, sw_version: trap }
    breaker.observe({ at: 1, source: 'probe', kind: 'waiting', metadata, missing: [trap] })
    const waiting = parsed(refusalsOf(breaker).response(REQUEST, refusalNow(breaker)))
    assert.deepEqual(at(waiting, 'details'), metadata)
    assert.equal(at(waiting, 'reason'), `Missing required fiber metadata fields: ${trap}`)
    breaker.setOverride({ state: 'open', reason: trap, forSeconds: 600 }, OPERATOR)
    const forced = parsed(refusalsOf(breaker).response(REQUEST, refusalNow(breaker)))
    assert.deepEqual([at(forced, 'reason'), at(forced, 'override', 'reason')], [trap, trap])
    for (const body of [waiting, forced]) {
      assert.equal(at(body, 'requestId'), 'an-id')
      assert.ok(Number(at(body, 'retryAfterSeconds')) >= 1)
    }
    breaker.shutdown()
  }
})

test('a refusal as problem+json has the same members, and those of RFC 9457', () => {
  const { breaker, see } = setUp({}, PAST)
  see('+-')
  const refusals = refusalsOf(breaker)
  const decision = refusalNow(breaker)
  const plain = refusals.response(REQUEST, decision)
  const accept = 'application/json;q=0.5, application/problem+json'
  const problem = refusals.response({ ...REQUEST, accept }, decision)
  const { type, title, status, detail, instance, code, ...rest } = parsed(problem)
  const { status: plainCode, ...same } = parsed(plain)
  assert.deepEqual(rest, same)
  assert.deepEqual(
    [type, title, status, detail],
    [`urn:problem-type:focus-breaker:${code}`, same.error, 503, same.message],
  )
  assert.deepEqual([instance, code], ['urn:uuid:an-id', plainCode])
  assert.ok(problem.headers.includes('application/problem+json'))
})

/** The texts of a refusal, which clients may match on. */
type Texts = { readonly error: string; readonly message: string; readonly details: string }

const WAITING: Texts = {
  error: 'Cannot configure job: waiting for fiber',
  message:
    'System is waiting for fiber connection. Please ensure fiber is connected and metadata is available.',
  details: 'waiting for fiber',
}
const UNAVAILABLE: Texts = {
  error: 'Cannot configure job: metadata unavailable',
  message:
    "focus-server's metadata cannot be read, so it is unknown whether its fiber is connected. Requests are admitted again once the metadata can be read and shows a connected fiber.",
  details: 'metadata unavailable',
}
const RECOVERING: Texts = {
  error: 'Cannot configure job: recovering',
  message: 'The fiber is back, and requests are admitted a few at a time. Please try again in a moment.',
  details: 'recovering',
}
const OVERLOADED: Texts = {
  error: 'Cannot configure job: overloaded',
  message: 'The maximum number of concurrent requests is reached. Please try again in a moment.',
  details: 'overloaded',
}
const FORCED: Texts = {
  error: 'Cannot configure job: refused by an operator',
  message: 'An operator has temporarily stopped these requests; see the reason.',
  details: 'refused by an operator',
}
const PLANNED: Texts = {
  error: 'Cannot configure job: planned maintenance',
  message: 'These requests are stopped for planned maintenance; see the reason.',
  details: 'planned maintenance',
}

const override = { state: 'open', reason: 'a new fiber', forSeconds: 60 } as const

/** What happened, and the resulting refusal. */
const SITUATIONS: readonly (readonly [
  what: string,
  code: string,
  texts: Texts,
  reason: string,
  act: (set: ReturnType<typeof setUp>) => unknown,
])[] = [
  ['no reading yet', 'metadata_unavailable', UNAVAILABLE, 'Metadata has not been read yet', () => undefined],
  [
    'metadata that cannot be read',
    'metadata_unavailable',
    UNAVAILABLE,
    'Metadata could not be read: the cable is cut',
    ({ breaker }) =>
      breaker.observe({ at: 1, source: 'probe', kind: 'unreachable', problem: 'the cable is cut' }),
  ],
  [
    'a missing fiber',
    'waiting_for_fiber',
    WAITING,
    'Missing required fiber metadata fields: prr, dx',
    ({ breaker }) =>
      breaker.observe({ at: 1, source: 'probe', kind: 'waiting', metadata: {}, missing: ['prr', 'dx'] }),
  ],
  [
    'a failed probe while the fiber is missing',
    'waiting_for_fiber',
    WAITING,
    'Missing required fiber metadata fields',
    ({ see }) => see('+-x'),
  ],
  [
    'one ready reading after an outage',
    'recovering',
    RECOVERING,
    'The fiber is back; waiting for one more successful probe',
    ({ see }) => see('+-+'),
  ],
  [
    'metadata that contradicts configure',
    'recovering',
    {
      ...RECOVERING,
      message:
        "focus-server's metadata shows that the fiber is back, but its last response to a configure request reported it as missing. Requests are admitted a few at a time. Please try again in a moment.",
    },
    'The metadata shows that the fiber is back; waiting for one more successful probe',
    ({ breaker, see }) => {
      see('+')
      const admission = breaker.admit()
      assert.ok(admission.admitted)
      admission.permit.settle({ kind: 'missing-fiber', missing: ['prr'] })
      see('+')
    },
  ],
  [
    'a full recovery',
    'recovering',
    RECOVERING,
    'The maximum number of concurrent requests is reached',
    ({ see, breaker }) => {
      see('+-++')
      hold(breaker)
      hold(breaker)
    },
  ],
  [
    'a full limit',
    'overloaded',
    OVERLOADED,
    'The maximum number of concurrent requests is reached',
    ({ see, breaker, change }) => {
      see('++')
      change({ maxConcurrency: 1 })
      hold(breaker)
    },
  ],
  [
    'an override',
    'forced_open',
    FORCED,
    'a new fiber',
    ({ breaker }) => breaker.setOverride(override, OPERATOR),
  ],
  [
    'planned maintenance',
    'forced_open',
    PLANNED,
    'a new fiber',
    ({ breaker }) => breaker.setOverride({ ...override, silent: true }, OPERATOR),
  ],
]

for (const [what, code, texts, reason, act] of SITUATIONS) {
  test(`a refusal states its reason: ${what}`, () => {
    const set = setUp()
    act(set)
    const decision = refusalNow(set.breaker)
    assert.equal(decision.code, code)
    const { statusCode, headers, body, isAscii } = refusalsOf(set.breaker).response(
      { ...REQUEST, clientPrefix: '/own' },
      decision,
    )
    const { error, message, details } = texts
    const facts = parsed({ body })
    assert.deepEqual([facts.error, facts.message, facts.reason], [error, message, reason])
    const seconds = String(at(facts, 'retryAfterSeconds'))
    assert.deepEqual([statusCode, isAscii], [503, true])
    assert.deepEqual(headers, [
      ...['retry-after', seconds, 'cache-control', 'no-store'],
      ...['proxy-status', `focus-breaker; error=destination_unavailable; details="${details}"`],
      ...['link', '</own/-/status>; rel="status"', 'content-type', 'application/json'],
    ])
    const accept = 'text/html, application/problem+json;q=0.5'
    const problem = refusalsOf(set.breaker).response({ ...REQUEST, accept }, decision)
    assert.equal(problem.headers.at(-1), 'application/problem+json')
    assert.equal(problem.isAscii, false)
    const { type, title, detail } = parsed(problem)
    assert.deepEqual([type, title, detail], [`urn:problem-type:focus-breaker:${code}`, error, message])
    set.breaker.shutdown()
  })
}

test('one line for people states the kind of refusal', () => {
  const codes = [
    'waiting_for_fiber',
    'metadata_unavailable',
    'recovering',
    'overloaded',
    'forced_open',
  ] as const
  assert.deepEqual(codes.map(refusalWords), [
    ...['waiting for fiber', 'metadata unavailable', 'recovering', 'overloaded', 'refused by an operator'],
  ])
})

test('a refusal has the configured status code', () => {
  const { breaker } = setUp()
  const retryAfter = { minSeconds: 7, maxSeconds: 9 }
  const refusals = new Refusals({
    breaker,
    settings: () => ({ statusCode: 429, retryAfter }),
    random: () => 0,
  })
  const { statusCode, body } = refusals.response(REQUEST, refusalNow(breaker))
  assert.deepEqual([statusCode, at(parsed({ body }), 'retryAfterSeconds')], [429, 7])
  const problem = refusals.response({ ...REQUEST, accept: 'application/problem+json' }, refusalNow(breaker))
  assert.equal(at(parsed(problem), 'status'), 429)
})

for (const [reason, isAscii] of [
  ['plain text ~', true],
  ['a naïve one', false],
  ['naïve', false],
  ['\u007f', false],
] as const) {
  test(`a refusal with the reason ${JSON.stringify(reason)} is ${isAscii ? '' : 'not '}written as ASCII`, () => {
    const { breaker } = setUp()
    breaker.setOverride({ ...override, reason }, OPERATOR)
    const response = refusalsOf(breaker).response(REQUEST, refusalNow(breaker))
    assert.deepEqual([response.isAscii, parsed(response).reason], [isAscii, reason])
    breaker.shutdown()
  })
}

for (const [accept, isText] of [
  [undefined, false],
  ['*/*', false],
  ['text/plain', true],
  ['text/html, text/plain;q=0.5', true],
  ['text/plain, application/json', false],
  ['text/plain, application/problem+json', false],
] as const) {
  test(`an own route responds to Accept: ${accept} with a refusal as ${isText ? 'a line of text' : 'JSON'}`, async () => {
    assert.equal(wantsText(accept), isText)
    const { breaker } = setUp()
    const refusals = refusalsOf(breaker)
    const decision = refusalNow(breaker)
    const app = fastify({ genReqId: () => 'an-id' })
    app.get('/line', (request, reply) => refusals.send(request, reply, decision, { line: 'waiting' }))
    app.get('/', (request, reply) => refusals.send(request, reply, decision))
    const headers = accept === undefined ? {} : { accept }
    const own = refusals.response({ ...REQUEST, accept }, decision)
    const json = await app.inject({ url: '/', headers })
    assert.equal(json.body, own.body)
    const line = await app.inject({ url: '/line', headers })
    assert.equal(line.body, isText ? 'waiting\n' : own.body)
    const isProblem = accept?.includes('problem') ?? false
    assert.equal(own.headers.at(-1), isProblem ? 'application/problem+json' : 'application/json')
    assert.equal(json.headers['content-type'], own.headers.at(-1))
    assert.equal(line.headers['content-type'], isText ? 'text/plain; charset=utf-8' : own.headers.at(-1))
    for (const { statusCode, headers: got } of [json, line]) {
      assert.equal(statusCode, 503)
      assert.equal(got['cache-control'], 'no-store')
      assert.equal(got['retry-after'], String(at(parsed(own), 'retryAfterSeconds')))
      assert.match(String(got['proxy-status']), /^focus-breaker; /)
      assert.equal(got.link, '</-/status>; rel="status"')
    }
    await app.close()
  })
}

test('a line of text is not cached', async () => {
  const app = fastify()
  app.get('/', (_, reply) => sendLine(reply, 'waiting'))
  const { headers, body } = await app.inject('/')
  assert.deepEqual([headers['cache-control'], body], ['no-store', 'waiting\n'])
  await app.close()
})

test('an override that is set between the decision and the response is not shown as its reason', () => {
  const { breaker, see } = setUp()
  see('-')
  const decision = refusalNow(breaker)
  breaker.setOverride({ ...override, silent: true }, OPERATOR)
  const body = parsed(refusalsOf(breaker).response(REQUEST, decision))
  assert.deepEqual([body.status, body.error], ['waiting_for_fiber', WAITING.error])
  assert.ok(!('override' in body))
  breaker.shutdown()
})

test('an override that ends between the decision and the response is still shown as the reason', () => {
  const { breaker, see } = setUp()
  see('++')
  breaker.setOverride(override, OPERATOR)
  const decision = refusalNow(breaker)
  breaker.removeOverride(OPERATOR)
  const body = parsed(refusalsOf(breaker).response(REQUEST, decision))
  assert.deepEqual([body.status, body.error, body.reason], ['forced_open', FORCED.error, 'override'])
  assert.ok(!('override' in body))
  breaker.shutdown()
})

test('a late reading changes only the time of the last ready reading', () => {
  const { breaker, see } = setUp()
  see('--')
  const kept = refusalsOf(breaker)
  const before = parsed(kept.response(REQUEST, refusalNow(breaker)))
  breaker.observe({ at: 1, source: 'probe', kind: 'ready', metadata: {} })
  const after = parsed(kept.response(REQUEST, refusalNow(breaker)))
  assert.deepEqual(after, { ...before, lastReadyAt: rfc3339(1) })
})

test('a refusal that is created while a reading is reported is replaced when the circuit changes', () => {
  const { breaker, see, state } = setUp()
  see('++')
  for (let places = 0; places < 5; places += 1) hold(breaker)
  see('-')
  const kept = refusalsOf(breaker)
  breaker.on('reading', () => kept.response(REQUEST, refusalNow(breaker)))
  see('++')
  assert.equal(state(), 'half-open')
  const decision = refusalNow(breaker)
  assert.deepEqual(kept.response(REQUEST, decision), refusalsOf(breaker).response(REQUEST, decision))
})
