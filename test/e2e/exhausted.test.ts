import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { at, type RunningProxy, requireOrSkip, startProxy, statusOf, until } from '../support/harness.js'
import { ask, aWhile } from '../support/http-client.js'
import { type RawClient, rawClient, rawUpstream, response } from '../support/raw.js'
import { live } from '../support/simulate.js'
import { receiver } from '../support/webhook-receiver.js'

/** Fast probes, and a circuit that only a reading of a missing fiber opens. */
const ENV = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '50',
  FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1',
  FOCUS_BREAKER_UPSTREAM_KEEP_ALIVE_MS: '0',
}

const BODY = JSON.stringify(live)
const REQUESTS: Readonly<Record<string, string>> = {
  GET: 'GET /channels HTTP/1.1\r\nHost: a\r\n\r\n',
  configure: `POST /configure HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`,
  handshake:
    'GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
}

/** An address, a code or a stack: what an error object would show. */
const OF_AN_ERROR = /127\.0\.0\.1:|192\.0\.2|::1|localhost:|\bE[A-Z]{3,}\b|EAI_|connect |\.js:/

/** The same without an address, which is the default name of an installation in notifications. */
const TEXT_OF_AN_ERROR = /\bE[A-Z]{3,}\b|EAI_|connect |\.js:/

/** What is reported outside the log: to the readers of the routes, and to the clients of focus-server. */
async function shown(proxy: RunningProxy): Promise<string> {
  const outages = await ask(`${proxy.url}/-/outages`)
  const reading = JSON.stringify(at(await statusOf(proxy), 'reading'))
  return reading + outages.bytes.toString('utf8')
}

async function portAndProxy(t: TestContext, host: string) {
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const proxy = await startProxy(t, { upstream: `http://${host}:${upstream.port}`, env: ENV })
  return { upstream, proxy, port: Number(new URL(proxy.url).port) }
}

for (const host of ['127.0.0.1', 'localhost']) {
  test(`without file descriptors every request to ${host} gets a 503 of its own kind, and no outage is recorded`, async t => {
    if (!requireOrSkip(t, 'prlimit')) return
    const { proxy, port } = await portAndProxy(t, host)
    const clients = new Map<string, RawClient>()
    for (const name of Object.keys(REQUESTS)) clients.set(name, await rawClient(t, port))
    await until(async () => at(await statusOf(proxy), 'circuit', 'state') === 'closed')
    // The connection for the status must already be open.
    const observer = await rawClient(t, port)
    await observer.send('GET /-/status HTTP/1.1\r\nHost: a\r\n\r\n').until(/"totals"/)
    // Descriptors below 3 are in use, so that none can be opened.
    execFileSync('/usr/bin/prlimit', ['--pid', String(proxy.pid), '--nofile=3:'])
    for (const [name, request] of Object.entries(REQUESTS)) {
      const client = clients.get(name) ?? assert.fail()
      const text = await client.send(request).until(/"requestId":"[^"]+"\}/)
      assert.match(text, /^HTTP\/1\.1 503 Service Unavailable\r\n/, name)
      assert.match(text, /proxy-status: focus-breaker; error=connection_limit_reached\r\n/i, name)
      assert.match(text, /retry-after: 1\r\n/i, name)
      assert.doesNotMatch(text, OF_AN_ERROR, name)
    }
    // For a probe that finds no descriptor either: it is reported only with the summary at the end.
    await aWhile()
    const before = observer.text.length
    await observer.send('GET /-/status HTTP/1.1\r\nHost: a\r\n\r\n').until(/"totals"[\s\S]*"totals"/)
    const status = observer.text.slice(before)
    assert.match(status, /"state":"closed"/)
    assert.match(status, /"kind":"ready"/)
    execFileSync('/usr/bin/prlimit', ['--pid', String(proxy.pid), '--nofile=1024:'])
    const probes = Number(at(await statusOf(proxy), 'totals', 'probes'))
    await until(async () => Number(at(await statusOf(proxy), 'totals', 'probes')) > probes + 1)
    assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
    assert.equal(at((await ask(`${proxy.url}/-/outages`)).json, 'outages', 'length'), 0)
    assert.doesNotMatch(await shown(proxy), OF_AN_ERROR)
    await proxy.stop()
    const summaries = proxy
      .logs()
      .filter(({ connection_limit_reached }) => connection_limit_reached !== undefined)
    assert.deepEqual(
      summaries.map(({ failed }) => failed),
      [3],
    )
    assert.equal(proxy.logs().filter(({ exhausted }) => Number(exhausted) > 0).length, 1)
    assert.ok(!proxy.logs().some(line => 'err' in line), 'an error was logged with its stack')
  })
}

/** Fails every connection to this port with the code in a file, as the operating system would. */
function brokenConnections(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-errno-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const [script, file] = [join(directory, 'preload.mjs'), join(directory, 'code')]
  writeFileSync(file, '')
  writeFileSync(
    script,
    `import { readFileSync } from 'node:fs'
import { Socket } from 'node:net'
const { connect } = Socket.prototype
Socket.prototype.connect = function (...given) {
  const [code, port] = readFileSync(${JSON.stringify(file)}, 'utf8').split(' ')
  const [options] = Array.isArray(given[0]) ? given[0] : given
  if (!code || String(options?.port) !== port) return connect.apply(this, given)
  const error = new Error('connect ' + code + ' 192.0.2.1:' + port)
  const syscall = code.startsWith('EAI_') ? 'getaddrinfo' : 'connect'
  process.nextTick(() => this.destroy(Object.assign(error, { code, syscall, address: '192.0.2.1', port })))
  return this
}
`,
  )
  return {
    env: { NODE_OPTIONS: `--import ${pathToFileURL(script).href}` },
    fail: (code: string, port: number) => writeFileSync(file, code === '' ? '' : `${code} ${port}`),
    file,
  }
}

