import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { openEvents } from '../support/event-stream.js'
import { at, circuitIs, requireOrSkip, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { ProxyState } from '../support/proxy-state.js'
import {
  allAre,
  BEGINS_AFTER_MS,
  type Installation,
  joinedIs,
  type Load,
  override,
  PACE,
  type Replica,
  replicated,
  Truth,
  watchRamp,
} from '../support/replicated.js'
import { simulate } from '../support/simulate.js'

/** The simulator's requests of one kind. */
const received = (simulator: Installation['simulator'], route: string) =>
  simulator.counters.byRoute[route] ?? 0

test('three replicas act as one', { timeout: 180_000 }, async t => {
  if (!requireOrSkip(t, 'redis-server', 'haproxy')) return
  const installation = await replicated(t)
  const { replicas, simulator } = installation
  // More than the ramp ever allows.
  const load = installation.load({ clients: 60, pauseMs: 50 })
  const names = replicas.map(({ name }) => name)
  const truth = new Truth(t, installation, load)

  await t.test('a lost fiber costs no more than the requests in flight', async t => {
    await load.answeredBy(names, 20)
    await until(() => simulator.counters.inFlight >= 20, { everyMs: 1 })
    const refusedBefore = truth.refusedWhileClosed()
    const wasQuiet = truth.isQuiet
    const inside = simulator.counters.inFlight
    truth.change('missing')
    await allAre(replicas, 'open')
    await load.answeredBy(names, 50)
    const { arrived, inFlight, wronglyAdmitted } = truth.sinceLoss()
    t.diagnostic(
      `${arrived} configures reached focus-server after the loss, ${inFlight} were in flight at the loss (${inside} of them at focus-server); wrongly admitted: ${wronglyAdmitted}; wrongly refused before: ${refusedBefore}`,
    )
    assert.equal(wronglyAdmitted, 0)
    if (wasQuiet) assert.equal(refusedBefore, 0)
  })

  await t.test(
    'during the recovery no more requests are in flight than the ramp of one replica allows',
    async t => {
      await delay(1000)
      truth.change('present')
      const { excess, samples } = await watchRamp(simulator, replicas)
      await allAre(replicas, 'closed')
      truth.recovered()
      await load.answeredBy(names, 20)
      const { refused, late, afterwards } = truth.sinceReturn(BEGINS_AFTER_MS)
      t.diagnostic(`maximum in flight and the ramp's limit: ${samples.join(', ')}`)
      t.diagnostic(
        `${refused} refused until all replicas recovered; wrongly refused: ${late} later than a recovery may start, ${afterwards} after it; the machine was late by ${Math.round(truth.machineDelayMs)} ms at most`,
      )
      assert.ok(samples.length > 2, 'too few samples of the ramp')
      assert.ok(excess <= 0, `${excess} more were in flight than the ramp of one replica allows`)
      if (truth.isQuiet) assert.deepEqual([late, afterwards], [0, 0])
    },
  )

  await load.stop()

  await t.test('each replica lists the same outage, with the refusals of all', async () => {
    const refused = refusalsOf(load)
    await until(async () => {
      const lists = await Promise.all(replicas.map(outagesOf))
      const [first] = lists
      assert.equal(first?.length, 1)
      const facts = (outage: unknown) =>
        ['id', 'startedAt', 'endedAt', 'refused'].map(name => at(outage, name))
      for (const list of lists) assert.deepEqual(list.map(facts), first?.map(facts))
      assert.equal(at(first?.[0], 'refused'), refused)
      return true
    })
  })

  await t.test('one webhook arrives for the start and one for the end', async () => {
    const { hook } = installation
    await hook.nth(2)
    // Time for the others to send theirs, if they did.
    await delay(2000)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
  })

  await t.test('an override set at one replica applies at all of them within 100 ms', t =>
    overrideHolds(t, replicas),
  )

  await t.test('focus-server is probed as often as by one replica', async t => {
    const alone = await simulate(t)
    const single = await startProxy(t, {
      upstream: alone.simulator.url,
      env: { FOCUS_BREAKER_PROBE_PERIOD_MS: String(PACE.periodMs) },
    })
    await circuitIs(single, 'closed')
    const probes = () => [simulator, alone.simulator].map(each => received(each, 'GET /live_metadata'))
    const before = probes()
    await until(() => (probes()[1] ?? 0) - (before[1] ?? 0) >= 20, { what: '20 probes', timeoutMs: 60_000 })
    const [ofAll = 0, ofOne = 0] = probes().map((count, index) => count - (before[index] ?? 0))
    t.diagnostic(
      `${ofAll} probes by three replicas in the time of ${ofOne} by one: ${(ofAll / ofOne).toFixed(2)}`,
    )
    assert.ok(ofAll / ofOne < 1.3 && ofAll / ofOne > 0.7, `${ofAll} and ${ofOne}`)
  })
})

/** Entries that no replica of this version writes; each is skipped. */
const STRANGE: readonly (readonly string[])[] = [
  ...['0', '2', '99', 'x', ''].map(version => [
    'v',
    version,
    'o',
    'other',
    's',
    '1',
    'm',
    '{"kind":"probe-request"}',
  ]),
  ['o', 'other', 's', '1', 'm', '{"kind":"probe-request"}'],
  ['nothing', 'known'],
  ...[
    '',
    'null',
    '[]',
    '{',
    '{"kind":"unheard of"}',
    '{"kind":"reading"}',
    '{"kind":"reading","isCounted":true,"reading":{"at":"now","source":"probe","kind":"waiting","metadata":{},"missing":[]}}',
    '{"kind":"override","by":"other","override":{"state":"ajar"}}',
    `{"kind":"probe-request","padding":"${'x'.repeat(100_000)}"}`,
    '\u0000\u00ff',
  ].map(message => ['v', '1', 'o', 'other', 's', '1', 'm', message]),
  ...['-1', '0', '1.5', '1e300', 'x'].map(sequence => [
    'v',
    '1',
    'o',
    'other',
    's',
    sequence,
    'm',
    '{"kind":"probe-request"}',
  ]),
  ['v', '1', 'o', 'x'.repeat(10_000), 's', '1', 'm', '{"kind":"probe-request"}'],
]

test('entries of an older and of a newer version, and malformed ones, are skipped and counted', {
  timeout: 120_000,
}, async t => {
  if (!requireOrSkip(t, 'redis-server', 'haproxy')) return
  const installation = await replicated(t)
  const { replicas, simulator, redis } = installation
  const load = installation.load()
  const truth = new Truth(t, installation, load)
  const names = replicas.map(({ name }) => name)
  await load.answeredBy(names)
  const client = redis.client()
  const [log] = await client.keys('*:log')
  assert.ok(log !== undefined)
  for (const fields of STRANGE) await client.xadd(log, '*', ...fields)
  for (const replica of replicas) {
    const state = new ProxyState(t, replica)
    const skipped = async () => (await state.metrics()).value('focus_breaker_replicas_skipped_entries_total')
    await until(async () => (await skipped()) === STRANGE.length, {
      what: `${replica.name} has counted ${STRANGE.length} entries that it skipped`,
    })
  }
  await joinedIs(replicas, true)
  await load.answeredBy(names)
  const refusedBefore = truth.refusedWhileClosed()
  await until(() => simulator.counters.inFlight >= 4, { everyMs: 1 })
  truth.change('missing')
  await allAre(replicas, 'open')
  await load.answeredBy(names)
  const { arrived, inFlight, wronglyAdmitted } = truth.sinceLoss()
  truth.change('present')
  await allAre(replicas, 'closed')
  truth.recovered()
  await load.answeredBy(names)
  const { afterwards } = truth.sinceReturn(BEGINS_AFTER_MS)
  t.diagnostic(
    `WRONGLY ADMITTED ${wronglyAdmitted} (${arrived} after the loss, ${inFlight} were in flight); WRONGLY REFUSED ${refusedBefore} before it, ${afterwards} after the recovery`,
  )
  assert.deepEqual([wronglyAdmitted, refusedBefore, afterwards], [0, 0, 0])
})

test('guard.maxConcurrency applies to all replicas together, even when one of them dies', {
  timeout: 120_000,
}, async t => {
  if (!requireOrSkip(t, 'redis-server', 'haproxy')) return
  const most = 9
  const installation = await replicated(t, { env: { FOCUS_BREAKER_GUARD_MAX_CONCURRENCY: String(most) } })
  const { replicas, simulator } = installation
  const load = installation.load({ clients: 40, pauseMs: 20 })
  await load.answeredBy(
    replicas.map(({ name }) => name),
    50,
  )
  const together = simulator.counters.maxInFlight
  await until(() => simulator.counters.inFlight >= most - 1, {
    everyMs: 1,
    what: 'nearly all slots are used',
  })
  const [victim, ...others] = replicas
  assert.ok(victim !== undefined)
  process.kill(victim.pid, 'SIGKILL')
  simulator.resetCounters()
  await load.answeredBy(
    others.map(({ name }) => name),
    50,
  )
  const afterwards = simulator.counters.maxInFlight
  // The others get its slots once its lease has expired.
  await until(() => simulator.counters.inFlight >= most - 1, {
    everyMs: 1,
    what: 'the others use its slots',
  })
  t.diagnostic(
    `maximum in flight, of ${most}: ${together} with three replicas, ${afterwards} after one had died`,
  )
  assert.ok(together <= most, `${together} in flight`)
  assert.ok(afterwards <= most, `${afterwards} in flight after one had died`)
})

function refusalsOf(load: Load): number {
  const tally = load.tally()
  return tally.sum() - tally.of('served') - tally.of('missing') - tally.of('failed')
}

async function outagesOf(replica: Replica): Promise<readonly unknown[]> {
  const outages = at((await ask(`${replica.url}/-/outages`)).json, 'outages')
  assert.ok(Array.isArray(outages))
  return outages
}

const ROUNDS = 9

/** Sets and removes an override several times, and measures when each replica applies it. */
async function overrideHolds(t: TestContext, replicas: readonly Replica[]): Promise<void> {
  const streams = await Promise.all(replicas.map(({ url }) => openEvents(t, `${url}/-/events`)))
  const delays: number[] = []
  const controls: number[] = []
  for (let round = 0; round < ROUNDS; round += 1) {
    const where = replicas[round % replicas.length]
    assert.ok(where !== undefined)
    const reason = `round ${round}`
    const sentAt = performance.now()
    await override(where, 'open', reason)
    await Promise.all(
      streams.map(({ events }, index) =>
        until(() => events.some(({ data }) => at(data, 'reason') === reason), {
          everyMs: 1,
          what: `${replicas[index]?.name} applies the override`,
        }),
      ),
    )
    const reachedAt = performance.now()
    delays.push(reachedAt - sentAt)
    // Two requests one after the other, as above: one to a replica, and then one to each of them at the same time.
    await ask(`${where.url}/-/live`)
    await Promise.all(replicas.map(({ url }) => ask(`${url}/-/live`)))
    controls.push(performance.now() - reachedAt)
    for (const replica of replicas) {
      const { json } = await configure(replica)
      assert.equal(at(json, 'status'), 'forced_open')
    }
    await override(where, null)
    await Promise.all(
      replicas.map(replica => until(async () => at(await statusOf(replica), 'override') === null)),
    )
  }
  const median = (values: readonly number[]) =>
    values.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? Number.NaN
  const shown = (values: readonly number[]) => values.map(value => value.toFixed(1)).join(', ')
  t.diagnostic(
    `from sending the override until the last replica applied it: ${shown(delays)} ms, median ${median(delays).toFixed(1)} ms`,
  )
  t.diagnostic(`the same for requests that do nothing: ${shown(controls)} ms`)
  // Medians: a machine that is late once or twice proves nothing.
  assert.ok(
    median(delays) - median(controls) <= 100,
    `${median(delays)} ms, the control took ${median(controls)} ms`,
  )
}
