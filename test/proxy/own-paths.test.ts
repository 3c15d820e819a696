import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sendAll } from '../support/keep-alive.js'
import { ownSpellings } from '../support/own-spellings.js'
import { exchange, proxyTo, rawUpstream, response } from '../support/raw.js'
import { rawRequest } from '../support/raw-request.js'

const TOKEN = 'a-token-of-the-operator'
const OVERRIDE = JSON.stringify({ state: 'closed', reason: 'a test', forSeconds: 60 })
const AUTHORIZATION = `Authorization: Bearer ${TOKEN}`
const HANDSHAKE = [
  ...['Connection: Upgrade', 'Upgrade: websocket'],
  ...['Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==', 'Sec-WebSocket-Version: 13'],
]

/** The request forms in which each spelling is sent. */
const WAYS = [
  { method: 'GET' },
  { method: 'PUT', fields: [AUTHORIZATION], body: OVERRIDE },
  { method: 'DELETE', fields: [AUTHORIZATION] },
  { method: 'POST', body: '{}' },
  { method: 'OPTIONS' },
  { method: 'GET', fields: HANDSHAKE },
] as const

for (const { basePath, base } of [
  { basePath: '', base: '' },
  { basePath: '/focus-server', base: '' },
  { basePath: '/focus-server', base: '/focus-server' },
]) {
  test(`below "${base}/-/" only the literal path is served, and no other spelling is forwarded, with basePath "${basePath}"`, async t => {
    const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'forwarded')))
    const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, { basePath, 'admin.token': TOKEN })
    const url = `http://127.0.0.1:${port}`
    const { others, literal } = ownSpellings(base)
    for (const [index, way] of WAYS.entries()) {
      // All of them with GET; with the other methods, a subset that contains every part of a spelling.
      const targets = others.filter((_, at) => index === 0 || at % 13 === index)
      const answers = await sendAll(
        url,
        targets.map(target => ({ ...way, target })),
      )
      const served = targets.filter((_, at) => !isNoRoute(answers[at]))
      assert.deepEqual(served, [], `${way.method} ${index}`)
    }
    for (const target of others.filter((_, at) => at % 97 === 0)) {
      assert.equal((await rawRequest(url, { method: 'HEAD', target })).status, 404, target)
    }
    for (const target of literal) {
      assert.equal((await rawRequest(url, { method: 'GET', target })).status, 200, target)
    }
    assert.match(
      (await rawRequest(url, { method: 'GET', target: `${base}/-/status` })).body,
      /"override":null/,
    )
    assert.deepEqual(upstream.received, [])
  })
}

test('own routes below the base path are served only in its configured spelling', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'forwarded')))
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, { basePath: '/focus-server' })
  const targets = [
    ...[
      '/FOCUS-SERVER/-/status',
      '/%66ocus-server/-/status',
      '/focus%2Dserver/-/status',
      '//focus-server/-/status',
    ],
    ...[
      '/x/../focus-server/-/status',
      '/focus-server/../-/status',
      '/focus-server/focus-server/../../-/status',
    ],
    ...['/focus-server%2f-/status', '/focus-server\\-\\status', 'http://h/Focus-Server/-/status'],
  ]
  const answers = await sendAll(
    `http://127.0.0.1:${port}`,
    targets.map(target => ({ method: 'GET', target })),
  )
  assert.deepEqual(
    targets.filter((_, at) => !isNoRoute(answers[at])),
    [],
  )
  assert.deepEqual(upstream.received, [])
})

test('a path that resolves below /-/ only after the upstream’s own path is not forwarded', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'forwarded')))
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}/fs`)
  for (const target of ['/../fs/-/override', '/x/../../fs/%2D/override', '/..%2ffs/-/override']) {
    assert.ok(isNoRoute(await rawRequest(`http://127.0.0.1:${port}`, { method: 'PUT', target })), target)
  }
  assert.deepEqual(upstream.received, [])
})

test('names that no gateway resolves to an own route are forwarded byte for byte', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'forwarded')))
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`)
  const targets = [
    ...[
      '/x-/status',
      '/-x/status',
      '/x/-/status',
      '/-;x/status',
      '/;/-/status',
      '/-./status',
      '/-%2e/status',
    ],
    ...['/%252D/status', '/%252d%252fstatus', '/..%252f-/status', '/x?/-/status', '/x?/../-/', '/--/status'],
    ...['/%c0%ad/status', '/-%20/status', '/%ef%bc%8d/status'],
  ]
  for (const target of targets) {
    assert.match(
      await exchange(t, port, `GET ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`),
      /forwarded$/,
    )
  }
  assert.deepEqual(
    upstream.received.map(({ head }) => head.split(' ')[1]),
    targets,
  )
})

test('names below /-/ have only one spelling too', async t => {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'forwarded')))
  const port = await proxyTo(t, `http://127.0.0.1:${upstream.port}`, { 'admin.token': TOKEN })
  const targets = [
    ...['/-/Override', '/-/OVERRIDE', '/-/override.', '/-/override..', '/-/override;x', '/-/override;x=1'],
    ...[
      '/-/override%00',
      '/-/override%20',
      '/-/override%0a',
      '/-/override%3f',
      '/-/override%23',
      '/-/over%72ide',
    ],
    ...[
      '/-/override/',
      '/-/override//',
      '/-/./override',
      '/-/override#',
      '/-/%2e/override',
      '/-/x/..;/override',
    ],
    ...[
      '/-/%256fverride',
      '/-/override/..',
      '/-/override\\',
      '/-/override%5c',
      '/-/\\override',
      '/-/override%2f..%2foverride',
    ],
  ]
  const answers = await sendAll(
    `http://127.0.0.1:${port}`,
    targets.map(target => ({ method: 'PUT', target, fields: [AUTHORIZATION], body: OVERRIDE })),
  )
  // A path that does not resolve to an own route belongs to focus-server.
  const changed = targets.filter((_, at) => answers[at]?.body.includes('"state":"closed"') === true)
  assert.deepEqual(changed, [])
  const status = await rawRequest(`http://127.0.0.1:${port}`, { method: 'GET', target: '/-/status' })
  assert.match(status.body, /"override":null/)
})

function isNoRoute(answer: { readonly status: number; readonly body: string } | undefined): boolean {
  return answer?.status === 404 && answer.body.includes('No such route.')
}
