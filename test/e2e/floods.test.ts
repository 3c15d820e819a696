import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { startProxy, until } from '../support/harness.js'
import { configureJob, HonestClient, readChannels } from '../support/honest-client.js'
import { PacedClient } from '../support/paced-client.js'
import { ProxyState } from '../support/proxy-state.js'
import { ScriptedUpstream, scripted } from '../support/scripted-upstream.js'

const CONNECTIONS = 1000

/** Requests of the honest client while all the others are connected. */
const HONEST_REQUESTS = 300

const TRICKLE_EVERY_MS = 500

/** The proxy with its default limits; whatever the flood does, an honest client at another address is served. */
async function underFlood(
  t: TestContext,
  begin: (client: PacedClient, index: number) => void,
  options: { readonly reading: 'not at all' | 'at once' },
): Promise<void> {
  const upstream = await ScriptedUpstream.start(t)
  // The flood is still there at the end, and delays nothing.
  const env = { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '100' }
  const proxy = await startProxy(t, { upstream: upstream.url, env })
  await new ProxyState(t, proxy).circuitIs('closed')
  const honest = new HonestClient(t, { url: proxy.url, errands: [readChannels, configureJob(200)] })
  for (let index = 0; index < CONNECTIONS; index += 1) {
    begin(await PacedClient.connect(t, proxy.url, options), index)
  }
  const before = honest.requests
  await until(() => honest.hasErrors || honest.requests >= before + HONEST_REQUESTS, {
    what: `the honest client has sent ${HONEST_REQUESTS} requests`,
    timeoutMs: 90_000,
  })
  const { requests, errors, p50Ms, p99Ms } = await honest.stop()
  t.diagnostic(
    `honest client: ${requests} requests, p50 ${p50Ms.toFixed(1)} ms, p99 ${p99Ms.toFixed(1)} ms, ${errors.length} errors`,
  )
  assert.deepEqual(errors, [])
}

test('1000 clients that do not read a large response do not stop an honest one', {
  timeout: 120_000,
}, async t => {
  const begin = (client: PacedClient, index: number) =>
    client.send(`GET ${scripted('/channels', `flood-${index}`, 'large')} HTTP/1.1\r\nHost: a\r\n\r\n`)
  await underFlood(t, begin, { reading: 'not at all' })
})

/** What a client sends at once; the rest of it comes byte by byte. */
const BEGINNINGS = [
  'GET /channels HTTP/1.1\r\nHost: a\r\nX-Slow: ',
  'POST /configure HTTP/1.1\r\nHost: a\r\nX-Slow: ',
  'POST /recordings_in_time_range HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n',
  'POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n',
  'POST /configure HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n',
] as const

test('1000 clients that send headers and bodies byte by byte do not stop an honest one', {
  timeout: 120_000,
}, async t => {
  const clients: PacedClient[] = []
  const trickle = setInterval(() => {
    for (const client of clients) client.send('x')
  }, TRICKLE_EVERY_MS)
  t.after(() => clearInterval(trickle))
  await underFlood(
    t,
    (client, index) => {
      client.send(BEGINNINGS[index % BEGINNINGS.length] ?? '')
      clients.push(client)
    },
    { reading: 'at once' },
  )
})
