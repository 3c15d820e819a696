import assert from 'node:assert/strict'
import { test } from 'node:test'
import { at } from '../support/harness.js'
import { ask } from '../support/http-client.js'
import {
  atMinute,
  CAUSES_PLAYED,
  DESKTOP,
  iso,
  PHASES_PLAYED,
  PYTEST,
  SECONDS_PLAYED,
  START,
  twoHours,
} from '../support/two-hours.js'

test('after two played hours every route, count, report, metric and webhook shows what was played', async t => {
  const { proxy, state, atServerDeath, atLetThrough } = await twoHours(t)
  const read = async (route: string) => (await ask(`${proxy.url}/-/${route}`)).json
  assert.equal(state.configures, 7, 'three before, two admitted by the override, two in the recoveries')

  const circuit = {
    state: 'open',
    since: iso(atMinute(25)),
    cause: 'unreachable',
    outageStartedAt: iso(atMinute(10)),
  }
  assert.deepEqual(at(atServerDeath.status, 'circuit'), {
    ...circuit,
    forMs: 8000,
    outageForMs: 908_000,
  })
  assert.deepEqual(at(atServerDeath.refusal, 'circuit'), circuit)
  assert.equal(at(atServerDeath.status, 'outage', 'forMs'), 908_000)
  assert.equal(at(atLetThrough, 'admits'), true)
  assert.equal(at(atLetThrough, 'override', 'state'), 'closed')

  const status = await read('status')
  assert.equal(at(status, 'name'), 'lab 3')
  assert.deepEqual(at(status, 'circuit'), {
    state: 'closed',
    since: iso(atMinute(62, 12)),
    forMs: atMinute(120) - atMinute(62, 12),
    cause: null,
    outageStartedAt: null,
    outageForMs: null,
  })
  // 37 minutes with three attempts, one at the server's death, and one during the maintenance.
  const totals = at(status, 'totals')
  assert.deepEqual(
    ['forwarded', 'refused', 'wouldRefuse', 'since', 'kept'].map(name => at(totals, name)),
    [7, 113, 0, iso(START), true],
  )

  const history = await read('history')
  assert.deepEqual(
    listOf(history, 'states').flatMap((entry, index, all) => {
      const [from, next] = [at(entry, 'from'), at(all[index + 1], 'from')]
      return from === next ? [] : [[from, at(entry, 'phase')]]
    }),
    PHASES_PLAYED.map(([minutes, seconds, phase]) => [iso(atMinute(minutes, seconds)), phase]),
  )
  assert.equal(sumOf(listOf(history, 'refused'), 'count'), 113)

  const [client, another, ...noMore] = listOf(await read('clients'), 'clients')
  assert.deepEqual(noMore, [])
  assert.deepEqual([at(client, 'attempts'), at(another, 'attempts')], [75, 38])
  assert.deepEqual([at(client, 'first'), at(client, 'last')], [iso(atMinute(10, 30)), iso(atMinute(90))])
  const run = await read('runs/nightly-7')
  assert.deepEqual([at(run, 'forwarded'), at(run, 'refused')], [4, 75])

  assert.deepEqual(
    listOf(await read('override'), 'history').map(each =>
      ['reason', 'since', 'endedAt', 'end', 'endedBy'].map(name => at(each, name)),
    ),
    [
      ['laser service', iso(atMinute(90)), iso(atMinute(95)), 'expired', null],
      ['laser check', iso(atMinute(35)), iso(atMinute(40)), 'removed', '127.0.0.1'],
    ],
  )

  const [outage, ...others] = listOf(await read('outages'), 'outages')
  assert.deepEqual(others, [])
  assert.equal(at(outage, 'startedAt'), iso(atMinute(10)))
  assert.equal(at(outage, 'endedAt'), iso(atMinute(62, 12)))
  assert.equal(at(outage, 'restarts'), 2)
  // The maintenance is not part of it; refusals while the server was dead did not spare it anything.
  assert.deepEqual([at(outage, 'refused'), at(outage, 'spared')], [112, 105])
  assert.deepEqual(at(outage, 'causes'), CAUSES_PLAYED)

  const detail = await read(`outages/${String(at(outage, 'id'))}`)
  for (const name of ['refused', 'spared', 'causes', 'startedAt', 'endedAt']) {
    assert.deepEqual(at(detail, name), at(outage, name), name)
  }
  assert.deepEqual(
    listOf(detail, 'overrides').map(each => [at(each, 'reason'), at(each, 'endedAt')]),
    [['laser check', iso(atMinute(40))]],
  )
  assert.deepEqual(
    listOf(detail, 'clients').map(each => [at(each, 'userAgent'), at(each, 'refused')]),
    [
      [PYTEST['user-agent'], 74],
      [DESKTOP['user-agent'], 38],
    ],
  )
  assert.deepEqual(
    listOf(detail, 'runs').map(each => [at(each, 'run'), at(each, 'refused')]),
    [['nightly-7', 74]],
  )
  assert.deepEqual(
    listOf(detail, 'letIn').map(each => [at(each, 'at'), at(each, 'userAgent')]),
    [
      [iso(atMinute(60, 2)), PYTEST['user-agent']],
      [iso(atMinute(62, 2)), DESKTOP['user-agent']],
    ],
  )

  const report = await read('report?days=1')
  const seconds = at(report, 'availability', 'secondsBy')
  for (const [phase, expected] of Object.entries(SECONDS_PLAYED)) {
    assert.equal(at(seconds, phase), expected, phase)
  }
  assert.equal(at(report, 'outages', 'count'), 1)
  assert.equal(at(report, 'outages', 'longest', 'id'), at(outage, 'id'))
  assert.deepEqual(
    ['count', 'seconds', 'longestSeconds'].map(name => at(report, 'absences', name)),
    [1, 180, 180],
  )
  assert.deepEqual(
    ['refused', 'wouldRefuse', 'spared'].map(name => at(report, 'attempts', name)),
    [113, 0, 105],
  )

  // Metrics belong to the process: they start after the kill.
  const metrics = (await ask(`${proxy.url}/-/metrics`)).bytes.toString()
  const metric = (series: string) =>
    Number(
      metrics
        .split('\n')
        .find(line => line.startsWith(`focus_breaker_${series} `))
        ?.split(' ')
        .at(-1),
    )
  assert.equal(metric('refused_requests_total{status="waiting_for_fiber"}'), 24)
  assert.equal(metric('refused_requests_total{status="forced_open"}'), 1)
  assert.equal(metric('circuit_state{state="closed"}'), 1)
  assert.equal(metric('history_writable'), 1)

  // The kill and the restart must not cause duplicate messages.
  assert.deepEqual(
    state.notifications.map(each => ['type', 'timestamp'].map(name => at(each, name))),
    [
      ['outage.opened', iso(atMinute(10))],
      ['outage.lasting', iso(atMinute(25))],
      ['outage.closed', iso(atMinute(62, 12))],
    ],
  )
  const closedMessage = String(at(state.notifications[2], 'data', 'message'))
  assert.match(closedMessage, /52 min 12 s/)
  assert.match(closedMessage, /112/)
})

function sumOf(list: readonly unknown[], name: string): number {
  return list.reduce<number>((sum, each) => sum + Number(at(each, name)), 0)
}

function listOf(value: unknown, name: string): readonly unknown[] {
  const list = at(value, name)
  assert.ok(Array.isArray(list), name)
  return list
}
