import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { requireOrSkip, startProxy, until } from '../support/harness.js'
import { configureJob, HonestClient, readChannels } from '../support/honest-client.js'
import { PacedClient } from '../support/paced-client.js'
import { ProxyState } from '../support/proxy-state.js'
import {
  begunText,
  LARGE_BYTES,
  type Script,
  ScriptedUpstream,
  scripted,
  wholeText,
} from '../support/scripted-upstream.js'
import { selfSigned } from '../support/self-signed.js'
import { assertSlotsAreFree } from '../support/upstream-slots.js'

/**
 * Every way in which a client can leave an exchange, as a product of conditions. Nothing may remain of the exchange: no
 * slot, no waiting client, no request at the upstream, no socket. An honest client is served throughout.
 */
const CIRCUITS = ['closed', 'open', 'half-open'] as const
const POSITIONS = ['alone', 'pipelined', 'before an upgrade', 'over TLS'] as const
const MOMENTS = ['before the headers', 'during the body', 'after the response'] as const
const PACES = ['reads', 'reads slowly', 'does not read', 'sends slowly'] as const
const ROUTES = ['unguarded', 'guarded'] as const
const ENDINGS = ['closes', 'resets'] as const

type CircuitState = (typeof CIRCUITS)[number]
type Position = (typeof POSITIONS)[number]

type Combination = {
  readonly id: string
  readonly circuit: CircuitState
  readonly position: Position
  readonly leaves: (typeof MOMENTS)[number]
  readonly pace: (typeof PACES)[number]
  readonly route: (typeof ROUTES)[number]
  readonly ending: (typeof ENDINGS)[number]
}

/** One group at a time uses some of these, and the honest client gets the rest. */
const SLOTS = 64

const RESPONSE_PAUSE_MS = 600

const OPTIONS = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: String(SLOTS),
  FOCUS_BREAKER_SERVER_RESPONSE_PAUSE_TIMEOUT_MS: String(RESPONSE_PAUSE_MS),
  FOCUS_BREAKER_SERVER_BODY_PAUSE_TIMEOUT_MS: '1500',
  FOCUS_BREAKER_SERVER_BODY_TIMEOUT_MS: '5000',
  FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY: '100',
  FOCUS_BREAKER_RECOVERY_MAX_CONCURRENCY: '100',
}

/** A half-open circuit stays half-open; any other closes with the second good reading. */
const rampMs = (circuit: CircuitState) => (circuit === 'half-open' ? '86400000' : '0')

const BODY = 'b'.repeat(160)

const HALF_OF_THE_PIECES = 4

/** Enough of a large response to be in the middle of it. */
const SOME_BYTES = LARGE_BYTES / 8

test('however a client leaves, nothing of its exchange remains, and other clients are served', {
  timeout: 300_000,
}, async t => {
  let combinations = 0
  const startedAt = performance.now()
  for (const circuit of CIRCUITS) {
    for (const position of POSITIONS) {
      await t.test(`${circuit}, ${position}`, async group => {
        if (position === 'over TLS' && !requireOrSkip(group, 'openssl')) return
        const all = combinationsOf(circuit, position)
        combinations += all.length
        await playGroup(group, circuit, position, all)
      })
    }
  }
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(0)
  t.diagnostic(`${combinations} combinations in ${seconds} s`)
})

function combinationsOf(circuit: CircuitState, position: Position): readonly Combination[] {
  const all: Combination[] = []
  for (const leaves of MOMENTS) {
    for (const pace of PACES) {
      for (const route of ROUTES) {
        for (const ending of ENDINGS) {
          const id = `c${all.length}`
          all.push({ id, circuit, position, leaves, pace, route, ending })
        }
      }
    }
  }
  return all
}

