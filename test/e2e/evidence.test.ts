import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Simulator } from '../../src/simulator/focus-server.js'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import {
  ask,
  aWhile,
  clientPool,
  configure,
  FAST,
  isMissingFiber,
  MISSING,
  NO_PROBES,
  readThroughProxy,
  runClients,
  transitionLines,
  transitions,
} from '../support/http-client.js'
import { type Received, rawUpstream, response } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const JSON_TYPE = 'application/json'
const DISAGREES = 'metadata reports the fiber as connected, but configure reports it as missing'

const configures = (simulator: Simulator) => simulator.counters.byRoute['POST /configure'] ?? 0
const probes = (simulator: Simulator) => simulator.counters.byRoute['GET /live_metadata'] ?? 0

/** Makes focus-server send exactly this response to every configure. */
const answerWith = (simulator: Simulator, status: number, body: string, contentType = JSON_TYPE) =>
  simulator.setFault('POST /configure', { kind: 'body', status, contentType, body })

/** Closes the circuit again through what clients read, because there are no probes. */
async function closeByClients(proxy: RunningProxy): Promise<void> {
  await until(
    async () => {
      await readThroughProxy(proxy)
      return at(await statusOf(proxy), 'circuit', 'state') === 'closed'
    },
    { what: 'metadata read by clients has closed the circuit' },
  )
}

test('when the fiber is lost while 200 clients hammer configure, only requests in flight still reach focus-server', async t => {
  const { simulator } = await simulate(t, { maxJobs: 1_000_000, jobDurationMs: 1 })
  // So that some requests are always in flight.
  await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 50 })
  const proxy = await startProxy(t, { upstream: simulator.url, env: NO_PROBES })
  await circuitIs(proxy, 'closed')
  const dispatcher = clientPool(t, 200)

  let pending = 0
  let served = 0
  let refused = 0
  let sentUnknowing = 0
  let isLost = false
  let isKnown = false
  let isOver = false
  const hammering = runClients(200, async () => {
    while (!isOver) {
      pending += 1
      if (isLost && !isKnown) sentUnknowing += 1
      const answer = await configure(proxy, { dispatcher })
      pending -= 1
      if (answer.statusCode === 200) served += 1
      else if (isMissingFiber(answer)) isKnown = true
      else if (at(answer.json, 'status') === 'waiting_for_fiber') refused += 1
      else assert.fail(`an unexpected response: ${answer.statusCode} ${answer.bytes}`)
    }
  })
  await until(() => served >= 1000 && simulator.counters.inFlight >= 50, {
    what: '1000 configures were served, and 50 are at focus-server',
    timeoutMs: 30_000,
    everyMs: 1,
  })

  // One moment for all of them: clients and simulator run in this process.
  const reachedBefore = configures(simulator)
  const inside = simulator.counters.inFlight
  const inFlight = pending
  void simulator.setFiber('missing')
  isLost = true

  await until(() => refused >= 5000, { what: '5000 configures were refused', timeoutMs: 30_000 })
  isOver = true
  await hammering
  const reachedAfter = configures(simulator) - reachedBefore

  // The requests in flight at the moment of the loss that had not reached focus-server yet, and those that the clients
  // sent before any of them had the first failure response. Nothing else may get through.
  const bound = inFlight - inside + sentUnknowing
  t.diagnostic(
    `${reachedAfter} configures reached focus-server after the loss; the limit was ${bound} ` +
      `(${inFlight} in flight, ${inside} of them at focus-server, ${sentUnknowing} sent before the first failure); ` +
      `${simulator.counters.rejectedForFiber} failed there, ${refused} were refused at the proxy`,
  )
  assert.ok(reachedAfter <= bound, `${reachedAfter} reached focus-server, the limit is ${bound}`)
  assert.ok(simulator.counters.rejectedForFiber <= inside + reachedAfter)
  const [opening, ...more] = transitionLines(proxy).filter(line => line.to === 'open')
  assert.equal(opening?.cause, 'waiting')
  assert.equal(opening?.source, 'configure')
  assert.deepEqual(opening?.missing, ['prr'])
  assert.deepEqual(more, [])
  // The first probe and the requested ones; none was due by the period.
  assert.ok(probes(simulator) <= 4, `${probes(simulator)} probes`)
})

