import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { at, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { type Answer, ask, clientPool, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

const TOKEN = 'correct-horse-battery-staple'
const WRONG = 'wrong-horse-battery-staple'
const OPEN = { state: 'open', reason: 'fiber work', forSeconds: 600 }

/** A proxy with a token; if `trusted` is set, its clients come through a gateway on loopback. */
async function guarded(t: TestContext, trusted = false): Promise<RunningProxy> {
  const { simulator } = await simulate(t)
  const env = {
    ...FAST,
    FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
    ...(trusted && { FOCUS_BREAKER_SERVER_TRUST_PROXY: 'loopback' }),
  }
  return startProxy(t, { upstream: simulator.url, env })
}

/** Sends requests with a token, all at once, each with the value of `forwardedFor`. */
function sender(t: TestContext, proxy: RunningProxy, count: number) {
  const dispatcher = clientPool(t, count)
  return (token: string, forwardedFor?: string): Promise<Answer> =>
    ask(`${proxy.url}/-/override`, {
      method: 'DELETE',
      headers: {
        authorization: `Bearer ${token}`,
        ...(forwardedFor !== undefined && { 'x-forwarded-for': forwardedFor }),
      },
      dispatcher,
    })
}

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)

test('thirty loops of wrong tokens do not lock out an operator who has the same address', async t => {
  const proxy = await guarded(t)
  const send = sender(t, proxy, 31)
  const seen = new Set<number>()
  let isOver = false
  const loops = numbers(30).map(async () => {
    while (!isOver) {
      const { statusCode, headers } = await send(WRONG)
      seen.add(statusCode)
      if (statusCode === 429) assert.equal(headers['retry-after'], '1')
    }
  })
  await until(() => seen.has(429))
  for (const round of numbers(30)) {
    const { statusCode } = await ask(`${proxy.url}/-/override`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${TOKEN}` },
      body: JSON.stringify({ ...OPEN, reason: `round ${round}` }),
    })
    assert.equal(statusCode, 200)
    assert.equal((await send(TOKEN)).statusCode, 204)
  }
  isOver = true
  await Promise.all(loops)
  assert.deepEqual([...seen].sort(), [401, 429])
  assert.equal(at(await statusOf(proxy), 'override'), null)
})

test('a correct token gets its response before wrong ones that came earlier', async t => {
  const proxy = await guarded(t)
  const send = sender(t, proxy, 60)
  // On a slow machine the wrong ones may be due before the right one has arrived.
  for (let attempt = 1; ; attempt += 1) {
    let answered = 0
    const wrong = numbers(20).map(async () => {
      await send(WRONG)
      answered += 1
    })
    assert.equal((await send(TOKEN)).statusCode, 204)
    const answeredBefore = answered
    await Promise.all(wrong)
    if (answeredBefore === 0) return
    assert.ok(attempt < 5, `${answeredBefore} wrong tokens got their response first`)
  }
})

/** How many responses were delayed, and the allowed maximum when `limit` may be delayed for a second. */
async function delayedOf(answers: Promise<readonly Answer[]>, limit: number) {
  const startedAt = performance.now()
  const statuses = (await answers).map(({ statusCode }) => statusCode)
  assert.ok(statuses.every(status => status === 401 || status === 429))
  const delayed = statuses.filter(status => status === 401).length
  return { delayed, most: limit * (1 + Math.floor((performance.now() - startedAt) / 1000)) }
}

/** What a client can write into `X-Forwarded-For` in front of a gateway that forwards it unchanged. */
const INVENTED: readonly (readonly [that: string, forwardedFor: (index: number) => string])[] = [
  ['no address', index => `client-${index}`],
  ['nothing', () => ''],
  ['an obfuscated name', index => `_hidden${index}`],
  ['unknown', () => 'unknown'],
]

for (const [that, forwardedFor] of INVENTED) {
  test(`wrong tokens from clients that a trusted gateway reports as ${that} count against the gateway`, async t => {
    const proxy = await guarded(t, true)
    const send = sender(t, proxy, 60)
    const answers = Promise.all(numbers(60).map(index => send(WRONG, forwardedFor(index))))
    const { delayed, most } = await delayedOf(answers, 20)
    assert.ok(delayed >= 1 && delayed <= most, `${delayed} of 60 were delayed`)
    assert.equal((await send(TOKEN, forwardedFor(0))).statusCode, 204)
    await proxy.stop()
    const logged = proxy.logs().filter(line => line.msg === 'admin authentication failed')
    assert.equal(
      logged.reduce((sum, line) => sum + Number(line.attempts), 0),
      60,
    )
    assert.ok(logged.every(line => line.last === '127.0.0.1'))
  })
}

test('a different invented address for each wrong token does not reset the limit', async t => {
  const proxy = await guarded(t, true)
  const send = sender(t, proxy, 250)
  const addressOf = (index: number) => `203.0.113.${index % 250}`
  const answers = Promise.all(numbers(250).map(index => send(WRONG, addressOf(index))))
  const { delayed, most } = await delayedOf(answers, 100)
  assert.ok(delayed >= 1 && delayed <= most, `${delayed} of 250 were delayed`)
})

test('each client of a trusted gateway has its own limit', async t => {
  const proxy = await guarded(t, true)
  const send = sender(t, proxy, 60)
  const first = numbers(40).map(() => send(WRONG, '203.0.113.1'))
  await until(async () => (await send(WRONG, '203.0.113.1')).statusCode === 429, { everyMs: 1 })
  assert.equal((await send(WRONG, '203.0.113.2')).statusCode, 401)
  await Promise.all(first)
})

test('an override names the peer when a trusted gateway reports no address', async t => {
  const proxy = await guarded(t, true)
  for (const [forwardedFor, by] of [
    ['somebody <b>', '127.0.0.1'],
    ['203.0.113.9', '203.0.113.9'],
  ] as const) {
    const { json } = await ask(`${proxy.url}/-/override`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${TOKEN}`, 'x-forwarded-for': forwardedFor },
      body: JSON.stringify(OPEN),
    })
    assert.equal(at(json, 'by'), by)
  }
})

test('when a token file becomes too short, the earlier token stays in force and the log says so', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const tokenFile = join(directory, 'token')
  writeFileSync(tokenFile, TOKEN)
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN_FILE: tokenFile }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const send = sender(t, proxy, 1)
  const short = 'fifteen-letters'
  writeFileSync(tokenFile, `${short}\n`)
  // Without a signal.
  const kept = await until(() => proxy.logs().find(line => line.msg === 'secret was not renewed'))
  assert.equal(kept.level, 'warn')
  assert.match(JSON.stringify(kept), /admin\.token: expected text of 16 ASCII characters or more/)
  // And with one.
  process.kill(proxy.pid, 'SIGHUP')
  const line = await until(() => proxy.logs().find(({ msg }) => /was not reloaded/.test(String(msg))))
  assert.match(JSON.stringify(line.faults), /admin\.token.*text of 16 ASCII characters or more/)
  assert.equal((await send(TOKEN)).statusCode, 204)
  assert.equal((await send(short)).statusCode, 401)
  assert.ok(!JSON.stringify(proxy.logs()).includes(short), 'the token is in the log')
  writeFileSync(tokenFile, 'another-token-of-ours')
  await until(async () => (await send('another-token-of-ours')).statusCode === 204)
})
