import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import {
  at,
  circuitIs,
  programMain,
  type RunningProxy,
  requireOrSkip,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'
import { receiver } from '../support/webhook-receiver.js'

const CORRECTED = 'corrected impossible times in the history file; check the system clock'

const DAY_MS = 86_400_000
const time = (fromNowMs: number) => new Date(Date.now() + fromNowMs).toISOString()
const FAR = '9999-12-31T23:59:59.999Z'

/** A line of the history file. */
function outageLine(
  startedAt: string,
  endedAt: string | null,
  openedAt = startedAt,
  closedAt = endedAt,
): string {
  const openedBy = { kind: 'waiting', at: openedAt, source: 'probe', missing: ['prr'] }
  const closedBy = closedAt === null ? null : { kind: 'ready', at: closedAt, source: 'probe' }
  const counts = { refused: 3, operations: 2, restarts: 0 }
  return `${JSON.stringify({ outage: { startedAt, endedAt, cause: 'waiting', openedBy, closedBy, ...counts } })}\n`
}

function periodLine(from: string, to: string | null): string {
  return `${JSON.stringify({ unreachable: { from, to, problem: 'connection refused' } })}\n`
}

function historyFile(t: TestContext, text?: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-clock-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'history.jsonl')
  if (text !== undefined) writeFileSync(file, text)
  return file
}

/** Every time and every number below the value, each with its name. */
function factsBelow(value: unknown, name = ''): readonly (readonly [name: string, fact: string | number])[] {
  if (typeof value === 'number') return [[name, value]]
  if (typeof value === 'string') return /^\d{4}-\d\d-\d\dT/.test(value) ? [[name, value]] : []
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, below]) => factsBelow(below, `${name}.${key}`))
}

/** Fails if a time lies in the future or a number is negative. */
function assertPossible(value: unknown, what: string): void {
  const now = Date.now() + 1000
  for (const [name, fact] of factsBelow(value)) {
    const isPossible = typeof fact === 'number' ? fact >= 0 : Date.parse(fact) <= now
    assert.ok(isPossible, `${what}${name} is ${fact}`)
  }
}

/** What a proxy shows and logs: its status, outages, recent hours, metrics, refusal, log. */
async function assertShowsPossible(proxy: RunningProxy): Promise<void> {
  for (const path of ['/-/status', '/-/outages', '/-/history', '/-/fiber', '/-/override', '/-/clients']) {
    assertPossible((await ask(proxy.url + path)).json, path)
  }
  assertPossible((await configure(proxy)).json, 'the refusal')
  const csv = (await ask(`${proxy.url}/-/outages`, { headers: { accept: 'text/csv' } })).bytes.toString()
  assert.doesNotMatch(csv, /,-\d/)
  const metrics = (await ask(`${proxy.url}/-/metrics`)).bytes.toString()
  assert.doesNotMatch(metrics, /^focus_breaker_\S+ -/m)
  const [, started] = /^focus_breaker_outage_start_timestamp_seconds (\S+)$/m.exec(metrics) ?? []
  assert.ok(Number(started) * 1000 <= Date.now() + 1000, `metrics: the outage started at ${started}`)
  assertPossible(proxy.logs(), 'the log')
  for (const { msg } of proxy.logs()) assert.doesNotMatch(String(msg), /-\d+ (ms|s|min|h|d)\b/)
}

const DISORDERS: readonly (readonly [what: string, history: () => string])[] = [
  ['an open outage that started in the future', () => outageLine(time(30 * DAY_MS), null)],
  ['an open outage that started at the latest possible time', () => outageLine(FAR, null)],
  ['an open outage with a reading in the future', () => outageLine(time(-DAY_MS), null, FAR)],
  [
    'outages that started and ended in the future',
    () => [1, 2, 3, 4, 5, 6].map(day => outageLine(time(day * DAY_MS), time(day * DAY_MS + 60_000))).join(''),
  ],
  [
    'outages that ended in the future',
    () => [1, 2, 3, 4, 5, 6].map(day => outageLine(time(-day * DAY_MS), time(30 * DAY_MS))).join(''),
  ],
  [
    'outages that ended before they started',
    () => [1, 2, 3, 4, 5, 6].map(day => outageLine(time(-day * DAY_MS), time(-day * DAY_MS - 5000))).join(''),
  ],
  [
    'an outage without an end before one that started earlier',
    () => outageLine(time(-DAY_MS), null) + outageLine(time(-2 * DAY_MS), time(-DAY_MS * 1.5)),
  ],
  [
    'unreachable periods in the future and with ends before their starts',
    () =>
      periodLine(time(-DAY_MS), time(-2 * DAY_MS)) +
      periodLine(time(DAY_MS), time(2 * DAY_MS)) +
      periodLine(FAR, null),
  ],
]