test('whatever error the operating system reports, no response is a 500, and no error text is shown or stored', async t => {
  const { env, fail, file } = brokenConnections(t)
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')))
  const options = { ...ENV, ...env, FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1000' }
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env: options })
  const port = Number(new URL(proxy.url).port)
  const readings = async () => Number(at(await statusOf(proxy), 'totals', 'probes'))
  await until(async () => at(await statusOf(proxy), 'circuit', 'state') === 'closed')
  const local = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'ENOSR', 'EADDRNOTAVAIL', 'EAI_MEMORY'])
  const resolver = ['EAI_FAIL', 'EAI_AGAIN', 'EAI_NODATA', 'EAI_SYSTEM', 'EAI_MEMORY', 'ENOTFOUND']
  const clients = new Map<string, RawClient>()
  for (const name of Object.keys(REQUESTS)) clients.set(name, await rawClient(t, port))
  for (const code of [...Object.keys(constants.errno), ...resolver]) {
    const before = await readings()
    fail(code, upstream.port)
    assert.equal(readFileSync(file, 'utf8'), `${code} ${upstream.port}`)
    for (const [name, request] of Object.entries(REQUESTS)) {
      const client = await rawClient(t, port)
      const text = await client.send(request).until(/"requestId":"[^"]+"\}/)
      client.socket.destroy()
      assert.match(text, local.has(code) ? /^HTTP\/1\.1 503 / : /^HTTP\/1\.1 50[24] /, `${code} on ${name}`)
      assert.match(text, /proxy-status: focus-breaker; error=(?!proxy_internal)/i, `${code} on ${name}`)
      assert.doesNotMatch(text, OF_AN_ERROR, `${code} on ${name}`)
    }
    if (local.has(code)) {
      // A probe that was in flight before has been counted by now.
      const settled = await readings()
      await aWhile()
      assert.equal(await readings(), settled, `${code} was counted`)
    } else await until(async () => (await readings()) > before, { what: `a probe meets ${code}` })
    assert.doesNotMatch(await shown(proxy), OF_AN_ERROR, code)
  }
  await proxy.stop()
  assert.ok(!proxy.logs().some(line => 'err' in line), 'an error was logged with its stack')
})

test('without file descriptors during an outage, webhooks, events and files give the reason in words, and the end is reported', async t => {
  if (!requireOrSkip(t, 'prlimit')) return
  const fiber = { there: true }
  const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'ok')), fiber)
  let isAccepting = false
  const hook = await receiver(t, () => reply => {
    reply.writeHead(isAccepting ? 200 : 503, { connection: 'close' }).end()
  })
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-exhausted-'))
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${upstream.port}`,
    env: {
      ...ENV,
      FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
      FOCUS_BREAKER_HISTORY_FILE: join(folder, 'history'),
      FOCUS_BREAKER_NOTIFY_RETRY_FOR_MS: '2500',
      FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0',
      FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify(
        ['127.0.0.1', 'localhost'].map(host => ({
          url: hook.url.replace('127.0.0.1', host),
          format: 'json',
        })),
      ),
    },
  })
  // After the proxy has stopped, which writes until then.
  t.after(() => rmSync(folder, { recursive: true }))
  await until(async () => at(await statusOf(proxy), 'circuit', 'state') === 'closed')
  const stream = await rawClient(t, Number(new URL(proxy.url).port))
  await stream.send('GET /-/events HTTP/1.1\r\nHost: a\r\n\r\n').until(/text\/event-stream/)
  fiber.there = false
  await hook.nth(2)
  execFileSync('/usr/bin/prlimit', ['--pid', String(proxy.pid), '--nofile=3:'])
  const undelivered = () => proxy.logs().filter(({ msg }) => msg === 'notification was not delivered')
  await until(() => undelivered().length === 2, { timeoutMs: 20_000 })
  execFileSync('/usr/bin/prlimit', ['--pid', String(proxy.pid), '--nofile=1024:'])
  for (const { problem } of undelivered())
    assert.match(String(problem), /^this machine has no file descriptor/)
  assert.doesNotMatch(JSON.stringify(undelivered()), TEXT_OF_AN_ERROR)
  isAccepting = true
  fiber.there = true
  await until(() => hook.types().filter(type => type === 'outage.closed').length === 2, { timeoutMs: 20_000 })
  const sent = stream.text.slice(stream.text.indexOf('\r\n\r\n'))
  assert.match(sent, /^event: /m)
  assert.doesNotMatch(sent, TEXT_OF_AN_ERROR)
  // A temporary file that is being written is renamed to one of the others.
  for (const name of readdirSync(folder).filter(each => !each.endsWith('.new'))) {
    assert.doesNotMatch(readFileSync(join(folder, name), 'utf8'), TEXT_OF_AN_ERROR, name)
  }
  assert.equal(at((await ask(`${proxy.url}/-/outages`)).json, 'outages', 'length'), 1)
  assert.doesNotMatch(JSON.stringify(hook.received.map(({ body }) => body)), TEXT_OF_AN_ERROR)
})
