import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type BlackBox, blackBox, holdingsOf, settledHoldingsOf, Tally } from '../support/accounting.js'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { type Expected, type HostileConnection, hostileConnection } from '../support/hostile-traffic.js'
import { exchange, proxyTo, rawClient, rawUpstream, response } from '../support/raw.js'
import { amountOf, seedOfRun } from '../support/seeded.js'
import { type StrictUpstream, startStrictUpstream } from '../support/strict-upstream.js'

/** The number of requests; fewer for a quick run. */
const REQUESTS = amountOf('HOSTILE_REQUESTS', 100_000)

/** Only the connection with this number, run twice: `SEED=… HOSTILE_ONLY=…` repeats a finding. */
const ONLY = process.env.HOSTILE_ONLY === undefined ? undefined : amountOf('HOSTILE_ONLY', 0)

const CONCURRENT = 96
/** A connection without data for this long counts as finished. */
const SILENCE_MS = 250
/** For valid connections, each of which must get all its responses. */
const PATIENCE_MS = 60_000
const PIECE_PAUSE_MS = 2

/** The share of the requests after which everything that is created once exists. */
const WARM_UP = 0.2
/** The allowed growth afterwards: a leak of 100 bytes per request exceeds it. */
const MAX_GROWTH_MB = 8
/** Our own connections that are kept for the next status request. */
const MAX_MORE_DESCRIPTORS = 4
const SETTLING_MS = 60_000

/** Findings of earlier runs: what was sent and how it ended. Those about timing have separate tests below. */
const KEPT: readonly Pick<HostileConnection, 'pieces' | 'ending'>[] = [
  {
    pieces: ['POST /x/y\\z/../../configure HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n'],
    ending: 'wait',
  },
  { pieces: ['POST /x%0a/../configure HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n'], ending: 'wait' },
  { pieces: ['GET /-/*/x HTTP/1.1\r\nHost: a\r\n\r\n'], ending: 'wait' },
]

test('hostile requests do not crash the proxy, leak, pass the guard, smuggle requests or harm other clients', {
  timeout: 300_000,
}, async t => {
  const seed = seedOfRun()
  t.diagnostic(`SEED=${seed} HOSTILE_REQUESTS=${REQUESTS}`)
  const upstream = await startStrictUpstream(t)
  const box = blackBox(t)
  const heap = heapScale(t)
  const proxy = await startProxy(t, {
    upstream: upstream.url,
    env: {
      FOCUS_BREAKER_PROBE_PERIOD_MS: '500',
      // A slow machine must not lead to responses that report an overloaded upstream.
      FOCUS_BREAKER_UPSTREAM_QUEUE_TIMEOUT_MS: String(PATIENCE_MS),
      NODE_OPTIONS: `${box.env.NODE_OPTIONS} ${heap.nodeOption}`,
    },
  })
  await circuitIs(proxy, 'open')
  const before = holdingsOf(proxy.pid).descriptors
  const run = new Run(seed, proxy, upstream, box)

  for (const [n, kept] of KEPT.entries()) {
    await run.play({ ...kept, index: -1 - n, what: 'kept', requests: 1, expected: [], isOrderly: false })
  }
  if (ONLY !== undefined) {
    const connection = hostileConnection(seed, ONLY)
    t.diagnostic(JSON.stringify(connection, null, 1))
    t.diagnostic(JSON.stringify(await run.play(connection)))
    await delay(500)
    await run.assertAlive()
    run.judge()
    return
  }

  const startedAt = performance.now()
  await run.upTo(REQUESTS * WARM_UP)
  await run.assertAlive()
  const warmMb = await heap.inUseMb(proxy)
  await run.upTo(REQUESTS)
  await run.assertAlive()
  const seconds = (performance.now() - startedAt) / 1000
  t.diagnostic(
    `${run.requests} requests on ${run.connections} connections in ${seconds.toFixed(0)} s: ${run.tally}`,
  )
  run.judge()

  const peak = holdingsOf(proxy.pid)
  const { descriptors } = await settledHoldingsOf(proxy.pid, before + MAX_MORE_DESCRIPTORS, SETTLING_MS)
  const endMb = await heap.inUseMb(proxy)
  t.diagnostic(
    `heap after the warm-up ${warmMb.toFixed(1)} MB, at the end ${endMb.toFixed(1)} MB; descriptors before ${before}, under load ${peak.descriptors}, at the end ${descriptors}`,
  )
  assert.ok(descriptors <= before + MAX_MORE_DESCRIPTORS, `${descriptors} descriptors, ${before} before`)
  assert.ok(endMb <= warmMb + MAX_GROWTH_MB, `${endMb} MB in use, ${warmMb} MB after the warm-up`)
  const status = await statusOf(proxy)
  const forwarded = Number(at(status, 'totals', 'forwarded'))
  const unsent = forwarded - upstream.count - upstream.cut
  t.diagnostic(
    `forwarded ${forwarded} = arrived ${upstream.count} + cut ${upstream.cut} + not sent because the client had left ${unsent}`,
  )
  assert.ok(unsent >= 0, `${-unsent} requests arrived that were not forwarded`)
  assert.ok(unsent <= run.tally.sum('left '), 'requests were lost between proxy and upstream')
  assert.equal(at(status, 'inFlight'), 0)
  assert.equal(at(status, 'waiting'), 0)
  const faults = proxy.logs().filter(({ level }) => Number(level) >= 50)
  assert.deepEqual(faults, [], 'internal errors in the log')
  assert.equal(await proxy.stop(), 0)
})

