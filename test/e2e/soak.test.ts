import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { connect, createServer } from 'node:net'
import { type Duplex, pipeline } from 'node:stream'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Fault as AnswerFault } from '../../src/simulator/fault-injection.js'
import { type Simulator, startSimulator } from '../../src/simulator/focus-server.js'
import { blackBox, type Stock, stockTaker, Tally } from '../support/accounting.js'
import { type Fault, type FaultInjector, faultInjector } from '../support/fault-injector.js'
import { at, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { portOf } from '../support/raw.js'
import { amountOf, type Random, seeded, seedOfRun } from '../support/seeded.js'
import { live } from '../support/simulate.js'

/** The minutes of load after the warm-up; use 30 for a manual run. With 0 it is two rounds of all conditions. */
const MINUTES = amountOf('SOAK_MINUTES', 0)
const CLIENTS = amountOf('SOAK_CLIENTS', 24)

/** Expected events come much sooner; nothing here fails because it came late. */
const DEADLINE_MS = 60_000

/** The minimum after the warm-up, so that a leak of 1 KB per request exceeds the margin. */
const LEAST_REQUESTS = 4000

/** How much more may be in use at the end than after the warm-up. */
const MARGINS = {
  // Code that V8 compiles late; a long run also fills the histories, which keep 1000 outages and states each.
  memoryKb: MINUTES === 0 ? 2048 : 8192,
  // The allocator returns memory outside the JavaScript heap at its own pace.
  residentMb: 96,
  // The connection of a probe, or of our own status request, may be changing at that moment.
  handles: 2,
  descriptors: 2,
} as const satisfies Stock

const ENV = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  FOCUS_BREAKER_PROBE_TIMEOUT_MS: '500',
  FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '2',
  FOCUS_BREAKER_RECOVERY_RAMP_MS: '200',
  FOCUS_BREAKER_GUARD_SCOPE: 'live',
  FOCUS_BREAKER_METADATA_CACHE_MAX_AGE_MS: '50',
  FOCUS_BREAKER_UPSTREAM_HEADERS_TIMEOUT_MS: '1500',
  FOCUS_BREAKER_UPSTREAM_BODY_TIMEOUT_MS: '1500',
  FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '12',
  FOCUS_BREAKER_UPSTREAM_MAX_QUEUED: '6',
  FOCUS_BREAKER_UPSTREAM_QUEUE_TIMEOUT_MS: '500',
  FOCUS_BREAKER_SERVER_BODY_PAUSE_TIMEOUT_MS: '600',
}

