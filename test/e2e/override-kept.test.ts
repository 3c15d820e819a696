import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { mountedVolume } from '../support/mounted-volume.js'
import { simulate } from '../support/simulate.js'

const TOKEN = 'a-token-of-the-tests'
const headers = { authorization: `Bearer ${TOKEN}` }
const NOT_KEPT = 'an override set over HTTP will not survive a restart: history.file is not configured'
const RESUMED = 'resuming the override recorded in the history file: circuit forced open'
const NOT_APPLIED = 'override file was not applied'

async function put(proxy: RunningProxy, state: 'open' | 'closed', forSeconds = 600): Promise<unknown> {
  const body = JSON.stringify({ state, reason: `set ${state}`, forSeconds })
  const answer = await fetch(`${proxy.url}/-/override`, { method: 'PUT', headers, body })
  assert.equal(answer.status, 200)
  return await answer.json()
}

const remove = async (proxy: RunningProxy) =>
  (await fetch(`${proxy.url}/-/override`, { method: 'DELETE', headers })).status

const reload = async (proxy: RunningProxy) =>
  await (await fetch(`${proxy.url}/-/reload`, { method: 'POST', headers })).json()

const overrideOf = async (proxy: RunningProxy) => at(await statusOf(proxy), 'override')

const linesWith = (proxy: RunningProxy, msg: string) => proxy.logs().filter(line => line.msg === msg)

async function start(
  t: TestContext,
  env: Readonly<Record<string, string>>,
  fiber: 'present' | 'missing' = 'present',
) {
  const { simulator } = await simulate(t, { fiber })
  const all = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN, ...env }
  return async () => {
    const proxy = await startProxy(t, { upstream: simulator.url, env: all })
    await circuitIs(proxy, fiber === 'present' ? 'closed' : 'open')
    return proxy
  }
}

describe('an override across a restart', { concurrency: 2 }, () => {
  test('stays in force with history.file, even after kill -9, unless it was removed or replaced', async t => {
    const file = join(mountedVolume(t, {}).path('.'), 'history.jsonl')
    const again = await start(t, { FOCUS_BREAKER_HISTORY_FILE: file })
    let proxy = await again()
    assert.deepEqual(linesWith(proxy, NOT_KEPT), [])
    assert.equal(at(await put(proxy, 'closed'), 'kept'), true)
    const set = await put(proxy, 'open')
    process.kill(proxy.pid, 'SIGKILL')
    proxy = await again()
    for (const member of ['state', 'reason', 'since', 'until', 'by'])
      assert.equal(at(await overrideOf(proxy), member), at(set, member), member)
    assert.equal((await configure(proxy)).statusCode, 503)
    assert.equal(linesWith(proxy, RESUMED).length, 1)
    assert.equal(await remove(proxy), 204)
    process.kill(proxy.pid, 'SIGKILL')
    proxy = await again()
    assert.equal(await overrideOf(proxy), null)
    const short = await put(proxy, 'open', 1)
    await proxy.stop()
    await until(() => Date.now() > Date.parse(String(at(short, 'until'))))
    proxy = await again()
    assert.equal(await overrideOf(proxy), null)
    assert.equal((await configure(proxy)).statusCode, 200)
  })

  test('ends without history.file, as the start, the response and the list of overrides say', async t => {
    const proxy = await (await start(t, {}))()
    assert.equal(linesWith(proxy, NOT_KEPT).length, 1)
    assert.equal(at((await ask(`${proxy.url}/-/override`)).json, 'kept'), false)
    assert.equal(at(await put(proxy, 'open'), 'kept'), false)
  })
})

describe('a declared override', { concurrency: 2 }, () => {
  const yaml = (state: string, until: number, reason = 'planned work') =>
    `state: ${state}\nreason: ${reason}\nuntil: ${new Date(until).toISOString()}\n`

  test('comes, changes and goes with its file in a mounted volume; one set over HTTP outranks it', async t => {
    const volume = mountedVolume(t, {})
    const proxy = await (await start(t, { FOCUS_BREAKER_OVERRIDE_FILE: volume.path('override') }))()
    assert.equal(await overrideOf(proxy), null)
    const end = Date.now() + 400 * 86_400_000
    volume.replace({ override: yaml('open', end) })
    assert.deepEqual(at(await reload(proxy), 'renewedFiles'), [volume.path('override')])
    const declared = await overrideOf(proxy)
    assert.equal(at(declared, 'by'), 'override.file')
    assert.equal(at(declared, 'until'), new Date(end).toISOString())
    assert.equal((await configure(proxy)).statusCode, 503)
    // JSON is YAML.
    volume.replace({ override: JSON.stringify({ state: 'closed', reason: 'other', until: new Date(end) }) })
    await reload(proxy)
    assert.equal(at(await overrideOf(proxy), 'state'), 'closed')

    assert.equal(await remove(proxy), 409)
    await put(proxy, 'open')
    assert.equal(at(await overrideOf(proxy), 'reason'), 'set open')
    volume.replace({ override: yaml('closed', end, 'beneath') })
    await reload(proxy)
    assert.equal(at(await overrideOf(proxy), 'reason'), 'set open')
    assert.equal(await remove(proxy), 204)
    assert.equal(at(await overrideOf(proxy), 'reason'), 'beneath')

    volume.replace({})
    await reload(proxy)
    assert.equal(await overrideOf(proxy), null)
    assert.deepEqual(linesWith(proxy, NOT_APPLIED), [])
  })

  test('that is invalid is one log line, at the start and later, and the last valid one stays in force until its end', async t => {
    const volume = mountedVolume(t, { override: 'state: ajar\n' })
    const proxy = await (await start(t, { FOCUS_BREAKER_OVERRIDE_FILE: volume.path('override') }))()
    const [line, ...others] = linesWith(proxy, NOT_APPLIED)
    assert.deepEqual(others, [])
    assert.match(String(line?.problem), /state: expected .*; reason: expected .*; until: expected/)
    volume.replace({ override: yaml('open', Date.now() + 8000) })
    await reload(proxy)
    assert.equal(at(await overrideOf(proxy), 'state'), 'open')
    for (const [index, text] of [
      '',
      '- a\n',
      'state: [',
      `${yaml('open', Date.now() + 60_000)}more: 1\n`,
    ].entries()) {
      volume.replace({ override: text })
      await reload(proxy)
      await reload(proxy)
      // The first two are rejected for the same reason.
      assert.equal(linesWith(proxy, NOT_APPLIED).length, 1 + ([1, 1, 2, 3][index] ?? 0), JSON.stringify(text))
    }
    await until(async () => (await overrideOf(proxy)) === null, { timeoutMs: 20_000 })
    assert.equal((await configure(proxy)).statusCode, 200)
    await until(() => linesWith(proxy, 'override ended').length === 1)
  })
})
