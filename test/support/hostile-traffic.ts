import { METHODS } from 'node:http'
import { type Random, seeded } from './seeded.js'
import { spelling } from './spellings.js'

/** What one hostile connection sends, and the allowed outcomes. */
export interface HostileConnection {
  readonly index: number
  /** What was done, for the report of a finding. */
  readonly what: string
  /** The pieces to write one after the other, as Latin-1. */
  readonly pieces: readonly string[]
  /** What follows: waiting for the server to close, a reset, or a half-close. */
  readonly ending: 'wait' | 'reset' | 'end'
  /** The number of requests, or attempts at a request. */
  readonly requests: number
  /** The required outcomes of its first requests, which are valid, in order and before anything else. */
  readonly expected: readonly Expected[]
  /**
   * Whether this is all: each request gets a response, and the connection closes. Any other connection may be cut at
   * any time.
   */
  readonly isOrderly: boolean
}

/** The required outcome of a request. */
export interface Expected {
  readonly method: string
  /** The identifier that must come back from the upstream; undefined if the proxy itself responds. */
  readonly id: string | undefined
  readonly outcome: 'forwarded' | 'refused' | 'own'
  /** Whether the connection may end with this response, as it may if no 100 was sent (RFC 9110, 10.1.1). */
  readonly mayClose?: true
}

/** A valid request. */
interface Right {
  readonly text: string
  readonly expected: Expected
}

const CRLF = '\r\n'
const HOST = 'Host: proxy.example'

/** Ways to send a configure, in spellings that every reader takes for it. */
const GUARDED_TARGETS = [
  ...[
    '/configure',
    '/configure',
    '/configure?x=1',
    '/%63onfigure',
    '//configure',
    '/./configure',
    '/configure/',
  ],
  ...[
    '/x/../configure',
    '/configure%0a',
    '/configure%2f',
    'http://h/configure',
    '/\\configure',
    '/configure#x',
  ],
] as const

/** Requests that resemble a configure and are something else to uvicorn: they must pass. */
const NEARLY_GUARDED_TARGETS = [
  ...['/Configure', '/configured', '/configure/1', '/x/configure', '/configure;x=1', '/%2563onfigure'],
  ...['/configure.json', '/configure%3f', '/configure%23', '/configure/../x', '/..configure', '/'],
] as const

/** Methods that are forwarded to the upstream; HEAD has its own row. */
const PASSING = METHODS.filter(method => !['CONNECT', 'TRACE', 'HEAD', 'GET', 'POST'].includes(method))

/** The connection with this number: always the same for the same seed. */
export function hostileConnection(seed: number, index: number): HostileConnection {
  const random = seeded(seed, index)
  const draw = random.next()
  if (draw < 0.35) return orderly(random, index)
  if (draw < 0.65) return broken(random, index)
  if (draw < 0.9) return mutated(random, index)
  return rude(random, index)
}

/** Valid and pipelined, with bodies that look like requests. */
function orderly(random: Random, index: number): HostileConnection {
  const rights = Array.from({ length: random.integer(3, 12) }, (_, n) => right(random, index, n))
  // The refusal of a request whose body was not sent closes the connection, so nothing may follow it.
  const last = random.chance(0.1)
    ? refusedUnsent(random, index)
    : plain(index, rights.length, 'Connection: close')
  const all = [...rights, last]
  return {
    index,
    what: 'orderly',
    pieces: split(random, all.map(({ text }) => text).join('')),
    ending: 'wait',
    requests: all.length,
    expected: all.map(({ expected }) => expected),
    isOrderly: true,
  }
}

/** Some valid requests, then an invalid one, then what a smuggler would try. */
function broken(random: Random, index: number): HostileConnection {
  const before = Array.from({ length: random.integer(0, 3) }, (_, n) => right(random, index, n))
  const [what, make] = random.pick(WRONG)
  const text = make(random, `id-${index}-${before.length}`, smuggled(random, index))
  // If the length of the invalid one is certain nevertheless, the bytes after it are a request again.
  const behind = CERTAIN.has(what) ? '' : smuggled(random, index)
  return {
    index,
    what,
    pieces: split(random, before.map(({ text }) => text).join('') + text + behind),
    ending: random.chance(0.9) ? 'wait' : 'end',
    requests: before.length + 3,
    expected: before.map(({ expected }) => expected),
    isOrderly: false,
  }
}

