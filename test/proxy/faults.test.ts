import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import dns from 'node:dns'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createHttpsServer } from 'node:https'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Fault, faultInjector } from '../support/fault-injector.js'
import { at, requireOrSkip, statusOf, until } from '../support/harness.js'
import { exchange, field, portOf, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'

const CLOSE = 'Host: client.example\r\nConnection: close\r\n'
const GET = `GET /faulty HTTP/1.1\r\n${CLOSE}\r\n`
const POST = `POST /configure HTTP/1.1\r\n${CLOSE}Content-Length: 2\r\n\r\n{}`

/** Far above every limit that is set here, and far below the defaults. */
const SOON_MS = 5000

const LIMITS = {
  'upstream.connectTimeoutMs': '400',
  'upstream.headersTimeoutMs': '400',
  'upstream.bodyTimeoutMs': '400',
  'probe.timeoutMs': '400',
  'circuit.unreachableThreshold': '1',
}

/** The response to a request, which must arrive soon. */
async function soon(t: TestContext, port: number, request: string): Promise<string> {
  const startedAt = performance.now()
  const answer = await exchange(t, port, request)
  const tookMs = performance.now() - startedAt
  assert.ok(tookMs < SOON_MS, `it took ${Math.round(tookMs)} ms`)
  return answer
}

/** Checks that the proxy's own routes respond and reveal no address. */
async function ownRoutesAnswer(t: TestContext, proxy: number): Promise<void> {
  for (const path of ['/-/live', '/-/ready', '/-/status']) {
    assert.match(await soon(t, proxy, `GET ${path} HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 200 OK\r\n/, path)
  }
}

function assertFailure(answer: string, status: string, error: string): void {
  assert.ok(answer.startsWith(`HTTP/1.1 ${status}\r\n`), answer)
  assert.equal(field(answer, 'proxy-status'), `focus-breaker; error=${error}`)
  assert.equal(field(answer, 'content-type'), 'application/json')
  assert.doesNotMatch(answer, /127\.0\.0|localhost|ECONN|UND_ERR/)
}

type Row = {
  readonly name: string
  readonly fault: Fault
  /** The status and the error of `Proxy-Status`. Without it the response starts and is then aborted. */
  readonly fails?: readonly [status: string, error: string]
  /** The problem in `/-/status` after a probe that met the same fault. */
  readonly problem: RegExp
}

const rows: readonly Row[] = [
  {
    name: 'accepts and hangs',
    fault: { kind: 'hang' },
    fails: ['504 Gateway Timeout', 'http_response_timeout'],
    problem: /in time|400 ms/,
  },
  {
    name: 'resets before its response',
    fault: { kind: 'reset', where: 'before' },
    fails: ['502 Bad Gateway', 'connection_terminated'],
    problem: /closed before/,
  },
  {
    name: 'resets in the head of its response',
    fault: { kind: 'reset', where: 'head' },
    fails: ['502 Bad Gateway', 'connection_terminated'],
    problem: /closed before/,
  },
  { name: 'resets in the body of its response', fault: { kind: 'reset', where: 'body' }, problem: /./ },
  {
    name: 'closes its half before its response',
    fault: { kind: 'half-close', where: 'before' },
    fails: ['502 Bad Gateway', 'connection_terminated'],
    problem: /closed before/,
  },
  {
    name: 'closes its half in the head of its response',
    fault: { kind: 'half-close', where: 'head' },
    fails: ['502 Bad Gateway', 'connection_terminated'],
    problem: /./,
  },
  {
    name: 'closes its half in the body of its response',
    fault: { kind: 'half-close', where: 'body' },
    problem: /./,
  },
  {
    name: 'stops in the head of its response',
    fault: { kind: 'stall', where: 'head' },
    fails: ['504 Gateway Timeout', 'http_response_timeout'],
    problem: /in time|400 ms/,
  },
  {
    name: 'stops in the body of its response',
    fault: { kind: 'stall', where: 'body' },
    problem: /in time|400 ms/,
  },
  {
    name: 'sends an endless head',
    fault: { kind: 'drip', everyMs: 150 },
    fails: ['504 Gateway Timeout', 'http_response_timeout'],
    problem: /in time|400 ms/,
  },
]
describe('between proxy and upstream', { concurrency: 4 }, () => {
  for (const { name, fault, fails, problem } of rows) {
    test(`an upstream that ${name} affects only its own request, and the status shows it`, async t => {
      const { port, received } = await rawUpstream(t, ({ socket }) =>
        socket.write(response('200 OK', 'a body of a length')),
      )
      const injector = await faultInjector(t, port)
      const proxy = await proxyTo(t, `http://127.0.0.1:${injector.port}`, LIMITS)
      injector.fault = fault
      injector.strikes = /\/(faulty|configure) /
      // Meanwhile, a request to a healthy route.
      const faulty = soon(t, proxy, GET)
      assert.match(
        await soon(t, proxy, `GET /sound HTTP/1.1\r\n${CLOSE}\r\n`),
        /^HTTP\/1\.1 200 [\s\S]*length$/,
      )
      await ownRoutesAnswer(t, proxy)
      const answer = await faulty
      if (fails === undefined) assert.match(answer, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\na b$/)
      else assertFailure(answer, ...fails)
      const url = `http://127.0.0.1:${proxy}`
      assert.equal(at(await statusOf({ url }), 'circuit', 'state'), 'closed')
      // Now the metadata meets the same fault; the failure of a guarded request triggers a probe.
      injector.strikes = /./
      const guarded = await soon(t, proxy, POST)
      if (fails === undefined) assert.match(guarded, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\na b$/)
      else assertFailure(guarded, ...fails)
      assert.equal(injector.requests.filter(line => line.startsWith('POST')).length, 1)
      assert.equal(injector.requests.filter(line => line.includes('/faulty')).length, 1)
      assert.ok(received.length <= 3)
      if (fails !== undefined) {
        const status = await until(async () => {
          const now = await statusOf({ url })
          return at(now, 'reading', 'kind') === 'unreachable' && now
        })
        assert.match(String(at(status, 'reading', 'problem')), problem)
        assert.deepEqual(
          [
            at(status, 'circuit', 'state'),
            at(status, 'circuit', 'cause'),
            at(status, 'upstream', 'reachable'),
          ],
          ['open', 'unreachable', false],
        )
      }
      await until(async () => at(await statusOf({ url }), 'inFlight') === 0)
      injector.fault = { kind: 'none' }
      assert.match(await soon(t, proxy, GET), /^HTTP\/1\.1 200 OK\r\n/)
    })
  }

  const harmless: readonly (readonly [string, Fault])[] = [
    ['sends one byte at a time', { kind: 'drip', everyMs: 2 }],
    ['is late by varying amounts', { kind: 'latency', ms: 50, jitterMs: 100 }],
  ]
  for (const [name, fault] of harmless) {
    test(`an upstream that ${name} is only slow`, async t => {
      const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'x'.repeat(100))))
      const injector = await faultInjector(t, port)
      injector.fault = fault
      const proxy = await proxyTo(t, `http://127.0.0.1:${injector.port}`)
      const answers = await Promise.all(Array.from({ length: 10 }, () => soon(t, proxy, GET)))
      for (const answer of answers) assert.match(answer, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\nx{100}$/)
      const status = await statusOf({ url: `http://127.0.0.1:${proxy}` })
      assert.equal(at(status, 'circuit', 'state'), 'closed')
    })
  }

  test('an upstream that refuses connections gives a 502 at once, and is used again when it is back', async t => {
    const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
    const injector = await faultInjector(t, port)
    const proxy = await proxyTo(t, `http://127.0.0.1:${injector.port}`, LIMITS)
    await injector.refuse()
    assertFailure(await soon(t, proxy, GET), '502 Bad Gateway', 'connection_refused')
    assertFailure(await soon(t, proxy, POST), '502 Bad Gateway', 'connection_refused')
    const url = `http://127.0.0.1:${proxy}`
    const status = await until(async () => {
      const now = await statusOf({ url })
      return at(now, 'reading', 'kind') === 'unreachable' && now
    })
    assert.equal(at(status, 'reading', 'problem'), 'connection refused')
    const refused = await soon(t, proxy, POST)
    assert.match(refused, /^HTTP\/1\.1 503 [\s\S]*"status":"metadata_unavailable"/)
    await ownRoutesAnswer(t, proxy)
    await injector.listen()
    assert.match(await soon(t, proxy, GET), /^HTTP\/1\.1 200 OK\r\n/)
  })

  test('an unanswered TLS handshake is aborted after the connect timeout', async t => {
    const silent = createServer(socket => socket.on('error', () => undefined).resume()).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    t.after(() => silent.close())
    const proxy = await proxyTo(t, `https://127.0.0.1:${portOf(silent)}`, LIMITS)
    assertFailure(await soon(t, proxy, GET), '504 Gateway Timeout', 'connection_timeout')
    await ownRoutesAnswer(t, proxy)
  })

  test('an idle connection is closed before uvicorn would, and the first request after that works', async t => {
    let closedByUs = 0
    let closedByUpstream = 0
    const { port, received } = await rawUpstream(t, ({ socket }) => {
      socket.write(response('200 OK', 'ok'))
      const timer = setTimeout(() => {
        closedByUpstream += 1
        socket.end()
      }, 5000)
      socket.once('end', () => {
        closedByUs += 1
        clearTimeout(timer)
      })
    })
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
    assert.match(await soon(t, proxy, POST), /^HTTP\/1\.1 200 /)
    // About three seconds later, when the connection may be open or closed.
    await sleep(3000)
    assert.match(await soon(t, proxy, POST), /^HTTP\/1\.1 200 /)
    await until(() => closedByUs > 0, { timeoutMs: 10_000 })
    assert.equal(closedByUpstream, 0)
    const posts = await Promise.all(Array.from({ length: 5 }, () => soon(t, proxy, POST)))
    for (const answer of posts) assert.match(answer, /^HTTP\/1\.1 200 /)
    assert.equal(received.length, 7)
  })
})