async function playGroup(
  t: TestContext,
  circuit: CircuitState,
  position: Position,
  combinations: readonly Combination[],
): Promise<void> {
  const upstream = await ScriptedUpstream.start(t)
  upstream.fiber.there = circuit === 'closed'
  const proxy = await startProxy(t, {
    upstream: upstream.url,
    env: {
      ...OPTIONS,
      FOCUS_BREAKER_RECOVERY_RAMP_MS: rampMs(circuit),
      ...(position === 'over TLS' && tlsOptions(t)),
    },
  })
  const state = new ProxyState(t, proxy)
  await state.circuitIs(circuit === 'closed' ? 'closed' : 'open')
  upstream.fiber.there = circuit !== 'open'
  await state.circuitIs(circuit)
  // The first use creates what is kept for the life of the process.
  const { url } = proxy
  await new HonestClient(t, { url, errands: [readChannels] }).stop()
  upstream.closeIdleConnections()
  await delay(100)
  const socketsBefore = socketsOf(proxy.pid)

  // A job is refused while the circuit is open, and admitted later in the group.
  const job = configureJob(200, ...(circuit === 'open' ? [503] : []))
  const honest = new HonestClient(t, { url, errands: [readChannels, job] })
  const clients = await Promise.all(combinations.map(each => Client.begin(t, url, upstream, each)))

  await everyRequestIsInPlace(clients, upstream, state, circuit, position)
  const [early, late] = split(clients, ({ combination }) => combination.leaves === 'before the headers')
  for (const client of early) client.leave()
  await everyRestIsInPlace(late, upstream, state, circuit, position)
  if (circuit === 'open') {
    upstream.fiber.there = true
    await state.circuitIs('closed')
  }
  await Promise.all(late.map(client => client.leaveInTime()))

  // Those that do not read, and do not leave on their own, are still connected.
  upstream.release(id => id.startsWith('c'))
  await until(() => upstream.unanswered.every(id => !id.startsWith('c')), {
    what: 'every request at the upstream has its response',
  }).catch(() => assert.fail(`without a response at the upstream: ${upstream.unanswered.join(', ')}`))
  const { requests, errors } = await honest.stop()
  assert.ok(requests > 0)
  assert.deepEqual(errors, [], 'the honest client was not always served')
  await state.isAtRest()
  await assertSlotsAreFree(t, { url, upstream, count: SLOTS })
  assert.deepEqual(
    clients.flatMap(client => client.wronglyForwarded()),
    [],
    'requests that should not have been forwarded',
  )
  for (const client of clients) client.leave()
  await until(
    () => {
      upstream.closeIdleConnections()
      return socketsOf(proxy.pid) <= socketsBefore
    },
    { what: 'the proxy has as many sockets as before' },
  ).catch(() => assert.fail(`${socketsOf(proxy.pid)} sockets of the proxy, ${socketsBefore} before`))
}

/** Waits until every request has reached a point where it can only wait, or has its response. */
async function everyRequestIsInPlace(
  clients: readonly Client[],
  upstream: ScriptedUpstream,
  state: ProxyState,
  circuit: CircuitState,
  position: Position,
): Promise<void> {
  const missing = () => clients.filter(client => !client.hasArrived()).map(({ name }) => name)
  await until(() => missing().length === 0, { what: 'every request has arrived' }).catch(() =>
    assert.fail(`did not arrive: ${missing().join('; ')}`),
  )
  if (circuit !== 'open') return
  if (canWait(position)) await state.waitingIs(...parked(clients))
  if (position === 'pipelined') {
    await state.waitingIs(0)
    assert.ok(clients.every(({ combination: { id } }) => !upstream.received(id)))
  }
}

/** Those that left early are gone, and the second requests of the others have replaced their first ones. */
async function everyRestIsInPlace(
  late: readonly Client[],
  upstream: ScriptedUpstream,
  state: ProxyState,
  circuit: CircuitState,
  position: Position,
): Promise<void> {
  upstream.release(id => id.endsWith('-first'))
  if (circuit !== 'open') return
  if (canWait(position)) await state.waitingIs(...parked(late))
  else await state.waitingIs(0)
}

/** A request behind another one on its connection, or before one, is not queued until the circuit admits it. */
function canWait(position: Position): boolean {
  return position === 'alone' || position === 'over TLS'
}

/** How many of these wait for the circuit, without and with those that are still sending: both are correct. */
function parked(clients: readonly Client[]): readonly [number, number] {
  const guarded = clients.filter(({ combination: { route } }) => route === 'guarded')
  return [guarded.filter(client => !client.leavesWhileSending).length, guarded.length]
}

/** The client of one combination. */
class Client {
  readonly combination: Combination
  readonly #connection: PacedClient
  readonly #upstream: ScriptedUpstream

  private constructor(combination: Combination, connection: PacedClient, upstream: ScriptedUpstream) {
    this.combination = combination
    this.#connection = connection
    this.#upstream = upstream
  }

  /** Connects and sends, until everything is sent or the client leaves midway. */
  static async begin(
    t: TestContext,
    url: string,
    upstream: ScriptedUpstream,
    combination: Combination,
  ): Promise<Client> {
    const { pace, leaves, position, id } = combination
    const reading = pace === 'does not read' ? 'not at all' : pace === 'reads slowly' ? 'slowly' : 'at once'
    const connection = await PacedClient.connect(t, url, { reading })
    if (position === 'pipelined') {
      connection.send(`GET ${scripted('/channels', `${id}-first`, 'held')} HTTP/1.1\r\nHost: a\r\n\r\n`)
    }
    const { head, body } = requestOf(combination)
    const behind = position === 'before an upgrade' ? upgradeRequest(id) : ''
    if (pace !== 'sends slowly') connection.send(head + body + behind)
    else {
      connection.send(head)
      if (leaves === 'before the headers') await connection.sendSlowly(body, HALF_OF_THE_PIECES)
      else {
        await connection.sendSlowly(body)
        connection.send(behind)
      }
    }
    return new Client(combination, connection, upstream)
  }

