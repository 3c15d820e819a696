import assert from 'node:assert/strict'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { test } from 'node:test'
import type { ClientView } from '../../src/proxy/client-view.js'
import {
  headerOf,
  isFramed,
  isReasonPhrase,
  relocated,
  requestHeaders,
  responseHeaders,
  responseTrailers,
  writeHead,
} from '../../src/proxy/headers.js'
import { viewFrom } from '../support/client-view.js'

const UPSTREAM = new URL('http://192.0.2.5:5000')

const VIEW = viewFrom('192.0.2.1')

/** Response headers as undici returns them. */
const raw = (...lines: readonly string[]) =>
  lines.flatMap(line => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1).trim()].map(text => Buffer.from(text, 'latin1'))
  })

/** Headers as lines of text. */
const lines = (headers: readonly string[]) =>
  headers.flatMap((name, index) => (index % 2 === 0 ? [`${name}: ${headers[index + 1]}`] : []))

/** A request with these headers. */
function request(given: readonly string[], method = 'GET'): IncomingMessage {
  const received = new IncomingMessage(new Socket())
  received.method = method
  received.httpVersion = '1.1'
  received.rawHeaders = raw(...given).map(bytes => bytes.toString('latin1'))
  // As Node builds them from its parser's output.
  for (const line of lines(received.rawHeaders)) {
    const name = line.slice(0, line.indexOf(':')).toLowerCase()
    const value = line.slice(name.length + 2)
    const earlier = received.headers[name]
    received.headers[name] = earlier === undefined ? value : `${earlier}, ${value}`
  }
  return received
}

const FORWARDING = { upstreamUrl: UPSTREAM }

/** The headers that the upstream receives for a request with these headers and this client view. */
const sentFrom = (view: Partial<ClientView>, ...given: readonly string[]): readonly string[] =>
  lines(requestHeaders(request(given), { ...viewFrom(''), ...view }, FORWARDING))

/** The same for an unknown client. */
const sent = (...given: readonly string[]): readonly string[] => sentFrom({}, ...given)

/** The headers that are added to every request. */
const ADDED = ['X-Forwarded-For: unknown', 'X-Forwarded-Proto: http', 'Via: 1.1 focus-breaker']

const HOP_BY_HOP = [
  'Keep-Alive: timeout=5',
  'Proxy-Connection: keep-alive',
  'Proxy-Authenticate: Basic',
  'Proxy-Authorization: Basic eA==',
  'TE: trailers',
  'Trailer: X-Sum',
  'Transfer-Encoding: chunked',
  'Upgrade: websocket',
  'HTTP2-Settings: AA',
]

test('hop-by-hop headers are removed in both directions, including those that Connection names', () => {
  const given = [
    ...HOP_BY_HOP,
    'Connection: keep-alive,  X-Own , x-other',
    'X-OWN: 1',
    'X-Other: 2',
    'X-Kept: 3',
  ]
  assert.deepEqual(sent(...given), ['Host: 192.0.2.5:5000', 'X-Kept: 3', ...ADDED])
  assert.deepEqual(lines(responseHeaders(raw(...given), UPSTREAM, VIEW)), [
    'x-kept: 3',
    'via: 1.1 focus-breaker',
  ])
})

test('several Connection headers are treated as one', () => {
  const given = ['Connection: x-a', 'X-A: 1', 'X-B: 2', 'Connection: X-B', 'X-C: 3']
  assert.deepEqual(sent(...given), ['Host: 192.0.2.5:5000', 'X-C: 3', ...ADDED])
  assert.deepEqual(lines(responseHeaders(raw(...given), UPSTREAM, VIEW)), [
    'x-c: 3',
    'via: 1.1 focus-breaker',
  ])
})

