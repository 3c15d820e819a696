import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'
import { receiver } from '../support/webhook-receiver.js'

const TOKEN = 'correct-horse-battery-staple'
const RUN = 'nightly-7'

/** A process checks every two seconds whether the file of another one has become free. */
const WAITING_FOR_FILE = { what: 'the new process has taken over the history file', timeoutMs: 30_000 }

const NO_COOLDOWN = { FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0' }

/** A process that probes once, at its start. After that it knows only what its clients read. */
const SELDOM = { FOCUS_BREAKER_PROBE_PERIOD_MS: '600000', FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '0' }

/**
 * The order of a rollout: `surge` starts the new process first, as a rolling update does; `recreate` stops the old one
 * first.
 */
const ORDERS = ['surge', 'recreate'] as const

describe('a rollout with a history file', { concurrency: 3 }, () => {
  for (const order of ORDERS) {
    test(`(${order}) in the middle of an outage: one outage, reported once, with its age and the counts of both`, async t => {
      const { start, replace, simulator, hook } = await installation(t)
      const old = await start()
      await circuitIs(old, 'closed')
      await simulator.setFiber('missing')
      await circuitIs(old, 'open')
      await hook.nth(1)
      await refuse(old, 3)
      const before = await circuitOf(old)
      const proxy = await replace(old, order, fresh => refuse(fresh, 2))
      assert.deepEqual(await circuitOf(proxy), before)
      await refuse(proxy, 4)
      await simulator.setFiber('present')
      await circuitIs(proxy, 'closed')
      await hook.nth(2)
      await settled(proxy)
      assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
      const [opened, closed] = hook.received.map(({ body }) => at(body, 'data'))
      assert.equal(at(opened, 'startedAt'), before.outageStartedAt)
      assert.equal(at(closed, 'startedAt'), before.outageStartedAt)
      assert.equal(at(closed, 'refused'), 9)
      await countsAre(proxy, [9])
    })
  }

  test('an outage that starts while both processes run is one outage, and is reported once', async t => {
    const { start, replace, simulator, hook } = await installation(t)
    const old = await start()
    await circuitIs(old, 'closed')
    const proxy = await replace(old, 'surge', async fresh => {
      await simulator.setFiber('missing')
      await Promise.all([circuitIs(old, 'open'), circuitIs(fresh, 'open')])
      await hook.nth(1)
      await refuse(old, 3)
      await refuse(fresh, 2)
    })
    await settled(proxy)
    assert.deepEqual(hook.types(), ['outage.opened'])
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    const closed = await hook.nth(2)
    await settled(proxy)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
    assert.equal(at(closed.body, 'data', 'startedAt'), at(hook.received[0]?.body, 'data', 'startedAt'))
    await countsAre(proxy, [5])
  })

  test('an outage that starts and ends while both run is one outage, and is reported once', async t => {
    const { start, replace, simulator, hook } = await installation(t)
    const old = await start()
    await circuitIs(old, 'closed')
    const proxy = await replace(old, 'surge', async fresh => {
      await simulator.setFiber('missing')
      await Promise.all([circuitIs(old, 'open'), circuitIs(fresh, 'open')])
      await refuse(old, 3)
      await refuse(fresh, 2)
      await simulator.setFiber('present')
      await Promise.all([circuitIs(old, 'closed'), circuitIs(fresh, 'closed')])
      await hook.nth(2)
    })
    await settled(proxy)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
    await countsAre(proxy, [5])
  })

  test('the end of an outage that ends while both processes run is reported once', async t => {
    const { start, replace, simulator, hook } = await installation(t)
    const old = await start()
    await circuitIs(old, 'closed')
    await simulator.setFiber('missing')
    await circuitIs(old, 'open')
    await refuse(old, 3)
    const proxy = await replace(old, 'surge', async fresh => {
      await refuse(fresh, 2)
      await simulator.setFiber('present')
      await Promise.all([circuitIs(old, 'closed'), circuitIs(fresh, 'closed')])
      await hook.nth(2)
    })
    await settled(proxy)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
    await countsAre(proxy, [5])
  })

  test('an outage that becomes a long one while both processes run is reported as such once', async t => {
    const { start, replace, simulator, hook } = await installation(t, {
      FOCUS_BREAKER_NOTIFY_LASTING_AFTER_MS: '4000',
    })
    const old = await start()
    await circuitIs(old, 'closed')
    await simulator.setFiber('missing')
    await hook.nth(1)
    const proxy = await replace(old, 'surge', async () => await hook.nth(2))
    await settled(proxy)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.lasting'])
  })

  // The new process has not probed yet when the old one stops: each knows only its own readings.
  for (const next of ['continues', 'ends'] as const) {
    test(`an outage that only the old process saw start, and that ${next}, is one outage and is reported once`, async t => {
      const { start, replace, simulator, hook } = await installation(t, NO_COOLDOWN)
      const old = await start()
      await circuitIs(old, 'closed')
      const proxy = await replace(
        old,
        'surge',
        async fresh => {
          await circuitIs(fresh, 'closed')
          await simulator.setFiber('missing')
          await hook.nth(1)
          await refuse(old, 2)
        },
        SELDOM,
      )
      assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
      if (next === 'continues') {
        await readUntil(proxy, 'open')
        await refuse(proxy, 3)
        await simulator.setFiber('present')
        await readUntil(proxy, 'closed')
      } else {
        await simulator.setFiber('present')
        await readUntilSent(proxy, hook, 2)
      }
      const closed = await hook.nth(2)
      await ask(`${proxy.url}/live_metadata`)
      assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
      assert.equal(at(closed.body, 'data', 'startedAt'), at(hook.received[0]?.body, 'data', 'startedAt'))
      const { json } = await ask(`${proxy.url}/-/outages`)
      assert.deepEqual(
        [at(json, 'outages', 0, 'refused'), at(json, 'outages', 1)],
        [next === 'continues' ? 5 : 2, undefined],
      )
      assert.equal(typeof at(json, 'outages', 0, 'endedAt'), 'string')
      assert.equal(at((await ask(`${proxy.url}/-/report?days=1`)).json, 'outages', 'count'), 1)
    })
  }

  for (const began of ['before', 'while'] as const) {
    for (const next of ['is not reported again', 'and the next one is a separate outage'] as const) {
      test(`an outage that started ${began} both processes ran, and only the old one saw end, ${next}`, async t => {
        const { start, replace, simulator, hook } = await installation(t, NO_COOLDOWN)
        const old = await start()
        await circuitIs(old, 'closed')
        const begin = async () => {
          await simulator.setFiber('missing')
          await hook.nth(1)
        }
        if (began === 'before') await begin()
        const proxy = await replace(
          old,
          'surge',
          async fresh => {
            if (began === 'while') {
              await circuitIs(fresh, 'closed')
              await begin()
            }
            await readUntil(fresh, 'open')
            await simulator.setFiber('present')
            await circuitIs(old, 'closed')
            await hook.nth(2)
          },
          SELDOM,
        )
        assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'open')
        const isAnother = next !== 'is not reported again'
        if (isAnother) {
          await simulator.setFiber('missing')
          await readUntilSent(proxy, hook, 3)
          await simulator.setFiber('present')
        }
        await readUntil(proxy, 'closed')
        const types = ['outage.opened', 'outage.closed']
        if (isAnother) await hook.nth(4)
        await ask(`${proxy.url}/live_metadata`)
        assert.deepEqual(hook.types(), isAnother ? [...types, ...types] : types)
        const count = at((await ask(`${proxy.url}/-/report?days=1`)).json, 'outages', 'count')
        assert.equal(count, isAnother ? 2 : 1)
      })
    }
  }

  test('the new process delivers, once and with the same id, what the old one could not deliver', async t => {
    const { start, replace, simulator, hook, receiving } = await installation(t)
    receiving.status = 503
    const old = await start()
    await circuitIs(old, 'closed')
    await simulator.setFiber('missing')
    const { headers } = await hook.nth(1)
    const proxy = await replace(old, 'surge', async fresh => {
      await circuitIs(fresh, 'open')
      receiving.isHanging = true
    })
    const before = hook.received.length
    receiving.isHanging = false
    receiving.status = 200
    const delivered = await hook.nth(before + 1)
    assert.equal(delivered.headers['webhook-id'], headers['webhook-id'])
    await settled(proxy)
    assert.equal(hook.received.length, before + 1)
  })

  for (const began of ['before', 'while'] as const) {
    test(`the old process is killed in an outage that started ${began} both ran: its message is delivered once, and the end is reported`, async t => {
      const { start, replace, simulator, hook, receiving } = await installation(t, NO_COOLDOWN)
      receiving.status = 503
      const old = await start()
      await circuitIs(old, 'closed')
      if (began === 'before') await simulator.setFiber('missing')
      const proxy = await replace(old, 'killed', async fresh => {
        await simulator.setFiber('missing')
        await Promise.all([circuitIs(old, 'open'), circuitIs(fresh, 'open')])
        await hook.nth(1)
        receiving.isHanging = true
      })
      const before = hook.received.length
      receiving.isHanging = false
      receiving.status = 200
      const delivered = await hook.nth(before + 1)
      assert.equal(delivered.headers['webhook-id'], hook.received[0]?.headers['webhook-id'])
      await simulator.setFiber('present')
      await hook.nth(before + 2)
      await settled(proxy)
      assert.deepEqual(hook.types().slice(before), ['outage.opened', 'outage.closed'])
      const starts = hook.received.map(({ body }) => at(body, 'data', 'startedAt'))
      assert.equal(new Set(starts).size, 1)
      const { json } = await ask(`${proxy.url}/-/outages`)
      assert.equal(at(json, 'outages', 1), undefined)
    })
  }

  for (const order of ORDERS) {
    test(`(${order}) an override stays in force, and is reported once`, async t => {
      const { start, replace, hook } = await installation(t, { FOCUS_BREAKER_NOTIFY_OVERRIDES: 'true' })
      const old = await start()
      await override(old, 'before')
      await hook.nth(1)
      const proxy = await replace(old, order, async fresh => assert.equal(await reasonOf(fresh), 'before'))
      assert.equal(await reasonOf(proxy), 'before')
      await settled(proxy)
      assert.deepEqual(hook.types(), ['override.set'])
    })
  }

  // The new process decides by its own information. An override set only at the old one ends with that process.
  for (const [where, expected] of [
    ['old', undefined],
    ['new', 'meanwhile'],
  ] as const) {
    test(`an override set only at the ${where} process while both run stays with that process, and is reported once`, async t => {
      const { start, replace, hook } = await installation(t, { FOCUS_BREAKER_NOTIFY_OVERRIDES: 'true' })
      const old = await start()
      const proxy = await replace(old, 'surge', async fresh => {
        await override(where === 'old' ? old : fresh, 'meanwhile')
        await hook.nth(1)
      })
      await settled(proxy)
      assert.equal(await reasonOf(proxy), expected)
      assert.deepEqual(hook.types(), ['override.set'])
    })
  }

  test('the end of an override set at the new process that ends while both run is reported', async t => {
    const { start, replace, hook } = await installation(t, { FOCUS_BREAKER_NOTIFY_OVERRIDES: 'true' })
    const old = await start()
    const proxy = await replace(old, 'surge', async fresh => {
      await override(fresh, 'meanwhile', 1)
      await hook.nth(2)
    })
    await settled(proxy)
    assert.deepEqual(hook.types(), ['override.set', 'override.ended'])
  })
})

