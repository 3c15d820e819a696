import assert from 'node:assert/strict'
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import { test } from 'node:test'
import { trustedPeers } from '../../src/config/peers.js'
import { addressOf, clientView, plainAddress } from '../../src/proxy/client-view.js'

const trusts = trustedPeers(['192.0.2.0/24', 'loopback'])

/** A request from this peer with these headers. */
function from(peer: string, headers: Readonly<Record<string, string>>): IncomingMessage {
  const socket = new Socket()
  Object.defineProperty(socket, 'remoteAddress', { value: peer })
  const received = new IncomingMessage(socket)
  Object.assign(received.headers, headers)
  return received
}

const ADDRESSED = { host: 'inner.example:8080', clientPrefix: '/fs' }

type Value = { readonly sent?: string; readonly means?: string }

const PROTOS: readonly Value[] = [
  {},
  { sent: 'https', means: 'https' },
  { sent: 'HTTP', means: 'http' },
  { sent: 'http, https', means: 'https' },
  // What gateways send for a WebSocket handshake.
  { sent: 'wss', means: 'https' },
  { sent: 'ws', means: 'http' },
  { sent: '' },
  { sent: 'java script' },
  { sent: 'https:' },
  { sent: 'ftp' },
]

const HOSTS: readonly Value[] = [
  {},
  { sent: 'lab.example', means: 'lab.example' },
  { sent: 'elsewhere.example, lab.example', means: 'lab.example' },
  { sent: 'lab.example:9443', means: 'lab.example:9443' },
  { sent: '[2001:db8::1]', means: '[2001:db8::1]' },
  { sent: '' },
  { sent: 'lab.example/path' },
  { sent: 'who@lab.example' },
  { sent: 'lab example' },
  { sent: 'lab.example:port' },
  { sent: '[::1' },
]

const PORTS: readonly Value[] = [
  {},
  { sent: '8443', means: '8443' },
  { sent: '443', means: '443' },
  { sent: '80', means: '80' },
  { sent: '80, 8443', means: '8443' },
  { sent: '0' },
  { sent: '65536' },
  { sent: '-1' },
  { sent: '8443/' },
  { sent: '' },
]

const PREFIXES: readonly Value[] = [
  {},
  { sent: '/gw', means: '/gw' },
  { sent: '/gw/', means: '/gw' },
  { sent: '/a/b%20c', means: '/a/b%20c' },
  { sent: '/' },
  { sent: '' },
  { sent: 'gw' },
  { sent: '//evil.example' },
  { sent: '/\\evil.example' },
  { sent: '/a/../b' },
  { sent: '/gw?x' },
  { sent: 'https://evil.example' },
]

const FORWARDED: readonly (Value & { readonly scheme?: string; readonly host?: string })[] = [
  {},
  {
    sent: 'for=203.0.113.9;proto=https;host=told.example:444',
    means: '203.0.113.9',
    scheme: 'https',
    host: 'told.example:444',
  },
]

function headersOf(values: Readonly<Record<string, Value>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values).flatMap(([name, { sent }]) => (sent === undefined ? [] : [[name, sent]])),
  )
}

const DEFAULT_PORTS: Readonly<Record<string, string>> = { http: '80', https: '443' }