test('under mixed load, faults and outages every request is accounted for, and nothing accumulates', {
  timeout: MINUTES * 60_000 + 300_000,
  skip: process.platform === 'win32' && 'Windows has no signal that makes a program report its resources',
}, async t => {
  const seed = seedOfRun()
  t.diagnostic(`SEED=${seed} SOAK_MINUTES=${MINUTES} SOAK_CLIENTS=${CLIENTS}`)
  const simulator = await startSimulator({ maxJobs: 100_000, jobDurationMs: 500, historicWithoutFiber: true })
  t.after(() => simulator.close())
  const injector = await faultInjector(t, await startEcho(t, simulator.port))
  const box = blackBox(t)
  const stocks = stockTaker(t)
  const NODE_OPTIONS = `${box.env.NODE_OPTIONS} ${stocks.nodeOption}`
  const proxy = await startProxy(t, {
    upstream: `http://127.0.0.1:${injector.port}`,
    env: { ...ENV, NODE_OPTIONS },
  })
  const world = new World(seeded(seed), proxy, simulator, injector)
  const clients = new Clients(t, seed, proxy, injector, world)
  const { tally } = clients
  const quietStock = async () => {
    await until(async () => isQuiet(await statusOf(proxy)) && injector.open <= 1, {
      what: 'nothing is in flight, and idle connections are closed',
      timeoutMs: DEADLINE_MS,
    })
    return await stocks.take(proxy.pid)
  }
  try {
    await clients.during(false, () => world.round())
    // No client has left, and none got a response without the upstream: every count is known exactly.
    const early = await countsOf(proxy)
    t.diagnostic(`warm-up: ${clients}; the proxy counted ${JSON.stringify(early)}`)
    assert.deepEqual(clients.surprises, [])
    assert.equal(early.forwarded, tally.sum('answered') + tally.sum('failed'), 'counted as forwarded')
    assert.equal(early.refused, tally.sum('refused'), 'counted as refused')

    await clients.during(true, () => world.round())
    const warm = await quietStock()
    const warmSent = clients.sent
    const warmAt = performance.now()
    const samples: string[] = []
    await clients.during(true, async () => {
      const isOver = () =>
        clients.sent - warmSent > LEAST_REQUESTS && performance.now() - warmAt > MINUTES * 60_000
      for (let round = 0; round < 2 || !isOver(); round += 1) {
        await world.round()
        if (round % 10 === 0) samples.push(inWords(await stocks.take(proxy.pid)))
      }
    })
    const load = `${clients.sent - warmSent} requests in ${Math.round((performance.now() - warmAt) / 1000)} s`
    await until(() => clients.isServed(), {
      what: 'all clients are served in normal operation',
      timeoutMs: DEADLINE_MS,
    })
    let end = await quietStock()
    const deadline = performance.now() + DEADLINE_MS
    while (growth(warm, end).length > 0 && performance.now() < deadline) end = await quietStock()
    const counts = await countsOf(proxy)
    t.diagnostic(`conditions: ${world.tally}`)
    t.diagnostic(
      `in total ${clients}; the proxy counted ${JSON.stringify(counts)}; ${clients.arrived} arrived`,
    )
    t.diagnostic(`under load ${samples.join('; ')}`)
    t.diagnostic(`after the warm-up ${inWords(warm)}; after ${load} ${inWords(end)}`)

    const read = tally.sum('answered from the reading')
    const unread = tally.sum('failed to read')
    const answered = tally.sum('answered') - read
    const refused = tally.sum('refused')
    const failed = tally.sum('failed') - unread
    const left = tally.sum('left')
    assert.ok(Math.min(answered, refused, failed, left) > 0, 'an outcome never occurred')
    assert.deepEqual(clients.surprises, [])
    assert.equal(clients.sent, read + unread + answered + refused + failed + left, 'accounted for')
    assert.deepEqual(clients.contradictions(), [])
    // A client that left does not know the outcome of its request.
    assertWithin(counts.refused, refused, refused + left, 'counted as refused')
    assertWithin(
      counts.forwarded,
      answered + failed,
      answered + failed + unread + left,
      'counted as forwarded',
    )
    assertWithin(clients.arrived, answered, counts.forwarded, 'arrived')
    assert.deepEqual(growth(warm, end), [])
    assert.equal(await proxy.stop(), 0)
    const errors = proxy.logs().filter(({ level }) => level === 'error' || level === 'fatal')
    assert.deepEqual(errors, [], 'internal errors in the log')
  } catch (error) {
    t.diagnostic(`${clients}`)
    assert.equal(box.crash(), undefined, 'the program crashed')
    throw error
  }
})

function isQuiet(status: unknown): boolean {
  return at(status, 'inFlight') === 0 && at(status, 'waiting') === 0
}

function growth(warm: Stock, end: Stock): readonly string[] {
  return (['memoryKb', 'residentMb', 'handles', 'descriptors'] as const)
    .filter(name => end[name] > warm[name] + MARGINS[name])
    .map(name => `${name}: ${warm[name]} after the warm-up, ${end[name]} at the end`)
}

function inWords({ memoryKb, residentMb, handles, descriptors }: Stock): string {
  return `${memoryKb} KB of ${residentMb} MB, ${handles} handles, ${descriptors} descriptors`
}

function assertWithin(actual: number, least: number, most: number, what: string): void {
  assert.ok(least <= actual && actual <= most, `${what}: ${actual}, expected ${least} to ${most}`)
}

/** The proxy's own counts; for a client, an overloaded response is a refusal. */
async function countsOf(proxy: RunningProxy) {
  const totals = at(await statusOf(proxy), 'totals')
  const total = (name: string) => Number(at(totals, name))
  return { forwarded: total('forwarded'), refused: total('refused') + total('overloaded') }
}