describe('a rollout without a history file', { concurrency: 3 }, () => {
  for (const order of ORDERS) {
    test(`(${order}) the start is not reported again within the cooldown, and the end is, with the age that the new process knows`, async t => {
      const { start, replace, simulator, hook } = await installation(t, { FOCUS_BREAKER_HISTORY_FILE: '' })
      const old = await start()
      await circuitIs(old, 'closed')
      await simulator.setFiber('missing')
      await circuitIs(old, 'open')
      await hook.nth(1)
      await refuse(old, 3)
      const proxy = await replace(old, order)
      await circuitIs(proxy, 'open')
      await refuse(proxy, 4)
      await settled(proxy)
      assert.deepEqual(hook.types(), ['outage.opened'])
      await simulator.setFiber('present')
      const closed = await hook.nth(2)
      assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed'])
      const known = at(closed.body, 'data')
      assert.equal(at(known, 'foundAtStart'), true)
      assert.match(String(at(known, 'message')), /ended after at least \d+ m?s/)
      assert.ok(String(at(known, 'startedAt')) > String(at(hook.received[0]?.body, 'data', 'startedAt')))
      assert.equal(at(known, 'refused'), 4)
      await countsAre(proxy, [4])
    })
  }

  test('an outage that outlasts the cooldown is reported by the new process, which says that it had already started', async t => {
    const { start, replace, simulator, hook } = await installation(t, {
      FOCUS_BREAKER_HISTORY_FILE: '',
      FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '2000',
    })
    const old = await start()
    await circuitIs(old, 'closed')
    await simulator.setFiber('missing')
    await hook.nth(1)
    const proxy = await replace(old, 'recreate')
    const again = await hook.nth(2)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.opened'])
    assert.match(
      String(at(again.body, 'data', 'message')),
      /outage(?: for at least \d+ m?s)?, the fiber is missing; .* It was already in progress when focus-breaker started\.$/,
    )
    await simulator.setFiber('present')
    await hook.nth(3)
    await settled(proxy)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.opened', 'outage.closed'])
  })

  test('an override ends with the process', async t => {
    const { start, replace } = await installation(t, { FOCUS_BREAKER_HISTORY_FILE: '' })
    const old = await start()
    await override(old, 'before')
    const proxy = await replace(old, 'surge')
    assert.equal(await reasonOf(proxy), undefined)
  })
})

