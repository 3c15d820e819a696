import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CorsPolicy } from '../../src/server/cors.js'

const PAGE = 'https://page.example'
const OTHER = 'https://other.example'

type CorsResponses = [
  origin: string,
  allowOrigin: string | undefined,
  credentials?: boolean,
  statusCode?: number,
]

/** What a page may do after these responses of focus-server: read, read with credentials, or nothing. */
function after(responses: readonly CorsResponses[], origin = PAGE): string {
  const policy = new CorsPolicy()
  for (const [from, allowOrigin, credentials = false, statusCode = 200] of responses) {
    policy.learn(from, { statusCode, allowOrigin, credentials })
  }
  const headers = policy.headersFor(origin)
  const headerOf = (name: string) => headers[headers.indexOf(name) + 1]
  if (!headers.includes('access-control-allow-origin')) {
    assert.deepEqual(headers, ['vary', 'origin'])
    return 'nothing'
  }
  assert.match(headerOf('access-control-expose-headers') ?? '', /Retry-After/)
  const allowed = headerOf('access-control-allow-origin') ?? ''
  assert.ok([origin, '*'].includes(allowed))
  if (!headers.includes('access-control-allow-credentials')) return allowed
  assert.equal(allowed, origin)
  return `${allowed} with credentials`
}

const TABLE: readonly (readonly [that: string, responses: readonly CorsResponses[], expected: string])[] = [
  ['has not responded', [], 'nothing'],
  ['names the origin', [[PAGE, PAGE]], PAGE],
  ['names the origin, with credentials', [[PAGE, PAGE, true]], `${PAGE} with credentials`],
  ['allows every origin', [[PAGE, '*']], '*'],
  ['allows every origin, with credentials, which no browser accepts', [[PAGE, '*', true]], '*'],
  [
    'names the origin with credentials, and any without',
    [
      [PAGE, PAGE, true],
      [PAGE, '*', true],
    ],
    `${PAGE} with credentials`,
  ],
  [
    'no longer allows credentials',
    [
      [PAGE, PAGE, true],
      [PAGE, PAGE],
    ],
    PAGE,
  ],
  [
    'no longer allows credentials, but allows any origin',
    [
      [PAGE, PAGE, true],
      [PAGE, '*'],
    ],
    '*',
  ],
  [
    'no longer allows the origin',
    [
      [PAGE, PAGE],
      [PAGE, undefined],
    ],
    'nothing',
  ],
  [
    'no longer allows the origin and rejects its preflight with a 400',
    [
      [PAGE, PAGE],
      [PAGE, undefined, false, 400],
    ],
    'nothing',
  ],
  [
    'fails without these headers',
    [
      [PAGE, PAGE],
      [PAGE, undefined, false, 500],
    ],
    PAGE,
  ],
  ...[304, 404, 413, 429, 500, 503].map((statusCode): (typeof TABLE)[number] => [
    `returns ${statusCode} without these headers`,
    [
      [PAGE, PAGE, true],
      [PAGE, undefined, false, statusCode],
    ],
    `${PAGE} with credentials`,
  ]),
  ['has allowed another origin', [[OTHER, OTHER, true]], 'nothing'],
  ['has allowed every origin in a response to another one', [[OTHER, '*']], 'nothing'],
  ['names another origin in a response to this one', [[PAGE, OTHER, true]], 'nothing'],
  ['names two origins', [[PAGE, `${PAGE}, ${OTHER}`]], 'nothing'],
  ['names the origin in upper case', [[PAGE, PAGE.toUpperCase()]], 'nothing'],
]

for (const [that, responses, expected] of TABLE) {
  test(`when focus-server ${that}, a page may read ${expected === 'nothing' ? 'nothing' : `by ${expected}`}`, () => {
    assert.equal(after(responses), expected)
  })
}

test('the origins null and * are compared literally', () => {
  assert.equal(after([['null', 'null']], 'null'), 'null')
  assert.equal(after([['null', 'null']]), 'nothing')
  assert.equal(after([['*', '*', true]], '*'), '*')
})

test('a request without an origin gets no CORS headers', () => {
  const policy = new CorsPolicy()
  policy.learn(PAGE, { statusCode: 200, allowOrigin: PAGE, credentials: true })
  assert.deepEqual(policy.headersFor(undefined), [])
})

test('at most a thousand origins are remembered, and none that is very long', () => {
  const many: CorsResponses[] = Array.from({ length: 1001 }, (_, index) => [
    `https://h${index}`,
    `https://h${index}`,
  ])
  assert.equal(after(many, 'https://h0'), 'nothing')
  assert.equal(after(many, 'https://h1'), 'https://h1')
  const long = `https://${'x'.repeat(300)}`
  assert.equal(after([[long, long]], long), 'nothing')
  assert.equal(after([[long, '*']], long), 'nothing')
})
