import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { Exposition } from '../support/exposition.js'
import { at, circuitIs, requireOrSkip, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

const OWN = 'focus_breaker_'
const TOKEN = 'a-token-of-the-test'

test('the counters after a played outage match exactly what was sent', async t => {
  const { simulator } = await simulate(t, { maxJobs: 1000 })
  const env = { ...FAST, FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '3600000' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'closed')
  await times(12, () => configure(proxy))
  await times(7, () => ask(`${proxy.url}/channels`))
  await times(5, () => ask(`${proxy.url}/metadata/none`))
  await times(4, () => configure(proxy, { body: 'not JSON' }))
  // Served from the last reading: neither forwarded nor a reading.
  await times(6, () => ask(`${proxy.url}/live_metadata`))
  await simulator.setFault('GET /channels', { kind: 'reset' })
  await times(3, () => ask(`${proxy.url}/channels`))
  await simulator.setFault('GET /channels', null)

  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await times(250, () => configure(proxy))
  await times(2, () => ask(`${proxy.url}/channels`))
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  await times(1, () => configure(proxy))

  // The end of an exchange is counted after its response.
  const seen = await until(
    async () => {
      const exposition = await expositionOf(proxy)
      return exposition.sum(`${OWN}forwarded_requests_total`) >= 34 && exposition
    },
    { what: 'every forwarded request is counted' },
  )
  const forwarded = (guarded: string, code: string) =>
    seen.value(`${OWN}forwarded_requests_total`, { guarded, code_class: code })
  assert.deepEqual(
    {
      configured: forwarded('true', '2xx'),
      faulty: forwarded('true', '4xx'),
      read: forwarded('false', '2xx'),
      notFound: forwarded('false', '4xx'),
      failed: forwarded('false', '5xx'),
      all: seen.sum(`${OWN}forwarded_requests_total`),
    },
    { configured: 13, faulty: 4, read: 9, notFound: 5, failed: 3, all: 34 },
  )
  assert.equal(seen.value(`${OWN}refused_requests_total`, { status: 'waiting_for_fiber' }), 250)
  assert.equal(seen.sum(`${OWN}refused_requests_total`), 250)
  assert.equal(seen.value(`${OWN}would_refuse_requests_total`), 0)
  assert.equal(seen.value(`${OWN}upstream_errors_total`, { kind: 'connection_terminated' }), 3)
  assert.equal(seen.sum(`${OWN}upstream_errors_total`), 3)
  assert.equal(seen.value(`${OWN}request_duration_seconds_count`, { guarded: 'true' }), 17)
  assert.equal(seen.value(`${OWN}request_duration_seconds_count`, { guarded: 'false' }), 17)
  const transitions = (from: string, to: string) => seen.sum(`${OWN}transitions_total`, { from, to })
  assert.equal(seen.value(`${OWN}transitions_total`, { from: 'closed', to: 'open', cause: 'waiting' }), 1)
  assert.equal(seen.value(`${OWN}transitions_total`, { from: 'open', to: 'closed', cause: 'waiting' }), 1)
  assert.equal(transitions('closed', 'open'), 1)
  // The start is a transition as well.
  assert.equal(transitions('open', 'closed'), 2)
  assert.equal(seen.sum(`${OWN}readings_total`, { source: 'configure' }), 0)
  assert.equal(seen.sum(`${OWN}readings_total`, { source: 'client' }), 0)
  const status = await statusOf(proxy)
  assert.equal(at(status, 'totals', 'forwarded'), 34)
  assert.equal(at(status, 'totals', 'refused'), 250)
  assert.equal(simulator.counters.byRoute['POST /configure'], 17)
})

test('each probe is counted and timed once', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await until(async () => Number(at(await statusOf(proxy), 'totals', 'probes')) >= 5)
  const seen = await expositionOf(proxy)
  const probes = seen.sum(`${OWN}readings_total`, { source: 'probe' })
  assert.ok(probes >= 5)
  assert.equal(seen.value(`${OWN}probe_duration_seconds_count`), probes)
  assert.equal(seen.value(`${OWN}probe_duration_seconds_bucket`, { le: '+Inf' }), probes)
  const lastReadyAt = at(await statusOf(proxy), 'lastReadyAt')
  const age = Date.parse(String(lastReadyAt)) / 1000 - seen.value(`${OWN}last_ready_timestamp_seconds`)
  assert.ok(age >= -0.001 && age < 60, `${age} s`)
})

