import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { at, circuitIs, startProxy } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

test('a test run can see what happened to its requests: forwarded, refused, the first and the last', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const headers = { 'x-test-run': 'nightly-2026.01.31_7' }
  await circuitIs(proxy, 'closed')
  const startedAt = Date.now()
  for (let count = 0; count < 3; count += 1) await configure(proxy, { headers })
  await ask(`${proxy.url}/channels`, { headers })
  const before = await runOf(proxy, 'nightly-2026.01.31_7')
  assert.equal(at(before.json, 'forwarded'), 4)
  assert.equal(at(before.json, 'refused'), 0)

  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  for (let count = 0; count < 5; count += 1) await configure(proxy, { headers })
  await configure(proxy, { headers: { 'x-test-run': 'another' } })
  await configure(proxy)
  const { json, statusCode } = await runOf(proxy, 'nightly-2026.01.31_7')
  assert.equal(statusCode, 200)
  const first = Date.parse(String(at(json, 'first')))
  const last = Date.parse(String(at(json, 'last')))
  assert.deepEqual(json, {
    run: 'nightly-2026.01.31_7',
    forwarded: 4,
    refused: 5,
    wouldRefuse: 0,
    first: at(before.json, 'first'),
    last: at(json, 'last'),
  })
  // Two processes round the same clock.
  assert.ok(first >= startedAt - 1000 && last > first, `${first}, ${last}`)
  assert.equal(at((await runOf(proxy, 'another')).json, 'refused'), 1)
})

test('a response from the last reading does not count as forwarded', async t => {
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '3600000' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'closed')
  const headers = { 'x-test-run': 'reader' }
  await ask(`${proxy.url}/live_metadata`, { headers })
  assert.equal((await runOf(proxy, 'reader')).statusCode, 404)
  await ask(`${proxy.url}/channels`, { headers })
  assert.equal(at((await runOf(proxy, 'reader')).json, 'forwarded'), 1)
})

test('a name that cannot be displayed names no run, and its request is served like any other', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await circuitIs(proxy, 'closed')
  const longest = 'r'.repeat(64)
  for (const name of [`${longest}r`, '', 'a b', 'a/b', '../x', 'ü', '%41', '<b>', 'a,b', "a'b", '\t']) {
    assert.equal((await rawChannels(proxy, [`X-Test-Run: ${name}`])).slice(9, 12), '200', name)
    const { statusCode } = await runOf(proxy, encodeURIComponent(name))
    assert.equal(statusCode, 404, name)
  }
  await rawChannels(proxy, ['X-Test-Run: one', 'X-Test-Run: two'])
  for (const name of ['one', 'two']) assert.equal((await runOf(proxy, name)).statusCode, 404)
  await rawChannels(proxy, [`X-Test-Run: ${longest}`])
  assert.equal(at((await runOf(proxy, longest)).json, 'forwarded'), 1)
  const unknown = await runOf(proxy, 'never-heard-of')
  assert.equal(unknown.statusCode, 404)
  assert.match(String(at(unknown.json, 'message')), /Unknown or expired run/)
  for (const odd of ['__proto__', 'constructor', 'x'.repeat(90)]) {
    assert.equal((await runOf(proxy, odd)).statusCode, 404, odd)
  }
})

function runOf(proxy: { readonly url: string }, name: string) {
  return ask(`${proxy.url}/-/runs/${name}`)
}

/** The response to `GET /channels` with these header lines, which no client library would send. */
function rawChannels(proxy: { readonly url: string }, lines: readonly string[]): Promise<string> {
  const { port, hostname, host } = new URL(proxy.url)
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect(Number(port), hostname)
    socket.on('data', piece => {
      text += piece.toString('latin1')
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(text))
    const head = ['GET /channels HTTP/1.1', `Host: ${host}`, 'Connection: close', ...lines, '', '']
    socket.write(Buffer.from(head.join('\r\n'), 'latin1'))
  })
}
