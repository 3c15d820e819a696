import assert from 'node:assert/strict'
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import { test } from 'node:test'
import { headerOf, requestHeaders, responseHeaders } from '../../src/proxy/headers.js'
import { viewFrom } from '../support/client-view.js'

const UPSTREAM = new URL('http://192.0.2.5:5000')

const VIEW = viewFrom('192.0.2.1')

/** A response's headers as undici gives them. */
const raw = (...lines: readonly string[]) =>
  lines.flatMap(line => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1).trim()].map(text => Buffer.from(text, 'latin1'))
  })

/** Names and values as lines. */
const lines = (headers: readonly string[]) =>
  headers.flatMap((name, index) => (index % 2 === 0 ? [`${name}: ${headers[index + 1]}`] : []))

/** The headers that the upstream gets of a request with these. */
function sent(...given: readonly string[]): readonly string[] {
  const received = new IncomingMessage(new Socket())
  received.httpVersion = '1.1'
  received.rawHeaders = raw(...given).map(bytes => bytes.toString('latin1'))
  // As Node makes them of what its parser gives it.
  for (const line of lines(received.rawHeaders)) {
    const name = line.slice(0, line.indexOf(':')).toLowerCase()
    const value = line.slice(name.length + 2)
    const earlier = received.headers[name]
    received.headers[name] = earlier === undefined ? value : `${earlier}, ${value}`
  }
  return lines(requestHeaders(received, viewFrom(''), { upstreamUrl: UPSTREAM }))
}

/** What is added to every request. */
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

test('what belongs to one connection is left behind in both directions, also what Connection names', () => {
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

test('several Connection headers are read as one', () => {
  const given = ['Connection: x-a', 'X-A: 1', 'X-B: 2', 'Connection: X-B', 'X-C: 3']
  assert.deepEqual(sent(...given), ['Host: 192.0.2.5:5000', 'X-C: 3', ...ADDED])
  assert.deepEqual(lines(responseHeaders(raw(...given), UPSTREAM, VIEW)), [
    'x-c: 3',
    'via: 1.1 focus-breaker',
  ])
})

test('headers that come several times stay lines of their own, in their order', () => {
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

test('Via is one line that names every gateway, ours last', () => {
  const given = ['Via: 1.0 one', 'Server: uvicorn', 'via: 1.1 two']
  assert.deepEqual(lines(responseHeaders(raw(...given), UPSTREAM, VIEW)), [
    'server: uvicorn',
    'via: 1.0 one, 1.1 two, 1.1 focus-breaker',
  ])
  assert.equal(sent(...given).at(-1), 'Via: 1.0 one, 1.1 two, 1.1 focus-breaker')
})

test('bytes beyond ASCII are kept as they are', () => {
  const every = String.fromCharCode(...Array.from({ length: 128 }, (_, index) => 128 + index))
  assert.deepEqual(responseHeaders(raw(`X-Text: a${every}b`), UPSTREAM, VIEW).slice(0, 2), [
    'x-text',
    `a${every}b`,
  ])
  assert.ok(sent(`X-Text: a${every}b`).includes(`X-Text: a${every}b`))
})

test('a header is found by its name in any case, and all of its values are given', () => {
  const headers = raw('X-A: 1', 'X-AB: 2', 'x-a: 3')
  assert.equal(headerOf(headers, 'x-a'), '1, 3')
  assert.equal(headerOf(headers, 'x-b'), undefined)
})