test('repeated headers stay separate, in their order', () => {
  const given = ['Set-Cookie: b=2', 'X-Between: 0', 'Set-Cookie: a=1', 'set-cookie: b=3']
  assert.deepEqual(lines(responseHeaders(raw(...given), UPSTREAM, VIEW)), [
    ...['set-cookie: b=2', 'x-between: 0', 'set-cookie: a=1', 'set-cookie: b=3'],
    'via: 1.1 focus-breaker',
  ])
  assert.deepEqual(sent('Accept: a', 'Cookie: x', 'Accept: b').slice(1, 4), [
    'Accept: a',
    'Cookie: x',
    'Accept: b',
  ])
})

test('Via is one header that lists every gateway, ours last', () => {
  const given = ['Via: 1.0 one', 'Server: uvicorn', 'via: 1.1 two']
  assert.deepEqual(lines(responseHeaders(raw(...given), UPSTREAM, VIEW)), [
    'server: uvicorn',
    'via: 1.0 one, 1.1 two, 1.1 focus-breaker',
  ])
  assert.deepEqual(sent(...given), [
    ...['Host: 192.0.2.5:5000', 'Server: uvicorn', ...ADDED.slice(0, 2)],
    'Via: 1.0 one, 1.1 two, 1.1 focus-breaker',
  ])
})

test('non-ASCII bytes are kept', () => {
  const every = String.fromCharCode(...Array.from({ length: 128 }, (_, index) => 128 + index))
  assert.deepEqual(responseHeaders(raw(`X-Text: a${every}b`), UPSTREAM, VIEW).slice(0, 2), [
    'x-text',
    `a${every}b`,
  ])
  assert.ok(sent(`X-Text: a${every}b`).includes(`X-Text: a${every}b`))
})

test('headerOf ignores the case of the name and returns all values', () => {
  const headers = raw('X-A: 1', 'X-AB: 2', 'x-a: 3')
  assert.equal(headerOf(headers, 'x-a'), '1, 3')
  assert.equal(headerOf(headers, 'x-b'), undefined)
})

/** Headers in which gateways describe their clients, in several spellings. */
const OF_GATEWAYS = [
  ...['Forwarded-For', 'X-Forwarded', 'X-Forwarded-Server', 'X-Real-IP', 'X-Client-IP', 'True-Client-IP'],
  ...['Client-IP', 'CF-Connecting-IP', 'CF-Connecting-IPv6', 'CF-Pseudo-IPv4', 'Fastly-Client-IP'],
  ...['Fly-Client-IP', 'X-Azure-ClientIP', 'X-Azure-SocketIP', 'X-AppEngine-User-IP', 'X-Cluster-Client-IP'],
  ...['X-Envoy-External-Address', 'X-Original-Forwarded-For', 'X-Original-Host', 'X-Remote-IP'],
  'X-Remote-Addr',
]

test('headers that only a gateway may set are forwarded for a trusted peer, and for no other', () => {
  const given = OF_GATEWAYS.map(name => `${name}: 192.0.2.77`)
  assert.deepEqual(sent(...given), ['Host: 192.0.2.5:5000', ...ADDED])
  assert.deepEqual(sentFrom({ isTrusted: true }, ...given), ['Host: 192.0.2.5:5000', ...given, ...ADDED])
})

test('gateway headers spelled with underscores are never forwarded, and other names with underscores are', () => {
  for (const isTrusted of [false, true]) {
    const given = ['X_Forwarded_For: a', 'X-Real_IP: b', 'x_forwarded_server: c', 'Forwarded_For: d']
    assert.deepEqual(
      sentFrom({ isTrusted }, ...given, 'X_Own: e'),
      ['Host: 192.0.2.5:5000', 'X_Own: e', ...ADDED],
      String(isTrusted),
    )
  }
})

test('headers that a gateway writes itself are never copied', () => {
  const given = ['Host', 'Expect', 'X-Forwarded-For', 'X-Forwarded-Proto', 'X-Forwarded-Host']
    .concat('X-Forwarded-Port', 'X-Forwarded-Prefix', 'Forwarded')
    .map(name => `${name}: x`)
  for (const isTrusted of [false, true])
    assert.deepEqual(sentFrom({ isTrusted }, ...given), ['Host: 192.0.2.5:5000', ...ADDED])
})