test('bytes that a client sends after a request do not get into the response to that request', async t => {
  const { port } = await rawUpstream(t, ({ head, socket }) => {
    if (!head.startsWith('GET /slow')) return socket.write(response('200 OK', 'ok'))
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345')
    return setTimeout(() => socket.write('67890'), 200)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  for (const behind of [
    'garbage\r\n\r\n',
    'CONNECT h:1 HTTP/1.1\r\nHost: a\r\n\r\n',
    'GET /x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n',
    `GET /x HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`,
    'GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
  ]) {
    await t.test(JSON.stringify(behind.slice(0, 60)), async t => {
      const client = await rawClient(t, proxy)
      await client.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n').until(/12345/)
      const text = await client.send(behind).closed()
      const body = text.slice(text.indexOf('\r\n\r\n') + 4)
      // The response may be truncated, but contains nothing else.
      assert.equal('1234567890'.startsWith(body.slice(0, 10)), true, JSON.stringify(text))
    })
  }
})

test('a malformed request gets no response before the request that it follows', async t => {
  const { port } = await rawUpstream(t, ({ socket }) => {
    setTimeout(() => socket.write(response('200 OK', 'ok')), 100)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  for (const behind of ['garbage\r\n\r\n', 'CONNECT h:1 HTTP/1.1\r\nHost: a\r\n\r\n']) {
    const text = await exchange(t, proxy, `GET /x HTTP/1.1\r\nHost: a\r\n\r\n${behind}`)
    // The client would take the first response for that of its first request, which has been forwarded.
    assert.match(text, /^(HTTP\/1\.1 200 |$)/, behind)
  }
})

test('an interim response comes before its own final response and after the previous one', async t => {
  const { port } = await rawUpstream(t, ({ head, socket }) => {
    const answer = `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${response('200 OK', 'ok')}`
    setTimeout(() => socket.write(answer), head.startsWith('GET /slow') ? 100 : 0)
  })
  const proxy = await proxyTo(t, `http://127.0.0.1:${port}`)
  const client = await rawClient(t, proxy)
  client.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
  client.send('PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab')
  const text = await client.send('GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n').closed()
  const requests = [{ method: 'GET' }, { method: 'PUT', mayClose: true }, { method: 'GET' }] as const
  const { answers, fault } = answersIn(text, requests)
  assert.equal(fault, undefined, JSON.stringify(text))
  assert.ok(answers.length >= 2)
  for (const answer of answers) assert.match(answer, /^HTTP\/1\.1 200 [\s\S]*\r\n\r\nok$/)
  // HTTP/1.0 has no interim responses (RFC 9110, 15.2).
  assert.match(await exchange(t, proxy, 'GET /x HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 /)
})

test('many clients that leave at once in the middle of their bodies do not end the process', async t => {
  const { port } = await rawUpstream(t, () => undefined)
  const box = blackBox(t)
  // Fewer connections than bodies: some of them wait inside undici, where they have no listener.
  const env = {
    FOCUS_BREAKER_UPSTREAM_MAX_CONNECTIONS: '2',
    FOCUS_BREAKER_PROBE_PERIOD_MS: '60000',
    ...box.env,
  }
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}`, env })
  for (let round = 0; round < 120 && box.crash() === undefined; round += 1) {
    const clients = Array.from({ length: 3 + (round % 8) }, () => {
      const client = connect(Number(new URL(proxy.url).port), '127.0.0.1')
      client.on('error', () => undefined)
      client.write('POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc')
      return client
    })
    await delay(10 + (round % 4) * 10)
    for (const client of clients) client.resetAndDestroy()
    await delay(10)
  }
  assert.equal(await crashOf(box), undefined)
  assert.equal((await fetch(`${proxy.url}/-/live`)).status, 200)
})

class Run {
  readonly tally = new Tally()
  readonly #seed: number
  readonly #box: BlackBox
  /** The connections that are being played now. */
  readonly #open = new Set<number>()
  readonly #proxy: RunningProxy
  readonly #upstream: StrictUpstream
  /** By kind; a handful of examples of each is enough. */
  readonly #findings = new Map<string, string[]>()
  #next = 0
  #requests = 0

  constructor(seed: number, proxy: RunningProxy, upstream: StrictUpstream, box: BlackBox) {
    this.#box = box
    this.#seed = seed
    this.#proxy = proxy
    this.#upstream = upstream
  }

  get requests(): number {
    return this.#requests
  }

  get connections(): number {
    return this.#next
  }

  /** Continues until this many requests have been sent, and requests our own routes all the while. */
  async upTo(requests: number): Promise<void> {
    let isOver = false
    const watch = (async () => {
      while (!isOver) {
        await this.#ownRoutesAnswer()
        await delay(1000)
      }
    })()
    await Promise.all(
      Array.from({ length: CONCURRENT }, async () => {
        while (this.#requests < requests && this.#box.crash() === undefined) {
          const connection = hostileConnection(this.#seed, this.#next++)
          this.#requests += connection.requests
          await this.play(connection)
        }
      }),
    )
    isOver = true
    await watch
  }

  /** Fails if the process has ended. */
  async assertAlive(): Promise<void> {
    const crash = await crashOf(this.#box)
    const open = [...this.#open].join(', ')
    assert.equal(
      crash,
      undefined,
      `the process ended, SEED=${this.#seed}, HOSTILE_ONLY one of ${open}: ${crash}`,
    )
  }

  /** Plays one connection and checks the outcome. */
  async play(connection: HostileConnection): Promise<{ readonly text: string; readonly isClosed: boolean }> {
    const { port } = new URL(this.#proxy.url)
    this.#open.add(connection.index)
    const { text, isClosed } = await send(Number(port), connection)
    if (this.#box.crash() === undefined) this.#open.delete(connection.index)
    if (connection.ending !== 'wait') this.tally.add('left by us', connection.requests)
    else if (!isClosed) this.tally.add('left without data', connection.requests)
    else if (!connection.isOrderly) this.tally.add('left by the proxy', connection.requests)
    const echoes = [...text.matchAll(/^x-echo: id-(\d+)-(\d+)\r$/gim)]
    const numbers = echoes.map(([, , number]) => Number(number))
    if (echoes.some(([, index]) => Number(index) !== connection.index))
      this.#found('a response to another request', connection, text)
    else if (connection.what !== 'mutated' && numbers.some((n, k) => n <= (numbers[k - 1] ?? -1)))
      this.#found('responses out of order', connection, text)
    if (/^HTTP\/1\.1 500/m.test(text)) this.#found('a 500', connection, text)
    this.#check(connection, text, isClosed)
    return { text, isClosed }
  }

  /** Fails with all findings. */
  judge(): void {
    const { violations, guarded, byId } = this.#upstream
    for (const violation of violations) this.#note('invalid at the upstream', violation)
    for (const head of guarded) this.#note('a guarded request passed', JSON.stringify(head))
    for (const [id, count] of byId) {
      const index = Number(/^id-x?(\d+)/.exec(id)?.[1])
      if (id.startsWith('id-x')) this.#note('a smuggled request arrived', this.#source(index))
      else if (id.startsWith('id-') && count > 1)
        this.#note('a request was sent more than once', `${id}, ${this.#source(index)}`)
    }
    const lines = [...this.#findings].flatMap(([kind, examples]) => [
      `${kind}, ${examples.length} times:`,
      ...examples.slice(0, 4).map(example => `  ${example}`),
    ])
    if (lines.length > 0) assert.fail(`SEED=${this.#seed}\n${lines.join('\n')}`)
  }

  #check(connection: HostileConnection, text: string, isClosed: boolean): void {
    const { expected, isOrderly } = connection
    const { answers, fault } = answersIn(text, expected)
    if (isOrderly && !isClosed) this.#found('a valid connection was not closed', connection, text)
    else if (fault !== undefined && (isOrderly || fault === STRANGE)) this.#found(fault, connection, text)
    for (const [index, answer] of answers.entries()) {
      const each = expected[index]
      if (each === undefined) return
      const kind = outcomeOf(answer)
      this.tally.add(kind)
      if (kind !== each.outcome || (each.id !== undefined && !answer.includes(`: ${each.id}\r\n`)))
        this.#found(`expected ${each.outcome}, got ${kind}`, connection, answer)
    }
  }

  async #ownRoutesAnswer(): Promise<void> {
    for (const path of ['/-/live', '/-/ready', '/-/status']) {
      const startedAt = performance.now()
      const answer = await fetch(this.#proxy.url + path, { signal: AbortSignal.timeout(PATIENCE_MS) }).catch(
        String,
      )
      if (typeof answer === 'string') {
        this.#note(`${path} got no response`, `after ${performance.now() - startedAt} ms: ${answer}`)
        return
      }
      if (answer.status !== 200) this.#note(`${path} did not get 200`, String(answer.status))
      await answer.arrayBuffer()
    }
  }

  #found(what: string, connection: HostileConnection, text: string): void {
    this.#note(
      what,
      `${this.#source(connection.index)}, ${connection.what}; got ${JSON.stringify(text.slice(-300))}; sent ${JSON.stringify(connection.pieces).slice(0, 500)}`,
    )
  }

  #note(kind: string, example: string): void {
    const examples = this.#findings.get(kind)
    if (examples === undefined) this.#findings.set(kind, [example])
    else examples.push(example)
  }

  #source(index: number): string {
    return `SEED=${this.#seed} HOSTILE_ONLY=${index}`
  }
}