/** Some requests with a few bytes changed anywhere. */
function mutated(random: Random, index: number): HostileConnection {
  const rights = Array.from({ length: random.integer(1, 6) }, (_, n) => right(random, index, n, false))
  let text = rights.map(({ text }) => text).join('')
  const count = random.integer(1, 4)
  for (let change = 0; change < count; change += 1) text = changed(random, text)
  return {
    index,
    what: 'mutated',
    pieces: split(random, text),
    ending: random.chance(0.8) ? 'wait' : 'end',
    requests: rights.length,
    expected: [],
    isOrderly: false,
  }
}

/** Valid, but cut off in the last request. */
function rude(random: Random, index: number): HostileConnection {
  const rights = Array.from({ length: random.integer(1, 6) }, (_, n) => right(random, index, n))
  const whole = rights.slice(0, -1)
  const last = rights.at(-1)?.text ?? ''
  const text = whole.map(({ text }) => text).join('') + last.slice(0, random.integer(1, last.length - 1))
  return {
    index,
    what: 'rude',
    pieces: split(random, text),
    ending: random.pick(['reset', 'reset', 'end']),
    requests: rights.length,
    expected: whole.map(({ expected }) => expected),
    isOrderly: false,
  }
}

/** A request that must never arrive separately: only a reader that parses incorrectly finds a request there. */
function smuggled(random: Random, index: number): string {
  const line = random.chance(0.5) ? 'POST /configure' : `GET /r/id-x${index}-0`
  const fields = random.chance(0.5) ? 'Content-Length: 0' : 'X: y'
  return `${line} HTTP/1.1${CRLF}${HOST}${CRLF}${fields}${CRLF}${CRLF}`
}

function plain(index: number, n: number, ...fields: string[]): Right {
  const id = `id-${index}-${n}`
  return {
    text: request('GET', `/r/${id}`, fields),
    expected: { method: 'GET', id, outcome: 'forwarded' },
  }
}

function refusedUnsent(random: Random, index: number): Right {
  const body = smuggled(random, index)
  const fields = ['Expect: 100-continue', `Content-Length: ${body.length}`]
  return {
    text: request('POST', random.pick(GUARDED_TARGETS), fields, body),
    expected: { method: 'POST', id: undefined, outcome: 'refused' },
  }
}

function request(method: string, target: string, fields: readonly string[], body = ''): string {
  return [`${method} ${target} HTTP/1.1`, HOST, ...fields, '', body].join(CRLF)
}