test('well-formed forwarding headers of a trusted peer are used, and those of any other peer are ignored', () => {
  let combinations = 0
  for (const proto of PROTOS) {
    for (const host of HOSTS) {
      for (const port of PORTS) {
        for (const prefix of PREFIXES) {
          for (const forwarded of FORWARDED) {
            combinations += 1
            const headers = headersOf({
              'x-forwarded-proto': proto,
              'x-forwarded-host': host,
              'x-forwarded-port': port,
              'x-forwarded-prefix': prefix,
              forwarded,
            })
            const what = JSON.stringify(headers)
            const stranger = clientView(from('198.51.100.7', headers), ADDRESSED, trusts)
            assert.deepEqual(
              [stranger.address, stranger.scheme, stranger.host, stranger.port, stranger.prefix],
              ['198.51.100.7', 'http', 'inner.example:8080', undefined, '/fs'],
              what,
            )
            assert.deepEqual([stranger.earlier, stranger.forwarded], [[], undefined], what)
            const view = clientView(from('192.0.2.1', headers), ADDRESSED, trusts)
            const isAlone = proto.sent === undefined && host.sent === undefined
            const scheme = (isAlone ? forwarded.scheme : proto.means) ?? 'http'
            assert.equal(view.scheme, scheme, what)
            const statedHost = isAlone ? forwarded.host : host.means
            const ownPort = /:(\d+)$/.exec(statedHost ?? '')?.[1]
            assert.equal(view.host, expectedHost(statedHost, ownPort, port.means, scheme), what)
            assert.equal(view.port, port.means === undefined ? undefined : (ownPort ?? port.means), what)
            assert.equal(view.prefix, `${prefix.means ?? ''}/fs`, what)
            assert.equal(view.ownPrefix, '/fs', what)
            assert.equal(view.address, isAlone ? (forwarded.means ?? '192.0.2.1') : '192.0.2.1', what)
          }
        }
      }
    }
  }
  assert.equal(combinations, PROTOS.length * HOSTS.length * PORTS.length * PREFIXES.length * FORWARDED.length)
})

function expectedHost(
  stated: string | undefined,
  ownPort: string | undefined,
  port: string | undefined,
  scheme: string,
): string {
  if (stated === undefined) return `inner.example:${port ?? '8080'}`
  if (ownPort !== undefined || port === undefined || port === DEFAULT_PORTS[scheme]) return stated
  return `${stated}:${port}`
}

test('the client address is the nearest one that does not belong to a trusted gateway', () => {
  for (const [stated, address] of [
    ['203.0.113.9', '203.0.113.9'],
    ['198.51.100.1, 203.0.113.9', '203.0.113.9'],
    ['203.0.113.9, 192.0.2.8, 192.0.2.9', '203.0.113.9'],
    ['192.0.2.8', '192.0.2.8'],
    ['invented, 203.0.113.9', '203.0.113.9'],
    ['invented', '192.0.2.1'],
    ['invented, 192.0.2.8', '192.0.2.8'],
    ['203.0.113.9:51000', '203.0.113.9'],
    ['[2001:db8::9]:51000', '2001:db8::9'],
    ['::ffff:203.0.113.9', '203.0.113.9'],
    ['::ffff:cb00:7109', '203.0.113.9'],
    ['', '192.0.2.1'],
    [',', '192.0.2.1'],
  ] as const) {
    const named = from('192.0.2.1', { 'x-forwarded-for': stated })
    assert.equal(addressOf(named, trusts), address, stated)
    assert.equal(clientView(named, ADDRESSED, trusts).address, address, stated)
    const elements = stated.split(',').map(item => (item.trim() === '' ? '' : `for="${item.trim()}"`))
    assert.equal(
      addressOf(from('192.0.2.1', { forwarded: elements.join(',') }), trusts),
      address,
      `Forwarded: ${stated}`,
    )
    assert.equal(
      addressOf(from('198.51.100.7', { 'x-forwarded-for': stated }), trusts),
      '198.51.100.7',
      stated,
    )
  }
})