/** Writes the pieces, and returns what arrived until either side closed or no data came for a while. */
function send(
  port: number,
  { pieces, ending, isOrderly }: HostileConnection,
): Promise<{ readonly text: string; readonly isClosed: boolean }> {
  return new Promise(resolve => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const chunks: string[] = []
    let isClosed = true
    socket.on('data', chunk => chunks.push(chunk.toString('latin1')))
    socket.on('error', () => undefined)
    socket.once('close', () => resolve({ text: chunks.join(''), isClosed }))
    socket.setTimeout(isOrderly ? PATIENCE_MS : SILENCE_MS, () => {
      isClosed = false
      socket.destroy()
    })
    let next = 0
    const write = () => {
      const piece = pieces[next++]
      if (socket.destroyed) return
      if (piece !== undefined) {
        socket.write(Buffer.from(piece, 'latin1'))
        if (next < pieces.length) setTimeout(write, PIECE_PAUSE_MS)
        else write()
      } else if (ending === 'end') socket.end()
      else if (ending === 'reset') setTimeout(() => socket.resetAndDestroy(), 1)
    }
    socket.once('connect', write)
  })
}

const STRANGE = 'something else among the responses'

/** The whole final responses to these requests, and what is wrong if anything else arrived. */
function answersIn(
  text: string,
  expected: readonly Pick<Expected, 'method' | 'mayClose'>[],
): { readonly answers: readonly string[]; readonly fault: string | undefined } {
  const answers: string[] = []
  let rest = text
  for (const { method, mayClose } of expected) {
    let head: string
    do {
      const end = rest.indexOf('\r\n\r\n')
      if (end === -1) return { answers, fault: 'fewer responses than requests' }
      head = rest.slice(0, end + 4)
      if (!/^HTTP\/1\.1 \d{3} /.test(head)) return { answers, fault: STRANGE }
      rest = rest.slice(head.length)
    } while (/^HTTP\/1\.1 1/.test(head))
    const length = method === 'HEAD' ? 0 : Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? 0)
    if (rest.length < length) return { answers, fault: 'an incomplete response' }
    answers.push(head + rest.slice(0, length))
    rest = rest.slice(length)
    if (mayClose && rest === '' && /^connection: close\r$/im.test(head)) return { answers, fault: undefined }
  }
  return { answers, fault: rest === '' ? undefined : 'more responses than requests' }
}