  get name(): string {
    return `${Object.values(this.combination).join(', ')} (${this.#connection.summary})`
  }

  /** Whether the request is at the upstream, or as far as it can get for now. */
  hasArrived(): boolean {
    const { id, position, route, circuit } = this.combination
    if (position === 'pipelined') return this.#upstream.received(`${id}-first`)
    const isHeld = route === 'guarded' && (circuit === 'open' || this.leavesWhileSending)
    return isHeld || this.#upstream.received(id)
  }

  leave(): void {
    this.#connection.leave(this.combination.ending)
  }

  /** Leaves at its chosen moment; a client that does not read its response to the end stays. */
  async leaveInTime(): Promise<void> {
    const { leaves, pace } = this.combination
    if (pace === 'does not read' && leaves === 'after the response') return
    if (pace === 'does not read' && this.#mayBeRefused) await delay(200)
    else
      await until(() => (leaves === 'during the body' ? this.#isInTheBody() : this.#hasResponse()), {
        what: this.name,
      }).catch(() => assert.fail(`never reached the point of leaving: ${this.name}`))
    this.leave()
  }

  /** What wrongly reached the upstream from this client. */
  wronglyForwarded(): readonly string[] {
    const { id, position, leaves, circuit, route } = this.combination
    const leftFirst = leaves === 'before the headers'
    const mustNot =
      this.leavesWhileSending ||
      (leftFirst && position === 'pipelined') ||
      (leftFirst && circuit === 'open' && route === 'guarded')
    const wrong = [mustNot && id, `${id}-upgrade`]
    return wrong.some(each => each !== false && this.#upstream.received(each)) ? [this.name] : []
  }

  /** On a guarded route, a small body is read completely before its request is forwarded. */
  get leavesWhileSending(): boolean {
    const { pace, leaves, route } = this.combination
    return route === 'guarded' && pace === 'sends slowly' && leaves === 'before the headers'
  }

  /** A wait behind another request on its connection, or before one, is refused at once. */
  get #mayBeRefused(): boolean {
    const { circuit, position, route } = this.combination
    return circuit === 'open' && !canWait(position) && route === 'guarded'
  }

  #isInTheBody(): boolean {
    const { id, pace } = this.combination
    if (this.#isRefused()) return true
    if (pace === 'does not read') return this.#upstream.begun(id)
    return pace === 'reads slowly' ? this.#connection.bytes > SOME_BYTES : this.#connection.has(begunText(id))
  }

  #hasResponse(): boolean {
    const { id, position } = this.combination
    const isWhole = this.#isRefused() || this.#connection.has(wholeText(id))
    return isWhole && (position !== 'before an upgrade' || this.#connection.isClosed)
  }

  #isRefused(): boolean {
    return this.#mayBeRefused && this.#connection.has('"forwarded":false')
  }
}

function requestOf(combination: Combination): { readonly head: string; readonly body: string } {
  const { id, route, pace, circuit } = combination
  const script = scriptOf(combination)
  if (route === 'unguarded' && pace !== 'sends slowly') {
    return { head: `GET ${scripted('/channels', id, script)} HTTP/1.1\r\nHost: a\r\n\r\n`, body: '' }
  }
  const path = route === 'guarded' ? '/configure' : '/recordings_in_time_range'
  const lines = [
    `POST ${scripted(path, id, script)} HTTP/1.1`,
    'Host: a',
    'Content-Type: application/json',
    `Content-Length: ${BODY.length}`,
    ...(circuit === 'open' ? ['Prefer: wait=30'] : []),
  ]
  return { head: `${lines.join('\r\n')}\r\n\r\n`, body: BODY }
}

function scriptOf({ leaves, pace }: Combination): Script {
  if (leaves === 'before the headers') return 'held'
  if (pace === 'reads slowly' || pace === 'does not read') return 'large'
  return leaves === 'during the body' ? 'begun' : 'small'
}

function upgradeRequest(id: string): string {
  const lines = [
    `GET /stream?id=${id}-upgrade HTTP/1.1`,
    'Host: a',
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  ]
  return `${lines.join('\r\n')}\r\n\r\n`
}

function tlsOptions(t: TestContext): Readonly<Record<string, string>> {
  const { certFile, keyFile } = selfSigned(t)
  return { FOCUS_BREAKER_SERVER_TLS_CERT_FILE: certFile, FOCUS_BREAKER_SERVER_TLS_KEY_FILE: keyFile }
}

/** The number of descriptors of a process; 0 if there is no `/proc` to count them. */
function socketsOf(pid: number): number {
  const directory = `/proc/${pid}/fd`
  return existsSync(directory) ? readdirSync(directory).length : 0
}

function split<T>(all: readonly T[], isFirst: (each: T) => boolean): readonly [readonly T[], readonly T[]] {
  return [all.filter(isFirst), all.filter(each => !isFirst(each))]
}