test('Forwarded is parsed according to RFC 7239, and a malformed one is ignored', () => {
  const host = 'inner.example:8080'
  for (const [forwarded, ...expected] of [
    ['for=203.0.113.9', '203.0.113.9', 'http', host],
    ['For="[2001:db8::9]:4711";Proto=HTTPS', '2001:db8::9', 'https', host],
    ['for=203.0.113.9;host="lab.example:81"', '203.0.113.9', 'http', 'lab.example:81'],
    ['for=203.0.113.9;host=lab.example:81', '203.0.113.9', 'http', 'lab.example:81'],
    ['for=unknown;proto=https', '192.0.2.1', 'https', host],
    ['for=_hidden;proto=https', '192.0.2.1', 'https', host],
    ['by=192.0.2.1;proto=https', '192.0.2.1', 'https', host],
    [', for=203.0.113.9 ; proto=https ,', '203.0.113.9', 'https', host],
    [';;for=203.0.113.9;;proto=https;', '203.0.113.9', 'https', host],
    ['for=203.0.113.10;, ; for=203.0.113.9 ; ;proto=https ; ,;', '203.0.113.9', 'https', host],
    [';', '192.0.2.1', 'http', host],
    // The value of the gateway nearest to the client counts, if every gateway after it is trusted.
    [
      'for=203.0.113.9;proto=https;host=lab.example, for=192.0.2.8;proto=http;host=mid.example',
      '203.0.113.9',
      'https',
      'lab.example',
    ],
    ['for=203.0.113.9;proto=https, for=198.51.100.1;proto=http', '198.51.100.1', 'http', host],
    ['for=203.0.113.9;proto=ftp', '203.0.113.9', 'http', host],
    ['for=203.0.113.9;host="not a host"', '203.0.113.9', 'http', host],
    ['for=203.0.113.9;proto=java script', '192.0.2.1', 'http', host],
    ['for=203.0.113.9;for=203.0.113.10', '192.0.2.1', 'http', host],
    ['for="203.0.113.9', '192.0.2.1', 'http', host],
    ['203.0.113.9', '192.0.2.1', 'http', host],
    ['', '192.0.2.1', 'http', host],
  ] as const) {
    const view = clientView(from('192.0.2.1', { forwarded }), ADDRESSED, trusts)
    assert.deepEqual([view.address, view.scheme, view.host], expected, forwarded)
  }
})

test('a Forwarded next to X-Forwarded-* is passed on if both agree', () => {
  const others = {
    'x-forwarded-for': '203.0.113.9',
    'x-forwarded-proto': 'https',
    'x-forwarded-host': 'lab.example',
  }
  for (const [forwarded, isPassedOn] of [
    ['for=203.0.113.9;proto=https;host=LAB.example', true],
    ['for=203.0.113.9', true],
    ['for=203.0.113.10', false],
    ['for=203.0.113.9;proto=http', false],
    ['for=203.0.113.9;host=evil.example', false],
    ['for', false],
  ] as const) {
    const view = clientView(from('192.0.2.1', { ...others, forwarded }), ADDRESSED, trusts)
    assert.equal(view.forwarded, isPassedOn ? forwarded : undefined, forwarded)
    assert.deepEqual([view.address, view.scheme, view.host], ['203.0.113.9', 'https', 'lab.example'])
  }
})

test('a Forwarded next to only X-Forwarded-For adds nothing to the request to focus-server', () => {
  for (const forwarded of ['for=203.0.113.9;proto=https', 'for=203.0.113.9;host=evil.example']) {
    const headers = { 'x-forwarded-for': '203.0.113.9', forwarded }
    const view = clientView(from('192.0.2.1', headers), ADDRESSED, trusts)
    assert.deepEqual([view.scheme, view.host, view.forwarded], ['http', 'inner.example:8080', undefined])
  }
})

test('an IPv4-mapped IPv6 address is shown as IPv4, and any other address unchanged', () => {
  for (const [text, shown] of [
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::FFFF:192.0.2.1', '192.0.2.1'],
    ['::ffff:c000:201', '192.0.2.1'],
    ['0:0:0:0:0:ffff:c000:0201', '192.0.2.1'],
    ['[::ffff:192.0.2.1]:80', '192.0.2.1'],
    ['192.0.2.1:80', '192.0.2.1'],
    ['[2001:db8::1]:80', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
    ['2001:db8::ffff:1', '2001:db8::ffff:1'],
    ['::1', '::1'],
    ['ffff:', 'ffff:'],
    ['anything', 'anything'],
    ['', ''],
  ] as const) {
    assert.equal(plainAddress(text), shown)
  }
  assert.equal(
    clientView(from('::ffff:192.0.2.1', { 'x-forwarded-proto': 'https' }), ADDRESSED, trusts).scheme,
    'https',
  )
})
