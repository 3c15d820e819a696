import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { ask, clientPool, configure, NO_PROBES, runClients } from '../support/http-client.js'
import { type Received, rawClient, rawUpstream, response } from '../support/raw.js'
import { live, simulate } from '../support/simulate.js'

const LIVE_ONLY = { ...NO_PROBES, FOCUS_BREAKER_GUARD_SCOPE: 'live' }

const historic = { ...live, start_time: 1764946703, end_time: 1764953903 }

/** Spelled as no JSON library would: the forwarded body must be these bytes. */
const ODD = '{ "start_time" : 1764946703.0,\r\n\t"end_time":1.764953903e9, "note":"\\u00e4 ä",  "x": [ ] }\n'
const ODD_LATIN1 = Buffer.from(ODD).toString('latin1')

/** An upstream without its fiber that responds 200 to every configure, and keeps what it received. */
async function withoutFiber(t: Parameters<typeof rawUpstream>[0]) {
  const answer = ({ socket }: Received) => socket.write(response('200 OK', '{"status":""}'))
  const { port, received } = await rawUpstream(t, answer, { there: false })
  return { url: `http://127.0.0.1:${port}`, received }
}

const portOf = (proxy: RunningProxy) => Number(new URL(proxy.url).port)
const head = (...fields: string[]) => ['POST /configure HTTP/1.1', 'Host: x', ...fields, '', ''].join('\r\n')
const NEXT = 'GET /-/live HTTP/1.1\r\nHost: x\r\n\r\n'
const chunked = (body: string) => `${Buffer.byteLength(body, 'latin1').toString(16)}\r\n${body}\r\n`
const REFUSED = /^HTTP\/1\.1 503 [\s\S]*"status":"waiting_for_fiber"/

