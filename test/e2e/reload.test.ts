import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import {
  at,
  circuitIs,
  type LogLine,
  type RunningProxy,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { ask, aWhile, clientPool, configure, FAST, runClients, transitions } from '../support/http-client.js'
import { rawClient } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const RELOADED = 'configuration was reloaded'
const NOT_RELOADED = 'configuration was not reloaded: it is invalid'
const NEEDS_RESTART = 'these options need a restart'

const portOf = (proxy: RunningProxy) => Number(new URL(proxy.url).port)
const logged = (proxy: RunningProxy, msg: string) => proxy.logs().filter(line => line.msg === msg)

/** Sends SIGHUP and waits for the line with the outcome. */
async function hangUp(proxy: RunningProxy): Promise<LogLine> {
  const outcomes = () => [...logged(proxy, RELOADED), ...logged(proxy, NOT_RELOADED)]
  const before = new Set(outcomes().map(line => JSON.stringify(line)))
  await delay(2) // So that two lines never have the same time.
  process.kill(proxy.pid, 'SIGHUP')
  return until(() => outcomes().find(line => !before.has(JSON.stringify(line))), {
    what: 'the log reports the reload',
  })
}

/** A proxy with a file, and a function to replace it. */
async function withFile(t: TestContext, upstream: string, text: string) {
  const directory = await mkdtemp(join(tmpdir(), 'focus-breaker-reload-'))
  t.after(() => rm(directory, { recursive: true }))
  const file = join(directory, 'focus-breaker.yaml')
  await writeFile(file, text)
  const proxy = await startProxy(t, { upstream, env: FAST, args: ['--config', file] })
  return { proxy, file, write: (other: string) => writeFile(file, other) }
}

describe('SIGHUP', { concurrency: 5 }, () => {
  test('applies thresholds', async t => {
    const { simulator } = await simulate(t)
    const { proxy, write } = await withFile(t, simulator.url, 'circuit: { waitingThreshold: 1000 }\n')
    await simulator.setFiber('missing')
    await until(async () => Number(at(await statusOf(proxy), 'reading', 'streak')) >= 5)
    const status = await statusOf(proxy)
    assert.equal(at(status, 'reading', 'kind'), 'waiting')
    assert.equal(at(status, 'circuit', 'state'), 'closed')

    await write('circuit: { waitingThreshold: 2, readyThreshold: 1000 }\n')
    const line = await hangUp(proxy)
    assert.equal(line.msg, RELOADED)
    assert.deepEqual(line.applied, ['circuit.waitingThreshold', 'circuit.readyThreshold'])
    await circuitIs(proxy, 'open')
    await simulator.setFiber('present')
    await until(async () => {
      const { kind, streak } = { kind: at(await statusOf(proxy), 'reading', 'kind'), streak: 'streak' }
      return kind === 'ready' && Number(at(await statusOf(proxy), 'reading', streak)) >= 5
    })
    assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'open')
    await write('circuit: { readyThreshold: 2 }\n')
    await hangUp(proxy)
    await circuitIs(proxy, 'closed')
    assert.deepEqual(logged(proxy, NEEDS_RESTART), [])
  })

  test('applies predicates', async t => {
    const { simulator } = await simulate(t)
    const { proxy, write } = await withFile(t, simulator.url, '')
    await circuitIs(proxy, 'closed')
    await write('fiber:\n  readyWhen:\n    - { field: number_of_channels, operator: "<", value: 5000 }\n')
    const line = await hangUp(proxy)
    assert.deepEqual(line.applied, ['fiber.readyWhen'])
    await circuitIs(proxy, 'open')
    assert.deepEqual(at(await statusOf(proxy), 'reading', 'missing'), ['number_of_channels'])
    assert.match(String(at((await configure(proxy)).json, 'reason')), /number_of_channels/)
    await write('')
    await hangUp(proxy)
    await circuitIs(proxy, 'closed')
  })

  test('applies the guard and Retry-After', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing', historicWithoutFiber: true })
    const { proxy, write } = await withFile(t, simulator.url, '')
    await circuitIs(proxy, 'open')
    assert.equal((await configure(proxy)).statusCode, 503)
    assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)

    await write(
      'guard: { statusCode: 424, routes: [{ method: GET, path: /channels }] }\n' +
        'retryAfter: { minSeconds: 9, maxSeconds: 9 }\n',
    )
    const line = await hangUp(proxy)
    assert.deepEqual(line.applied, [
      'guard.routes',
      'guard.statusCode',
      'retryAfter.minSeconds',
      'retryAfter.maxSeconds',
    ])
    const refused = await ask(`${proxy.url}/channels`)
    assert.equal(refused.statusCode, 424)
    assert.equal(refused.headers['retry-after'], '9')
    assert.equal(typeof at((await configure(proxy)).json, 'detail'), 'string')

    await write('guard: { mode: observe }\n')
    await hangUp(proxy)
    assert.equal(at(await statusOf(proxy), 'mode'), 'observe')
    assert.equal((await configure(proxy)).headers['focus-breaker'], 'would-refuse')

    await write('guard: { scope: live }\n')
    await hangUp(proxy)
    const historic = JSON.stringify({ start_time: 1764946703, end_time: 1764953903 })
    const asked = Number(simulator.counters.byRoute['POST /configure'])
    assert.equal((await configure(proxy)).statusCode, 503)
    assert.equal((await configure(proxy, { body: historic })).statusCode, 422)
    assert.equal(simulator.counters.byRoute['POST /configure'], asked + 1)

    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    await write('guard: { maxConcurrency: 1 }\n')
    await hangUp(proxy)
    await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 300 })
    const dispatcher = clientPool(t, 5)
    const seen = new Set<unknown>()
    await runClients(5, async () => {
      const { json } = await configure(proxy, { dispatcher })
      seen.add(at(json, 'status'))
    })
    assert.ok(seen.has('overloaded'), [...seen].join())
  })

  test('applies the log level to every line', async t => {
    const { simulator } = await simulate(t)
    const { proxy, write } = await withFile(t, simulator.url, '')
    const lines = (level: string) => proxy.logs().filter(line => line.level === level).length
    await ask(`${proxy.url}/channels`)
    assert.equal(lines('debug'), 0)
    await write('log: { level: debug }\n')
    assert.deepEqual((await hangUp(proxy)).applied, ['log.level'])
    await until(async () => {
      await ask(`${proxy.url}/channels`)
      return lines('debug') > 0
    })
    await write('log: { level: warn }\n')
    process.kill(proxy.pid, 'SIGHUP')
    // Requests are not logged any more, and a transition only if it is a warning.
    await until(async () => {
      const before = lines('debug')
      await ask(`${proxy.url}/channels`)
      await aWhile()
      return lines('debug') === before
    })
    const before = lines('info')
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    await until(() => transitions(proxy).at(-1)?.startsWith('closed>open'))
    assert.equal(lines('info'), before)
  })

  test('applies the probe period', async t => {
    const { simulator } = await simulate(t)
    const directory = await mkdtemp(join(tmpdir(), 'focus-breaker-reload-'))
    t.after(() => rm(directory, { recursive: true }))
    const file = join(directory, 'focus-breaker.yaml')
    await writeFile(file, 'probe: { periodMs: 3600000 }\n')
    const proxy = await startProxy(t, { upstream: simulator.url, args: ['--config', file] })
    await delay(400)
    await writeFile(file, 'probe: { periodMs: 100 }\n')
    assert.deepEqual((await hangUp(proxy)).applied, ['probe.periodMs'])
    await until(async () => Number(at(await statusOf(proxy), 'totals', 'probes')) >= 3, {
      what: 'probes come every 100 ms instead of every hour',
      timeoutMs: 5000,
    })
  })

  test('drops no connection and no request in flight', async t => {
    const { simulator } = await simulate(t, { maxJobs: 1_000_000, jobDurationMs: 1 })
    await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 30 })
    const { proxy, write } = await withFile(t, simulator.url, '')
    await circuitIs(proxy, 'closed')
    const kept = await rawClient(t, portOf(proxy))
    kept.send('GET /ack HTTP/1.1\r\nHost: x\r\n\r\n')
    await kept.until(/HTTP\/1\.1 200 /)
    const dispatcher = clientPool(t, 20)
    let isOver = false
    let served = 0
    const load = runClients(20, async () => {
      while (!isOver) {
        const { statusCode } = await configure(proxy, { dispatcher })
        assert.equal(statusCode, 200)
        served += 1
      }
    })
    const startedAt = performance.now()
    for (let seconds = 2; seconds <= 11; seconds += 1) {
      await write(`retryAfter: { maxSeconds: ${seconds} }\n`)
      assert.equal((await hangUp(proxy)).msg, RELOADED)
    }
    isOver = true
    await load
    t.diagnostic(
      `10 reloads in ${Math.round(performance.now() - startedAt)} ms, ${served} configures served in the meantime, none lost`,
    )
    kept.send('GET /-/live HTTP/1.1\r\nHost: x\r\n\r\n')
    await kept.until(/\{"status":"ok"\}/)
    assert.deepEqual(transitions(proxy), [])
  })

  test('names options that need a restart in a warning, and leaves them unchanged', async t => {
    const { simulator } = await simulate(t)
    const { proxy, write } = await withFile(t, simulator.url, '')
    await circuitIs(proxy, 'closed')
    await write(
      'server: { drainTimeoutMs: 5 }\n' +
        'upstream: { headersTimeoutMs: 5 }\n' +
        'basePath: /focus-server\n' +
        'probe: { path: /other }\n' +
        'log: { format: pretty }\n' +
        'circuit: { unreachableThreshold: 1 }\n',
    )
    const line = await hangUp(proxy)
    assert.equal(line.msg, RELOADED)
    assert.deepEqual(line.applied, ['circuit.unreachableThreshold'])
    const [warning] = await until(() => {
      const lines = logged(proxy, NEEDS_RESTART)
      return lines.length > 0 && lines
    })
    assert.equal(warning?.level, 'warn')
    assert.deepEqual(warning?.needRestart, [
      'server.drainTimeoutMs',
      'upstream.headersTimeoutMs',
      'basePath',
      'probe.path',
      'log.format',
    ])
    const before = Number(at(await statusOf(proxy), 'totals', 'probes'))
    await until(async () => Number(at(await statusOf(proxy), 'totals', 'probes')) >= before + 3)
    assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'closed')
    assert.equal((await ask(`${proxy.url}/focus-server/channels`)).statusCode, 404)
    // The same file again: the options are still not in force, and it says so again.
    const again = await hangUp(proxy)
    assert.deepEqual(again.applied, [])
    await until(() => logged(proxy, NEEDS_RESTART).length === 2)
  })

  test('changes nothing for an invalid file, and logs its errors', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const text = 'guard: { statusCode: 424 }\n'
    const { proxy, file, write } = await withFile(t, simulator.url, text)
    await circuitIs(proxy, 'open')
    const broken: [what: string, text: string | null, named: RegExp[]][] = [
      ['invalid YAML', 'guard: { statusCode: [\n', [/./]],
      [
        'several errors',
        'guard: { statusCode: 200, mode: sleep }\nretryAfter: { maxSeconds: 0 }\nunheard: of\n',
        [/guard\.statusCode/, /guard\.mode/, /retryAfter\.maxSeconds/, /unheard/],
      ],
      ['a list', '- guard\n', [/./]],
      ['gone', null, [/focus-breaker\.yaml/]],
    ]
    for (const [what, other, named] of broken) {
      if (other === null) await rm(file)
      else await write(other)
      const line = await hangUp(proxy)
      assert.equal(line.msg, NOT_RELOADED, what)
      assert.equal(line.level, 'error', what)
      const faults = JSON.stringify(line.faults)
      for (const fault of named) assert.match(faults, fault)
      const refused = await configure(proxy)
      assert.equal(refused.statusCode, 424, what)
    }
    await write('guard: { statusCode: 409 }\n')
    assert.equal((await hangUp(proxy)).msg, RELOADED)
    assert.equal((await configure(proxy)).statusCode, 409)
  })

  test('changes nothing without a file, and does not end the process', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    assert.deepEqual((await hangUp(proxy)).applied, [])
    assert.equal((await configure(proxy)).statusCode, 200)
    assert.equal(await proxy.stop(), 0)
  })

  test('does not cut a drain short', async t => {
    const { simulator } = await simulate(t)
    await simulator.setFault('POST /configure', { kind: 'slow', delayMs: 1500 })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    await circuitIs(proxy, 'closed')
    const pending = configure(proxy)
    await until(() => simulator.counters.inFlight === 1)
    const stopped = proxy.stop()
    await until(() => logged(proxy, 'draining').length === 1)
    process.kill(proxy.pid, 'SIGHUP')
    assert.equal((await pending).statusCode, 200)
    assert.equal(await stopped, 0)
  })
})