describe('after the clock is set back', { concurrency: 3 }, () => {
  for (const [what, history] of DISORDERS) {
    test(`${what}: nothing shown, logged or sent lies in the future or has a negative duration`, async t => {
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const { url, received } = await receiver(t)
      const file = historyFile(t, history())
      const proxy = await startProxy(t, {
        upstream: simulator.url,
        env: {
          ...FAST,
          FOCUS_BREAKER_HISTORY_FILE: file,
          FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url, format: 'json' }]),
          FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0',
          FOCUS_BREAKER_NOTIFY_LASTING_AFTER_MS: '1000',
        },
      })
      await circuitIs(proxy, 'open')
      await assertShowsPossible(proxy)
      assert.equal(at(await statusOf(proxy), 'forecast'), null)
      await simulator.setFiber('present')
      await circuitIs(proxy, 'closed')
      await assertShowsPossible(proxy)
      await simulator.setFiber('missing')
      await circuitIs(proxy, 'open')
      await assertShowsPossible(proxy)
      const opened = await until(() => received.findLast(({ body }) => at(body, 'type') === 'outage.opened'))
      assertPossible(
        received.map(({ body }) => body),
        'webhooks',
      )
      assert.doesNotMatch(opened.text, /-\d+ (shorter|s\b|min\b)/)
      assert.ok(received.filter(({ body }) => at(body, 'type') === 'outage.lasting').length <= 2)
      const lines = proxy.logs().filter(({ msg }) => msg === CORRECTED)
      // An outage without an end is common: the process was killed.
      assert.equal(lines.length, what.startsWith('an outage without an end') ? 0 : 1)
      assert.equal(await proxy.stop(), 0)
    })
  }

  test('by a month, an open outage continues as the same one across restarts, and ends once', async t => {
    if (!requireOrSkip(t, 'faketime')) return
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const file = historyFile(t)
    const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: file }
    const ahead = await startProxy(t, { upstream: simulator.url, env, clock: '+30d' })
    await circuitIs(ahead, 'open')
    for (let attempt = 0; attempt < 5; attempt += 1) await configure(ahead)
    assert.equal(await ahead.stop(), 0)
    const [, startedAt = ''] = /"startedAt":"([^"]+)"/.exec(readFileSync(file, 'utf8')) ?? []
    assert.ok(Date.parse(startedAt) > Date.now() + 29 * DAY_MS)

    const second = await startProxy(t, { upstream: simulator.url, env })
    for (let attempt = 0; attempt < 3; attempt += 1) await configure(second)
    const since = at(await statusOf(second), 'circuit', 'since')
    await assertShowsPossible(second)
    assert.equal(await second.stop(), 0)

    const third = await startProxy(t, { upstream: simulator.url, env })
    assert.equal(at(await statusOf(third), 'circuit', 'since'), since)
    await simulator.setFiber('present')
    await circuitIs(third, 'closed')
    const { json } = await ask(`${third.url}/-/outages`)
    const [outage, ...others] = [at(json, 'outages', 0), at(json, 'outages', 1)]
    assert.deepEqual(others, [undefined])
    assert.equal(at(outage, 'startedAt'), since)
    assert.equal(at(outage, 'restarts'), 2)
    assert.equal(at(outage, 'refused'), 9)
    await assertShowsPossible(third)
    assert.equal(third.logs().filter(({ msg }) => msg === CORRECTED).length, 0)
  })
})

describe('a proxy whose clock differs from that of check and wait', { concurrency: 3 }, () => {
  for (const clock of ['+30d', '-30d']) {
    test(`by ${clock}: both report durations by the clock of the proxy`, async t => {
      if (!requireOrSkip(t, 'faketime', 'python3')) return
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const env = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: 'a-token-of-the-test' }
      const proxy = await startProxy(t, { upstream: simulator.url, env, clock })
      await circuitIs(proxy, 'open')
      // The clock of the proxy really differs.
      const since = Date.parse(String(at(await statusOf(proxy), 'circuit', 'since')))
      assert.ok(Math.abs(since - Date.now()) > 60_000)
      // Less than the smallest difference, however slow the machine.
      const short = /for \d+ (ms|s|min)\b/
      const run = async (...args: readonly string[]) =>
        await output(t, [process.execPath, programMain, ...args, '--proxy', proxy.url])
      assert.match(await run('check'), new RegExp(`^waiting for fiber: circuit open ${short.source}.*\n$`))
      const { forMs } = JSON.parse(await run('check', '--json'))
      assert.ok(forMs >= 0 && forMs < 3_600_000, `${forMs} ms`)
      // On a terminal the line shows the elapsed time.
      const terminal = ['import pty, sys', 'pty.spawn(sys.argv[1:])'].join('\n')
      const drawn = await output(t, [
        ...['/usr/bin/python3', '-c', terminal, process.execPath, programMain],
        ...['wait', '--timeout', '1500ms', '--proxy', proxy.url],
      ])
      assert.match(drawn, new RegExp(`waiting for fiber · ${short.source}.* · waited`))
      for (const [, words] of drawn.matchAll(/for (\d+ \S+)/g)) assert.match(`for ${words}`, short)
      await fetch(`${proxy.url}/-/override`, {
        method: 'PUT',
        headers: { authorization: 'Bearer a-token-of-the-test' },
        body: JSON.stringify({ state: 'open', reason: 'a test', forSeconds: 600 }),
      })
      const overridden = JSON.parse(await run('check', '--json'))
      assert.equal(overridden.message, 'refused by an operator: a test')
      assert.ok(overridden.forMs >= 0 && overridden.forMs < 3_600_000, `${overridden.forMs} ms`)
      assertSpansOf(await statusOf(proxy))
    })
  }
})

/** Fails unless each duration of the status is short and has a time next to it. */
function assertSpansOf(status: unknown): void {
  for (const keys of [
    ['circuit', 'forMs'],
    ['override', 'forMs'],
    ['outage', 'forMs'],
    ['reading', 'ageMs'],
  ]) {
    const span = at(status, ...keys)
    assert.ok(typeof span === 'number' && span >= 0 && span < 3_600_000, `${keys.join('.')} is ${span}`)
  }
  assert.equal(at(status, 'lastReadyAt'), null)
  assert.equal(at(status, 'lastReadyAgeMs'), null)
}

/** Everything that a program writes on its standard output until it ends. */
function output(t: TestContext, [command = '', ...args]: readonly string[]): Promise<string> {
  return new Promise(resolve => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    t.after(() => child.kill('SIGKILL'))
    let text = ''
    child.stdout.setEncoding('utf8').on('data', piece => {
      text += piece
    })
    child.once('close', () => resolve(text))
  })
}