test('a name that does not resolve gives a 502, and the status shows it', async t => {
  const proxy = await proxyTo(t, 'http://focus-server.invalid:5000', LIMITS)
  assertFailure(await exchange(t, proxy, GET), '502 Bad Gateway', 'dns_error')
  const status = await statusOf({ url: `http://127.0.0.1:${proxy}` })
  assert.equal(at(status, 'reading', 'problem'), 'its name did not resolve')
  await ownRoutesAnswer(t, proxy)
})

test('the next connection follows a name that moves to another address', async t => {
  // Node calls this function for every name. It replaces the system's resolver without writing to /etc/hosts.
  let address = '127.0.0.1'
  let lookups = 0
  const resolve = dns.lookup
  type Done = (error: Error | null, address: unknown, family?: number) => void
  t.mock.method(dns, 'lookup', (name: string, ...rest: [dns.LookupAllOptions, Done]) => {
    if (name !== 'focus-server.test') return resolve(name, ...rest)
    lookups += 1
    const [options, done] = rest
    if (options.all) process.nextTick(done, null, [{ address, family: 4 }])
    else process.nextTick(done, null, address, 4)
  })
  const answering = (text: string) => rawUpstream(t, ({ socket }) => socket.write(response('200 OK', text)))
  const old = await answering('the old one')
  const next = await answering('the new one')
  // The same name and port at two addresses: a relay on 127.0.0.2.
  const relay = createServer(socket => next.server.emit('connection', socket)).listen(old.port, '127.0.0.2')
  await once(relay, 'listening')
  t.after(() => relay.close())
  const proxy = await proxyTo(t, `http://focus-server.test:${old.port}`)
  assert.match(await soon(t, proxy, GET), /the old one$/)
  address = '127.0.0.2'
  // The old machine disappears with its connections.
  old.server.close()
  for (const { socket } of old.received) socket.destroy()
  await until(async () => /the new one$/.test(await soon(t, proxy, GET)))
  assert.ok(lookups > 1)
})

