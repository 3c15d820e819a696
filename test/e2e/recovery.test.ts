import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import {
  clientPool,
  configure,
  FAST,
  runClients,
  transitionLines,
  transitions,
} from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

/** The default limits, at twice the speed. */
const RAMP = { initial: 2, max: 30, ms: 5000 }

test('the ramp admits 200 waiting clients, and all of them are served', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing', maxJobs: 100_000 })
  await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 150 })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: String(RAMP.ms) },
  })
  const dispatcher = clientPool(t, 200)
  const seen = new Map<string, number>()
  const retryAfters = new Set<unknown>()
  let refused = 0
  let served = 0
  const serving = runClients(200, async () => {
    for (;;) {
      const answer = await configure(proxy, { dispatcher })
      if (answer.statusCode === 200) {
        served += 1
        return
      }
      assert.equal(answer.statusCode, 503)
      assert.equal(at(answer.json, 'forwarded'), false, `${answer.bytes} is not a refusal`)
      refused += 1
      const status = String(at(answer.json, 'status'))
      seen.set(status, (seen.get(status) ?? 0) + 1)
      if (status === 'recovering') retryAfters.add(answer.headers['retry-after'])
      // These clients ignore Retry-After.
      await delay(75)
    }
  })
  await until(() => refused >= 400, { what: '400 were refused while the fiber was missing' })
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)

  await simulator.setFiber('present')
  await circuitIs(proxy, 'half-open')
  const since = Date.parse(String(at(await statusOf(proxy), 'circuit', 'since')))
  /** The current limit of the ramp; the clocks of two processes may differ by some milliseconds. */
  const limit = () => {
    const part = Math.min(1, (Date.now() + 100 - since) / RAMP.ms)
    return RAMP.initial + Math.floor((RAMP.max - RAMP.initial) * part)
  }
  const samples: string[] = []
  let isOver = false
  const watching = (async () => {
    while (!isOver) {
      const { maxInFlight } = simulator.counters
      const allowed = limit()
      assert.ok(maxInFlight <= allowed, `${maxInFlight} were in flight, the ramp allows ${allowed}`)
      if (samples.length < (Date.now() - since) / 500) {
        samples.push(`${maxInFlight}/${allowed} (${served} served)`)
      }
      await delay(20)
    }
  })()
  await Promise.all([serving.finally(() => (isOver = true)), watching])
  const lastSeconds = (Date.now() - since) / 1000
  t.diagnostic(
    `the last of 200 was served ${lastSeconds.toFixed(1)} s after the start of the recovery; at most ` +
      `${simulator.counters.maxInFlight} of ${RAMP.max} in flight; refused in the meantime: ${JSON.stringify([...seen])}`,
  )
  t.diagnostic(`maximum in flight and the ramp's limit, per half second: ${samples.join(', ')}`)
  assert.equal(served, 200)
  assert.equal(simulator.counters.byRoute['POST /configure'], 200)
  assert.ok(simulator.counters.maxInFlight <= RAMP.max, `${simulator.counters.maxInFlight} were in flight`)
  assert.deepEqual([...seen.keys()].sort(), ['recovering', 'waiting_for_fiber'])
  assert.ok(
    [...retryAfters].every(value => value === '1' || value === '2'),
    [...retryAfters].join(', '),
  )
})

describe('recovery', { concurrency: 3 }, () => {
  test('without a ramp the circuit closes at once', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    await circuitIs(proxy, 'open')
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    await until(() => transitions(proxy).length > 0)
    assert.deepEqual(transitions(proxy), ['open>closed:waiting'])
  })

  test('after a bad reading during the recovery, the same outage continues', async t => {
    const { simulator } = await simulate(t)
    const env = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '1500' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await circuitIs(proxy, 'closed')
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    await delay(1000)
    await simulator.setFiber('present')
    await circuitIs(proxy, 'half-open')
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')

    await until(() => transitions(proxy).length >= 5)
    const [opened, ...later] = transitionLines(proxy)
    assert.equal(`${opened?.from}>${opened?.to}`, 'closed>open')
    assert.equal(opened?.outageSeconds, undefined)
    assert.deepEqual(
      later.map(line => `${line.from}>${line.to}`),
      ['open>half-open', 'half-open>open', 'open>half-open', 'half-open>closed'],
    )
    const openedAt = Date.parse(String(opened?.time))
    for (const line of later) {
      const seconds = (Date.parse(String(line.time)) - openedAt) / 1000
      const reported = Number(line.outageSeconds)
      assert.ok(
        Math.abs(reported - seconds) <= 1,
        `${line.msg}: ${reported} s reported, ${seconds} s since it opened`,
      )
    }
    assert.ok(Number(later.at(-1)?.outageSeconds) >= 2, 'the failed recovery is part of the outage')
  })

  test('guard.maxConcurrency applies while the circuit is closed', async t => {
    const { simulator } = await simulate(t, { maxJobs: 100_000 })
    await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 30 })
    const env = { FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: '4' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await circuitIs(proxy, 'closed')
    const dispatcher = clientPool(t, 50)
    const seen = new Set<unknown>()
    let served = 0
    await runClients(50, async () => {
      for (let attempt = 0; attempt < 10; attempt += 1) {
        const answer = await configure(proxy, { dispatcher })
        if (answer.statusCode === 200) {
          served += 1
          continue
        }
        seen.add(at(answer.json, 'status'))
        assert.match(String(answer.headers['retry-after']), /^[12]$/)
        assert.doesNotMatch(answer.bytes.toString(), /waiting for fiber"/)
        assert.equal(at(answer.json, 'circuit', 'state'), 'closed')
        await delay(10)
      }
    })
    t.diagnostic(`${served} of 500 served, at most ${simulator.counters.maxInFlight} in flight`)
    assert.deepEqual([...seen], ['overloaded'])
    assert.ok(served > 0)
    assert.equal(simulator.counters.maxInFlight, 4)
    assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
  })
})