/** A simulator, a receiver of notifications, and consecutive processes with one configuration. */
async function installation(t: TestContext, env: Readonly<Record<string, string>> = {}) {
  const { simulator } = await simulate(t)
  const receiving = { status: 200, isHanging: false }
  const hook = await receiver(t, () => (receiving.isHanging ? () => undefined : receiving.status))
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-rollout-'))
  const started: RunningProxy[] = []
  t.after(async () => {
    await Promise.all(started.map(proxy => proxy.stop()))
    rmSync(directory, { recursive: true, force: true })
  })
  const all: Record<string, string> = {
    ...FAST,
    // A slow simulator on a busy machine is not a second outage.
    FOCUS_BREAKER_PROBE_TIMEOUT_MS: '8000',
    FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '20',
    FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
    FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url: hook.url, format: 'json' }]),
    FOCUS_BREAKER_HISTORY_FILE: join(directory, 'history.jsonl'),
    ...env,
  }
  if (all.FOCUS_BREAKER_HISTORY_FILE === '') delete all.FOCUS_BREAKER_HISTORY_FILE
  const start = async (more: Readonly<Record<string, string>> = {}) => {
    const proxy = await startProxy(t, { upstream: simulator.url, env: { ...all, ...more } })
    started.push(proxy)
    return proxy
  }
  /** @param meanwhile runs while both processes run; with `recreate`, after the new one has started. */
  const replace = async (
    old: RunningProxy,
    order: (typeof ORDERS)[number] | 'killed',
    meanwhile: (fresh: RunningProxy) => Promise<unknown> = async () => undefined,
    more: Readonly<Record<string, string>> = {},
  ): Promise<RunningProxy> => {
    if (order === 'recreate') assert.equal(await old.stop(), 0)
    const fresh = await start(more)
    await meanwhile(fresh)
    if (order === 'surge') assert.equal(await old.stop(), 0)
    if (order === 'killed') process.kill(old.pid, 'SIGKILL')
    if (all.FOCUS_BREAKER_HISTORY_FILE !== undefined) {
      await until(
        async () => /^focus_breaker_history_writable 1$/m.test(await metricsOf(fresh)),
        WAITING_FOR_FILE,
      )
    }
    return fresh
  }
  return { simulator, hook, receiving, start, replace }
}