test('an outage between two scrapes is visible, with its length', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await circuitIs(proxy, 'closed')
  const before = await expositionOf(proxy)
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  const after = await expositionOf(proxy)
  // Neither scrape alone shows anything unusual.
  for (const each of [before, after]) assert.equal(each.value(`${OWN}circuit_state`, { state: 'closed' }), 1)
  const open = (each: Exposition) => each.value(`${OWN}state_seconds_total`, { state: 'open' })
  const [outage] = listOf(at((await ask(`${proxy.url}/-/outages`)).json, 'outages'))
  const seconds = Number(at(outage, 'seconds'))
  assert.ok(seconds > 0)
  // A scrape during a probe still counts the old state, and the transition is dated by when the probe was sent.
  const probeSeconds = after.value(`${OWN}probe_duration_seconds_sum`)
  assert.ok(
    Math.abs(open(after) - open(before) - seconds) < 0.01 + probeSeconds,
    `${open(after) - open(before)} s, ${seconds} s`,
  )
})

test('the seconds of all states add up to the time that passed, also within a state', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const env = { ...FAST, FOCUS_BREAKER_RECOVERY_RAMP_MS: '400' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  /** The seconds so far, and the two moments between which they were read. */
  const scrape = async () => {
    const before = performance.now()
    const exposition = await expositionOf(proxy)
    const after = performance.now()
    const of = (state: string) => exposition.value(`${OWN}state_seconds_total`, { state })
    return { before, after, of, sum: exposition.sum(`${OWN}state_seconds_total`) }
  }
  const first = await scrape()
  await until(async () => (await scrape()).of('open') - first.of('open') > 0.3)
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  const last = await until(async () => {
    const seen = await scrape()
    return seen.of('closed') > 0.1 && seen
  })
  // At most the time from the start of the first scrape to the end of the last, and at least the time from the end of
  // the first to the start of the last; the exposition and the two clocks round.
  const counted = last.sum - first.sum
  const most = (last.after - first.before) / 1000
  const least = (last.before - first.after) / 1000
  assert.ok(counted <= most + 0.01 && counted >= least - 0.01, `${counted} s, of ${least} to ${most}`)
  assert.ok(last.of('half-open') >= 0.39, `${last.of('half-open')} s half-open, with a ramp of 0.4 s`)
  assert.equal(first.of('half-open'), 0)
})

