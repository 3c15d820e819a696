import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { stringify } from 'yaml'
import {
  at,
  circuitIs,
  freePort,
  repositoryRoot,
  requireOrSkip,
  startProxy,
  until,
} from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { type Prometheus, startPrometheus } from '../support/prometheus.js'
import { simulate } from '../support/simulate.js'

const rulesText = readFileSync(join(repositoryRoot, 'deploy/prometheus/alerts.yml'), 'utf8')
const dashboard: unknown = JSON.parse(
  readFileSync(join(repositoryRoot, 'deploy/grafana/dashboard.json'), 'utf8'),
)

const TOKEN = 'correct-horse-battery-staple'

/** Time runs this many times as fast in the rules under test. */
const SPEED = 100

const UNITS_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000 }

/**
 * The rules, with every duration divided by `SPEED` and nothing else changed. Durations are the `for:` of an alert, the
 * range of a vector (`[5m]`), and the two numbers of seconds that are compared with an age.
 */
function shortened(rules: string): string {
  const short = (count: string, unit: string) =>
    `${(Number(count) * (UNITS_MS[unit] ?? Number.NaN)) / SPEED}ms`
  return rules
    .replace(/^( +for: )(\d+)([smh])$/gm, (_, before, count, unit) => `${before}${short(count, unit)}`)
    .replace(/\[(\d+)([smh])\]/g, (_, count, unit) => `[${short(count, unit)}]`)
    .replace(/> (600|1800)\b/g, (_, seconds) => `> ${Number(seconds) / SPEED}`)
}

test('the rules under test differ from the shipped ones only in their durations', () => {
  const timeless = (text: string) => text.replace(/\d+(ms|[smh])\b/g, 'T').replace(/> \d+\b(?!\.)/g, '> T')
  assert.equal(timeless(shortened(rulesText)), timeless(rulesText))
  assert.match(shortened(rulesText), /\[3000ms\]/)
  assert.doesNotMatch(shortened(rulesText), /\d[mh]\]|for: \d+[smh]$/m)
})

describe('Prometheus scrapes the proxy and evaluates the alerts', () => {
  test('each outage fires its alert and no other, its end resolves it, and every panel of the dashboard has data', async t => {
    if (!requireOrSkip(t, 'prometheus')) return
    const setting = await setUp(t)
    const { prometheus, simulator, file } = setting
    let proxy = await setting.start()
    // Until now there was nothing to scrape.
    await until(async () => {
      const now = Date.now() / 1000
      const isScraped = (await prometheus.range('up == 1', now - 0.5, now)).length > 0
      return isScraped && (await prometheus.firing()).length === 0
    })
    const startedAt = Date.now() / 1000

    await phase(prometheus, [], async () => {
      for (let count = 0; count < 5; count += 1) await traffic(proxy.url)
      // Longer than every range and every `for:` of the alerts about a healthy proxy.
      await delay(10_000)
    })

    await phase(prometheus, ['FocusBreakerFiberMissing'], async fires => {
      await simulator.setFiber('missing')
      await circuitIs(proxy, 'open')
      await traffic(proxy.url)
      await fires()
      await simulator.setFiber('present')
      await circuitIs(proxy, 'closed')
    })

    await phase(prometheus, ['FocusBreakerUpstreamUnreachable'], async fires => {
      await simulator.setFault('*', { kind: 'reset' })
      await circuitIs(proxy, 'open')
      await ask(`${proxy.url}/channels`)
      await fires()
      await simulator.setFault('*', null)
      await circuitIs(proxy, 'closed')
    })

    // Counted only in observe mode: the dashboard shows it, and no alert uses it.
    await phase(prometheus, [], async () => {
      await setting.reload(proxy.url, 'observe')
      await simulator.setFiber('missing')
      await circuitIs(proxy, 'open')
      await traffic(proxy.url)
      await delay(1000)
      await simulator.setFiber('present')
      await circuitIs(proxy, 'closed')
      await setting.reload(proxy.url, 'enforce')
    })

    await phase(prometheus, ['FocusBreakerHistoryNotWritten'], async fires => {
      rmSync(file)
      mkdirSync(file)
      await fires()
      rmdirSync(file)
    })

    await phase(prometheus, ['FocusBreakerDown'], async fires => {
      assert.equal(await proxy.stop(), 0)
      await fires()
      proxy = await setting.start()
    })

    await everyPanelHasData(prometheus, startedAt, Date.now() / 1000)
  })
})