async function refuse(proxy: RunningProxy, count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    const { statusCode } = await configure(proxy, { headers: { 'x-test-run': RUN } })
    assert.equal(statusCode, 503)
  }
}

/** Makes a client read the metadata until the circuit is in this state. */
async function readUntil(proxy: RunningProxy, state: string): Promise<void> {
  await until(async () => {
    await ask(`${proxy.url}/live_metadata`)
    return at(await statusOf(proxy), 'circuit', 'state') === state
  })
}

/** Makes a client read the metadata until this many messages have been sent. */
async function readUntilSent(
  proxy: RunningProxy,
  hook: { readonly received: readonly unknown[] },
  count: number,
): Promise<void> {
  await until(async () => {
    await ask(`${proxy.url}/live_metadata`)
    return hook.received.length >= count
  })
}

/** A few more readings have been taken, so any effect of them has happened. */
async function settled(proxy: RunningProxy): Promise<void> {
  const probes = async () => Number(at(await statusOf(proxy), 'totals', 'probes'))
  const before = await probes()
  await until(async () => (await probes()) >= before + 5)
  await delay(200)
}

/** The stored outages, newest first: how many requests each refused, in total and for the client and the test run. */
async function countsAre(proxy: RunningProxy, refused: readonly number[]): Promise<void> {
  const sum = refused.reduce((all, each) => all + each, 0)
  const { json } = await ask(`${proxy.url}/-/outages`)
  const outages = at(json, 'outages')
  assert.ok(Array.isArray(outages))
  assert.deepEqual(
    outages.map(outage => at(outage, 'refused')),
    refused,
  )
  const detail = await ask(`${proxy.url}/-/outages/${at(outages[0], 'id')}`)
  assert.equal(at(detail.json, 'clients', 0, 'refused'), refused[0])
  assert.equal(at(detail.json, 'runs', 0, 'refused'), refused[0])
  assert.equal(at((await ask(`${proxy.url}/-/runs/${RUN}`)).json, 'refused'), sum)
  assert.equal(at((await ask(`${proxy.url}/-/clients`)).json, 'clients', 0, 'attempts'), sum)
  const report = (await ask(`${proxy.url}/-/report?days=1`)).json
  assert.equal(at(report, 'outages', 'count'), refused.length)
}

async function override(proxy: RunningProxy, reason: string, forSeconds = 600): Promise<void> {
  const { statusCode } = await ask(`${proxy.url}/-/override`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ state: 'open', reason, forSeconds }),
  })
  assert.equal(statusCode, 200)
}

/** The circuit without the members that change with the clock. */
async function circuitOf(proxy: RunningProxy): Promise<Readonly<Record<string, unknown>>> {
  const circuit = at(await statusOf(proxy), 'circuit')
  return Object.fromEntries(
    ['state', 'cause', 'since', 'outageStartedAt'].map(name => [name, at(circuit, name)]),
  )
}

async function reasonOf(proxy: RunningProxy): Promise<unknown> {
  return at(await statusOf(proxy), 'override', 'reason')
}

async function metricsOf(proxy: RunningProxy): Promise<string> {
  return (await ask(`${proxy.url}/-/metrics`)).bytes.toString()
}