test('every series is present from the start, none is added later, and no client can name one', async t => {
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN, FOCUS_BREAKER_RECOVERY_RAMP_MS: '300' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const before = ownNames(await expositionOf(proxy))
  for (const state of ['closed', 'open', 'half-open']) {
    for (const metric of ['circuit_state', 'state_seconds_total']) {
      assert.ok(before.includes(`${OWN}${metric} state=${state}`), `${metric} of ${state}`)
    }
  }
  for (const status of ['waiting_for_fiber', 'metadata_unavailable', 'recovering', 'forced_open']) {
    assert.ok(before.includes(`${OWN}refused_requests_total status=${status}`), status)
  }
  const odd = { 'user-agent': 'invented/1', 'x-test-run': 'run-1', 'x-forwarded-for': '203.0.113.9' }
  await ask(`${proxy.url}/an/invented/path?q=1`, { headers: odd })
  await ask(`${proxy.url}/channels`, { method: 'PATCH', headers: odd })
  await simulator.setFault('GET /channels', { kind: 'status', code: 599 })
  await ask(`${proxy.url}/channels`, { headers: odd })
  await simulator.setFault('GET /live_metadata', { kind: 'html' })
  await circuitIs(proxy, 'open')
  await configure(proxy, { headers: odd })
  await simulator.setFault('GET /live_metadata', null)
  await simulator.setFiber('missing')
  await until(async () => at(await statusOf(proxy), 'circuit', 'cause') === 'waiting')
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  await override(proxy, { state: 'open', reason: 'a reason', forSeconds: 60 })
  await configure(proxy, { headers: odd })
  await simulator.setFault('*', { kind: 'refuse' })
  await ask(`${proxy.url}/ack`, { headers: odd })
  const after = await expositionOf(proxy)
  assert.deepEqual(ownNames(after), before)
  const values = after.series.flatMap(({ labels }) => [...labels.values()])
  for (const value of values) {
    assert.doesNotMatch(value, /invented|run-1|203\.0\.113\.9|127\.0\.0\.1|channels|configure\b.*\//)
  }
})

test('refusals are counted by reason, including those by an override, and the override itself is shown', async t => {
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'closed')
  assert.equal((await expositionOf(proxy)).value(`${OWN}override_active`), 0)
  await override(proxy, { state: 'open', reason: 'fiber work', forSeconds: 60 })
  await times(3, () => configure(proxy))
  const inForce = await expositionOf(proxy)
  assert.equal(inForce.value(`${OWN}override_active`), 1)
  assert.equal(inForce.value(`${OWN}refused_requests_total`, { status: 'forced_open' }), 3)
  // The override does not affect the readings.
  assert.equal(inForce.value(`${OWN}circuit_state`, { state: 'closed' }), 1)
  await ask(`${proxy.url}/-/override`, { method: 'DELETE', headers: { authorization: `Bearer ${TOKEN}` } })
  assert.equal((await expositionOf(proxy)).value(`${OWN}override_active`), 0)
})

test('in observe mode nothing counts as refused', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const env = { ...FAST, FOCUS_BREAKER_GUARD_MODE: 'observe' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await times(4, () => configure(proxy))
  const seen = await expositionOf(proxy)
  assert.equal(seen.sum(`${OWN}refused_requests_total`), 0)
  assert.equal(seen.value(`${OWN}would_refuse_requests_total`), 4)
  assert.equal(seen.sum(`${OWN}readings_total`, { kind: 'waiting', source: 'configure' }), 4)
})

test('promtool accepts the exposition of a freshly started proxy and that after an outage', async t => {
  if (!requireOrSkip(t, 'promtool')) return
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const fresh = await ask(`${proxy.url}/-/metrics`)
  assert.match(String(fresh.headers['content-type']), /^text\/plain; version=0\.0\.4; charset=utf-8/)
  assert.equal(await promtoolOn(fresh.bytes), '')
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await configure(proxy)
  await ask(`${proxy.url}/channels`)
  assert.equal(await promtoolOn((await ask(`${proxy.url}/-/metrics`)).bytes), '')
  // It prints the problem of an invalid exposition.
  assert.match(await promtoolOn(Buffer.from('# TYPE requests counter\nrequests 1\n')), /_total/)
})

/** The complaints of promtool about an exposition. */
async function promtoolOn(exposition: Buffer): Promise<string> {
  const child = spawn('promtool', ['check', 'metrics'], { stdio: ['pipe', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', piece => {
      output += piece
    })
  }
  child.stdin.end(exposition)
  const [code] = await once(child, 'close')
  return code === 0 ? output : `${code}: ${output}`
}

async function expositionOf(proxy: { readonly url: string }): Promise<Exposition> {
  const { statusCode, bytes } = await ask(`${proxy.url}/-/metrics`)
  assert.equal(statusCode, 200)
  return new Exposition(bytes.toString())
}

function ownNames(exposition: Exposition): readonly string[] {
  return exposition.names.filter(name => name.startsWith(OWN)).sort()
}

async function override(proxy: { readonly url: string }, word: object): Promise<void> {
  const headers = { authorization: `Bearer ${TOKEN}` }
  const body = JSON.stringify(word)
  assert.equal((await ask(`${proxy.url}/-/override`, { method: 'PUT', headers, body })).statusCode, 200)
}

async function times(count: number, act: () => Promise<unknown>): Promise<void> {
  for (let done = 0; done < count; done += 1) await act()
}

function listOf(value: unknown): readonly unknown[] {
  assert.ok(Array.isArray(value))
  return value
}