function outcomeOf(answer: string): string {
  if (/^x-echo: /im.test(answer)) return 'forwarded'
  if (answer.startsWith('HTTP/1.1 503') && answer.includes('"forwarded":false')) return 'refused'
  if (/^HTTP\/1\.1 (200|404) /.test(answer)) return 'own'
  return `answered ${answer.slice(9, 12)}`
}

/** What the process left behind when it crashed, once it is written; undefined if it did not crash. */
async function crashOf(box: BlackBox): Promise<string | undefined> {
  return box.crash() === undefined ? undefined : await until(() => box.crash() || undefined)
}

/** Measures the heap of a process that was started with `nodeOption`, after a garbage collection. */
function heapScale(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-heap-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const script = join(directory, 'scale.cjs')
  const weight = join(directory, 'weight')
  writeFileSync(
    script,
    `require('node:v8').setFlagsFromString('--expose-gc')
    const gc = require('node:vm').runInNewContext('gc')
    const { renameSync, writeFileSync } = require('node:fs')
    process.on('SIGUSR2', () => {
      gc()
      const { heapUsed, external } = process.memoryUsage()
      writeFileSync(${JSON.stringify(`${weight}.part`)}, String(heapUsed + external))
      renameSync(${JSON.stringify(`${weight}.part`)}, ${JSON.stringify(weight)})
    })`,
  )
  const weigh = async (pid: number) => {
    rmSync(weight, { force: true })
    process.kill(pid, 'SIGUSR2')
    return Number(await until(() => readFileSync(weight, 'utf8'), { timeoutMs: SETTLING_MS })) / 2 ** 20
  }
  return {
    nodeOption: `--require="${script}"`,
    /** The minimum of several measurements: closed handles are released some turns later. */
    async inUseMb({ pid }: { readonly pid: number }): Promise<number> {
      let least = Number.POSITIVE_INFINITY
      for (let time = 0; time < 5; time += 1) {
        await delay(200)
        least = Math.min(least, await weigh(pid))
      }
      return least
    },
  }
}