test('a numeric Max-Forwards of an OPTIONS request is decremented', () => {
  const forwarded = (method: string, value: string) =>
    lines(
      requestHeaders(request([`Max-Forwards: ${value}`, 'X-Count: 5'], method), viewFrom(''), FORWARDING),
    ).slice(1, 3)
  assert.deepEqual(forwarded('OPTIONS', '5'), ['Max-Forwards: 4', 'X-Count: 5'])
  assert.deepEqual(forwarded('OPTIONS', '123456789'), ['Max-Forwards: 123456788', 'X-Count: 5'])
  for (const value of ['1234567890', 'x5', '5x', ''])
    assert.deepEqual(forwarded('OPTIONS', value), [`Max-Forwards: ${value}`, 'X-Count: 5'])
  assert.deepEqual(forwarded('GET', '5'), ['Max-Forwards: 5', 'X-Count: 5'])
})

test("the credentials of the upstream's URL are used for a client that sends none", () => {
  const upstreamUrl = new URL('http://u:p@192.0.2.5:5000')
  const own = 'Authorization: Basic dTpw'
  assert.deepEqual(lines(requestHeaders(request([]), viewFrom(''), { upstreamUrl })), [
    'Host: 192.0.2.5:5000',
    own,
    ...ADDED,
  ])
  const given = ['Authorization: Bearer x']
  assert.deepEqual(lines(requestHeaders(request(given), viewFrom(''), { upstreamUrl })), [
    'Host: 192.0.2.5:5000',
    ...given,
    ...ADDED,
  ])
})

/** How a client addressed the proxy, and what focus-server receives. */
const ADDRESSED: readonly (readonly [view: Partial<ClientView>, added: readonly string[]])[] = [
  [{ peer: '192.0.2.1' }, ['X-Forwarded-For: 192.0.2.1', 'X-Forwarded-Proto: http']],
  [
    { peer: '192.0.2.1', earlier: ['192.0.2.3', '192.0.2.2'], scheme: 'https' },
    ['X-Forwarded-For: 192.0.2.3, 192.0.2.2, 192.0.2.1', 'X-Forwarded-Proto: https'],
  ],
  [
    { host: 'a.example', port: '8080' },
    [
      ...['X-Forwarded-For: unknown', 'X-Forwarded-Proto: http', 'X-Forwarded-Host: a.example'],
      'X-Forwarded-Port: 8080',
    ],
  ],
  [{ prefix: '/own', ownPrefix: '/own' }, ['X-Forwarded-For: unknown', 'X-Forwarded-Proto: http']],
  [
    { prefix: '/gateway/own', ownPrefix: '/own' },
    [...['X-Forwarded-For: unknown', 'X-Forwarded-Proto: http'], 'X-Forwarded-Prefix: /gateway/own'],
  ],
  [
    { forwarded: 'for=192.0.2.3', peer: '192.0.2.1' },
    [
      ...['X-Forwarded-For: 192.0.2.1', 'X-Forwarded-Proto: http'],
      'Forwarded: for=192.0.2.3, for=192.0.2.1;proto=http',
    ],
  ],
  [
    { forwarded: 'for=192.0.2.3', peer: '2001:db8::1' },
    [
      ...['X-Forwarded-For: 2001:db8::1', 'X-Forwarded-Proto: http'],
      'Forwarded: for=192.0.2.3, for="[2001:db8::1]";proto=http',
    ],
  ],
]

for (const [view, added] of ADDRESSED) {
  test(`focus-server receives how the client addressed the proxy: ${JSON.stringify(view)}`, () => {
    assert.deepEqual(sentFrom(view), ['Host: 192.0.2.5:5000', ...added, 'Via: 1.1 focus-breaker'])
  })
}

