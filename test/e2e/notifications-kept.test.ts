import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import {
  at,
  circuitIs,
  programMain,
  type RunningProxy,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'
import { receiver } from '../support/webhook-receiver.js'

const TOKEN = 'correct-horse-battery-staple'

/** A receiver that accepts nothing until the test allows it, and a proxy that keeps its history. */
async function failingReceiver(t: TestContext, env: Readonly<Record<string, string>> = {}) {
  const { simulator } = await simulate(t)
  const state = { isUp: false }
  const hook = await receiver(t, () => response => {
    if (state.isUp) response.writeHead(200).end()
    else response.writeHead(503, { 'retry-after': '1' }).end()
  })
  const folder = await mkdtemp(join(tmpdir(), 'focus-breaker-kept-'))
  // The proxies stop after this hook, and may write until then.
  t.after(() => rm(folder, { recursive: true, force: true, maxRetries: 40, retryDelay: 50 }))
  const url = `${hook.url.replace('//', '//user:hunter2@')}/T0PATH`
  const start = () =>
    startProxy(t, {
      upstream: simulator.url,
      env: {
        ...FAST,
        FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0',
        FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url, format: 'json' }]),
        FOCUS_BREAKER_HISTORY_FILE: join(folder, 'outages.jsonl'),
        ...env,
      },
    })
  return { simulator, hook, state, folder, start }
}

/** Ends it like a crash. */
async function crash(proxy: RunningProxy): Promise<void> {
  process.kill(proxy.pid, 'SIGKILL')
  await proxy.stop()
}

describe('notifications across a restart', { concurrency: 4 }, () => {
  for (const how of ['kill -9', 'SIGTERM'] as const) {
    test(`an undelivered one is delivered after ${how} with the same id, and no secret is on disk`, async t => {
      const { simulator, hook, state, folder, start } = await failingReceiver(t)
      const first = await start()
      await simulator.setFiber('missing')
      const { headers } = await hook.nth(1)
      if (how === 'kill -9') await crash(first)
      else assert.equal(await first.stop(), 0)
      assert.deepEqual(
        first.logs().filter(({ msg }) => msg === 'notification was not delivered'),
        [],
      )
      const files = await Promise.all(
        (await readdir(folder)).map(name => readFile(join(folder, name), 'utf8')),
      )
      // A crash may also leave a temporary file.
      assert.ok(files.length >= 2)
      assert.doesNotMatch(files.join(''), /hunter2|T0PATH|127\.0\.0\.1:\d+\/T0/)
      const before = hook.received.length
      state.isUp = true
      await start()
      const again = await hook.nth(before + 1)
      assert.equal(again.headers['webhook-id'], headers['webhook-id'])
      assert.match(String(at(again.body, 'data', 'message')), /: outage, the fiber is missing; /)
      await delay(300)
      assert.equal(hook.received.length, before + 1)
    })
  }

  test('one about an outage that ended while nothing ran says so, and the end is reported', async t => {
    const { simulator, hook, state, start } = await failingReceiver(t)
    const first = await start()
    await simulator.setFiber('missing')
    await hook.nth(1)
    await crash(first)
    await simulator.setFiber('present')
    const before = hook.received.length
    state.isUp = true
    await start()
    await hook.nth(before + 2)
    const [opened, closed] = hook.received.slice(before).map(({ body }) => body)
    assert.equal(at(opened, 'type'), 'outage.opened')
    assert.match(String(at(opened, 'data', 'message')), /, the fiber was missing; it has ended\.$/)
    assert.equal(at(closed, 'type'), 'outage.closed')
  })

  test('the cooldown continues, and an outage that it suppressed is reported at its end', async t => {
    const { simulator, hook, state, start } = await failingReceiver(t, {
      FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '6000',
    })
    state.isUp = true
    const first = await start()
    await simulator.setFiber('missing')
    const { atMs } = await hook.nth(1)
    await simulator.setFiber('present')
    await hook.nth(2)
    await simulator.setFiber('missing')
    await circuitIs(first, 'open')
    await crash(first)
    assert.equal(hook.received.length, 2)
    await start()
    const message = await hook.nth(3)
    assert.deepEqual(hook.types(), ['outage.opened', 'outage.closed', 'outage.opened'])
    assert.ok(message.atMs - atMs >= 5500, `it arrived ${message.atMs - atMs} ms after the first`)
  })
})

test('planned maintenance sends no alert, is shown as planned everywhere, and an outage that outlasts it is reported when it ends', async t => {
  const { simulator, hook, state, start } = await failingReceiver(t, { FOCUS_BREAKER_ADMIN_TOKEN: TOKEN })
  state.isUp = true
  let proxy = await start()
  await circuitIs(proxy, 'closed')
  const change = (method: 'PUT' | 'DELETE', body?: object) =>
    ask(`${proxy.url}/-/override`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}` },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
  const planned = { state: 'open', reason: 'laser service', forSeconds: 600, silent: true }
  const wrong = await change('PUT', { ...planned, state: 'closed' })
  assert.equal(wrong.statusCode, 400)
  assert.match(String(at(wrong.json, 'message')), /silent: allowed only with state "open"/)
  const set = await change('PUT', planned)
  assert.equal(at(set.json, 'silent'), true)
  assert.equal(at(await statusOf(proxy), 'override', 'silent'), true)
  const refused = await configure(proxy)
  assert.equal(refused.statusCode, 503)
  assert.equal(at(refused.json, 'status'), 'forced_open')
  assert.equal(at(refused.json, 'error'), 'Cannot configure job: planned maintenance')
  assert.equal(at(refused.json, 'override', 'silent'), true)
  assert.match(String(refused.headers['proxy-status']), /details="planned maintenance"/)
  const line = await ask(`${proxy.url}/-/fiber`, { headers: { accept: 'text/plain' } })
  assert.match(line.bytes.toString(), /^refused for planned maintenance until .*: laser service\n$/)
  for (const command of [['check'], ['wait', '--timeout', '1s']]) {
    const { status, stdout } = spawnSync(process.execPath, [programMain, ...command, '--proxy', proxy.url], {
      encoding: 'utf8',
    })
    assert.equal(status, 3)
    assert.match(stdout, /planned maintenance: laser service/)
  }
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await crash(proxy)
  proxy = await start()
  await circuitIs(proxy, 'open')
  assert.equal(at(await statusOf(proxy), 'override', 'silent'), true)
  await delay(200)
  assert.deepEqual(hook.types(), [])
  assert.equal((await change('DELETE')).statusCode, 204)
  await hook.nth(1)
  await until(() => hook.types()[0] === 'outage.opened')
})

test('--check-config shows neither the path, the headers nor the key of a webhook', () => {
  const webhooks = [
    {
      url: 'https://events.pagerduty.com/v2/enqueue',
      format: 'pagerduty',
      routingKey: 'R0123456789abcdefghijklmnopqrstu',
      headers: { 'X-Secret': 'H0HEADER' },
    },
  ]
  const { status, stdout } = spawnSync(
    process.execPath,
    [programMain, 'serve', '--check-config', '--upstream', 'http://127.0.0.1:1'],
    { env: { FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify(webhooks) }, encoding: 'utf8' },
  )
  assert.equal(status, 0)
  assert.match(stdout, /X-Secret: ['"]?\*{8}/)
  assert.match(stdout, /routingKey: ['"]?\*{8}/)
  assert.doesNotMatch(stdout, /H0HEADER|R0123|enqueue/)
})
