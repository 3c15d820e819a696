import assert from 'node:assert/strict'
import type { IncomingHttpHeaders } from 'node:http'
import { test } from 'node:test'
import { ageOf, mayAnswer, sharingOf } from '../../src/proxy/shared-response.js'

/** When the metadata was requested, and when it arrived. */
const ASKED_AT = Date.UTC(2030, 0, 1)
const TOOK_MS = 250
const RECEIVED_AT = ASKED_AT + TOOK_MS

/** The largest number of seconds that a cache must support (RFC 9111, 1.2.2). */
const MAX_SECONDS = 2_147_483_648

/** An HTTP date, some seconds after the request. */
const date = (seconds: number) => new Date(ASKED_AT + seconds * 1000).toUTCString()

/** The sharing conditions of a response with these headers. */
function sharing(
  headers: IncomingHttpHeaders,
  statusCode = 200,
  sent: Record<string, string> = {},
  authorization?: string,
): ReturnType<typeof sharingOf> {
  const reading = { at: 0, source: 'probe', kind: 'unreachable', problem: '' } as const
  const response = { statusCode, sent, headers, body: Buffer.alloc(0) }
  const rest = { failure: undefined, notCounted: undefined, retryAfterMs: undefined }
  return sharingOf({ at: ASKED_AT, receivedAt: RECEIVED_AT, reading, response, ...rest }, authorization)
}

test('a result without a response is not shared', () => {
  const reading = { at: 0, source: 'probe', kind: 'unreachable', problem: '' } as const
  const rest = { failure: undefined, notCounted: undefined, retryAfterMs: undefined }
  assert.equal(
    sharingOf({ at: 0, receivedAt: 1, reading, response: undefined, ...rest }, undefined),
    undefined,
  )
})

test('a response without caching headers is shared without a time limit', () => {
  assert.deepEqual(sharing({}), { agedMs: 0, usableForMs: Number.POSITIVE_INFINITY, dependsOn: [] })
})

for (const [statusCode, isShared] of [
  ...[200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501].map(status => [status, true] as const),
  ...[201, 206, 302, 303, 307, 400, 401, 403, 429, 500, 502, 503].map(status => [status, false] as const),
]) {
  test(`a response with status ${statusCode} is ${isShared ? 'shared' : 'shared only if its headers allow it'}`, () => {
    assert.equal(sharing({}, statusCode) !== undefined, isShared)
    assert.equal(sharing({ 'cache-control': 'no-transform' }, statusCode) !== undefined, isShared)
    assert.equal(sharing({ 'cache-control': 'public' }, statusCode)?.usableForMs, Number.POSITIVE_INFINITY)
    assert.equal(sharing({ 'cache-control': 'max-age=5' }, statusCode)?.usableForMs, 5000 - TOOK_MS)
  })
}

for (const sent of ['accept', 'accept-encoding', 'cache-control', 'user-agent']) {
  test(`a response to a request with ${sent} is shared, but not with an additional header`, () => {
    assert.notEqual(sharing({}, 200, { [sent]: 'x' }), undefined)
    assert.equal(sharing({}, 200, { [sent]: 'x', 'x-key': 'y' }), undefined)
  })
}

/** The headers of our own request, and whether its response may be shared. */
const KEYS: readonly (readonly [
  sent: Record<string, string>,
  authorization: string | undefined,
  isShared: boolean,
])[] = [
  [{ accept: 'application/json', 'user-agent': 'focus-breaker' }, undefined, true],
  [
    { accept: 'application/json', 'accept-encoding': 'identity', 'cache-control': 'no-cache' },
    undefined,
    true,
  ],
  // The credentials of upstream.url, which are added to every client's request.
  [{ authorization: 'Basic dTpw' }, 'Basic dTpw', true],
  [{ authorization: 'Bearer of-the-probe' }, undefined, false],
  [{ authorization: 'Bearer of-the-probe' }, 'Basic dTpw', false],
  [{ 'x-api-key': 'of-the-probe' }, undefined, false],
]

for (const [sent, authorization, isShared] of KEYS) {
  test(`metadata that was requested with ${JSON.stringify(sent)} is ${isShared ? '' : 'not '}shared if requests are forwarded with ${authorization ?? 'no credentials'}`, () => {
    assert.equal(sharing({}, 200, sent, authorization) !== undefined, isShared)
  })
}

for (const headers of [
  { 'cache-control': 'no-store' },
  { 'cache-control': 'NO-Cache' },
  { 'cache-control': 'max-age=600,private' },
  { 'cache-control': 'public, private="x-a, x-b"' },
  { 'set-cookie': ['a=b'] },
  { 'set-cookie': ['a=b'], 'cache-control': 'public, max-age=600' },
  { pragma: 'no-cache' },
  { pragma: 'x, No-Cache' },
  { vary: '*' },
  { vary: 'Accept , *' },
  ...['Forwarded', 'Host', 'Via', 'X-Forwarded-For', 'X-Forwarded-Host', 'X-Forwarded-Proto'].map(name => ({
    vary: `Accept, ${name}`,
  })),
]) {
  test(`a response with ${JSON.stringify(headers)} is not shared`, () => {
    assert.equal(sharing(headers), undefined)
  })
}

for (const headers of [
  { 'cache-control': 'x="no-store, private"' },
  { 'cache-control': String.raw`x="a\"b, no-store", public` },
  { 'cache-control': 'x=no-store' },
  { 'cache-control': 'no-storex' },
  { 'cache-control': 'public', pragma: 'no-cache' },
  { pragma: 'x' },
  { vary: '' },
  { vary: ' , ' },
]) {
  test(`a response with ${JSON.stringify(headers)} is shared`, () => {
    assert.deepEqual(sharing(headers)?.dependsOn, [])
  })
}