/** If `isMarked` is false, it has a name that may come out as anything, and nothing is smuggled in it. */
function right(random: Random, index: number, n: number, isMarked = true): Right {
  const id = `${isMarked ? 'id' : 'mutated'}-${index}-${n}`
  const target = `/r/${id}`
  const inner = isMarked ? smuggled(random, index) : 'some body'
  const forwarded = (method: string, text: string): Right => ({
    text,
    expected: { method, id, outcome: 'forwarded' },
  })
  const refused = (text: string): Right => ({
    text,
    expected: { method: 'POST', id: undefined, outcome: 'refused' },
  })
  const withLength = (method: string, to: string, ...fields: string[]) =>
    request(method, to, [...fields, `Content-Length: ${inner.length}`], inner)
  const withChunks = (method: string, to: string, ...fields: string[]) =>
    request(method, to, [...fields, transferEncoding(random)], chunked(random, inner))
  switch (random.integer(0, 22)) {
    case 0:
      return forwarded('HEAD', request('HEAD', target, []))
    case 1:
    case 2:
      return forwarded('POST', withLength('POST', target))
    case 3:
    case 4:
      return forwarded('POST', withChunks('POST', target))
    case 5:
    case 6:
      return refused(withLength('POST', random.pick(GUARDED_TARGETS)))
    case 7:
      return refused(withChunks('POST', random.pick(GUARDED_TARGETS)))
    case 8: {
      const method = random.pick(PASSING)
      return forwarded(method, withLength(method, target))
    }
    case 9: {
      const { text, expected } = forwarded('PUT', withLength('PUT', target, 'Expect: 100-continue'))
      return { text, expected: { ...expected, mayClose: true } }
    }
    case 10:
      return forwarded(
        'GET',
        request('GET', target, ['If-None-Match: "a"', 'Range: bytes=0-1', 'Cookie: a=b']),
      )
    case 11: {
      const method = random.pick(['GET', 'HEAD'])
      const own = random.pick(['/-/status', '/-/live', '/-/none'])
      return { text: request(method, own, []), expected: { method, id: undefined, outcome: 'own' } }
    }
    case 12:
      return forwarded('GET', request('GET', target, manyFields(random)))
    case 13:
      return forwarded('POST', withLength('POST', target, ...ofConnection(random)))
    // An upgrade behind an unanswered request ends the connection.
    case 14:
      if (n > 0) return forwarded('GET', request('GET', target, []))
      return forwarded('GET', request('GET', target, ['Connection: Upgrade', 'Upgrade: h2c']))
    case 15:
      if (n > 0) return refused(request('POST', random.pick(GUARDED_TARGETS), []))
      return refused(withLength('POST', '/configure', 'Connection: Upgrade', 'Upgrade: websocket'))
    case 16:
      return forwarded('POST', withLength('POST', target, 'X-HTTP-Method-Override: GET', 'Via: 1.1 a, 1.0 b'))
    case 17:
      return forwarded('GET', `${CRLF}${request('GET', `http://user@h:1${target}`, [])}`)
    case 18:
      // Our headers in random case: header names are case-insensitive, and values may have whitespace around them.
      return forwarded('POST', withLength('POST', target, `cOnTeNt-TyPe:\t \t${random.pick(['a', ''])} \t`))
    case 19:
      return forwarded('POST', withLength('POST', `${random.pick(NEARLY_GUARDED_TARGETS)}?/${id}`))
    case 20: {
      const method = random.pick(['GET', 'PUT', 'DELETE'])
      const override = [
        'X-HTTP-Method-Override: POST',
        'X-Method-Override: POST',
        'X-Original-URL: /configure',
      ]
      return forwarded(method, withLength(method, `/configure?_method=POST&/${id}`, ...override))
    }
    case 21:
      return refused(withLength('POST', random.pick(GUARDED_TARGETS), 'X-HTTP-Method-Override: GET'))
    case 22:
      return forwarded('GET', request('GET', `/hints/${id}`, []))
    default:
      return forwarded('GET', request('GET', target, []))
  }
}

function transferEncoding(random: Random): string {
  return random.pick([
    'Transfer-Encoding: chunked',
    'transfer-encoding:chunked',
    'TRANSFER-ENCODING: Chunked',
  ])
}

/** A valid chunked body with extensions and trailers. */
function chunked(random: Random, body: string): string {
  let text = ''
  for (let at = 0; at < body.length; ) {
    const part = body.slice(at, at + random.integer(1, body.length))
    const size = part.length.toString(16)
    const padded = random.chance(0.2) ? size.padStart(random.integer(2, 6), '0').toUpperCase() : size
    text += `${padded}${random.chance(0.2) ? ';name=value;q="a b"' : ''}${CRLF}${part}${CRLF}`
    at += part.length
  }
  const trailers = random.chance(0.2) ? `X-Trailer: a${CRLF}X-Other: b${CRLF}` : ''
  return `${text}0${CRLF}${trailers}${CRLF}`
}

function manyFields(random: Random): string[] {
  const count = random.pick([50, 200, 900])
  return Array.from({ length: count }, (_, n) => `X-${n}: ${n % 7}`)
}

/** Headers that concern only one connection, or claim to. */
function ofConnection(random: Random): string[] {
  const rows = [
    ['Connection: content-length'],
    ['Connection: close-not, x-gone, Content-Length, Host', 'X-Gone: 1'],
    ['Connection: keep-alive, TE', 'TE: trailers', 'Keep-Alive: timeout=5'],
    ['Proxy-Connection: keep-alive', 'Proxy-Authorization: Basic eDp5'],
    ['Connection: transfer-encoding'],
    ['Trailer: X-Trailer', 'TE: trailers, deflate;q=0.5'],
    ['Connection: via, x-forwarded-for', 'X-Forwarded-For: 192.0.2.1'],
    ['HTTP2-Settings: AAMAAABkAAQAAP__', 'Connection: HTTP2-Settings'],
  ]
  return random.pick(rows)
}

/** Makes an invalid request from its identifier and the request to smuggle with it. */
type MakeWrong = (random: Random, id: string, inner: string) => string

function withFields(...fields: string[]): MakeWrong {
  return (_, id, inner) =>
    request(
      'POST',
      `/r/${id}`,
      fields.map(field => field.replace('LENGTH', String(inner.length))),
      inner,
    )
}

function withChunk(text: string): MakeWrong {
  return (_, id, inner) =>
    request('POST', `/r/${id}`, ['Transfer-Encoding: chunked'], text.replace('INNER', inner) + inner)
}

function line(first: string): MakeWrong {
  return (_, id) => `${first.replace('ID', `/r/${id}`)}${CRLF}${HOST}${CRLF}${CRLF}`
}

const TLS_HELLO = '\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03'

/**
 * Invalid according to RFC 9110 or 9112: the connection cannot be trusted any more, so nothing after such a request may
 * be taken for a request.
 */
const WRONG: readonly (readonly [string, MakeWrong])[] = [
  ['CL.TE', withFields('Content-Length: LENGTH', 'Transfer-Encoding: chunked')],
  ['TE.CL', withFields('Transfer-Encoding: chunked', 'Content-Length: 4')],
  [
    'CL.TE with a last chunk',
    (_, id, inner) =>
      request(
        'POST',
        `/r/${id}`,
        ['Content-Length: 5', 'Transfer-Encoding: chunked'],
        `0${CRLF}${CRLF}${inner}`,
      ),
  ],
  ['TE twice', withFields('Transfer-Encoding: chunked', 'Transfer-Encoding: identity')],
  ['TE not last', withFields('Transfer-Encoding: chunked, identity')],
  ['TE unknown', withFields('Transfer-Encoding: xchunked')],
  ['TE with a vertical tab', withFields('Transfer-Encoding: \x0bchunked')],
  ['TE with a NUL', withFields('Transfer-Encoding: chunked\x00')],
  ['TE folded', withFields(`Transfer-Encoding:${CRLF} chunked`)],
  ['TE with a space before the colon', withFields('Transfer-Encoding : chunked')],
  ['TE behind a bare LF', withFields('X: y\nTransfer-Encoding: chunked', 'Content-Length: LENGTH')],
  ['TE behind a bare CR', withFields('X: y\rTransfer-Encoding: chunked', 'Content-Length: LENGTH')],
  ['TE in quotes', withFields('Transfer-Encoding: "chunked"')],
  ['two lengths', withFields('Content-Length: 0', 'Content-Length: LENGTH')],
  ['two lengths in one', withFields('Content-Length: 0, LENGTH')],
  ...['+5', '-5', '0x5', '5a', '1e1', '99999999999999999999', '5 5', '5;5', '\x005', '²'].map(
    length => [`length ${JSON.stringify(length)}`, withFields(`Content-Length: ${length}`)] as const,
  ),
  ['length with a space before the colon', withFields('Content-Length : 0')],
  ...['g', '-1', '+5', '0x5', ' 5', '5g', 'fffffffffffffffff', '', ';x', '5\x00'].map(
    size =>
      [`chunk size ${JSON.stringify(size)}`, withChunk(`${size}${CRLF}12345${CRLF}0${CRLF}${CRLF}`)] as const,
  ),
  ['chunk size behind a bare LF', withChunk(`5\n12345${CRLF}0${CRLF}${CRLF}`)],
  ['chunk without its end', withChunk(`5${CRLF}123450${CRLF}${CRLF}`)],
  ['chunk with a bare LF at its end', withChunk(`5${CRLF}12345\n0${CRLF}${CRLF}`)],
  ['chunk with a bare CR in its extension', withChunk(`5;a\rb${CRLF}12345${CRLF}0${CRLF}${CRLF}`)],
  ['chunk with a bare LF in its extension', withChunk(`5;a\nb${CRLF}12345${CRLF}0${CRLF}${CRLF}`)],
  ['a length among the trailers', withChunk(`5${CRLF}12345${CRLF}0${CRLF}Content-Length: 5${CRLF}${CRLF}`)],
  ['obs-fold', withFields(`X: a${CRLF} b`, 'Content-Length: LENGTH')],
  ['a folded first field', (_, id) => `GET /r/${id} HTTP/1.1${CRLF} X: y${CRLF}${HOST}${CRLF}${CRLF}`],
  ['space before the colon', withFields('X : a')],
  ['no colon', withFields('X')],
  ['no name', withFields(': x')],
  ['NUL in a value', withFields('X: a\x00b')],
  ['NUL in a name', withFields('X\x00Y: a')],
  ['two hosts', withFields('Host: other', 'Content-Length: LENGTH')],
  ['huge field', withFields(`X: ${'x'.repeat(20_000)}`)],
  [
    '100,000 fields',
    (random, id) =>
      random.chance(0.1)
        ? request(
            'GET',
            `/r/${id}`,
            Array.from({ length: 100_000 }, (_, n) => `X${n}:`),
          )
        : request(
            'GET',
            `/r/${id}`,
            Array.from({ length: 5000 }, (_, n) => `X${n}:`),
          ),
  ],
  ['huge target', line(`GET ID${'/x'.repeat(10_000)} HTTP/1.1`)],
  ['HTTP/0.9', (_, id) => `GET /r/${id}${CRLF}`],
  ['no host', (_, id) => `GET /r/${id} HTTP/1.1${CRLF}${CRLF}`],
  ...[
    'HTTP/1.2x',
    'HTTP/2.0',
    'HTTP/3',
    'HTTP/11.1',
    'HTTP/1.',
    'http/1.1',
    'HTTP /1.1',
    'HTTP/1,1',
    'ICE/1.1',
  ].map(version => [`version ${version}`, line(`GET ID ${version}`)] as const),
  ...['get', 'G', 'GETT', 'G ET', '\x00GET', 'G\xc9T', '(GET)', 'POST\tX'].map(
    method => [`method ${JSON.stringify(method)}`, line(`${method} ID HTTP/1.1`)] as const,
  ),
  ['a target with a tab', line('GET ID\tx HTTP/1.1')],
  ['a target with a control character', line('GET ID\x01 HTTP/1.1')],
  ['a target with a space', line('GET ID x HTTP/1.1')],
  ['the preface of HTTP/2', () => `PRI * HTTP/2.0${CRLF}${CRLF}SM${CRLF}${CRLF}`],
  ['TLS to the plain port', random => TLS_HELLO + garbage(random, 200)],
  ['garbage', random => `${garbage(random, random.integer(1, 2000))}${CRLF}${CRLF}`],
  ['only line feeds in a head', (_, id) => `GET /r/${id} HTTP/1.1\n${HOST}\n\n`],
  ['CONNECT', line('CONNECT h:1 HTTP/1.1')],
  [
    'WebSocket that stays',
    (_, id, inner) => request('GET', `/r/${id}`, ['Connection: Upgrade', 'Upgrade: websocket'], inner),
  ],
  [
    'WebSocket that is declined',
    (_, id, inner) =>
      request('GET', `/no-upgrade/${id}`, ['Connection: Upgrade', 'Upgrade: websocket'], inner),
  ],
]

const CERTAIN: ReadonlySet<string> = new Set(['two hosts', 'no host'])

function garbage(random: Random, length: number): string {
  return Array.from({ length }, () => String.fromCharCode(random.integer(0, 255))).join('')
}

const SPECIAL = [
  ...[
    '\r\n',
    '\n',
    '\r',
    '\0',
    ' ',
    '\t',
    ':',
    ',',
    ';',
    '/',
    '\\',
    '%',
    '..',
    '#',
    '?',
    '0',
    '9',
    '\r\n\r\n',
  ],
  ...[
    'Content-Length: 5\r\n',
    'Transfer-Encoding: chunked\r\n',
    'Connection: close\r\n',
    'Upgrade: x\r\n',
    '\xff',
  ],
  ...[
    'Host: a\r\n',
    'Expect: 100-continue\r\n',
    'HTTP/1.0',
    'POST /configure HTTP/1.1\r\nHost: a\r\n\r\n',
    '\x80',
  ],
] as const

/** The same with one position changed. */
function changed(random: Random, text: string): string {
  const at = random.integer(0, text.length)
  const length = random.pick([1, 1, 2, 8, 64])
  switch (random.integer(0, 5)) {
    case 0:
      return text.slice(0, at) + String.fromCharCode(random.integer(0, 255)) + text.slice(at + 1)
    case 1:
      return text.slice(0, at) + text.slice(at + length)
    case 2:
      return text.slice(0, at) + text.slice(at, at + length) + text.slice(at)
    case 3: {
      const lines = text.split(CRLF)
      const [from, to] = [random.integer(0, lines.length - 1), random.integer(0, lines.length - 1)]
      lines.splice(to, 0, ...lines.splice(from, 1))
      return lines.join(CRLF)
    }
    case 4: {
      const target = spelling(random)
      return text.replace(/^(POST) \S+/m, (_, method: string) => `${method} ${target}`)
    }
    default:
      return text.slice(0, at) + random.pick(SPECIAL) + text.slice(at)
  }
}

/** Written at once, split in two anywhere, or split into many. */
function split(random: Random, text: string): readonly string[] {
  if (random.chance(0.6)) return [text]
  const pieces: string[] = []
  const count = random.pick([1, 1, 2, 5])
  let from = 0
  for (const at of Array.from({ length: count }, () => random.integer(0, text.length)).sort(
    (a, b) => a - b,
  )) {
    pieces.push(text.slice(from, at))
    from = at
  }
  return [...pieces, text.slice(from)].filter(piece => piece !== '')
}