/** The proxy in front of the simulator, and Prometheus next to it. The proxy keeps its port across a restart. */
async function setUp(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-scraped-'))
  t.after(() => rmSync(directory, { recursive: true, force: true, maxRetries: 40, retryDelay: 50 }))
  const { simulator } = await simulate(t)
  const file = join(directory, 'history.jsonl')
  const config = join(directory, 'focus-breaker.yaml')
  const configure = (mode: string) =>
    writeFileSync(
      config,
      stringify({
        probe: { periodMs: 200 },
        recovery: { rampMs: 500 },
        history: { file },
        admin: { token: TOKEN },
        guard: { mode },
      }),
    )
  configure('enforce')
  const port = await freePort()
  const start = () =>
    startProxy(t, { upstream: simulator.url, args: ['--config', config, '--port', String(port)] })
  const prometheus = await startPrometheus(t, `127.0.0.1:${port}`, shortened(rulesText))
  return {
    ...{ simulator, file, prometheus, start },
    reload: async (url: string, mode: string) => {
      configure(mode)
      const headers = { authorization: `Bearer ${TOKEN}` }
      const { statusCode, json } = await ask(`${url}/-/reload`, { method: 'POST', headers })
      assert.equal(statusCode, 200)
      assert.deepEqual(at(json, 'applied'), ['guard.mode'])
    },
  }
}

/** One of each kind of request that the dashboard distinguishes. */
async function traffic(url: string): Promise<void> {
  await configure({ url })
  await ask(`${url}/channels`)
}

/** Plays a scenario, and compares which alerts fired during it. At its end none is firing. */
async function phase(
  prometheus: Prometheus,
  expected: readonly string[],
  play: (fires: () => Promise<unknown>) => Promise<unknown>,
): Promise<void> {
  const from = Date.now() / 1000
  await play(() =>
    until(async () => (await prometheus.firing()).join() === expected.join(), {
      what: `${expected} fires`,
      timeoutMs: 60_000,
      everyMs: 250,
    }),
  )
  await until(async () => (await prometheus.firing()).length === 0, {
    what: `${expected} is resolved`,
    timeoutMs: 30_000,
    everyMs: 250,
  })
  const fired = await prometheus.range('ALERTS{alertstate="firing"}', from, Date.now() / 1000)
  assert.deepEqual([...new Set(fired.map(({ labels }) => labels.alertname))].toSorted(), expected)
}

async function everyPanelHasData(prometheus: Prometheus, from: number, to: number): Promise<void> {
  const panels = at(dashboard, 'panels')
  assert.ok(Array.isArray(panels))
  const empty: string[] = []
  for (const panel of panels) {
    const targets = at(panel, 'targets')
    assert.ok(Array.isArray(targets) && targets.length > 0)
    for (const expr of targets.map(target => String(at(target, 'expr')))) {
      // Only replicas have it.
      if (/^(?:rate\()?focus_breaker_replicas/.test(expr)) continue
      // Variables that Grafana substitutes.
      const query = expr
        .replaceAll('$instance', '.*')
        .replaceAll('$__rate_interval', '3s')
        .replaceAll('$__range', '20s')
      const found = await prometheus.range(query, from, to)
      if (!found.some(({ values }) => values.some(Number.isFinite)))
        empty.push(`${at(panel, 'title')}: ${query}`)
    }
  }
  assert.deepEqual(empty, [])
}