describe('passive evidence', { concurrency: 4 }, () => {
  test("focus-server's text about a missing fiber opens the circuit in whatever form it comes", async t => {
    const { simulator } = await simulate(t)
    const env = { ...NO_PROBES, FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const shapes: [status: number, body: string, contentType: string][] = [
      [503, JSON.stringify({ detail: MISSING }), JSON_TYPE],
      [503, JSON.stringify({ error: 'Missing required fiber metadata fields: prr' }), JSON_TYPE],
      [503, `{ "error" : "Cannot configure job - validation failed: ${MISSING}, sw_version" }\n`, JSON_TYPE],
      [503, JSON.stringify({ error: 'x', reason: MISSING, status: 'waiting_for_fiber' }), JSON_TYPE],
      [500, JSON.stringify({ detail: MISSING }), JSON_TYPE],
      [503, JSON.stringify({ detail: `${MISSING}\n${'x'.repeat(200_000)}` }), JSON_TYPE],
      [503, `ERROR - Cannot configure job - validation failed: ${MISSING}`, 'text/plain'],
    ]
    const openings = () => transitionLines(proxy).filter(line => line.to === 'open')
    for (const [status, body, contentType] of shapes) {
      await closeByClients(proxy)
      const before = openings().length
      await answerWith(simulator, status, body, contentType)
      const answer = await configure(proxy)
      assert.equal(answer.statusCode, status)
      assert.equal(answer.headers['content-type'], contentType)
      assert.ok(answer.bytes.equals(Buffer.from(body)), `${body.slice(0, 100)} was changed`)
      await until(() => openings().length > before, {
        what: `this opens the circuit: ${status} ${body.slice(0, 100)}`,
      })
      const opening = openings()[before]
      assert.equal(`${opening?.from}>${opening?.to}:${opening?.cause}`, 'closed>open:waiting')
      assert.equal(opening?.source, 'configure')
      const refused = await configure(proxy)
      // By now, the requested probe may have found that the fiber is connected.
      assert.match(String(at(refused.json, 'status')), /^(waiting_for_fiber|recovering)$/)
    }
  })

  test('text beyond the first 64 KiB is not searched, and is forwarded byte for byte', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: NO_PROBES })
    const body = JSON.stringify({ detail: `${'x'.repeat(100_000)}${MISSING}` })
    await answerWith(simulator, 503, body)
    const answer = await configure(proxy)
    assert.equal(answer.statusCode, 503)
    assert.ok(answer.bytes.equals(Buffer.from(body)))
    await until(() => probes(simulator) === 2, { what: 'the failure has requested a probe' })
    assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
  })

  test('any other failed configure opens nothing and requests a probe at once', async t => {
    const { simulator } = await simulate(t)
    const env = { ...NO_PROBES, FOCUS_BREAKER_UPSTREAM_HEADERS_TIMEOUT_MS: '300' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const database = JSON.stringify({ detail: 'Database unavailable: could not translate host name' })
    const failures = [
      { status: 503, set: () => answerWith(simulator, 503, database) },
      { status: 500, set: () => answerWith(simulator, 500, '{"error":"Error parsing configuration"}') },
      { status: 502, set: () => simulator.setFault('POST /configure', { kind: 'reset' }) },
      { status: 504, set: () => simulator.setFault('POST /configure', { kind: 'hang' }) },
    ]
    for (const { status, set } of failures) {
      await set()
      const before = probes(simulator)
      const answer = await configure(proxy)
      assert.equal(answer.statusCode, status)
      await until(() => probes(simulator) > before, { what: `${status} has requested a probe` })
      assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
    }
    assert.deepEqual(transitions(proxy), [])
  })

  test('the probe that a failure requests opens the circuit when the fiber is missing', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: NO_PROBES })
    await circuitIs(proxy, 'closed')
    await simulator.setFiber('missing')
    await answerWith(simulator, 503, '{"detail":"Service Unavailable"}')
    await configure(proxy)
    const opening = await until(() => transitionLines(proxy).find(line => line.to === 'open'))
    assert.equal(opening.source, 'probe')
  })

  test('a client error is not a failure of focus-server', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: NO_PROBES })
    const before = probes(simulator)
    const invalid = await configure(proxy, { body: '{}' })
    assert.equal(invalid.statusCode, 422)
    await answerWith(simulator, 404, '{"error":"No recording found in given time range"}')
    assert.equal((await configure(proxy)).statusCode, 404)
    await aWhile()
    assert.equal(probes(simulator), before)
  })

  test('a burst of failures causes only a few probes', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: NO_PROBES })
    await answerWith(simulator, 503, '{"detail":"Database unavailable"}')
    const before = probes(simulator)
    const dispatcher = clientPool(t, 50)
    const startedAt = performance.now()
    await runClients(50, async () => {
      for (let attempt = 0; attempt < 20; attempt += 1) {
        assert.equal((await configure(proxy, { dispatcher })).statusCode, 503)
      }
    })
    await until(() => probes(simulator) > before, { what: 'the failures have requested a probe' })
    const asked = probes(simulator) - before
    // One at once, and then one each quarter of a second while failures continue.
    const most = 2 + Math.ceil((performance.now() - startedAt) / 250)
    t.diagnostic(`1000 failures caused ${asked} probes; at most ${most} were allowed`)
    assert.ok(asked <= most, `${asked} probes, at most ${most} expected`)
  })

  test('the response to a configure from before the outage changes nothing when it comes after the recovery', async t => {
    const fiber = { there: true }
    const held: Received[] = []
    const { port } = await rawUpstream(t, request => held.push(request), fiber)
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}`, env: FAST })
    await circuitIs(proxy, 'closed')
    const early = configure(proxy)
    const [received] = await until(() => held.length > 0 && held, { what: 'the configure is in flight' })
    fiber.there = false
    await circuitIs(proxy, 'open')
    fiber.there = true
    await circuitIs(proxy, 'closed')
    const probesBefore = Number(at(await statusOf(proxy), 'totals', 'probes'))

    const body = JSON.stringify({ detail: MISSING })
    received?.socket.write(response('503 Service Unavailable', body, `Content-Type: ${JSON_TYPE}`))
    const answer = await early
    assert.equal(answer.statusCode, 503)
    assert.equal(answer.bytes.toString(), body)
    // Several readings later neither the circuit has moved nor is a disagreement reported.
    await until(async () => Number(at(await statusOf(proxy), 'totals', 'probes')) >= probesBefore + 5)
    const status = await statusOf(proxy)
    assert.equal(at(status, 'circuit', 'state'), 'closed')
    assert.equal(at(status, 'disagreement'), null)
    assert.deepEqual(transitions(proxy), ['closed>open:waiting', 'open>closed:waiting'])
  })

  test("a probe that started before the failure does not satisfy the failure's probe request", async t => {
    const { simulator } = await simulate(t)
    const env = {
      ...NO_PROBES,
      FOCUS_BREAKER_PROBE_TIMEOUT_MS: '20000',
      FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '1',
    }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await circuitIs(proxy, 'closed')
    await simulator.setFault('GET /live_metadata', { kind: 'slow', delayMs: 1000 })
    const before = probes(simulator)
    const early = ask(`${proxy.url}/live_metadata`)
    await until(() => probes(simulator) === before + 1, { what: 'a client reads the metadata' })
    await answerWith(simulator, 503, '{"detail":"Database unavailable"}')
    await configure(proxy)
    await early
    await until(() => probes(simulator) === before + 2, {
      what: 'a probe has started after the failure',
      timeoutMs: 5000,
    })
  })

  test('when the metadata says ready and configure says missing, the status and the log report the disagreement', async t => {
    const { simulator } = await simulate(t)
    const env = { ...NO_PROBES, FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    assert.equal(at(await statusOf(proxy), 'disagreement'), null)
    await answerWith(simulator, 503, JSON.stringify({ detail: MISSING }))
    await configure(proxy)
    const disagreement = await until(async () => at(await statusOf(proxy), 'disagreement') ?? undefined, {
      what: 'the requested probe has contradicted the failure',
    })
    assert.deepEqual(at(disagreement, 'missing'), ['prr'])
    assert.match(String(at(disagreement, 'since')), /^\d{4}-.*\.\d{3}Z$/)

    // It lasts while configure fails, and is logged once, however often the two contradict each other.
    await closeByClients(proxy)
    await configure(proxy)
    await closeByClients(proxy)
    assert.notEqual(at(await statusOf(proxy), 'disagreement'), null)
    const warnings = proxy.logs().filter(line => line.msg === DISAGREES)
    assert.deepEqual(
      warnings.map(line => [line.level, line.missing]),
      [['warn', ['prr']]],
    )

    await simulator.setFault('POST /configure', null)
    assert.equal((await configure(proxy)).statusCode, 200)
    await until(async () => at(await statusOf(proxy), 'disagreement') === null, {
      what: 'a successful configure has settled it',
    })
  })

  test('a late success from before the outage does not settle a disagreement', async t => {
    const held: Received[] = []
    const { port } = await rawUpstream(t, request => held.push(request))
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}`, env: NO_PROBES })
    await circuitIs(proxy, 'closed')
    const early = configure(proxy)
    await until(() => held.length === 1)
    const late = configure(proxy)
    await until(() => held.length === 2)
    held[1]?.socket.write(response('503 Service Unavailable', JSON.stringify({ detail: MISSING })))
    await late
    await until(async () => at(await statusOf(proxy), 'disagreement') ?? undefined, {
      what: 'the metadata has contradicted the later response',
    })
    held[0]?.socket.write(response('200 OK', '{"status":""}'))
    assert.equal((await early).statusCode, 200)
    await aWhile()
    assert.notEqual(at(await statusOf(proxy), 'disagreement'), null)
  })
})