test('Forwarded contains the scheme of the connection on which the request arrived', () => {
  const received = request([])
  Object.assign(received.socket, { encrypted: true })
  const view = { ...viewFrom('192.0.2.1'), forwarded: 'for=192.0.2.3' }
  assert.ok(
    lines(requestHeaders(received, view, FORWARDING)).includes(
      'Forwarded: for=192.0.2.3, for=192.0.2.1;proto=https',
    ),
  )
})

test('Via contains the HTTP version of the request', () => {
  const received = request([])
  received.httpVersion = '1.0'
  assert.equal(requestHeaders(received, viewFrom(''), FORWARDING).at(-1), '1.0 focus-breaker')
})

test('a header name without a value at the end of the list is omitted', () => {
  assert.deepEqual(responseHeaders(['x-a', '1', 'x-b'], UPSTREAM, VIEW), [
    ...['x-a', '1'],
    ...['via', '1.1 focus-breaker'],
  ])
  assert.deepEqual(responseTrailers(['x-a', '1', 'x-b']), [['x-a', '1']])
  assert.equal(headerOf(['x-a', '1', 'x-b'], 'x-b'), undefined)
  const received = request([])
  received.rawHeaders = ['X-A', '1', 'X-B']
  assert.deepEqual(lines(requestHeaders(received, viewFrom(''), FORWARDING)), [
    'Host: 192.0.2.5:5000',
    'X-A: 1',
    ...ADDED,
  ])
})

test('trailers are forwarded in order, without those that frame or route a message', () => {
  const given = [
    'X-Sum: 1',
    ...HOP_BY_HOP,
    'Content-Length: 5',
    'Host: a',
    'Connection: close',
    'Set-Cookie: a',
  ]
  assert.deepEqual(responseTrailers(raw(...given, 'Set-Cookie: b')), [
    ['x-sum', '1'],
    ['set-cookie', 'a'],
    ['set-cookie', 'b'],
  ])
})

test('a response is forwarded only if its framing can be preserved', () => {
  const cases: readonly (readonly [lines: readonly string[], isFramed: boolean])[] = [
    [[], true],
    [['Transfer-Encoding: chunked'], true],
    [['Transfer-Encoding:  Chunked '], true],
    [['Transfer-Encoding: gzip, chunked'], false],
    [['Transfer-Encoding: gzip', 'Transfer-Encoding: chunked'], false],
    [['Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'], false],
    [['Transfer-Encoding: '], false],
    [['Content-Length: 0'], true],
    [['Content-Length: 9007199254740991'], true],
    [['Content-Length: 9007199254740992'], false],
    [['Transfer-Encoding: gzip', 'Content-Length: 5'], false],
  ]
  for (const [given, expected] of cases)
    assert.equal(isFramed(given.flatMap(line => line.split(/: ?/))), expected, given.join())
})

test('the reason phrase is forwarded if Node can write it', () => {
  const written = (phrase: string) => {
    const response = new ServerResponse(request([]))
    writeHead(response, 299, phrase, ['x-a', '1'])
    assert.equal(response.statusCode, 299)
    return response.statusMessage
  }
  for (const phrase of ['Fine', '\tA ~!', 'x']) {
    assert.ok(isReasonPhrase(phrase))
    assert.equal(written(phrase), phrase)
  }
  for (const phrase of ['', 'a\r\nX: 1', 'a\n', '\u0000a', 'é', 'a\u007f']) {
    assert.ok(!isReasonPhrase(phrase))
    assert.equal(written(phrase), 'unknown')
  }
})