describe('guard.scope live', { concurrency: 6 }, () => {
  test('historic jobs pass while the circuit is open, and live ones are refused', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing', historicWithoutFiber: true })
    const proxy = await startProxy(t, { upstream: simulator.url, env: LIVE_ONLY })
    const replay = await configure(proxy, { body: JSON.stringify(historic) })
    assert.equal(replay.statusCode, 200)
    assert.equal(typeof at(replay.json, 'job_id'), 'string')
    assert.equal(simulator.counters.byRoute['POST /configure'], 1)

    const notHistoric = [
      JSON.stringify(live),
      JSON.stringify({ ...historic, end_time: null }),
      JSON.stringify({ ...historic, start_time: undefined }),
      ...[0, '', false, true, [], {}, -1, 1.5, '0', '-1', 'now'].flatMap(value => [
        JSON.stringify({ ...historic, start_time: value }),
        JSON.stringify({ ...historic, end_time: value }),
        JSON.stringify({ ...historic, start_time: value, end_time: value }),
      ]),
      JSON.stringify([historic]),
      JSON.stringify(historic).slice(0, -1),
      '{"start_time":1,"end_time":2',
      'start_time=1&end_time=2',
      '',
    ]
    for (const body of notHistoric) {
      const refused = await configure(proxy, { body })
      assert.equal(refused.statusCode, 503, body)
      assert.equal(at(refused.json, 'status'), 'waiting_for_fiber', body)
    }
    assert.equal(simulator.counters.byRoute['POST /configure'], 1)
    const status = await statusOf(proxy)
    assert.equal(at(status, 'totals', 'refused'), notHistoric.length)
    assert.equal(at(status, 'circuit', 'state'), 'open')
  })

  test('a historic job is forwarded byte for byte: in one piece, in chunks, and after 100 Continue', async t => {
    const upstream = await withoutFiber(t)
    const proxy = await startProxy(t, { upstream: upstream.url, env: LIVE_ONLY })
    const whole = await rawClient(t, portOf(proxy))
    whole.send(head(`Content-Length: ${ODD_LATIN1.length}`, 'Content-Type: application/json') + ODD_LATIN1)
    assert.match(await whole.until(/\{"status":""\}/), /^HTTP\/1\.1 200 /)

    const pieces = await rawClient(t, portOf(proxy))
    pieces.send(head('Transfer-Encoding: chunked'))
    for (const piece of [ODD_LATIN1.slice(0, 7), ODD_LATIN1.slice(7, 50), ODD_LATIN1.slice(50)]) {
      pieces.send(chunked(piece))
      await delay(20)
    }
    pieces.send('0\r\n\r\n')
    assert.match(await pieces.until(/\{"status":""\}/), /^HTTP\/1\.1 200 /)

    const polite = await rawClient(t, portOf(proxy))
    polite.send(head(`Content-Length: ${ODD_LATIN1.length}`, 'Expect: 100-continue'))
    assert.equal(await polite.until(/\r\n\r\n/), 'HTTP/1.1 100 Continue\r\n\r\n')
    polite.send(ODD_LATIN1)
    const answer = await polite.until(/\{"status":""\}/)
    assert.equal(answer.match(/HTTP\/1\.1 \d+/g)?.join(), 'HTTP/1.1 100,HTTP/1.1 200')

    assert.equal(upstream.received.length, 3)
    for (const { head: fields, body } of upstream.received) {
      const isChunked = /^transfer-encoding: *chunked/im.test(fields)
      assert.equal(isChunked ? unchunked(body) : body, ODD_LATIN1)
      assert.doesNotMatch(fields, /^expect:/im)
      assert.ok(isChunked !== /^content-length:/im.test(fields), `one framing, and not two: ${fields}`)
    }
    // Each of these connections can take another request.
    for (const client of [whole, pieces, polite]) {
      client.send(NEXT)
      await client.until(/\{"status":"ok"\}/)
    }
  })

  test('a body that is late, too large, live or cut off is refused, and nothing hangs', async t => {
    const upstream = await withoutFiber(t)
    const proxy = await startProxy(t, { upstream: upstream.url, env: LIVE_ONLY })
    await Promise.all([
      t.test('a live job with Expect: 100-continue is refused, and its connection stays open', async t => {
        const body = JSON.stringify(live)
        const client = await rawClient(t, portOf(proxy))
        client.send(head(`Content-Length: ${body.length}`, 'Expect: 100-continue'))
        await client.until(/ 100 Continue\r\n\r\n/)
        client.send(body)
        await client.until(/ 503 [\s\S]*"status":"waiting_for_fiber"/)
        client.send(NEXT)
        await client.until(/\{"status":"ok"\}/)
      }),
      t.test(
        'more than 64 KiB counts as live: it is refused before it has arrived, and the next request is served',
        async t => {
          const body = JSON.stringify({ ...historic, note: 'x'.repeat(200_000) })
          const [front, rest] = [body.slice(0, 70_000), body.slice(70_000)]

          const announced = await rawClient(t, portOf(proxy))
          announced.send(head(`Content-Length: ${body.length}`) + front)
          await announced.until(REFUSED)
          announced.send(rest + NEXT)
          await announced.until(/\{"status":"ok"\}/)

          const pieces = await rawClient(t, portOf(proxy))
          pieces.send(head('Transfer-Encoding: chunked') + chunked(front))
          await pieces.until(REFUSED)
          pieces.send(`${chunked(rest)}0\r\n\r\n${NEXT}`)
          await pieces.until(/\{"status":"ok"\}/)
        },
      ),
      t.test('a late body counts as live: it is refused while it is still arriving', async t => {
        const client = await rawClient(t, portOf(proxy))
        client.send(head(`Content-Length: ${ODD_LATIN1.length}`) + ODD_LATIN1.slice(0, 20))
        await client.until(REFUSED)
        client.send(ODD_LATIN1.slice(20) + NEXT)
        await client.until(/\{"status":"ok"\}/)
      }),
      t.test(
        'a client that waits with a body that is too large is eventually refused, and its next request is served',
        async t => {
          const body = JSON.stringify({ ...historic, note: 'x'.repeat(100_000) })
          const client = await rawClient(t, portOf(proxy))
          client.send(`${head('Prefer: wait=1', 'Transfer-Encoding: chunked')}${chunked(body)}0\r\n\r\n`)
          await client.until(REFUSED)
          client.send(NEXT)
          const answer = await Promise.race([client.until(/\{"status":"ok"\}/), delay(5000, 'nothing')])
          assert.notEqual(answer, 'nothing', 'the next request on the connection got no response within 5 s')
        },
      ),
      t.test('a client that aborts while its body is read leaves nothing behind', async t => {
        const client = await rawClient(t, portOf(proxy))
        client.send(head(`Content-Length: ${ODD_LATIN1.length}`) + ODD_LATIN1.slice(0, 20))
        await delay(100)
        client.socket.destroy()
        const refused = await configure(proxy)
        assert.equal(at(refused.json, 'status'), 'waiting_for_fiber')
        assert.equal(at(await statusOf(proxy), 'inFlight'), 0)
      }),
    ])
    assert.equal(upstream.received.length, 0)
    assert.equal(await proxy.stop(), 0)
    assert.ok(proxy.logs().every(line => line.level !== 'error' && line.level !== 'fatal'))
  })

  test('in observe mode all jobs are forwarded complete, and only those that are not historic are marked', async t => {
    const upstream = await withoutFiber(t)
    const env = { ...LIVE_ONLY, FOCUS_BREAKER_GUARD_MODE: 'observe' }
    const proxy = await startProxy(t, { upstream: upstream.url, env })
    const large = Buffer.from(JSON.stringify({ ...historic, note: 'x'.repeat(300_000) }))

    const bodies = [Buffer.from(ODD), Buffer.from(JSON.stringify(live)), Buffer.from('{"start_time":'), large]
    const marks: unknown[] = []
    for (const body of bodies) {
      const answer = await configure(proxy, { body })
      assert.equal(answer.statusCode, 200)
      marks.push(answer.headers['focus-breaker'])
    }
    assert.deepEqual(marks, [undefined, 'would-refuse', 'would-refuse', 'would-refuse'])
    assert.deepEqual(
      upstream.received.map(({ body }) => body),
      bodies.map(body => body.toString('latin1')),
    )

    const pieces = await rawClient(t, portOf(proxy))
    const text = large.toString('latin1')
    pieces.send(`${head('Transfer-Encoding: chunked')}${chunked(text)}0\r\n\r\n`)
    await pieces.until(/focus-breaker: would-refuse[\s\S]*\{"status":""\}/i)
    assert.equal(unchunked(upstream.received[4]?.body ?? ''), text)

    const late = await rawClient(t, portOf(proxy))
    late.send(head(`Content-Length: ${ODD_LATIN1.length}`) + ODD_LATIN1.slice(0, 20))
    await until(async () => at(await statusOf(proxy), 'totals', 'wouldRefuse') === 5, {
      what: 'the proxy has stopped waiting for the late body',
    })
    late.send(ODD_LATIN1.slice(20))
    await late.until(/focus-breaker: would-refuse[\s\S]*\{"status":""\}/i)
    assert.equal(upstream.received[5]?.body, ODD_LATIN1)
    assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 0)
  })

  test('an override to open stops historic jobs too', async t => {
    const { simulator } = await simulate(t, { historicWithoutFiber: true })
    const token = 'a-token-of-the-test'
    const env = { ...LIVE_ONLY, FOCUS_BREAKER_ADMIN_TOKEN: token }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const put = await ask(`${proxy.url}/-/override`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${token}` },
      body: JSON.stringify({ state: 'open', reason: 'replacing disks', forSeconds: 60 }),
    })
    assert.equal(put.statusCode, 200)
    const refused = await configure(proxy, { body: JSON.stringify(historic) })
    assert.equal(at(refused.json, 'status'), 'forced_open')
  })

  test('a historic job that waits for guard.maxConcurrency is admitted when a slot is free, fiber or not', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing', historicWithoutFiber: true, maxJobs: 1000 })
    await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 1000 })
    const env = { ...LIVE_ONLY, FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: '1' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await circuitIs(proxy, 'open')
    const body = JSON.stringify(historic)
    const first = configure(proxy, { body })
    await until(() => simulator.counters.inFlight === 1)
    const second = await configure(proxy, { body, headers: { prefer: 'wait=6' } })
    assert.equal((await first).statusCode, 200)
    assert.equal(second.statusCode, 200, second.bytes.toString())
    assert.equal(simulator.counters.maxInFlight, 1)
  })

  test('guard.maxConcurrency applies to historic jobs too', async t => {
    const { simulator } = await simulate(t, { maxJobs: 1000 })
    await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 300 })
    const env = { ...LIVE_ONLY, FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: '2' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await circuitIs(proxy, 'closed')
    const dispatcher = clientPool(t, 20)
    await runClients(20, async () => {
      await configure(proxy, { dispatcher, body: JSON.stringify(historic) })
    })
    const { maxInFlight } = simulator.counters
    assert.ok(maxInFlight <= 2, `${maxInFlight} were in flight, guard.maxConcurrency is 2`)
  })
})

test('with scope all a historic job is refused too; the refusal does not wait for a body, and the connection stays open', async t => {
  const upstream = await withoutFiber(t)
  const proxy = await startProxy(t, { upstream: upstream.url, env: NO_PROBES })
  const refused = await configure(proxy, { body: JSON.stringify(historic) })
  assert.equal(at(refused.json, 'status'), 'waiting_for_fiber')
  const client = await rawClient(t, portOf(proxy))
  client.send(head('Content-Length: 10485760'))
  await client.until(REFUSED)
  const piece = 'x'.repeat(1_048_576)
  for (let count = 0; count < 10; count += 1) client.send(piece)
  client.send(NEXT)
  await client.until(/\{"status":"ok"\}/)

  const polite = await rawClient(t, portOf(proxy))
  polite.send(head('Content-Length: 10485760', 'Expect: 100-continue'))
  assert.match(await polite.until(/\r\n\r\n/), /^HTTP\/1\.1 503 /)
  assert.equal(upstream.received.length, 0)
})

/** The body that was sent in these chunks. */
function unchunked(text: string): string {
  let body = ''
  for (let rest = text; rest !== ''; ) {
    const end = rest.indexOf('\r\n')
    const length = Number.parseInt(rest.slice(0, end), 16)
    if (!(length > 0)) break
    body += rest.slice(end + 2, end + 2 + length)
    rest = rest.slice(end + 2 + length + 2)
  }
  return body
}