test('a response depends on the headers in Vary, with the values of our request', () => {
  const sent = { accept: 'application/json' }
  assert.deepEqual(sharing({ vary: 'Accept,  X-Site ,,ORIGIN' }, 200, sent)?.dependsOn, [
    ['accept', 'application/json'],
    ['x-site', ''],
    ['origin', ''],
  ])
})

/** Headers, and how long after the request a response with them is fresh, in milliseconds. */
const LIFETIMES: readonly (readonly [headers: IncomingHttpHeaders, ms: number])[] = [
  [{ 'cache-control': 'max-age=600' }, 600_000],
  [{ 'cache-control': 'Max-Age = "600"' }, 600_000],
  [{ 'cache-control': 's-maxage=60, max-age=600' }, 60_000],
  [{ 'cache-control': 'max-age=600, s-maxage=60' }, 60_000],
  [{ 'cache-control': 'max-age=99999999999999999999' }, MAX_SECONDS * 1000],
  [{ 'cache-control': 'max-age=0' }, 0],
  [{ 'cache-control': 'max-age' }, 0],
  [{ 'cache-control': 'max-age=' }, 0],
  [{ 'cache-control': 'max-age=6x' }, 0],
  [{ 'cache-control': 'max-age=x6' }, 0],
  [{ 'cache-control': 'max-age=-6' }, 0],
  [{ 'cache-control': 'max-age=6, max-age=6' }, 0],
  [{ 'cache-control': 'max-age=600', expires: date(-5) }, 600_000],
  // Expires is compared with Date, or without Date with the time of arrival.
  [{ expires: date(600), date: date(0) }, 600_000],
  [{ expires: date(600) }, 600_000 - TOOK_MS],
  [{ expires: date(600), date: 'yesterday' }, 600_000 - TOOK_MS],
  [{ expires: date(600).replace('GMT', 'gmt') }, 600_000 - TOOK_MS],
  [{ expires: date(-600) }, 0],
  [{ expires: date(-600), date: date(-601) }, 1000 - 601_000 + TOOK_MS],
  [{ expires: '0' }, 0],
  [{ expires: '2099' }, 0],
  [{ expires: 'Thu, 01 Jan 2099 00:00:00 +0000' }, 0],
  [{ expires: 'Thu, 01 Jan 2099 00:00:00 GMT+1' }, 0],
  [{ expires: `x ${date(600)}` }, 0],
  [{ expires: 'Thu, 99 Nul 2099 00:00:00 GMT' }, 0],
  [{ expires: date(600), 'cache-control': 'no-transform' }, 600_000 - TOOK_MS],
  // A response that is already old is fresh for less time.
  [{ 'cache-control': 'max-age=600', age: '30' }, 570_000],
  [{ 'cache-control': 'max-age=600', age: '700' }, -100_000],
  // Date has whole seconds, so fractions of a second are not counted.
  [{ 'cache-control': 'max-age=600', date: date(-30) }, 570_000 + TOOK_MS],
  [{ 'cache-control': 'max-age=600', date: date(0) }, 600_000],
  [{ 'cache-control': 'max-age=600', date: date(30) }, 600_000],
  [{ 'cache-control': 'max-age=600', date: date(-30), age: '40' }, 560_000],
  [{ 'cache-control': 'max-age=600', date: date(-50), age: '40' }, 550_000 + TOOK_MS],
]

for (const [headers, ms] of LIFETIMES) {
  test(`a response with ${JSON.stringify(headers)} may be reused for ${ms} ms after the request`, () => {
    assert.equal(sharing(headers)?.usableForMs, ms - TOOK_MS)
  })
}

for (const [age, seconds] of [
  [undefined, 0],
  ['0', 0],
  ['30', 30],
  [' 30\t', 30],
  ['9999999999', 9_999_999_999],
  ...['', '-1', '1.5', '10000000000', 'x1', '1x', 'old'].map(text => [text, MAX_SECONDS] as const),
] as const) {
  test(`Age ${age} means ${seconds} s`, () => {
    const headers = age === undefined ? {} : { age }
    assert.equal(ageOf(headers), seconds)
    assert.equal(sharing(headers)?.agedMs, seconds * 1000)
  })
}

test('a response is reused while it is fresh, and no longer than configured', () => {
  const kept = { agedMs: 100, usableForMs: 1000, dependsOn: [] }
  assert.equal(mayAnswer(kept, {}, 999, 5000), true)
  assert.equal(mayAnswer(kept, {}, 1000, 5000), false)
  assert.equal(mayAnswer(kept, {}, 400, 500), true)
  assert.equal(mayAnswer(kept, {}, 401, 500), false)
})

test('a response is reused for clients whose headers equal those of our request in all that it depends on', () => {
  const kept = {
    ...{ agedMs: 0, usableForMs: 1000 },
    dependsOn: [
      ['accept', 'a'],
      ['x-site', ''],
      ['x-list', 'b, c'],
    ],
  } as const
  const same = { accept: 'a', 'x-list': ['b', 'c'], 'x-other': 'd' }
  assert.equal(mayAnswer(kept, same, 0, 1000), true)
  assert.equal(mayAnswer(kept, { ...same, 'x-site': '' }, 0, 1000), true)
  assert.equal(mayAnswer(kept, { ...same, 'x-site': 'e' }, 0, 1000), false)
  assert.equal(mayAnswer(kept, { ...same, accept: 'A' }, 0, 1000), false)
  assert.equal(mayAnswer(kept, { accept: 'a' }, 0, 1000), false)
})
