import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import {
  at,
  circuitIs,
  freePort,
  type LogLine,
  programMain,
  type RunningProxy,
  startProxy,
  until,
} from '../support/harness.js'
import { ask, clientPool, configure, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'
import { hang, receiver } from '../support/webhook-receiver.js'

const NOT_DELIVERED = 'notification was not delivered'

/** Every outage is reported. */
const NO_COOLDOWN = { ...FAST, FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0' }

/** The variable that sets webhooks in the plain format. */
const webhooks = (...urls: readonly string[]) => ({
  FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify(urls.map(url => ({ url, format: 'json' }))),
})

const undelivered = (proxy: RunningProxy): LogLine[] =>
  proxy.logs().filter(({ msg }) => msg === NOT_DELIVERED)

/** A directory for the duration of a test. */
async function directory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'focus-breaker-notify-'))
  t.after(() => rm(path, { recursive: true }))
  return path
}

describe('webhooks of the running program', { concurrency: 4 }, () => {
  test('report an outage, each in its format, signed with the secret from a file', async t => {
    const { simulator } = await simulate(t)
    const { url, nth, received } = await receiver(t)
    const secretFile = join(await directory(t), 'secret')
    await writeFile(secretFile, 'sixteen letters!\n')
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: {
        ...FAST,
        FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([
          { url: `${url}/json`, format: 'json' },
          { url: `${url}/slack`, format: 'slack' },
        ]),
        FOCUS_BREAKER_NOTIFY_SECRET_FILE: secretFile,
        FOCUS_BREAKER_NOTIFY_LASTING_AFTER_MS: '3000',
      },
    })
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    for (let count = 0; count < 3; count += 1) await configure(proxy)
    await nth(4)
    await simulator.setFiber('present')
    await nth(6)
    const sentTo = (path: string) => received.filter(each => each.path === path).map(({ body }) => body)
    assert.deepEqual(
      sentTo('/json').map(body => at(body, 'type')),
      ['outage.opened', 'outage.lasting', 'outage.closed'],
    )
    assert.equal(at(sentTo('/json')[2], 'data', 'refused'), 3)
    assert.equal(at(sentTo('/json')[2], 'data', 'operations'), 1)
    for (const body of sentTo('/slack')) assert.deepEqual(Object.keys(Object(body)), ['text'])
    for (const { headers } of received) assert.match(String(headers['webhook-signature']), /^v1,.{44}$/)
    assert.deepEqual(undelivered(proxy), [])
  })

  test('that fail are logged without the path and the credentials of the URL', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const { url } = await receiver(t, () => 404)
    const secret = url.replace('//', '//user:hunter2@')
    const env = {
      ...NO_COOLDOWN,
      ...webhooks(`${secret}/T0PATH/B0PATH?key=K0QUERY`),
      FOCUS_BREAKER_LOG_LEVEL: 'trace',
    }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const [line] = await until(() => undelivered(proxy).length > 0 && undelivered(proxy))
    const { time: _, ...fields } = line ?? {}
    assert.deepEqual(fields, {
      level: 'warn',
      kind: 'outage.opened',
      webhook: url,
      item: 1,
      attempts: 1,
      problem: 'responded with 404',
      msg: NOT_DELIVERED,
    })
    assert.equal(await proxy.stop(), 0)
    assert.equal(undelivered(proxy).length, 1)
    assert.doesNotMatch(JSON.stringify(proxy.logs()), /hunter2|T0PATH|B0PATH|K0QUERY/)
  })

  test('that hang do not delay a shutdown, and what they did not accept is logged', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const { url, nth } = await receiver(t, () => hang)
    const env = { ...NO_COOLDOWN, ...webhooks(url), FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '3000' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    await nth(1)
    const startedAtMs = performance.now()
    assert.equal(await proxy.stop(), 0)
    const tookMs = performance.now() - startedAtMs
    assert.ok(tookMs < 3000, `the shutdown took ${Math.round(tookMs)} ms`)
    assert.deepEqual(
      undelivered(proxy).map(({ attempts, problem }) => ({ attempts, problem })),
      [{ attempts: 1, problem: 'focus-breaker was stopped' }],
    )
  })

  test('report the opening and the end of an outage that outlasts restarts once each', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const { url, types, nth } = await receiver(t)
    const env = {
      ...NO_COOLDOWN,
      ...webhooks(url),
      FOCUS_BREAKER_HISTORY_FILE: join(await directory(t), 'outages.jsonl'),
    }
    const start = () => startProxy(t, { upstream: simulator.url, env })
    const stopped = async (proxy: RunningProxy) => assert.equal(await proxy.stop(), 0)
    const first = await start()
    await nth(1)
    await stopped(first)
    const second = await start()
    await circuitIs(second, 'open')
    await delay(300)
    assert.deepEqual(types(), ['outage.opened'])
    // The fiber comes back once while no proxy runs, and once while one does.
    await stopped(second)
    await simulator.setFiber('present')
    const third = await start()
    await nth(2)
    await simulator.setFiber('missing')
    await nth(3)
    await stopped(third)
    const fourth = await start()
    await circuitIs(fourth, 'open')
    await simulator.setFiber('present')
    await nth(4)
    await stopped(fourth)
    assert.deepEqual(types(), ['outage.opened', 'outage.closed', 'outage.opened', 'outage.closed'])
  })

  test('come and go with SIGHUP', async t => {
    const { simulator } = await simulate(t)
    const [first, second] = [await receiver(t), await receiver(t)]
    const file = join(await directory(t), 'focus-breaker.yaml')
    const write = (...urls: readonly string[]) =>
      writeFile(file, JSON.stringify({ notify: { webhooks: urls.map(url => ({ url, format: 'json' })) } }))
    await write()
    const proxy = await startProxy(t, { upstream: simulator.url, env: NO_COOLDOWN, args: ['--config', file] })
    const reloads = () => proxy.logs().filter(({ msg }) => msg === 'configuration was reloaded')
    const hangUp = async (...urls: readonly string[]) => {
      const before = reloads().length
      await write(...urls)
      process.kill(proxy.pid, 'SIGHUP')
      const line = await until(() => reloads()[before])
      assert.deepEqual(line.applied, ['notify.webhooks'])
    }
    const outage = async () => {
      await simulator.setFiber('missing')
      await circuitIs(proxy, 'open')
      await simulator.setFiber('present')
      await circuitIs(proxy, 'closed')
    }
    await outage()
    await hangUp(first.url)
    await outage()
    await first.nth(2)
    await hangUp(first.url, second.url)
    await outage()
    await Promise.all([first.nth(4), second.nth(2)])
    await hangUp(second.url)
    await outage()
    await second.nth(4)
    await delay(200)
    assert.equal(first.received.length, 4)
    assert.equal(second.received.length, 4)
    assert.doesNotMatch(JSON.stringify(proxy.logs()), new RegExp(`${first.url}|${second.url}`))
  })
})

