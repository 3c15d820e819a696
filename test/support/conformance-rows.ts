import type { Play, Seen } from './conformance-upstreams.js'
import type { Conversation, Step } from './conformance-wire.js'
import { statusOf } from './conformance-wire.js'

/** The outcome of one exchange, at the client and at the upstream. */
export type Observed = Conversation & { readonly seen: readonly Seen[] }

/** One exchange: the request, the upstream's response, and the expected outcome through focus-breaker. */
export interface Row {
  readonly name: string
  readonly send: readonly Step[]
  readonly play?: Partial<Play>
  /** Only with this upstream: uvicorn cannot send everything, and some rows take long. */
  readonly only?: 'uvicorn' | 'sockets'
  /** The outcome through focus-breaker, as the page shows it; `same` by default. */
  readonly ours?: string
  /** Extracts the one thing to compare, instead of everything. */
  readonly extract?: (observed: Observed) => string
  /** Options of focus-breaker. */
  readonly options?: Readonly<Record<string, string>>
  /** Runs at the same time as the other slow rows of its group, because it takes seconds. */
  readonly slow?: true
  /** Also measures the memory of both proxies, each in its own process. */
  readonly memory?: true
  /** The outcome through the plain plugin depends on timing. */
  readonly plainVaries?: true
  /** Why the outcome is not `same`, for the page. */
  readonly why?: string
  /** Why the desirable outcome is not possible. */
  readonly limit?: string
}

/** How long one side does not read where memory is measured. */
export const STALL_MS = 600
const MEGABYTES_100 = 100 * 1024 * 1024
/** More than fits into the buffers of two connections. */
const MEGABYTES_20 = 20 * 1024 * 1024
const CLOSE = 'Connection: close'

/** A request, with `Connection: close` unless it has a `Connection` header. */
function head(line: string, ...fields: readonly string[]): string {
  const own = fields.some(field => /^connection:/i.test(field)) ? fields : [...fields, CLOSE]
  return `${line} HTTP/1.1\r\nHost: client.example\r\n${own.join('\r\n')}\r\n\r\n`
}

function get(...fields: readonly string[]): readonly Step[] {
  return [head('GET /any', ...fields)]
}

function post(body: string, ...fields: readonly string[]): readonly Step[] {
  return [head('POST /any', ...fields, `Content-Length: ${body.length}`) + body]
}

function answering(name: string, status: number, fields: readonly string[], body = ''): Row {
  const isBodiless = status === 204 || status === 304
  const length = isBodiless ? [] : [`content-length: ${body.length}`]
  return { name, send: get(), play: { status, fields: [...fields, ...length], body: body ? [body] : [] } }
}

function raw(name: string, answer: readonly Step[], more: Partial<Row> = {}): Row {
  return { name, send: get(), only: 'sockets', ...more, play: { ...more.play, raw: answer } }
}

/** The request headers with these names, as they reached the upstream. */
function arrived(...names: readonly string[]): (observed: Observed) => string {
  return ({ seen }) => {
    const found = (seen[0]?.fields ?? []).filter(([name]) => names.includes(name))
    return found.length === 0 ? 'none' : found.map(([name, value]) => `${name}: ${value}`).join('; ')
  }
}

function returned(...names: readonly string[]): (observed: Observed) => string {
  return ({ answers }) => {
    const found = (answers[0]?.fields ?? []).filter(([name]) => names.includes(name))
    return found.length === 0 ? 'none' : found.map(([name, value]) => `${name}: ${value}`).join('; ')
  }
}

/** The status, and the message that comes with it. */
function statusAndMessage({ answers, seen }: Observed): string {
  const responses = answers.map(
    answer => `${statusOf(answer)}: ${/"message":"([^"]*)"/.exec(answer.text)?.[1] ?? answer.text}`,
  )
  return `${seen.length === 0 ? 'refused ' : ''}${responses.join(', ') || 'without a response'}`
}

const whoUvicornSees = ({ seen }: Observed) =>
  seen[0]?.client.includes('203.0.113.9') ? 'the address in the header' : 'not the address in the header'

const TRUSTING = { 'server.trustProxy': '[loopback]' }
const EARLIER = ['X-Forwarded-For: 203.0.113.9', 'X-Forwarded-Proto: https', 'X-Forwarded-Host: lab.example']
const FORWARDED = ['x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host']

/** Every timeout is short, so that a few seconds are longer than all of them. */
const HURRIED = {
  'server.headTimeoutMs': '1000',
  'server.keepAliveTimeoutMs': '300',
  'server.bodyPauseTimeoutMs': '800',
  'upstream.connectTimeoutMs': '500',
  'upstream.headersTimeoutMs': '500',
  'upstream.bodyTimeoutMs': '1000',
  'upstream.queueTimeoutMs': '300',
}

const KEY = 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='
const HANDSHAKE = ['Connection: keep-alive, Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', KEY]
const webSocket = (...fields: readonly string[]) => head('GET /ws?a=%zz', ...HANDSHAKE, ...fields)
/** Frames of a client, masked with zeros. */
const PING = '\x81\x84\0\0\0\0ping'
const ECHO = /echo:ping$/
/** The code with which the server closes, 4001. */
const FAREWELL = /\xa1$/
/** The client's close frame, code 1000. */
const BYE = '\x88\x82\0\0\0\0\x03\xe8'
/** The same with a custom code, 4002. */
const LEAVE = '\x88\x82\0\0\0\0\x0f\xa2'
const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'

