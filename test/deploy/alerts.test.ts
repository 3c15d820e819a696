import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { isDeepStrictEqual, promisify } from 'node:util'
import { parse, stringify } from 'yaml'
import { Exposition, missingFor } from '../support/exposition.js'
import { at, freePort, repositoryRoot, requireOrSkip, startProxy } from '../support/harness.js'
import { simulate } from '../support/simulate.js'

const run = promisify(execFile)
const directory = join(repositoryRoot, 'deploy/prometheus')
const rulesText = readFileSync(join(directory, 'alerts.yml'), 'utf8')
const testsText = readFileSync(join(directory, 'alerts.test.yml'), 'utf8')

test('promtool accepts the alerts, and each does what its tests say', async t => {
  if (!requireOrSkip(t, 'promtool')) return
  await run('promtool', ['check', 'rules', '--lint=all', '--lint-fatal', join(directory, 'alerts.yml')])
  await run('promtool', ['test', 'rules', join(directory, 'alerts.test.yml')])
})

test('every alert is tested both firing and silent', () => {
  const cases = listOf(at(parse(testsText), 'tests')).flatMap(each => listOf(at(each, 'alert_rule_test')))
  for (const name of alerts().map(alert => at(alert, 'alert'))) {
    const own = cases.filter(each => at(each, 'alertname') === name)
    assert.ok(
      own.some(each => at(each, 'exp_alerts') !== undefined),
      `${name} has no test in which it fires`,
    )
    assert.ok(
      own.some(each => at(each, 'exp_alerts') === undefined),
      `${name} has no test in which it is silent`,
    )
  }
})

test('every alert says what happened, what to do, and how severe it is', () => {
  for (const alert of alerts()) {
    const [name, summary, description, severity] = [
      at(alert, 'alert'),
      at(alert, 'annotations', 'summary'),
      at(alert, 'annotations', 'description'),
      at(alert, 'labels', 'severity'),
    ]
    assert.match(String(name), /^FocusBreaker[A-Z]/)
    assert.match(String(summary), /\$labels\.instance/, `${name} does not say where`)
    assert.ok(typeof description === 'string' && description.length > 40, `${name} does not say what to do`)
    assert.ok(severity === 'warning' || severity === 'critical', `${name}: severity ${severity}`)
  }
})

test('the alerts use only metrics, labels and values that a proxy has from its start on', async t => {
  const exposition = await exposed(t)
  for (const alert of alerts()) {
    assert.deepEqual(missingFor(String(at(alert, 'expr')), exposition), [], String(at(alert, 'alert')))
  }
})

test('a changed threshold or a wrong cause fails the promtool tests', async t => {
  if (!requireOrSkip(t, 'promtool')) return
  const changes: readonly (readonly [from: string, to: string])[] = [
    ['> 1800\n', '> 18000\n'],
    ['kind="unreachable",source="probe"}[15m]', 'kind="waiting",source="probe"}[15m]'],
    ['from="closed",to="open"', 'from="half-open",to="open"'],
    ['for: 2h', 'for: 3h'],
    ['for: 10m', 'for: 2m'],
    ['kind=~"ready|waiting",source="probe"}[5m])) > 0', 'kind=~"ready|waiting",source="probe"}[5m])) >= 0'],
    ['>= 4.5', '> 4'],
    [' or absent(up{job=~".*focus-breaker.*"})', ''],
    ['max_over_time(focus_breaker_history_writable[5m]) == 0', 'focus_breaker_history_writable == 1'],
    ['focus_breaker_outage_start_timestamp_seconds > 0', 'focus_breaker_outage_start_timestamp_seconds >= 0'],
    // One of the replicas probes, and one that has just ended still counts as one.
    [
      'sum without (instance, pod, kind, source) (\n              increase(focus_breaker_readings_total{source="probe"}',
      'min without (instance, pod, kind, source) (\n              increase(focus_breaker_readings_total{source="probe"}',
    ],
    ['last_over_time(focus_breaker_replicas_joined[30m])', 'focus_breaker_replicas_joined'],
    ['max_over_time(focus_breaker_replicas_joined[5m]) == 0', 'focus_breaker_replicas_joined == 0'],
  ]
  for (const [from, to] of changes) {
    assert.ok(rulesText.includes(from), `the alerts do not have ${from}`)
    const changed = rulesText.replace(from, to)
    const after = alerts(changed)
    const name = String(
      at(
        alerts().find((alert, index) => !isDeepStrictEqual(alert, after[index])),
        'alert',
      ),
    )
    // Together with the other alerts this would take seconds. If the tests of one alert fail, those of all of them fail
    // too.
    await testAlert(t, name, rulesText)
    await assert.rejects(testAlert(t, name, changed), /FAILED/, `${from} became ${to}, and no test failed`)
  }
})

/** Runs the tests of one alert in a copy of the rules without the others. */
async function testAlert(t: TestContext, name: string, rules: string): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-alerts-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const rule = alerts(rules).filter(alert => at(alert, 'alert') === name)
  assert.equal(rule.length, 1)
  const groups = [{ name, rules: rule }]
  const tests = listOf(at(parse(testsText), 'tests')).flatMap(each => {
    const own = listOf(at(each, 'alert_rule_test')).filter(one => at(one, 'alertname') === name)
    return own.length === 0 ? [] : [{ ...objectOf(each), alert_rule_test: own }]
  })
  writeFileSync(join(directory, 'alerts.yml'), stringify({ groups }))
  writeFileSync(join(directory, 'alerts.test.yml'), stringify({ ...objectOf(parse(testsText)), tests }))
  await run('promtool', ['test', 'rules', join(directory, 'alerts.test.yml')])
}

async function exposed(t: TestContext): Promise<Exposition> {
  const { simulator } = await simulate(t)
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-alerts-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const env = {
    FOCUS_BREAKER_HISTORY_FILE: join(directory, 'history.jsonl'),
    // No server responds there; the metrics of replicas exist all the same.
    FOCUS_BREAKER_REPLICAS_URL: `redis://127.0.0.1:${await freePort()}`,
  }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const response = await fetch(`${proxy.url}/-/metrics`)
  return new Exposition(await response.text())
}

function alerts(text: string = rulesText): readonly unknown[] {
  return listOf(at(parse(text), 'groups')).flatMap(group => listOf(at(group, 'rules')))
}

function listOf(value: unknown): readonly unknown[] {
  assert.ok(Array.isArray(value), `not a list: ${JSON.stringify(value)}`)
  return value
}

function objectOf(value: unknown): Readonly<Record<string, unknown>> {
  assert.ok(typeof value === 'object' && value !== null, `not an object: ${JSON.stringify(value)}`)
  return { ...value }
}
