import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type TestContext, test } from 'node:test'
import { observerFor } from '../../src/cli/probe.js'
import { explain } from '../../src/config/fault.js'
import { portOf } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const SINCE = '2026-01-31T08:30:45.000Z'
const FORECAST = { cause: 'waiting', p50Seconds: 240, p90Seconds: 720, samples: 18, confidence: 'fair' }
const IN_WORDS = 'such outages last 4 min, one in ten more than 12 min'

/** The URL of a server whose `/-/status` has these members. */
async function proxyThatSays(t: TestContext, status: object): Promise<string> {
  const server = createServer((_request, response) => {
    const circuit = { state: 'open', since: SINCE, forMs: 8000, cause: 'waiting', outageStartedAt: SINCE }
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ admits: false, refusal: 'waiting_for_fiber', circuit, ...status }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close().closeAllConnections())
  return `http://127.0.0.1:${portOf(server)}`
}

async function observer(flags: Readonly<Record<string, string>>, environment: NodeJS.ProcessEnv = {}) {
  const opened = await observerFor({ flags: new Map(Object.entries(flags)), faults: [] }, environment)
  return opened.ok ? opened.observer : assert.fail(explain(opened.faults))
}

test('the forecast of the proxy is shown in words, with its number of outages', async t => {
  const rows = [
    [FORECAST, `; ${IN_WORDS} (from 18 outages, confidence fair)`],
    // From an older proxy.
    [{ p50Seconds: 240, p90Seconds: 720, samples: 18 }, `; ${IN_WORDS} (from 18 outages)`],
    [null, ''],
  ] as const
  for (const [forecast, words] of rows) {
    const proxy = await proxyThatSays(t, { forecast })
    const verdict = await (await observer({ proxy })).probe()
    assert.equal(verdict.message, `waiting for fiber: circuit open for 8 s${words}`)
    assert.equal(verdict.reason, 'waiting for fiber')
  }
})

test('an outage that began with another cause is shown along with the time of the present cause', async t => {
  const circuit = { state: 'open', cause: 'unreachable', since: SINCE, forMs: 8000 }
  const reading = { problem: 'its certificate has expired' }
  const message = async (outageStartedAt: unknown) => {
    const body = { refusal: 'metadata_unavailable', reading, circuit: { ...circuit, outageStartedAt } }
    return (await (await observer({ proxy: await proxyThatSays(t, body) })).probe()).message
  }
  const [unknown, why] = [
    'the state of the fiber is unknown: circuit open for 8 s',
    ', its certificate has expired',
  ]
  assert.equal(await message('2026-01-31T08:30:00.000Z'), `${unknown}, within an outage of 53 s${why}`)
  for (const started of ['2026-01-31T08:30:42.000Z', SINCE, null, undefined, 'long ago', 7]) {
    assert.equal(await message(started), unknown + why)
  }
})

test('without --proxy and --upstream the proxy is that of FOCUS_BREAKER_URL, and flags take precedence', async t => {
  const { simulator } = await simulate(t)
  const [proxy, other] = [await proxyThatSays(t, {}), await proxyThatSays(t, { refusal: 'recovering' })]
  const gist = async (flags: Readonly<Record<string, string>>, url: string) =>
    (await (await observer(flags, { FOCUS_BREAKER_URL: url })).probe()).reason
  assert.equal(await gist({}, proxy), 'waiting for fiber')
  assert.equal(await gist({}, ` ${proxy}/-/\n`), 'waiting for fiber')
  assert.equal(await gist({ proxy: other }, proxy), 'recovering')
  assert.equal(await gist({ proxy: other }, 'nonsense'), 'recovering')
  assert.equal(await gist({ upstream: simulator.url }, proxy), 'ready: the fiber is connected')
})

test('an invalid FOCUS_BREAKER_URL is a fault under its name, without its password; an empty one is not set', async () => {
  const faultsOf = async (url: string) => {
    const opened = await observerFor({ flags: new Map(), faults: [] }, { FOCUS_BREAKER_URL: url })
    return opened.ok ? '' : explain(opened.faults)
  }
  assert.match(
    await faultsOf('ftp://me:secret@focus.example.com/'),
    /\n {2}FOCUS_BREAKER_URL: expected an http or https URL.*; given ftp:\/\/\*\*\*@focus\.example\.com\/$/,
  )
  for (const url of ['', ' '])
    assert.match(
      await faultsOf(url),
      /either --proxy URL or --upstream URL \(or FOCUS_BREAKER_URL, .*\); given neither$/,
    )
})

test('in mode observe, a forced-open circuit is reported as would-be refusals', async t => {
  const override = { state: 'open', reason: 'laser', since: SINCE, forMs: 8000 }
  const rows = [
    ['enforce', false, 'refused by an operator: laser'],
    ['observe', false, 'would be refused by an operator: laser'],
    ['observe', true, 'planned maintenance: laser'],
    [undefined, false, 'refused by an operator: laser'],
  ] as const
  for (const [mode, silent, words] of rows) {
    const proxy = await proxyThatSays(t, {
      ...{ mode, refusal: 'forced_open', override: { ...override, silent } },
    })
    assert.equal((await (await observer({ proxy })).probe()).message, words)
  }
})