/** References in `Location`, by the upstream's URL and how the client addressed the proxy. */
const REFERENCES: readonly (readonly [
  upstream: string,
  view: Partial<ClientView>,
  references: Readonly<Record<string, string>>,
])[] = [
  [
    'http://192.0.2.5:5000',
    { host: 'a.example' },
    {
      'http://192.0.2.5:5000/x?y#z': 'http://a.example/x?y#z',
      'HTTP://192.0.2.5:5000/x': 'http://a.example/x',
      '//192.0.2.5:5000/x': 'http://a.example/x',
      'http://192.0.2.5:5000': 'http://a.example',
      'http://192.0.2.5:5000?y': 'http://a.example/?y',
      'http://192.0.2.5:5000#z': 'http://a.example/#z',
      // These point elsewhere.
      'https://192.0.2.5:5000/x': 'https://192.0.2.5:5000/x',
      'http://192.0.2.5:50001/x': 'http://192.0.2.5:50001/x',
      'http://b.example/x': 'http://b.example/x',
      '//b.example/x': '//b.example/x',
      'http://[/x': 'http://[/x',
      'mailto:a@b.example': 'mailto:a@b.example',
      'xhttp://192.0.2.5:5000/x': 'xhttp://192.0.2.5:5000/x',
      'http:/x': 'http:/x',
      // These are relative and already correct.
      '/x': '/x',
      'x/y': 'x/y',
      '?y': '?y',
      '': '',
    },
  ],
  [
    'http://192.0.2.5:5000',
    { host: 'a.example', scheme: 'https' },
    {
      'http://192.0.2.5:5000/x': 'https://a.example/x',
      'https://192.0.2.5:5000/x': 'https://a.example/x',
      'ftp://192.0.2.5:5000/x': 'ftp://192.0.2.5:5000/x',
    },
  ],
  // The client sent no host.
  [
    'http://192.0.2.5:5000',
    { host: '' },
    {
      'http://192.0.2.5:5000/x': '/x',
      'http://192.0.2.5:5000': '/',
      'http://192.0.2.5:5000?y': '/?y',
      'http://192.0.2.5:5000//b.example/x': '/.//b.example/x',
    },
  ],
  [
    'http://192.0.2.5:5000/fs//',
    { host: 'a.example' },
    {
      '/fs/x': '/x',
      '/fs': '/',
      '/fs?y': '/?y',
      '/fs#z': '/#z',
      '/fsx': '/fsx',
      '/other': '/other',
      '/x/fs/y': '/x/fs/y',
      'http://192.0.2.5:5000/fs/x': 'http://a.example/x',
      'http://192.0.2.5:5000/other': 'http://a.example/other',
    },
  ],
  [
    'http://192.0.2.5:5000',
    { host: 'a.example', prefix: '/own', ownPrefix: '/own' },
    {
      '/x': '/own/x',
      '/own/x': '/own/x',
      '/ownx': '/own/ownx',
      'http://192.0.2.5:5000/x': 'http://a.example/own/x',
      'http://192.0.2.5:5000': 'http://a.example/own',
    },
  ],
  [
    'http://192.0.2.5:5000',
    { host: 'a.example', prefix: '/gateway/own', ownPrefix: '/own' },
    {
      '/x': '/gateway/own/x',
      '/own/x': '/gateway/own/x',
      '/own?y': '/gateway/own?y',
      '/gateway/own': '/gateway/own',
      '/gateway/own#z': '/gateway/own#z',
      '/gateway/x': '/gateway/own/gateway/x',
    },
  ],
]

for (const [upstream, view, references] of REFERENCES) {
  test(`references of ${upstream} lead back to the proxy: ${JSON.stringify(view)}`, () => {
    for (const [reference, expected] of Object.entries(references)) {
      const seen = { ...VIEW, ...view }
      assert.equal(relocated(reference, new URL(upstream), seen), expected, reference)
      for (const name of ['Location', 'Content-Location'])
        assert.equal(responseHeaders([name, reference], new URL(upstream), seen)[1], expected, name)
      assert.equal(responseHeaders(['X-Location', reference], new URL(upstream), seen)[1], reference)
    }
  })
}