/** A port in front of the simulator that plays the WebSockets: it returns what it receives. */
async function startEcho(t: TestContext, upstreamPort: number): Promise<number> {
  const server = createServer(socket => {
    socket.on('error', () => undefined)
    socket.once('data', first => {
      if (first.toString('latin1').startsWith('GET /ws?')) {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
        socket.pipe(socket)
        return
      }
      const behind = connect(upstreamPort, '127.0.0.1')
      behind.write(first)
      pipeline(socket, behind, () => undefined)
      pipeline(behind, socket, () => undefined)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return portOf(server)
}

/** A condition that comes and goes. */
interface Condition {
  readonly name: string
  readonly begin: () => void | Promise<void>
  readonly end: () => void | Promise<void>
  /** The circuit must open. */
  readonly opens?: boolean
  /** Responses that have started are cut. */
  readonly breaks?: boolean
}

/** The fiber, the upstream and the connection to it. */
class World {
  readonly tally = new Tally()
  readonly #random: Random
  readonly #proxy: RunningProxy
  readonly #simulator: Simulator
  readonly #injector: FaultInjector
  #brokeUntil = Number.NEGATIVE_INFINITY

  constructor(random: Random, proxy: RunningProxy, simulator: Simulator, injector: FaultInjector) {
    this.#random = random
    this.#proxy = proxy
    this.#simulator = simulator
    this.#injector = injector
  }

  /** Whether responses were cut at this time or later. */
  hasBroken(since: number): boolean {
    return this.#brokeUntil >= since
  }

  /** Every condition once, in random order, with normal operation in between. */
  async round(): Promise<void> {
    const drawn = this.#conditions().map(condition => ({ condition, rank: this.#random.next() }))
    for (const { condition } of drawn.sort((a, b) => a.rank - b.rank)) {
      const { name, begin, end, opens = false, breaks = false } = condition
      this.tally.add(name)
      if (breaks) this.#brokeUntil = Number.POSITIVE_INFINITY
      await begin()
      if (opens) await this.#circuitIs('open')
      await delay(this.#random.integer(80, 250))
      await end()
      if (breaks) this.#brokeUntil = performance.now()
      await this.#circuitIs('closed')
    }
  }

  #conditions(): readonly Condition[] {
    const simulator = this.#simulator
    const injector = this.#injector
    const fiber = (state: 'missing' | 'partial'): Condition => {
      const end = () => simulator.setFiber('present')
      return { name: state, begin: () => simulator.setFiber(state), end, opens: true }
    }
    const betweenThem = (fault: Fault, strikes = /./): Condition => ({
      name: fault.kind,
      begin: () => {
        injector.fault = fault
        injector.strikes = strikes
      },
      end: () => {
        injector.fault = { kind: 'none' }
      },
      opens: fault.kind === 'hang',
      breaks: 'where' in fault,
    })
    const atTheUpstream = (route: string, fault: AnswerFault): Condition => ({
      name: fault.kind,
      begin: () => simulator.setFault(route, fault),
      end: () => simulator.setFault(route, null),
    })
    const where = () => this.#random.pick(['before', 'head', 'body'] as const)
    // A response without a body cannot be cut in it: it would be complete, and the next one would suffer.
    const withBody = /^(?!\w+ \/(ack|configure\/))/
    return [
      fiber('missing'),
      fiber('partial'),
      {
        name: 'absent',
        begin: () => injector.refuse(),
        end: () => injector.listen(),
        opens: true,
        breaks: true,
      },
      betweenThem({ kind: 'hang' }),
      betweenThem({ kind: 'stall', where: where() }, withBody),
      betweenThem({ kind: 'reset', where: where() }, withBody),
      betweenThem({ kind: 'half-close', where: where() }, withBody),
      // Only for the short responses: the others would take minutes.
      betweenThem({ kind: 'drip', everyMs: 1 }, /\/channels/),
      betweenThem({ kind: 'latency', ms: 20, jitterMs: 80 }),
      betweenThem({ kind: 'close-when-reused' }),
      atTheUpstream('POST /configure', { kind: 'status', code: this.#random.pick([500, 503, 404]) }),
      atTheUpstream('GET /live_metadata', { kind: 'html' }),
      atTheUpstream('*', { kind: 'huge', bytes: 2_000_000 }),
      atTheUpstream('*', { kind: 'slow', delayMs: 200 }),
    ]
  }

  async #circuitIs(state: 'open' | 'closed'): Promise<void> {
    await until(async () => at(await statusOf(this.#proxy), 'circuit', 'state') === state, {
      what: `the circuit is ${state}`,
      timeoutMs: DEADLINE_MS,
    })
  }
}

type Wish = readonly [method: 'GET' | 'POST', path: string, body?: string]

const LIVE = JSON.stringify(live)
const HISTORIC = JSON.stringify({ ...live, start_time: 1_700_000_000, end_time: 1_700_000_600 })
const LARGE = JSON.stringify({ start_time: 1, end_time: 2, padding: 'x'.repeat(300_000) })

/** What clients request: reads, live and historic jobs, large bodies, WebSockets, and paths that do not exist. */
const WISHES: readonly Wish[] = [
  ['GET', '/ack'],
  ['GET', '/channels'],
  ['GET', '/channels'],
  ['GET', '/live_metadata'],
  ['GET', '/live_metadata'],
  ['GET', '/get_recordings_timeline'],
  ['GET', '/metadata/1-1'],
  ['GET', '/none'],
  ['GET', '/ws'],
  ['POST', '/configure', LIVE],
  ['POST', '/configure', LIVE],
  ['POST', '/configure', LIVE],
  ['POST', '/configure', HISTORIC],
  ['POST', '/configure', '{"broken"'],
  ['POST', '/configure/', LIVE],
  ['POST', '/recordings_in_time_range', LARGE],
]

type Manner = 'swift' | 'reads slowly' | 'sends slowly' | 'stalls' | 'leaves'

/** The clients, each of which sends one request after the other. */
class Clients {
  readonly tally = new Tally()
  /** The first unexpected outcomes. */
  readonly surprises: string[] = []
  sent = 0
  readonly #agent = new Agent({ keepAlive: true })
  readonly #seed: number
  readonly #port: string
  readonly #injector: FaultInjector
  readonly #world: World
  readonly #arrived = new Set<number>()
  readonly #repeated = new Set<number>()
  readonly #arrivedTwice = new Set<number>()
  readonly #refused = new Set<number>()
  #streams = 0

  constructor(t: TestContext, seed: number, proxy: RunningProxy, injector: FaultInjector, world: World) {
    this.#seed = seed
    this.#port = new URL(proxy.url).port
    this.#injector = injector
    this.#world = world
    t.after(() => this.#agent.destroy())
  }

  /** How many of the numbered requests have reached the upstream. */
  get arrived(): number {
    this.#hear()
    return this.#arrived.size
  }

  toString(): string {
    return `sent ${this.sent} = ${this.tally}`
  }

  /** Keeps sending until the work is done; then every request has ended, and every connection is closed. */
  async during(leaves: boolean, work: () => Promise<void>): Promise<void> {
    let isOver = false
    const clients = Array.from({ length: CLIENTS }, async () => {
      this.#streams += 1
      const random = seeded(this.#seed, this.#streams)
      while (!isOver) {
        const wish = random.pick(WISHES)
        // Without a number the metadata may come from the last reading.
        const isNumbered = !leaves || wish[1] !== '/live_metadata' || random.chance(0.3)
        await this.#send(wish, mannerOf(random, leaves), random, isNumbered)
        await delay(random.integer(0, 20))
      }
    })
    try {
      await work()
    } finally {
      isOver = true
      await Promise.all(clients)
      this.#agent.destroy()
    }
  }

  /** Sends every kind of request once; returns whether the upstream responded to all of them. */
  async isServed(): Promise<boolean> {
    const random = seeded(this.#seed)
    let isServed = true
    for (const wish of WISHES) {
      const ending = await this.#send(wish, 'swift', random, true)
      isServed &&= ending.startsWith('answered')
    }
    this.#agent.destroy()
    return isServed
  }

  /** Contradictions between the outcomes. */
  contradictions(): readonly string[] {
    this.#hear()
    const sentAll = [...this.#refused].filter(number => this.#arrived.has(number))
    const twice = [...this.#arrivedTwice]
    return [
      ...sentAll.map(number => `${number} refused and sent`),
      ...twice.map(number => `${number} sent too often`),
    ]
  }

  /** Records which requests have arrived. */
  #hear(): void {
    for (const line of this.#injector.requests.splice(0)) {
      const number = Number(/\?n=(\d+) /.exec(line)?.[1])
      // A GET whose reused connection was closed before a byte of the response is sent once more.
      const mayRepeat = /^GET \/(?!ws\?)/.test(line) && !this.#repeated.has(number)
      if (this.#arrived.has(number)) (mayRepeat ? this.#repeated : this.#arrivedTwice).add(number)
      if (!Number.isNaN(number)) this.#arrived.add(number)
    }
  }

  async #send(wish: Wish, manner: Manner, random: Random, isNumbered: boolean): Promise<string> {
    this.sent += 1
    const number = this.sent
    const ending = await this.#exchange(wish, manner, random, isNumbered ? `?n=${number}` : '')
    this.#hear()
    if (ending.startsWith('refused')) this.#refused.add(number)
    if (ending.startsWith('unexplained') && this.surprises.length < 10)
      this.surprises.push(`${wish[0]} ${wish[1]}, ${manner}: ${ending}`)
    this.tally.add(ending.startsWith('unexplained') ? 'unexplained' : ending)
    return ending
  }

  /** Sends it and returns how it ended. Never rejects. */
  #exchange([method, path, body]: Wish, manner: Manner, random: Random, query: string): Promise<string> {
    const startedAt = performance.now()
    const headers = {
      ...(path === '/ws' && { Connection: 'Upgrade', Upgrade: 'websocket' }),
      ...(body !== undefined && { 'Content-Type': 'application/json', 'Content-Length': body.length }),
    }
    return new Promise(resolve => {
      const to = { agent: this.#agent, host: '127.0.0.1', port: this.#port, path: path + query }
      const sending = request({ ...to, method, headers })
      let tunnel: Duplex | undefined
      const timers = [setTimeout(end, DEADLINE_MS, 'unexplained: no response')]
      const later = (act: () => void) => timers.push(setTimeout(act, random.integer(0, 40)))
      // The first outcome counts.
      function end(ending: string): void {
        for (const timer of timers) clearTimeout(timer)
        resolve(ending)
        tunnel?.destroy()
        // A connection on which not everything was sent cannot be reused.
        if (!sending.writableFinished || ending === 'left') sending.destroy()
      }
      sending.on('error', error => end(`unexplained: ${error.message}`))
      sending.on('response', answer => {
        const parts: Buffer[] = []
        answer.on('data', (part: Buffer) => parts.push(part))
        answer.on('end', () => end(endingOf(answer, Buffer.concat(parts), query !== '', path)))
        answer.on('error', () => {
          // A response that came before the body stalled is cut with it.
          const isExplained = manner === 'stalls' || this.#world.hasBroken(startedAt)
          end(`${isExplained ? 'failed' : 'unexplained'} in the middle of a response`)
        })
        if (manner !== 'reads slowly') return
        answer.pause()
        later(() => answer.resume())
      })
      sending.on('upgrade', (_answer, socket) => {
        tunnel = socket
        socket.on('error', () => undefined).once('close', () => end('answered 101'))
        socket.resume().write('ping')
        later(() => (random.chance(0.5) ? socket.end('bye') : socket.destroy()))
      })
      if (manner === 'leaves') later(() => end('left'))
      if (body === undefined || manner === 'swift' || manner === 'reads slowly') sending.end(body)
      else {
        const half = Math.floor(body.length / 2)
        sending.write(body.slice(0, half))
        if (manner !== 'stalls') later(() => sending.end(body.slice(half)))
      }
    })
  }
}

function mannerOf(random: Random, leaves: boolean): Manner {
  if (leaves && random.chance(0.06)) return 'leaves'
  if (random.chance(0.8)) return 'swift'
  return random.pick(['reads slowly', 'reads slowly', 'sends slowly', 'sends slowly', 'stalls'])
}

/** Only responses of the upstream have `Via`. */
function endingOf(
  { statusCode, headers }: IncomingMessage,
  body: Buffer,
  isNumbered: boolean,
  path: string,
): string {
  const isRead = headers['cache-status'] !== undefined
  if (headers.via !== undefined) return `answered ${isRead ? 'from the reading ' : ''}${statusCode}`
  const text = body.toString()
  if (text.includes('"forwarded":false')) return `refused ${at(JSON.parse(text), 'status')}`
  // The body of a configure is read before it takes a slot.
  if (statusCode === 408 && path.startsWith('/configure'))
    return 'left before it was forwarded: 408 its body stalled'
  if (statusCode === 408) return 'failed 408 its body stalled'
  const reason = /error=(\w+)/.exec(String(headers['proxy-status']))?.[1]
  if (reason === undefined) return `unexplained ${statusCode}: ${text.slice(0, 200)}`
  return `failed ${isNumbered ? '' : 'to read the metadata '}${statusCode} ${reason}`
}
