import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { at, freePort, startProgram } from './harness.js'

/** One series of a result, with its values. */
export type FoundSeries = {
  readonly labels: Readonly<Record<string, unknown>>
  readonly values: readonly number[]
}

/** Debian's Prometheus, running. */
export type Prometheus = {
  readonly url: string
  /** The names of the alerts that are firing now, sorted. */
  readonly firing: () => Promise<readonly string[]>
  /** The values of an expression between two times, in Unix seconds: one value per quarter of a second. */
  readonly range: (expression: string, from: number, to: number) => Promise<readonly FoundSeries[]>
}

/**
 * Runs Prometheus for the duration of a test, with its own data directory, on a free port of loopback. It scrapes the
 * target twice a second and evaluates the rules four times a second.
 *
 * @param target host and port.
 * @param rules the text of a rules file.
 */
export async function startPrometheus(t: TestContext, target: string, rules: string): Promise<Prometheus> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-prometheus-'))
  // Prometheus stops after this hook, and may write until then.
  t.after(() => rmSync(directory, { recursive: true, force: true, maxRetries: 40, retryDelay: 50 }))
  writeFileSync(join(directory, 'rules.yml'), rules)
  const config = {
    global: { scrape_interval: '500ms', scrape_timeout: '500ms', evaluation_interval: '250ms' },
    rule_files: ['rules.yml'],
    scrape_configs: [
      { job_name: 'focus-breaker', metrics_path: '/-/metrics', static_configs: [{ targets: [target] }] },
    ],
  }
  // JSON is YAML.
  writeFileSync(join(directory, 'prometheus.yml'), JSON.stringify(config))
  const address = `127.0.0.1:${await freePort()}`
  await startProgram(t, {
    command: '/usr/bin/prometheus',
    args: [
      `--config.file=${join(directory, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(directory, 'data')}`,
      `--web.listen-address=${address}`,
    ],
    readyWhen: line => (line.includes('ready to receive web requests') ? true : undefined),
  })
  const url = `http://${address}`
  const ask = async (path: string, parameters: Readonly<Record<string, string>>) => {
    const response = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(parameters)}`)
    const body: unknown = await response.json()
    assert.equal(at(body, 'status'), 'success', JSON.stringify(body))
    return at(body, 'data')
  }
  return {
    url,
    firing: async () =>
      listOf(at(await ask('alerts', {}), 'alerts'))
        .filter(alert => at(alert, 'state') === 'firing')
        .map(alert => String(at(alert, 'labels', 'alertname')))
        .toSorted(),
    range: async (query, from, to) => {
      const found = await ask('query_range', { query, start: String(from), end: String(to), step: '250ms' })
      return listOf(at(found, 'result')).map(series => ({
        labels: labelsOf(at(series, 'metric')),
        values: listOf(at(series, 'values')).map(pair => Number(at(pair, 1))),
      }))
    },
  }
}

function labelsOf(value: unknown): Readonly<Record<string, unknown>> {
  assert.ok(typeof value === 'object' && value !== null)
  return { ...value }
}

function listOf(value: unknown): readonly unknown[] {
  assert.ok(Array.isArray(value), `not a list: ${JSON.stringify(value)}`)
  return value
}
