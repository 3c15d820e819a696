import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { startProxy, until } from '../support/harness.js'
import { NO_PROBES } from '../support/http-client.js'
import { PacedClient } from '../support/paced-client.js'
import { ProxyState } from '../support/proxy-state.js'
import { ScriptedUpstream, scripted, wholeText } from '../support/scripted-upstream.js'

type Fields = readonly string[]

/** The proxy, and clients of it with their own addresses. */
async function setUp(t: TestContext, env: Readonly<Record<string, string>>, isConnected = true) {
  const upstream = await ScriptedUpstream.start(t)
  upstream.fiber.there = isConnected
  // Connections that are still open at the end of a test delay nothing.
  const noDrain = { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '100' }
  const proxy = await startProxy(t, { upstream: upstream.url, env: { ...noDrain, ...env } })
  const state = new ProxyState(t, proxy)
  await state.circuitIs(isConnected ? 'closed' : 'open')
  const connect = (address: string) => PacedClient.connect(t, proxy.url, { localAddress: address })
  /** A request that the upstream leaves unanswered until it is released. */
  const hold = async (id: string, address: string, fields: Fields = []) => {
    const client = await connect(address)
    const lines = [`GET ${scripted('/channels', id, 'held')} HTTP/1.1`, 'Host: a', ...fields]
    client.send(`${lines.join('\r\n')}\r\n\r\n`)
    // Requests of other connections come after it.
    await state.status()
    return { id, client }
  }
  /** A job that waits for the fiber. */
  const park = async (id: string, address: string) => {
    const client = await connect(address)
    client.send(
      `POST /configure?id=${id} HTTP/1.1\r\nHost: a\r\nPrefer: wait=60\r\nContent-Length: 2\r\n\r\n{}`,
    )
    await state.status()
    return { id, client }
  }
  return { upstream, state, hold, park }
}

type Held = { readonly id: string; readonly client: PacedClient }

/** Waits until exactly these have been refused. */
async function refusedAre(clients: readonly Held[], expected: readonly string[]): Promise<void> {
  const refused = () => clients.filter(({ client }) => client.has('HTTP/1.1 503 ')).map(({ id }) => id)
  await until(() => refused().length >= expected.length, { timeoutMs: 3000 }).catch(() => undefined)
  assert.deepEqual(refused(), expected)
}

describe('connections to the upstream', () => {
  test('one address gets at most three quarters of them, and others get the rest', async t => {
    const { upstream, hold } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '4',
    })
    for (let n = 0; n < 10; n += 1) await hold(`one-${n}`, '127.0.0.1')
    const other = await hold('other', '127.0.0.2')
    await until(() => upstream.received('other'), { what: 'the request of another address is forwarded' })
    assert.deepEqual(upstream.unanswered, ['one-0', 'one-1', 'one-2', 'other'])
    upstream.release(() => true)
    await until(() => other.client.has(wholeText('other')) && upstream.received('one-9'))
  })

  test('the client share is an option, and is rounded up to a whole connection', async t => {
    for (const [share, most] of [
      ['1', 4],
      ['0.3', 2],
      ['0.01', 1],
    ] as const) {
      const { upstream, hold } = await setUp(t, {
        ...NO_PROBES,
        FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '4',
        FOCUS_BREAKER_SERVER_CLIENT_SHARE: share,
      })
      for (let n = 0; n < 6; n += 1) await hold(`one-${n}`, '127.0.0.1')
      await until(() => upstream.unanswered.length === most)
      await delay(200)
      assert.equal(upstream.unanswered.length, most, share)
    }
  })

  test('behind a trusted gateway each client that it names has its own share', async t => {
    const { upstream, hold } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '4',
      FOCUS_BREAKER_SERVER_TRUST_PROXY: '["127.0.0.1"]',
    })
    const from = (address: string) => [`X-Forwarded-For: ${address}`]
    for (let n = 0; n < 6; n += 1) await hold(`one-${n}`, '127.0.0.1', from('192.0.2.1'))
    await hold('other', '127.0.0.1', from('192.0.2.2'))
    await until(() => upstream.received('other'), { what: 'the request of another client is forwarded' })
    assert.deepEqual(upstream.unanswered, ['one-0', 'one-1', 'one-2', 'other'])
  })

  test('X-Forwarded-For from an untrusted peer is ignored', async t => {
    const { upstream, hold } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '4',
    })
    for (let n = 0; n < 6; n += 1) await hold(`one-${n}`, '127.0.0.1', [`X-Forwarded-For: 192.0.2.${n}`])
    await until(() => upstream.unanswered.length === 3)
    await delay(200)
    assert.equal(upstream.unanswered.length, 3)
  })
})

describe('the slots of a full queue', () => {
  /** Four of one address wait; then newcomers from other addresses, one after the other. */
  async function fullQueue(enter: (id: string, address: string) => Promise<Held>) {
    const clients: Held[] = []
    const come = async (id: string, address: string, expected: readonly string[]) => {
      clients.push(await enter(id, address))
      await refusedAre(clients, expected)
    }
    for (const id of ['a1', 'a2', 'a3', 'a4']) await come(id, '127.0.0.11', [])
    // One more of the same address is refused.
    await come('a5', '127.0.0.11', ['a5'])
    // The newest waiting request of the address with the most makes way, if that address has at least two more.
    await come('b1', '127.0.0.12', ['a4', 'a5'])
    await come('c1', '127.0.0.13', ['a3', 'a4', 'a5'])
    await come('d1', '127.0.0.14', ['a2', 'a3', 'a4', 'a5'])
    // Each address has one slot: the newcomer is refused.
    await come('e1', '127.0.0.15', ['a2', 'a3', 'a4', 'a5', 'e1'])
    return clients
  }

  test('are shared evenly in the upstream queue', async t => {
    const { upstream, hold } = await setUp(t, {
      ...NO_PROBES,
      FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '1',
      FOCUS_BREAKER_UPSTREAM_MAX_QUEUED: '4',
      FOCUS_BREAKER_UPSTREAM_QUEUE_TIMEOUT_MS: '60000',
    })
    await hold('first', '127.0.0.2')
    await until(() => upstream.received('first'))
    const clients = await fullQueue(hold)
    upstream.release(() => true)
    const served = () => clients.filter(({ id, client }) => client.has(wholeText(id))).map(({ id }) => id)
    await until(() => served().length === 4, { what: 'the four waiting requests are served' })
    assert.deepEqual(served(), ['a1', 'b1', 'c1', 'd1'])
  })

  test('are shared evenly among jobs that wait for the fiber', async t => {
    const { upstream, state, park } = await setUp(
      t,
      {
        FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
        FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
        FOCUS_BREAKER_GUARD_MAX_WAITING: '4',
      },
      false,
    )
    const clients = await fullQueue(park)
    await state.waitingIs(4)
    upstream.fiber.there = true
    const served = () => clients.filter(({ id, client }) => client.has(wholeText(id))).map(({ id }) => id)
    await until(() => served().length === 4, { what: 'the four waiting requests are served' })
    assert.deepEqual(served(), ['a1', 'b1', 'c1', 'd1'])
  })
})
