import assert from 'node:assert/strict'
import { test } from 'node:test'
import { at, startProxy, until } from '../support/harness.js'
import { exchange, field, rawUpstream, response } from '../support/raw.js'

/*
 * The address and the identity of the client are decided once: redirects, the headers that focus-server gets, and the
 * list of refused clients agree.
 */

/** Headers of a gateway, and their meaning if it is trusted. */
const FORWARDING_HEADERS = [
  [[], '127.0.0.1', 'http://lab.example:8080'],
  [['X-Forwarded-For: 203.0.113.1', 'X-Forwarded-Proto: https'], '203.0.113.1', 'https://lab.example:8080'],
  [['X-Forwarded-For: 203.0.113.2', 'X-Forwarded-Host: out.example'], '203.0.113.2', 'http://out.example'],
  [['X-Forwarded-Port: 8443', 'X-Forwarded-Proto: wss'], '127.0.0.1', 'https://lab.example:8443'],
  [['X-Forwarded-Proto: java script', 'X-Forwarded-Host: a b'], '127.0.0.1', 'http://lab.example:8080'],
  [['X-Forwarded-Proto: '], '127.0.0.1', 'http://lab.example:8080'],
  [['X-Forwarded-Prefix: /gw'], '127.0.0.1', 'http://lab.example:8080/gw'],
  [['X-Forwarded-Prefix: //evil.example'], '127.0.0.1', 'http://lab.example:8080'],
  [['Forwarded: for=203.0.113.3;proto=https;host=out.example'], '203.0.113.3', 'https://out.example'],
  [['Forwarded: for="[::ffff:203.0.113.4]"'], '203.0.113.4', 'http://lab.example:8080'],
  [['Forwarded: broken'], '127.0.0.1', 'http://lab.example:8080'],
  [
    ['X-Forwarded-For: 203.0.113.5', 'Forwarded: for=203.0.113.6;proto=https;host=evil.example'],
    '203.0.113.5',
    'http://lab.example:8080',
  ],
] as const

for (const isTrusted of [true, false]) {
  test(`the forwarding headers of a peer that is ${isTrusted ? 'trusted are used' : 'not trusted are ignored'}`, async t => {
    const fiber = { there: true }
    const { port, received } = await rawUpstream(
      t,
      ({ socket }) => socket.write(response('307 Go', '', 'Location: /b', 'Content-Location: /c')),
      fiber,
    )
    const proxy = await startProxy(t, {
      upstream: `http://127.0.0.1:${port}`,
      env: {
        FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
        FOCUS_BREAKER_BASE_PATH: '/fs',
        FOCUS_BREAKER_SERVER_TRUST_PROXY: isTrusted ? '[loopback]' : '[]',
      },
    })
    const proxyPort = Number(new URL(proxy.url).port)
    const send = (line: string, headers: readonly string[]) => {
      const fields = ['Host: lab.example:8080', 'Connection: close', 'Content-Length: 0', ...headers]
      return exchange(t, proxyPort, `${line} HTTP/1.1\r\n${fields.join('\r\n')}\r\n\r\n`)
    }
    const cases = FORWARDING_HEADERS.map(([headers, address, url], index) => ({
      headers,
      agent: `User-Agent: ${index}`,
      address: isTrusted ? address : '127.0.0.1',
      base: `${isTrusted ? url : 'http://lab.example:8080'}/fs`,
    }))
    for (const { headers, address, base } of cases) {
      const answer = await send('GET /fs/a', headers)
      const what = headers.join(', ')
      // A redirect that is only a path leads back as well.
      const { origin, pathname, protocol, host } = new URL(base)
      assert.equal(new URL(field(answer, 'location') ?? '', origin).href, `${base}/b`, what)
      assert.equal(field(answer, 'content-location'), `${pathname}/c`, what)
      const { head } = received.at(-1) ?? assert.fail('nothing arrived')
      assert.equal(`${field(head, 'x-forwarded-proto')}:`, protocol, what)
      assert.equal(field(head, 'x-forwarded-host'), host, what)
      assert.equal(field(head, 'x-forwarded-prefix'), pathname === '/fs' ? undefined : pathname, what)
      assert.equal(
        field(head, 'x-forwarded-for'),
        address === '127.0.0.1' ? address : `${address}, 127.0.0.1`,
        what,
      )
    }
    fiber.there = false
    await until(async () => (await fetch(`${proxy.url}/-/fiber`)).status === 503)
    for (const { headers, agent, base } of cases) {
      const refusal = await send('POST /fs/configure', [...headers, agent])
      const { pathname } = new URL(base)
      assert.equal(field(refusal, 'link'), `<${pathname}/-/status>; rel="status"`, headers.join(', '))
    }
    const body: unknown = await (await fetch(`${proxy.url}/-/clients`)).json()
    const clients = at(body, 'clients')
    assert.ok(Array.isArray(clients))
    const shown = clients.map(client => `${at(client, 'userAgent')} ${at(client, 'address')}`)
    const expected = cases.map(({ agent, address }) => `${agent.replace('User-Agent: ', '')} ${address}`)
    // Only ten user agents per address are listed separately.
    if (isTrusted) assert.deepEqual(shown.toSorted(), expected.toSorted())
    else assert.deepEqual([...new Set(clients.map(client => at(client, 'address')))], ['127.0.0.1'])
  })
}

test('slashes in a redirect never make it lead to another host', async t => {
  let location = ''
  const { port } = await rawUpstream(t, ({ socket }) =>
    socket.write(response('307 Go', '', `Location: ${location}`)),
  )
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}/inner` })
  const proxyPort = Number(new URL(proxy.url).port)
  for (const sent of ['/inner//evil.example/a', `http://127.0.0.1:${port}/inner//evil.example/a`]) {
    location = sent
    for (const host of ['lab.example', '']) {
      const answer = await exchange(
        t,
        proxyPort,
        `GET /a HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
      )
      const url = new URL(field(answer, 'location') ?? '', 'http://lab.example/a')
      assert.equal(url.href, 'http://lab.example//evil.example/a', sent)
    }
  }
})