describe('the configuration of notifications', () => {
  const secretUrl = 'https://hooks.example.com/services/T0PATH'
  const list = (...items: readonly object[]) => JSON.stringify(items)

  test('is shown without URLs and the secret', () => {
    const { status, stdout } = checkConfig({
      WEBHOOKS: list({ url: secretUrl, format: 'slack' }),
      SECRET: 'a secret of sixteen or more',
    })
    assert.equal(status, 0)
    assert.match(stdout, /url: https:\/\/hooks\.example\.com\/\*{8}\n/)
    assert.match(stdout, /secret: ['"]?\*{8}/)
    assert.doesNotMatch(stdout, /T0PATH|sixteen or more/)
  })

  const broken: readonly (readonly [what: string, variables: Record<string, string>, named: RegExp])[] = [
    ['a value that is not a list', { WEBHOOKS: secretUrl }, /notify\.webhooks: expected a list/i],
    ['a broken list', { WEBHOOKS: `[{url: ${secretUrl}` }, /notify\.webhooks: expected/i],
    ['no URL', { WEBHOOKS: list({ format: 'json', token: 'T0PATH' }) }, /notify\.webhooks: expected/i],
    ['no format', { WEBHOOKS: list({ url: secretUrl }) }, /notify\.webhooks: expected/i],
    [
      'an unknown format',
      { WEBHOOKS: list({ url: secretUrl, format: 'T0PATH' }) },
      /notify\.webhooks: expected .*json, slack, teams or pagerduty/i,
    ],
    [
      'an unknown scheme',
      { WEBHOOKS: list({ url: 'ftp://hooks.example.com/T0PATH', format: 'json' }) },
      /notify\.webhooks: expected .*url/i,
    ],
    ['a short secret', { SECRET: 'T0PATH' }, /notify\.secret: expected/],
    [
      'a missing file',
      { SECRET_FILE: '/nonexistent/secret' },
      /notify\.secretFile: expected a readable file/,
    ],
    [
      'both a secret and a secret file',
      { SECRET: 'T0PATH and sixteen letters', SECRET_FILE: '/dev/null' },
      /notify\.secretFile: expected this or notify\.secret, not both/,
    ],
    ['a duration that is too short', { LASTING_AFTER_MS: '999' }, /notify\.lastingAfterMs: expected .*1000/],
    ['a negative cooldown', { COOLDOWN_MS: '-1' }, /notify\.cooldownMs: expected .*0/],
  ]
  for (const [what, variables, named] of broken) {
    test(`with ${what} is an error that is reported without the secret`, () => {
      const { status, stderr } = checkConfig(variables)
      assert.equal(status, 2)
      assert.match(stderr, named)
      assert.doesNotMatch(stderr, /T0PATH/)
    })
  }
})

/** Runs `serve --check-config` with these variables, named without their common prefix. */
function checkConfig(variables: Readonly<Record<string, string>>) {
  const env = Object.fromEntries(
    Object.entries(variables).map(([name, value]) => [`FOCUS_BREAKER_NOTIFY_${name}`, value]),
  )
  const args = [programMain, 'serve', '--check-config']
  return spawnSync(process.execPath, [...args, '--upstream', 'http://127.0.0.1:1'], { env, encoding: 'utf8' })
}

const ROUNDS = 4
const REQUESTS = 60

test('requests are as fast with webhooks that hang, refuse or return 500 as without any', async t => {
  const { simulator } = await simulate(t, { maxJobs: 1_000_000, jobDurationMs: 1 })
  const hanging = await Promise.all(Array.from({ length: 4 }, () => receiver(t, () => hang)))
  const failing = await Promise.all(Array.from({ length: 4 }, () => receiver(t, () => 500)))
  const closed = await Promise.all(
    Array.from({ length: 4 }, async () => `http://127.0.0.1:${await freePort()}/`),
  )
  const start = async (name: string, receivers: typeof hanging, urls = receivers.map(({ url }) => url)) => {
    const env = { ...NO_COOLDOWN, ...webhooks(...urls) }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const durationsMs: number[] = []
    return { name, receivers, proxy, dispatcher: clientPool(t, 1), durationsMs }
  }
  const rows = [
    await start('none', []),
    await start('hanging', hanging),
    await start('refusing', [], closed),
    await start('500', failing),
  ]
  const measure = async (fiber: 'missing' | 'present') => {
    await simulator.setFiber(fiber)
    const state = fiber === 'missing' ? 'open' : 'closed'
    await Promise.all(rows.map(({ proxy }) => circuitIs(proxy, state)))
    // Alternately, so that other load on the machine slows all of them alike.
    for (let count = 0; count < REQUESTS; count += 1) {
      for (const { proxy, dispatcher, durationsMs } of rows) {
        const startedAtMs = performance.now()
        const [read, guarded] = [
          await ask(`${proxy.url}/channels`, { dispatcher }),
          await configure(proxy, { dispatcher }),
        ]
        durationsMs.push((performance.now() - startedAtMs) / 2)
        assert.equal(read.statusCode, 200)
        assert.equal(guarded.statusCode, fiber === 'missing' ? 503 : 200)
      }
    }
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    await measure('missing')
    await measure('present')
  }
  for (const { receivers } of rows) {
    for (const { received } of receivers)
      assert.ok(received.length > 0, 'every webhook was called in the meantime')
  }
  const [none, ...others] = rows.map(({ name, durationsMs }) => ({
    name,
    median: quantile(durationsMs, 0.5),
    p99: quantile(durationsMs, 0.99),
    most: Math.max(...durationsMs),
  }))
  assert.ok(none !== undefined)
  const requests = 2 * 2 * ROUNDS * REQUESTS
  for (const { name, median, p99, most } of [none, ...others]) {
    const figures = `median ${median.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, maximum ${most.toFixed(1)} ms`
    const ratio = (median / none.median).toFixed(2)
    t.diagnostic(
      `webhooks ${name}: ${requests} requests, ${figures}; median ${ratio} times that without webhooks`,
    )
  }
  for (const { name, median, most } of others) {
    assert.ok(median < 2 * none.median, `${name}: the median is ${median} ms, ${none.median} ms without`)
    // An attempt hangs for five seconds.
    assert.ok(most < 4000, `${name}: a request took ${most} ms`)
  }
})

function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(part * (sorted.length - 1))] ?? Number.NaN
}
