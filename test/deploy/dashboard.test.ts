import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { Exposition, missingFor } from '../support/exposition.js'
import {
  at,
  freePort,
  type RunningProxy,
  repositoryRoot,
  requireOrSkip,
  startProxy,
} from '../support/harness.js'
import { simulate } from '../support/simulate.js'

const dashboard: unknown = JSON.parse(
  readFileSync(join(repositoryRoot, 'deploy/grafana/dashboard.json'), 'utf8'),
)
const panels = listOf(at(dashboard, 'panels'))

test('the dashboard uses only metrics, labels and values that a proxy has from its start on', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startWithAll(t, simulator.url)
  const exposition = new Exposition(await (await fetch(`${proxy.url}/-/metrics`)).text())
  const expressions = [
    ...stringsAt(dashboard, 'expr'),
    // From the list of replicas.
    ...stringsAt(dashboard, 'definition'),
  ]
  assert.ok(expressions.length > panels.length)
  for (const expression of expressions) {
    assert.match(expression, /focus_breaker_/)
    assert.deepEqual(missingFor(expression, exposition), [], expression)
  }
  // The comparison would notice.
  assert.deepEqual(missingFor('rate(focus_breaker_refusals_total[5m])', exposition), [
    'metric focus_breaker_refusals_total',
  ])
  assert.deepEqual(missingFor('sum by (cause) (focus_breaker_circuit_state{state="ajar"})', exposition), [
    "value ajar of focus_breaker_circuit_state's state",
    'label cause to group by',
  ])
  assert.deepEqual(missingFor('focus_breaker_circuit_state{path="/"}', exposition), [
    'label path of focus_breaker_circuit_state',
  ])
})

test('Prometheus can read every expression of the dashboard', async t => {
  if (!requireOrSkip(t, 'promtool')) return
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-dashboard-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const check = (expressions: readonly string[]) => {
    const rules = expressions.map((expr, index) => ({
      record: `panel:${index}`,
      // Variables that Grafana substitutes.
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll('$__range', '6h'),
    }))
    const file = join(directory, 'rules.json')
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
    return promisify(execFile)('promtool', ['check', 'rules', file])
  }
  const expressions = stringsAt(dashboard, 'expr')
  await check(expressions)
  await assert.rejects(check([...expressions, 'sum(rate(focus_breaker_readings_total[5m])']))
})

test('every metric about the circuit or about requests is on the dashboard', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startWithAll(t, simulator.url)
  const text = await (await fetch(`${proxy.url}/-/metrics`)).text()
  const own = [...text.matchAll(/^# TYPE (focus_breaker_\w+) /gm)].map(([, name = '']) => name)
  const shown = stringsAt(dashboard, 'expr').join('\n')
  assert.deepEqual(
    own.filter(name => !shown.includes(name)),
    [],
  )
})

test('it can be imported anywhere: it names no specific data source and no replica', () => {
  assert.equal(at(dashboard, 'id'), undefined)
  assert.equal(at(dashboard, 'uid'), 'focus-breaker')
  for (const uid of stringsAt(dashboard, 'uid').filter(each => each !== 'focus-breaker')) {
    assert.match(uid, /^\$\{datasource\}$/)
  }
  const variables = listOf(at(dashboard, 'templating', 'list')).map(variable => at(variable, 'name'))
  assert.deepEqual(variables, ['datasource', 'instance'])
  for (const expression of stringsAt(dashboard, 'expr')) assert.match(expression, /instance=~"\$instance"/)
})

test('every panel has a title, a description and a unit, and overlaps no other', () => {
  const cells = new Set<string>()
  const ids = new Set<unknown>()
  for (const panel of panels) {
    const title = String(at(panel, 'title'))
    assert.ok(title.length > 3)
    assert.match(String(at(panel, 'description')), /^.{10,}\.$/, `${title} does not say what it shows`)
    assert.equal(typeof at(panel, 'fieldConfig', 'defaults', 'unit'), 'string', title)
    ids.add(at(panel, 'id'))
    const [x, y, width, height] = ['x', 'y', 'w', 'h'].map(side => Number(at(panel, 'gridPos', side)))
    assert.ok(x !== undefined && y !== undefined && width !== undefined && height !== undefined)
    assert.ok(x >= 0 && x + width <= 24, `${title} is wider than the page`)
    for (let column = x; column < x + width; column += 1) {
      for (let row = y; row < y + height; row += 1) {
        assert.ok(!cells.has(`${column} ${row}`), `${title} overlaps another panel`)
        cells.add(`${column} ${row}`)
      }
    }
  }
  assert.equal(ids.size, panels.length)
})

/** Some metrics exist only with a history file, others only with replicas, whether or not these reach each other. */
async function startWithAll(t: TestContext, upstream: string): Promise<RunningProxy> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-dashboard-'))
  const env = {
    FOCUS_BREAKER_HISTORY_FILE: join(directory, 'history.jsonl'),
    FOCUS_BREAKER_REPLICAS_URL: `redis://127.0.0.1:${await freePort()}`,
  }
  const proxy = await startProxy(t, { upstream, env })
  // Hooks run in this order: until the proxy has stopped, it writes its history file.
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return proxy
}

/** Every string with this key, at any depth. */
function stringsAt(value: unknown, key: string): readonly string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, inner]) =>
    name === key && typeof inner === 'string' ? [inner] : stringsAt(inner, key),
  )
}

function listOf(value: unknown): readonly unknown[] {
  assert.ok(Array.isArray(value), `not a list: ${JSON.stringify(value)}`)
  return value
}
