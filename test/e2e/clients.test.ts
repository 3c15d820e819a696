import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'
import { test } from 'node:test'
import { holdingsOf } from '../support/accounting.js'
import { at, circuitIs, startProxy, statusOf } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { seeded, seedOfRun } from '../support/seeded.js'
import { simulate } from '../support/simulate.js'

const TRUSTING = { ...FAST, FOCUS_BREAKER_SERVER_TRUST_PROXY: '["loopback"]' }

test('each refused client is listed with its address, user agent, first and last time, attempts and operations', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  assert.deepEqual(await clientsOf(proxy), [])
  const suite = { 'user-agent': 'Focus-Server-Automation/1.0.0' }
  for (let attempt = 0; attempt < 4; attempt += 1) await configure(proxy, { headers: suite })
  await configure(proxy, { headers: suite, body: '{"another":"request"}' })
  await configure(proxy, { headers: { 'user-agent': 'desktop' } })
  // Not refused, and so not one of the listed clients.
  await ask(`${proxy.url}/channels`, { headers: { 'user-agent': 'reader' } })
  const clients = await clientsOf(proxy)
  assert.deepEqual(
    clients.map(client => [
      ...[at(client, 'address'), at(client, 'userAgent'), at(client, 'attempts'), at(client, 'operations')],
      at(client, 'cadenceSeconds'),
    ]),
    [
      ['127.0.0.1', 'desktop', 1, 1, null],
      ['127.0.0.1', 'Focus-Server-Automation/1.0.0', 5, 2, null],
    ],
  )
  const [, second] = clients
  for (const end of ['first', 'last']) assert.match(String(at(second, end)), /^\d{4}-.*\.\d{3}Z$/)
  assert.ok(String(at(second, 'last')) > String(at(second, 'first')))
  // The outage history has the same operations.
  const history = (await ask(`${proxy.url}/-/outages`)).json
  assert.equal(at(history, 'outages', 0, 'operations'), 3)
  assert.equal(at(history, 'outages', 0, 'refused'), 6)
})

const FORWARDED: readonly (readonly [what: string, field: string, address: string])[] = [
  ['the one that it reports', '203.0.113.7', '203.0.113.7'],
  ['not the one that it received, which any client can invent', '198.51.100.1, 203.0.113.7', '203.0.113.7'],
  ['the last one that is not trusted', '203.0.113.7, 127.0.0.2', '203.0.113.7'],
  ['IPv6', '2001:db8::7', '2001:db8::7'],
]
for (const [what, field, address] of FORWARDED) {
  test(`behind a trusted gateway the address is ${what}`, async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: TRUSTING })
    await configure(proxy, { headers: { 'x-forwarded-for': field } })
    assert.equal(at((await clientsOf(proxy))[0], 'address'), address)
  })
}

test('without a trusted gateway no reported address is trusted', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await configure(proxy, { headers: { 'x-forwarded-for': '203.0.113.7' } })
  assert.equal(at((await clientsOf(proxy))[0], 'address'), '127.0.0.1')
})

test('all of 100,000 refusals from 20,000 invented clients are counted, and memory stays bounded', async t => {
  const seed = seedOfRun()
  t.diagnostic(`SEED=${seed}`)
  const random = seeded(seed)
  const { simulator } = await simulate(t, { fiber: 'missing' })
  // V8 delays garbage collection as long as it may; these are the limits that the image sets under the memory limit of
  // the manifests.
  const heap = '--max-old-space-size=102 --max-semi-space-size=4'
  const proxy = await startProxy(t, { upstream: simulator.url, env: { ...TRUSTING, NODE_OPTIONS: heap } })
  await circuitIs(proxy, 'open')
  // Long texts, of which only a part may be kept, and request names that never repeat.
  const padding = 'x'.repeat(2000)
  // In the first tenth, twenty of them share an address; in the rest, four do.
  const addressOf = (client: number) =>
    client < 2000 ? Math.floor(client / 20) : 1000 + Math.floor(client / 4)
  const requestOf = (client: number, round: number) =>
    [
      `POST ${'/.'.repeat(random.integer(0, 120))}/configure HTTP/1.1`,
      'Host: flood.example',
      `X-Forwarded-For: 2001:db8::${addressOf(client).toString(16)}`,
      `User-Agent: invented/${client} ${padding}`,
      `X-Test-Run: run-${client}-${round}`,
      'Content-Length: 0',
      '\r\n',
    ].join('\r\n')
  const start = holdingsOf(proxy.pid).residentMb
  const after: number[] = []
  for (let round = 0; round < 5; round += 1) {
    await flood(proxy.url, 20_000, client => requestOf(client, round))
    after.push(holdingsOf(proxy.pid).residentMb)
  }
  // Those with twenty come last again: ten of them are listed, and one line counts the rest.
  await flood(proxy.url, 2000, client => requestOf(client, 5))
  const { total, clients } = Object((await ask(`${proxy.url}/-/clients?limit=1000`)).json)
  t.diagnostic(`resident: ${start} MB before, then after each 20,000: ${after.join(', ')} MB`)
  assert.equal(at(await statusOf(proxy), 'totals', 'refused'), 102_000)
  // A hundred of the thousand remembered addresses have eleven lines, the rest four.
  assert.equal(total, 100 * 11 + 900 * 4)
  assert.equal(clients.length, 1000)
  assert.ok(clients.some((client: unknown) => at(client, 'userAgent') === null))
  const [first = 0] = after
  const last = after.at(-1) ?? 0
  assert.ok(last - first < 120, `${first} MB grew to ${last} MB`)
  assert.ok(last - start < 300, `${start} MB grew to ${last} MB`)
  // Clients that were there before the flood ended are served as before.
  assert.equal((await configure(proxy)).statusCode, 503)
  assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
})

async function clientsOf(proxy: { readonly url: string }): Promise<readonly unknown[]> {
  const { statusCode, json } = await ask(`${proxy.url}/-/clients?limit=1000`)
  assert.equal(statusCode, 200)
  const clients = at(json, 'clients')
  assert.ok(Array.isArray(clients))
  return clients
}

/** Sends this many requests over a few connections, several at a time on each, and waits for every refusal. */
async function flood(url: string, count: number, requestOf: (index: number) => string): Promise<void> {
  const connections = 8
  const atATime = 50
  let next = 0
  const { port, hostname } = new URL(url)
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const socket = connect(Number(port), hostname)
      const refusals = counterOf(socket)
      let sent = 0
      while (next < count) {
        let text = ''
        for (let index = 0; index < atATime && next < count; index += 1) {
          text += requestOf(next)
          next += 1
          sent += 1
        }
        socket.write(text)
        await refusals(sent)
      }
      socket.destroy()
    }),
  )
}

/** Waits until this many refusals have arrived on a connection. */
function counterOf(socket: Socket): (wanted: number) => Promise<void> {
  const mark = 'HTTP/1.1 503 '
  let seen = 0
  let rest = ''
  let wake = () => {}
  let fault: Error | undefined
  socket.on('data', piece => {
    const parts = (rest + piece.toString('latin1')).split(mark)
    seen += parts.length - 1
    rest = (parts.at(-1) ?? '').slice(1 - mark.length)
    wake()
  })
  socket.on('close', () => {
    fault ??= new Error(`the connection was closed after ${seen} refusals`)
    wake()
  })
  socket.on('error', error => {
    fault = error
  })
  return async wanted => {
    while (seen < wanted) {
      if (fault !== undefined) throw fault
      await new Promise<void>(resolve => {
        wake = resolve
      })
    }
  }
}