/** Certificates of a test CA, by subject. */
function certificates(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const openssl = (...args: string[]) =>
    execFileSync('/usr/bin/openssl', args, { stdio: 'ignore', cwd: directory })
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-x509', ...ec, '-subj', '/CN=ours', '-days', '2', '-keyout', 'ca.key', '-out', 'ca.pem')
  const issue = (file: string, name: string, days: string) => {
    openssl('req', ...ec, '-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`)
    openssl(
      'req',
      ...ec,
      '-subj',
      `/CN=${name}`,
      '-keyout',
      `${file}.key`,
      '-out',
      `${file}.csr`,
      '-addext',
      `subjectAltName=DNS:${name}`,
    )
    openssl(
      'x509',
      '-req',
      '-in',
      `${file}.csr`,
      '-CA',
      'ca.pem',
      '-CAkey',
      'ca.key',
      '-CAcreateserial',
      '-copy_extensions',
      'copy',
      '-days',
      days,
      '-out',
      `${file}.pem`,
    )
    return {
      key: readFileSync(join(directory, `${file}.key`)),
      cert: readFileSync(join(directory, `${file}.pem`)),
    }
  }
  return { caFile: join(directory, 'ca.pem'), issue }
}

test('a certificate that has expired or is for another name is rejected', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const { caFile, issue } = certificates(t)
  const served = [
    ['good', issue('good', 'localhost', '2')],
    ['expired', issue('expired', 'localhost', '-1')],
    ['other', issue('other', 'elsewhere.example', '2')],
  ] as const
  for (const [name, pair] of served) {
    let requests = 0
    const server = createHttpsServer(pair, (_request, answer) => {
      requests += 1
      answer.end('{"prr":2000,"sw_version":"1"}')
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => {
      server.closeAllConnections()
      server.close()
    })
    const proxy = await proxyTo(t, `https://localhost:${portOf(server)}`, { 'upstream.tls.caFile': caFile })
    const answer = await soon(t, proxy, GET)
    const status = await statusOf({ url: `http://127.0.0.1:${proxy}` })
    if (name === 'good') {
      assert.match(answer, /^HTTP\/1\.1 200 OK/)
      assert.equal(at(status, 'circuit', 'state'), 'closed')
      continue
    }
    assertFailure(answer, '502 Bad Gateway', 'tls_certificate_error')
    const problem = name === 'expired' ? 'its certificate has expired' : 'its certificate is for another name'
    assert.equal(at(status, 'reading', 'problem'), problem)
    assert.equal(requests, 0)
    await ownRoutesAnswer(t, proxy)
  }
})

test('a POST on a closing connection is not sent twice and gets a 502', async t => {
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const injector = await faultInjector(t, port)
  const proxy = await proxyTo(t, `http://127.0.0.1:${injector.port}`)
  for (const path of ['/configure', '/any']) {
    assert.match(await soon(t, proxy, `GET /before HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 200 /)
    const { accepted } = injector
    injector.requests.length = 0
    received.length = 0
    injector.fault = { kind: 'close-when-reused' }
    injector.strikes = /POST/
    const post = `POST ${path} HTTP/1.1\r\n${CLOSE}Content-Length: 2\r\n\r\n{}`
    assertFailure(await soon(t, proxy, post), '502 Bad Gateway', 'connection_terminated')
    assert.deepEqual(
      injector.requests.filter(line => line.startsWith('POST')),
      [`POST ${path} HTTP/1.1`],
    )
    assert.equal(received.length, 0)
    assert.ok(injector.accepted <= accepted + 1, 'at most a probe has connected')
    injector.fault = { kind: 'none' }
    assert.match(await soon(t, proxy, post), /^HTTP\/1\.1 200 /)
  }
})

test('two thousand stuck requests each get a response, and everything else continues', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const injector = await faultInjector(t, port)
  injector.fault = { kind: 'hang' }
  injector.strikes = /\/stuck/
  const options = {
    'upstream.headersTimeoutMs': '3000',
    'upstream.maxConnections': '100',
    'upstream.maxQueued': '900',
    // All of them have the same address.
    'server.clientShare': '1',
    'upstream.queueTimeoutMs': '1500',
  }
  const proxy = await proxyTo(t, `http://127.0.0.1:${injector.port}`, options)
  const url = `http://127.0.0.1:${proxy}`
  const probe = await statusOf({ url })
  const startedAt = performance.now()
  const stuck = Array.from({ length: 2000 }, () => exchange(t, proxy, `GET /stuck HTTP/1.1\r\n${CLOSE}\r\n`))
  await until(() => injector.requests.length >= 100)
  await ownRoutesAnswer(t, proxy)
  const answers = await Promise.all(stuck)
  const tookMs = performance.now() - startedAt
  assert.ok(tookMs < 20_000, `it took ${Math.round(tookMs)} ms`)
  const timedOut = answers.filter(answer => answer.startsWith('HTTP/1.1 504 '))
  const overloaded = answers.filter(answer => answer.startsWith('HTTP/1.1 503 '))
  for (const answer of timedOut)
    assert.equal(field(answer, 'proxy-status'), 'focus-breaker; error=http_response_timeout')
  for (const answer of overloaded)
    assert.equal(field(answer, 'proxy-status'), 'focus-breaker; error=connection_limit_reached')
  assert.equal(timedOut.length + overloaded.length, 2000)
  const status = await statusOf({ url })
  const forwarded = Number(at(status, 'totals', 'forwarded')) - Number(at(probe, 'totals', 'forwarded'))
  assert.equal(forwarded, timedOut.length)
  assert.equal(injector.requests.filter(line => line.includes('/stuck')).length, forwarded)
  assert.equal(at(status, 'circuit', 'state'), 'closed')
  assert.ok(injector.open <= 101, `${injector.open} connections are open`)
  assert.match(await soon(t, proxy, `GET /sound HTTP/1.1\r\n${CLOSE}\r\n`), /^HTTP\/1\.1 200 /)
  assert.match(await soon(t, proxy, POST), /^HTTP\/1\.1 200 /)
})

test('a client that disconnects from a stuck upstream closes its upstream connection', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const injector = await faultInjector(t, port)
  const proxy = await proxyTo(t, `http://127.0.0.1:${injector.port}`)
  const idle = injector.open
  injector.fault = { kind: 'hang' }
  const clients = await Promise.all(Array.from({ length: 50 }, () => rawClient(t, proxy)))
  for (const client of clients) client.send('GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n')
  await until(() => injector.requests.filter(line => line.includes('/stuck')).length === 50)
  for (const client of clients) client.socket.destroy()
  await until(() => injector.open <= idle)
})

for (const pauseMs of ['60000', '300']) {
  test(`a large body without a reachable upstream does not block later requests (pause limit ${pauseMs} ms)`, async t => {
    const unused = createServer().listen(0, '127.0.0.1')
    await once(unused, 'listening')
    const port = portOf(unused)
    unused.close()
    const proxy = await proxyTo(t, `http://127.0.0.1:${port}`, { 'server.bodyPauseTimeoutMs': pauseMs })
    const client = await rawClient(t, proxy)
    const length = 1_000_000
    client.send(`POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: ${length}\r\n\r\n${'x'.repeat(length)}`)
    await client.until(/HTTP\/1\.1 502/)
    client.send('GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n')
    await client.until(/HTTP\/1\.1 200/)
  })
}

test('a response that the upstream aborted, and one that its client did not wait for, are counted separately', async t => {
  const { port, received } = await rawUpstream(t, ({ head, socket }) => {
    if (!head.startsWith('GET /cut')) return
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc')
    setTimeout(() => socket.resetAndDestroy(), 50)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  await exchange(t, proxy, `GET /cut HTTP/1.1\r\n${CLOSE}\r\n`)
  const leaving = await rawClient(t, proxy)
  leaving.send(`GET /slow HTTP/1.1\r\n${CLOSE}\r\n`)
  await until(() => received.length === 2)
  leaving.socket.destroy()
  const counted = async (series: string) => {
    const text = await (await fetch(`http://127.0.0.1:${proxy}/-/metrics`)).text()
    return Number(
      text
        .split('\n')
        .find(line => line.startsWith(`focus_breaker_${series} `))
        ?.split(' ')[1],
    )
  }
  await until(
    async () => (await counted('forwarded_requests_total{guarded="false",code_class="none"}')) === 1,
  )
  assert.equal(await counted('forwarded_requests_total{guarded="false",code_class="2xx"}'), 1)
  assert.equal(await counted('upstream_errors_total{kind="connection_terminated"}'), 1)
})