const drip = (piece: string, times: number, pauseMs: number): (string | number)[] =>
  Array.from({ length: times }, () => [pauseMs, piece]).flat()

const forwardedMethods = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'PROPFIND',
  'PURGE',
  'REPORT',
  'SEARCH',
  'QUERY',
  'LOCK',
  'COPY',
  'M-SEARCH',
  'MKCALENDAR',
]

export const groups: readonly (readonly [title: string, rows: readonly Row[]])[] = [
  [
    'Methods',
    [
      ...forwardedMethods.map(
        (method): Row => ({ name: `\`${method}\``, send: [head(`${method} /any?x=1`)] }),
      ),
      {
        name: "`BREW`, which Node's parser does not know",
        send: [head('BREW /any')],
        ours: 'refused 400',
        limit:
          "not possible with node:http's parser, which accepts only the methods on its list and has no option for others. All methods on that list are forwarded, except TRACE and CONNECT.",
      },
      {
        name: '`TRACE`',
        send: [head('TRACE /any')],
        extract: statusAndMessage,
        ours: 'refused 405: focus-breaker does not forward TRACE.',
        why: 'TRACE returns the request, which may contain secrets; a gateway need not forward it.',
      },
      {
        name: '`CONNECT`',
        send: ['CONNECT else.example:443 HTTP/1.1\r\nHost: else.example:443\r\n\r\n'],
        extract: statusAndMessage,
        ours: 'refused 405: focus-breaker does not forward CONNECT.',
        why: 'It would open a tunnel to any address.',
      },
      {
        name: '`QUERY` with a body',
        send: [`${head('QUERY /any', 'Content-Type: application/json', 'Content-Length: 2')}{}`],
      },
      {
        name: '`OPTIONS` with `Max-Forwards: 2`',
        send: [head('OPTIONS /any', 'Max-Forwards: 2')],
        extract: arrived('max-forwards'),
        ours: 'max-forwards: 1',
      },
      {
        name: '`OPTIONS` with `Max-Forwards: 0`',
        send: [head('OPTIONS /any', 'Max-Forwards: 0')],
        ours: 'refused 204',
        why: 'The server that receives it with 0 responds to it (RFC 9110, 7.6.2).',
      },
      {
        name: '`POST` with `X-HTTP-Method-Override`',
        send: post('{}', 'X-HTTP-Method-Override: PUT'),
      },
    ],
  ],
  [
    'Targets',
    [
      {
        name: 'absolute form',
        send: [head('GET http://else.example:81/any?x=1')],
        extract: ({ seen }) => seen[0]?.target ?? 'none',
        ours: '/any?x=1',
        why: 'The target is sent in origin form, its host as `X-Forwarded-Host`.',
      },
      {
        name: 'authority of the absolute form',
        send: [head('GET http://else.example:81/any')],
        extract: arrived('x-forwarded-host'),
        ours: 'x-forwarded-host: else.example:81',
      },
      {
        name: '`OPTIONS *`',
        send: [head('OPTIONS *')],
        ours: 'refused 204',
        why: 'The target is the server itself, which here is the proxy: it responds with `Allow`.',
      },
      { name: 'dots, slashes and escapes', send: [head('GET /a//b/./c/../d/%2e%2e/%zz/%?x=%00&&=')] },
      { name: 'brackets, quotes and semicolons', send: [head("GET /it's(all)[here]|{too};v=1/\\x")] },
      {
        name: 'bytes outside ASCII, not encoded',
        send: [head('GET /caf\xe9/\xc3\xa9')],
        ours: 'refused 400',
        why: 'This is not a valid request target (RFC 9112, 3.2); uvicorn responds in the same way.',
      },
      { name: '8,000 bytes', send: [head(`GET /${'x'.repeat(8000)}`)] },
      {
        name: 'no `Host`, in HTTP/1.1',
        send: [`GET /any HTTP/1.1\r\n${CLOSE}\r\n\r\n`],
        ours: 'refused 400',
      },
      {
        name: 'two `Host` lines',
        send: [head('GET /any', 'Host: else.example')],
        ours: 'refused 400',
      },
    ],
  ],
  [
    'Bodies',
    [
      { name: 'JSON', send: post('{"a": 1.0, "a": 2}', 'Content-Type: application/json') },
      { name: 'broken JSON', send: post('{"a": ', 'Content-Type: application/json') },
      { name: 'empty JSON', send: post('', 'Content-Type: application/json') },
      {
        name: 'a guarded route, admitted',
        send: [`${head('POST /configure', 'Content-Type: application/json', 'Content-Length: 6')}{"a": `],
      },
      { name: 'text with a charset', send: post('caf\xe9', 'Content-Type: text/plain; charset=iso-8859-1') },
      {
        name: 'text of 2 MB',
        send: [
          head('POST /any', 'Content-Type: text/plain', 'Content-Length: 2000000'),
          { bytes: 2_000_000 },
        ],
        extract: ({ seen }) => `${seen[0]?.length ?? 0} bytes arrive`,
        ours: '2000000 bytes arrive',
      },
      {
        name: 'multipart',
        send: post(
          '--b\r\nContent-Disposition: form-data; name="f"; filename="\xff"\r\n\r\n\0\r\n\xff\r\n--b--\r\n',
          'Content-Type: multipart/form-data; boundary=b',
        ),
      },
      { name: 'form', send: post('a=1&b=%zz', 'Content-Type: application/x-www-form-urlencoded') },
      {
        name: 'gzip',
        send: post('\x1f\x8b\x08\0\xff\xfe', 'Content-Encoding: gzip', 'Content-Type: application/json'),
      },
      { name: 'octets', send: post('\0\x01\xff\r\n\r\n', 'Content-Type: application/octet-stream') },
      { name: 'an invalid media type', send: post('x', 'Content-Type: ;;') },
      { name: 'no media type', send: post('x') },
      { name: 'no body and no length', send: [head('POST /any')] },
      { name: 'a length of 0', send: post('') },
      { name: '`GET` with a body', send: [`${head('GET /any', 'Content-Length: 3')}abc`] },
      { name: '`DELETE` with a body', send: [`${head('DELETE /any', 'Content-Length: 3')}abc`] },
      {
        name: 'chunked, with extensions',
        send: [`${head('POST /any', 'Transfer-Encoding: chunked')}3;a=b\r\nabc\r\n`, '2\r\nde\r\n0\r\n\r\n'],
        extract: ({ seen }) => `${seen[0]?.length} bytes, ${seen[0]?.whole ? 'whole' : 'broken'}`,
        ours: '5 bytes, whole',
      },
      {
        name: 'chunked, JSON',
        send: [
          head('POST /any', 'Transfer-Encoding: chunked', 'Content-Type: application/json') +
            '2\r\n{}\r\n0\r\n\r\n',
        ],
      },
      { name: 'chunked, empty', send: [`${head('PUT /any', 'Transfer-Encoding: chunked')}0\r\n\r\n`] },
      {
        name: 'cut off',
        send: [`${head('POST /any', 'Content-Length: 10')}abc`, { pauseMs: 100 }, { end: 'reset' }],
        extract: ({ seen }) => (seen[0]?.whole ? 'whole' : 'not whole'),
        ours: 'not whole',
      },
      {
        name: '100 MB, with a length',
        send: [
          head('PUT /any', `Content-Length: ${MEGABYTES_100}`, 'Content-Type: application/octet-stream'),
          { bytes: MEGABYTES_100 },
        ],
      },
      {
        name: '100 MB, in chunks',
        send: [
          `${head('PUT /any', 'Transfer-Encoding: chunked')}${MEGABYTES_100.toString(16)}\r\n`,
          { bytes: MEGABYTES_100 },
          '\r\n0\r\n\r\n',
        ],
        only: 'sockets',
      },
      {
        name: '100 MB, to an upstream that does not read for a while',
        send: [
          head('PUT /any', `Content-Length: ${MEGABYTES_100}`, 'Content-Type: application/octet-stream'),
          { bytes: MEGABYTES_100 },
        ],
        play: { holdMs: STALL_MS },
        only: 'sockets',
        memory: true,
        ours: 'same, memory bounded',
      },
      {
        name: '100 MB in the response, to a client that does not read for a while',
        send: [head('GET /any'), { until: /200/ }, { stopReadingMs: STALL_MS }],
        play: { fields: [`content-length: ${MEGABYTES_100}`], body: [{ bytes: MEGABYTES_100 }] },
        only: 'sockets',
        memory: true,
        ours: 'same, memory bounded',
      },
      {
        name: '100 MB in the response, in chunks',
        send: get(),
        play: { body: [{ bytes: MEGABYTES_100 }] },
        only: 'uvicorn',
      },
      {
        name: 'a response before the body was sent, and the next request on the connection',
        send: [
          `${head('POST /any', 'Connection: keep-alive', 'Content-Length: 300000')}x`,
          { until: /early/ },
          { bytes: 299_999 },
          head('GET /any'),
        ],
        play: { early: true, status: 413, fields: ['content-length: 5'], body: ['early'] },
        only: 'sockets',
        plainVaries: true,
        extract: statuses,
        ours: '413, 413',
      },
      {
        name: 'a response before the first byte of a body',
        send: [head('POST /any', 'Content-Length: 5'), { pauseMs: 400 }, { end: 'reset' }],
        play: { early: true, status: 413, fields: ['content-length: 5'], body: ['early'] },
        only: 'sockets',
        extract: observed => statuses(observed) || 'nothing until the body starts',
        ours: 'nothing until the body starts',
        limit:
          'not possible with undici, which sends the head of a request together with the first byte of its body. A client that waits for permission to continue gets it (`Expect: 100-continue`).',
      },
    ],
  ],
  [
    'Request headers',
    [
      {
        name: 'repeated, empty, and with bytes outside ASCII',
        send: get(
          'X-Twice: one',
          'X-Twice: two',
          'X-None:',
          'X-Bytes: caf\xe9 \xc3\xa9',
          'Cookie: a=1',
          'Cookie: b=2',
        ),
      },
      {
        name: 'credentials, cookies, tracing, encodings',
        send: get(
          'Authorization: Bearer abc',
          'Cookie: a=1; b=2',
          'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
          'Accept-Encoding: gzip',
          'Accept: text/html;q=0.1, */*',
          'User-Agent: a/1 (b)',
        ),
      },
      {
        name: '200 headers',
        send: get(...Array.from({ length: 200 }, (_, index) => `X-Field-${index}: ${index}`)),
      },
      {
        name: 'named in `Connection`',
        send: get('Connection: close, X-Private, ,x-other', 'X-Private: 1', 'X-Other: 2', 'X-Kept: 3'),
      },
      { name: '`TE`', send: get('TE: trailers', 'Connection: close, TE') },
      { name: '`Trailer`', send: get('Trailer: X-End') },
      {
        only: 'sockets',
        name: '`Upgrade` with `Connection: Upgrade`, to HTTP/2',
        send: get('Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk'),
      },
      { name: '`Upgrade` without `Connection`', send: get('Upgrade: h2c') },
      { name: '`Keep-Alive`', send: get('Connection: keep-alive', 'Keep-Alive: timeout=5, max=9') },
      { name: '`Proxy-Connection`', send: get('Proxy-Connection: keep-alive') },
      { name: '`Proxy-Authorization`', send: get('Proxy-Authorization: Basic YTpi') },
      {
        name: '`Expect: 100-continue`',
        send: [
          head('POST /any', 'Expect: 100-continue', 'Content-Length: 5'),
          { until: /100 Continue/ },
          '12345',
        ],
      },
      {
        name: '`Expect` with another value',
        send: post('12345', 'Expect: 200-ok'),
        only: 'uvicorn',
        ours: 'refused 417',
        why: 'RFC 9110, 10.1.1, lets a server reject an expectation that it cannot meet.',
      },
    ],
  ],
  [
    'Gateway headers',
    [
      { name: '`Via` to the upstream', send: get(), extract: arrived('via'), ours: 'via: 1.1 focus-breaker' },
      {
        name: '`Via` of an earlier gateway',
        send: get('Via: 1.0 elsewhere'),
        extract: arrived('via'),
        ours: 'via: 1.0 elsewhere, 1.1 focus-breaker',
      },
      {
        name: '`Via` of a client of HTTP/1.0',
        send: ['GET /any HTTP/1.0\r\n\r\n'],
        extract: arrived('via'),
        ours: 'via: 1.0 focus-breaker',
      },
      { name: '`Via` to the client', send: get(), extract: returned('via'), ours: 'via: 1.1 focus-breaker' },
      {
        name: '`Via` to the client, after an earlier one',
        send: get(),
        play: { fields: ['via: 1.1 inner', 'content-length: 0'], body: [] },
        extract: returned('via'),
        ours: 'via: 1.1 inner, 1.1 focus-breaker',
      },
      {
        name: '`X-Forwarded-*`',
        send: get(),
        extract: arrived(...FORWARDED),
        ours: 'x-forwarded-for: 127.0.0.1; x-forwarded-proto: http; x-forwarded-host: client.example',
      },
      {
        name: '`X-Forwarded-*` of an untrusted peer',
        send: get(...EARLIER),
        extract: arrived(...FORWARDED),
        ours: 'x-forwarded-for: 127.0.0.1; x-forwarded-proto: http; x-forwarded-host: client.example',
      },
      {
        name: '`X-Forwarded-*` of a trusted peer',
        send: get(...EARLIER),
        options: TRUSTING,
        extract: arrived(...FORWARDED),
        ours: 'x-forwarded-for: 203.0.113.9, 127.0.0.1; x-forwarded-proto: https; x-forwarded-host: lab.example',
      },
      {
        name: 'the client that uvicorn sees, for an untrusted peer',
        send: get(...EARLIER),
        only: 'uvicorn',
        extract: whoUvicornSees,
        ours: 'not the address in the header',
      },
      {
        name: '`X-Forwarded-For` of a trusted peer, in two lines',
        send: get('X-Forwarded-For: 203.0.113.9', 'X-Forwarded-For: 203.0.113.10, 203.0.113.11'),
        options: TRUSTING,
        extract: arrived('x-forwarded-for'),
        ours: 'x-forwarded-for: 203.0.113.9, 203.0.113.10, 203.0.113.11, 127.0.0.1',
      },
      {
        name: '`Forwarded` of an untrusted peer',
        send: get('Forwarded: for=203.0.113.9'),
        extract: arrived('forwarded'),
        ours: 'none',
      },
      {
        name: '`Forwarded` of a trusted peer',
        send: get('Forwarded: for=203.0.113.9'),
        options: TRUSTING,
        extract: arrived('forwarded'),
        ours: 'forwarded: for=203.0.113.9, for=127.0.0.1;proto=http',
      },
      {
        name: '`X-Real-IP`, `X-Forwarded-Prefix` and `-Port` of an untrusted peer',
        send: get('X-Real-IP: 203.0.113.9', 'X-Forwarded-Prefix: /a', 'X-Forwarded-Port: 1'),
        extract: arrived('x-real-ip', 'x-forwarded-prefix', 'x-forwarded-port'),
        ours: 'none',
      },
      {
        name: '`Host` at the upstream',
        send: get(),
        extract: ({ seen }) =>
          /^127\.0\.0\.1:\d+$/.test(seen[0]?.fields.find(([name]) => name === 'host')?.[1] ?? '')
            ? "the upstream's"
            : "the client's",
        ours: "the upstream's",
      },
    ],
  ],
  [
    'Response statuses and headers',
    [
      answering('200 without body and media type', 200, []),
      answering('201 with `Location`', 201, ['location: /job/1'], '{}'),
      answering('204', 204, []),
      answering('206 with its range', 206, ['content-range: bytes 1-2/9'], 'bc'),
      answering('205', 205, []),
      answering('208', 208, ['content-type: application/json'], '[]'),
      answering('304 with a length', 304, ['content-length: 12', 'etag: "seen"']),
      answering('301 to a path', 301, ['location: /elsewhere?x=%zz#y']),
      answering('302 to a relative path', 302, ['location: ../else']),
      answering('307 to elsewhere', 307, ['location: http://else.example/x']),
      answering('308 to elsewhere', 308, ['location: //else.example/x', 'content-location: /y']),
      answering('401 with its challenges', 401, ['www-authenticate: Basic', 'www-authenticate: Bearer']),
      answering('405 with `Allow`', 405, ['allow: GET, BREW']),
      ...[400, 404, 409, 413, 418, 422, 425, 429, 451, 500, 501, 502, 503, 504].map(status =>
        answering(
          String(status),
          status,
          ['retry-after: 1', 'content-type: application/json'],
          '{"error":"x"}',
        ),
      ),
      answering('599', 599, ['content-type: text/plain'], 'odd'),
      {
        name: '503 for a `POST`',
        send: post('{}', 'Content-Type: application/json'),
        play: { status: 503, fields: ['retry-after: 1', 'content-length: 2'], body: ['no'] },
      },
      answering('`Set-Cookie` three times', 200, [
        'set-cookie: a=1; Path=/',
        'set-cookie: b=2',
        'set-cookie: a=3, x',
      ]),
      answering('repeated, empty, and with bytes outside ASCII', 200, [
        'x-twice: one',
        'x-twice: two',
        'x-none:',
        'x-bytes: caf\xe9',
      ]),
      answering(
        'gzip',
        200,
        ['content-encoding: gzip', 'content-type: application/json'],
        '\x1f\x8b\x08\0\xff',
      ),
      answering(
        'a media type with a charset',
        200,
        ['content-type: text/plain; charset=iso-8859-1'],
        'caf\xe9',
      ),
      answering(
        'hop-by-hop: `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Connection`, `TE`, `Upgrade`',
        200,
        [
          ...['keep-alive: timeout=99', 'proxy-authenticate: Basic', 'proxy-connection: keep-alive'],
          ...['te: trailers', 'upgrade: h2c'],
        ],
        'x',
      ),
      answering('`Trailer` with a length', 200, ['trailer: X-End'], 'x'),
      answering(
        'named in `Connection`',
        200,
        ['connection: close, X-Private', 'x-private: 1', 'x-kept: 2'],
        'x',
      ),
      {
        name: 'in chunks',
        send: get(),
        play: { body: ['one', 20, 'two'] },
      },
      raw('102 before the response', [
        'HTTP/1.1 102 Processing\r\n\r\n',
        { pauseMs: 30 },
        'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
      ]),
      raw(
        '102 before the response, to a client of HTTP/1.0',
        ['HTTP/1.1 102 Processing\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'],
        {
          send: ['GET /any HTTP/1.0\r\n\r\n'],
          ours: 'changed: 1xx',
          why: 'HTTP/1.0 has no 1xx; RFC 9110, 15.2, forbids sending one to its clients.',
        },
      ),
      raw(
        '100 before the response, not requested',
        ['HTTP/1.1 100 Continue\r\n\r\n', { pauseMs: 30 }, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'],
        {
          ours: '502',
          limit:
            'not possible with undici, which closes the connection at a 100 and has no option for it. RFC 9110, 15.2, requires a client to accept a 1xx that it does not expect. uvicorn sends a 100 only on request, and focus-breaker, which handles `Expect` itself, never requests one.',
        },
      ),
      raw('103 with `Link`, twice', [
        'HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n',
        { pauseMs: 30 },
        'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
      ]),
      raw('103 with other headers, and with hop-by-hop headers', [
        'HTTP/1.1 103 Early Hints\r\nX-A: 1\r\nX-A: 2\r\nConnection: X-B\r\nX-B: 3\r\nKeep-Alive: timeout=9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
      ]),
      raw(
        '101, not requested',
        [
          'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n',
          { end: 'half' },
        ],
        { ours: '502' },
      ),
      raw('a body that ends with the connection', ['HTTP/1.0 200 OK\r\n\r\nto the end', { end: 'half' }]),
      raw('trailers after chunks', [
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n2\r\nok\r\n0\r\nX-End: 1\r\nX-More: a\r\n\r\n',
      ]),
      raw('a status above 599', ['HTTP/1.1 600 Beyond\r\nContent-Length: 0\r\n\r\n'], { ours: '502' }),
      raw('a custom reason', ['HTTP/1.1 200 Well done\r\nContent-Length: 0\r\n\r\n']),
      raw('an empty reason', ['HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n'], {
        extract: ({ answers }) => answers[0]?.line ?? 'nothing',
        ours: 'HTTP/1.1 200 OK',
      }),
      raw('a body that is cut off', [
        'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf',
        { pauseMs: 50 },
        { end: 'reset' },
      ]),
      raw('chunks that are cut off', [
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n',
        { pauseMs: 50 },
        { end: 'reset' },
      ]),
      raw('the connection closes without a response', [{ end: 'half' }], { ours: '502' }),
      raw('not HTTP', ['SSH-2.0-OpenSSH_9.2\r\n\r\n', { pauseMs: 20 }, { end: 'half' }], { ours: '502' }),
      raw('more than its length', ['HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n'], {
        extract: ({ answers }) => answers.map(({ text }) => text).join(),
        ours: 'ok',
      }),
      raw(
        'both a length and chunks',
        ['HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
        { ours: '502' },
      ),
    ],
  ],
  [
    'HEAD, ranges, conditionals, trailers',
    [
      {
        name: '`HEAD`, response with a length',
        send: [head('HEAD /any')],
        play: { fields: ['content-length: 5'], body: ['hello'] },
      },
      {
        name: '`HEAD`, response without a length',
        send: [head('HEAD /any')],
        play: { fields: [], body: [] },
        only: 'sockets',
      },
      {
        name: '`HEAD`, response 404',
        send: [head('HEAD /any')],
        play: { status: 404, fields: ['content-length: 9'], body: [] },
        only: 'sockets',
      },
      {
        name: '`HEAD` and a `GET` after it',
        send: [head('HEAD /any', 'Connection: keep-alive'), { until: /\r\n\r\n/ }, head('GET /any')],
      },
      {
        name: '`Range` and `If-Range`',
        send: get('Range: bytes=1-2', 'If-Range: "a"'),
        play: { status: 206, fields: ['content-range: bytes 1-2/9', 'content-length: 2'], body: ['bc'] },
      },
      {
        name: 'several ranges',
        send: get('Range: bytes=0-0,-1'),
        play: {
          status: 206,
          fields: ['content-type: multipart/byteranges; boundary=b', 'content-length: 3'],
          body: ['--b'],
        },
      },
      {
        name: 'an invalid range, 416',
        send: get('Range: bytes=99-'),
        play: { status: 416, fields: ['content-range: bytes */9', 'content-length: 0'], body: [] },
      },
      {
        name: '`If-None-Match`, 304',
        send: get('If-None-Match: "a", W/"b"', 'If-Modified-Since: Tue, 01 Jul 2025 00:00:00 GMT'),
        play: { status: 304, fields: ['etag: "a"'], body: [] },
      },
      {
        name: '304 with a length, and a request after it',
        send: [head('GET /any', 'Connection: keep-alive'), { until: /\r\n\r\n/ }, head('GET /any')],
        play: { status: 304, fields: ['etag: "a"', 'content-length: 12'], body: [] },
      },
      {
        name: '`If-Match`, 412',
        send: [`${head('PUT /any', 'If-Match: "a"', 'Content-Length: 1')}x`],
        play: { status: 412, fields: ['content-length: 0'], body: [] },
      },
      {
        name: 'request trailers',
        send: [
          head('POST /any', 'Transfer-Encoding: chunked', 'Trailer: X-End') +
            '2\r\nok\r\n0\r\nX-End: 1\r\n\r\n',
        ],
        only: 'sockets',
        ours: 'changed: request trailers',
        limit:
          'not possible with undici, which does not send trailers. RFC 9110, 6.5.1, lets a gateway drop them.',
      },
    ],
  ],
  [
    'Connections',
    [
      { name: 'HTTP/1.0', send: ['GET /any HTTP/1.0\r\nHost: client.example\r\n\r\n'] },
      {
        name: 'HTTP/1.0, response in chunks',
        send: ['GET /any HTTP/1.0\r\n\r\n'],
        play: { body: ['one', 20, 'two'] },
      },
      { name: 'HTTP/1.0 with a body', send: ['POST /any HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc'] },
      {
        name: 'HTTP/1.0 with `Connection: keep-alive`',
        send: [
          'GET /any HTTP/1.0\r\nConnection: keep-alive\r\n\r\n',
          { until: /ok/ },
          'GET /any HTTP/1.0\r\n\r\n',
        ],
        only: 'sockets',
        play: { fields: ['content-length: 2', 'connection: keep-alive'], body: ['ok'] },
      },
      { name: '`Connection: close`', send: get() },
      {
        name: '`Connection: close`, response with `Connection: keep-alive`',
        send: get(),
        only: 'sockets',
        play: {
          fields: ['connection: keep-alive', 'keep-alive: timeout=5', 'content-length: 2'],
          body: ['ok'],
        },
        extract: ({ closed }) => (closed ? 'closed' : 'left open'),
        ours: 'closed',
      },
      {
        name: 'two requests, one after the other',
        send: [head('GET /1', 'Connection: keep-alive'), { until: /ok/ }, head('GET /2')],
      },
      {
        name: 'three requests, pipelined',
        send: [
          head('GET /1', 'Connection: keep-alive') +
            head('POST /2', 'Connection: keep-alive', 'Content-Length: 3') +
            'abc' +
            head('GET /3'),
        ],
      },
      {
        name: 'a request pipelined after one with `Connection: close`',
        send: [head('GET /1') + head('GET /2')],
        only: 'uvicorn',
        extract: statuses,
        ours: '200',
        why: "Neither Node's parser nor uvicorn's accepts anything after the last request; the first gets its response.",
      },
      {
        name: 'bytes that are not a request, during a response',
        send: [head('GET /any', 'Connection: keep-alive'), { until: /begun/ }, 'NONSENSE\r\n\r\n'],
        play: { fields: ['content-length: 405'], body: ['begun', 400, 'x'.repeat(400)] },
        only: 'uvicorn',
        extract: ({ answers }) => {
          const [first] = answers
          if (first?.text.includes('HTTP/1.1')) return 'another response in the middle of it'
          return first?.whole ? 'whole' : 'cut off'
        },
        ours: 'whole',
        why: 'They get their 400 after that response.',
      },
      {
        name: 'a head that arrives in pieces',
        send: [
          'GE',
          { pauseMs: 20 },
          'T /any HT',
          { pauseMs: 20 },
          'TP/1.1\r',
          { pauseMs: 20 },
          `\nHost: h\r\n${CLOSE}\r\n\r`,
          { pauseMs: 20 },
          '\n',
        ],
      },
      {
        name: 'empty lines before a request',
        send: [`\r\n\r\n${head('GET /any')}`],
        only: 'uvicorn',
        ours: '200, forwarded',
        why: 'RFC 9112, 2.2, asks a server to accept them.',
      },
      {
        name: 'a client that closes its half after the request',
        send: [head('GET /any'), { end: 'half' }],
        play: { body: [100, 'late'] },
        only: 'sockets',
        ours: 'closed without a response',
        why: 'Node treats a client that has closed its half as gone, as nginx does.',
      },
    ],
  ],
  [
    'Timeouts: every timeout of focus-breaker is at most one second in these rows',
    [
      {
        name: 'a body that arrives in pieces, taking longer than every timeout',
        send: [
          `${head('POST /any', 'Content-Length: 5')}a`,
          ...drip('b', 4, 500).map(part => (typeof part === 'number' ? { pauseMs: part } : part)),
        ],
        slow: true,
        options: HURRIED,
      },
      {
        name: 'a stream that takes longer than every timeout',
        send: get(),
        play: { fields: ['content-type: text/plain'], body: drip('piece ', 6, 450) },
        slow: true,
        options: HURRIED,
      },
      {
        name: 'server-sent events with pauses longer than every timeout, `upstream.bodyTimeoutMs` off',
        send: get('Accept: text/event-stream'),
        play: {
          fields: ['content-type: text/event-stream', 'cache-control: no-store'],
          body: ['data: 1\n\n', 1800, 'id: 2\ndata: 2\n\n', 700, ': bye\n\n'],
        },
        slow: true,
        options: { ...HURRIED, 'upstream.bodyTimeoutMs': '0' },
      },
      {
        name: 'a response that pauses for longer than `upstream.bodyTimeoutMs`',
        send: get(),
        play: { body: ['a', 2400, 'b'] },
        slow: true,
        options: { ...HURRIED, 'upstream.bodyTimeoutMs': '300' },
        only: 'sockets',
        ours: 'changed: cut off',
        why: 'This is the purpose of the limit.',
      },
      {
        name: 'a response whose head arrives later than `upstream.headersTimeoutMs`',
        send: get(),
        play: { raw: [{ pauseMs: 1900 }, 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'] },
        slow: true,
        options: { ...HURRIED, 'upstream.headersTimeoutMs': '200' },
        only: 'sockets',
        ours: '504',
        why: 'This is the purpose of the limit.',
      },
      {
        name: 'a body that pauses for longer than `server.bodyPauseTimeoutMs`',
        send: [`${head('POST /any', 'Content-Length: 2')}a`, { pauseMs: 1500 }, 'b'],
        slow: true,
        options: HURRIED,
        ours: '408',
        only: 'sockets',
        why: 'This is the purpose of the limit.',
      },
      {
        name: 'a head that takes longer than `server.headTimeoutMs`',
        send: ['GET /any HTTP/1.1\r\nHost: client.example\r\n', { until: /408/ }],
        slow: true,
        options: HURRIED,
        extract: observed => statuses(observed) || 'waits',
        ours: '408',
        why: 'This is the purpose of the limit.',
      },
      {
        name: 'a client that reads nothing for longer than every timeout',
        send: [head('GET /any'), { until: /200/ }, { stopReadingMs: 2400 }],
        play: { fields: [`content-length: ${MEGABYTES_20}`], body: [{ bytes: MEGABYTES_20 }] },
        slow: true,
        only: 'sockets',
        options: HURRIED,
      },
      {
        name: 'an upstream that reads nothing for longer than `server.bodyPauseTimeoutMs`',
        send: [head('PUT /any', `Content-Length: ${MEGABYTES_20}`), { bytes: MEGABYTES_20 }],
        play: { holdMs: 2400 },
        slow: true,
        only: 'sockets',
        options: { 'server.bodyPauseTimeoutMs': '500' },
      },
      {
        name: 'an upstream that reads nothing for longer than `upstream.headersTimeoutMs`',
        send: [head('PUT /any', `Content-Length: ${MEGABYTES_20}`), { bytes: MEGABYTES_20 }],
        play: { holdMs: 2400 },
        slow: true,
        only: 'sockets',
        options: { ...HURRIED, 'upstream.headersTimeoutMs': '1000' },
        extract: statuses,
        ours: '504',
        why: 'This is the purpose of the limit.',
      },
      {
        name: 'a WebSocket that is silent for longer than every timeout',
        send: [webSocket(), { pauseMs: 1500 }, PING, { until: ECHO }, BYE],
        slow: true,
        options: HURRIED,
        only: 'uvicorn',
      },
    ],
  ],
  [
    'WebSocket',
    [
      {
        name: 'handshake with its headers, a message, and a close',
        send: [
          webSocket(
            'Sec-WebSocket-Protocol: chat, other',
            'Authorization: Bearer abc',
            'Origin: http://client.example',
            'Cookie: a=1',
            'X-Own: 1',
          ),
          { until: /101/ },
          PING,
          { until: ECHO },
          BYE,
        ],
        only: 'uvicorn',
      },
      {
        name: 'a message from the server at once',
        send: [webSocket(), { until: /hello/ }, BYE],
        play: { webSocket: 'greet' },
        only: 'uvicorn',
      },
      {
        name: 'a message from the client at once, after its handshake',
        send: [webSocket() + PING],
        play: { raw: [`${SWITCH}\r\n`, { pauseMs: 50 }, { end: 'half' }] },
        only: 'sockets',
      },
      {
        name: 'a client that closes its connection without a close frame',
        send: [webSocket(), { until: /101/ }, PING, { until: ECHO }, { end: 'half' }],
        only: 'uvicorn',
      },
      {
        name: 'closed by the server at once',
        send: [webSocket(), { until: FAREWELL }, BYE],
        play: { webSocket: 'close' },
        only: 'uvicorn',
      },
      {
        name: 'a message of 60,000 bytes, and a close with a custom code',
        send: [
          webSocket(),
          { until: /101/ },
          `\x81\xfe\xea\x60\0\0\0\0${'x'.repeat(60_000)}`,
          { until: /echo:x{60000}$/ },
          LEAVE,
        ],
        only: 'uvicorn',
      },
      {
        name: 'another version',
        send: [head('GET /ws', ...HANDSHAKE.map(field => field.replace('13', '8')))],
        only: 'uvicorn',
        ours: 'refused 426',
        why: "This is uvicorn's response.",
      },
      { name: 'refused by the server', send: [webSocket()], play: { webSocket: 'refuse' }, only: 'uvicorn' },
      {
        name: 'a client that disconnects without a close',
        send: [webSocket(), { until: /101/ }, PING, { until: ECHO }, { end: 'reset' }],
        only: 'uvicorn',
        extract: ({ seen }) => seen[0]?.tunnel || 'nothing',
        ours: 'ping',
        why: 'A reset by the client reaches the upstream as a normal end of the connection, which uvicorn with wsproto does not report to its application.',
      },
      {
        name: 'early bytes from the server, with headers of its own',
        send: [webSocket(), { until: /early/ }, { end: 'reset' }],
        play: {
          raw: [
            `${SWITCH}Sec-WebSocket-Accept: x\r\nSec-WebSocket-Extensions: y\r\nSet-Cookie: a=1\r\n\r\nearly`,
          ],
        },
        only: 'sockets',
      },
      {
        name: 'an upstream that disconnects',
        send: [webSocket(), { until: /101/ }],
        play: { raw: [`${SWITCH}\r\nlast`, { pauseMs: 50 }, { end: 'half' }] },
        only: 'sockets',
      },
      {
        name: 'an upstream that is reset',
        send: [webSocket(), { until: /101/ }],
        play: { raw: [`${SWITCH}\r\nlast`, { pauseMs: 50 }, { end: 'reset' }] },
        only: 'sockets',
      },
      {
        name: 'an upstream that responds with 200',
        send: [webSocket('Connection: close')],
        play: { raw: ['HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno'] },
        only: 'sockets',
      },
      {
        name: 'an upstream that disconnects before its response',
        send: [webSocket()],
        play: { raw: [{ end: 'reset' }] },
        only: 'sockets',
        ours: '502',
      },
    ],
  ],
]

function statuses({ answers }: Pick<Observed, 'answers'>): string {
  return answers.map(statusOf).join(', ')
}
