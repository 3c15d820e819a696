import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { EMPTY_TALLY, totalOf } from '../../src/domain/refusal-counts.js'
import { BucketRecord } from '../../src/outages/bucket-record.js'
import { DetailRecord, detailFromJson } from '../../src/outages/detail-record.js'
import { openEvents, type StreamEvent } from '../support/event-stream.js'
import { at, circuitIs, type RunningProxy, startProxy, statusOf, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { keptIn, recordsIn } from '../support/kept-history.js'
import { amountOf, type Random, seeded, seedOfRun } from '../support/seeded.js'
import { simulate } from '../support/simulate.js'

const SEED = seedOfRun()

/** The total number of kills, and how many proxies run at a time, each with its own file. */
const KILL_ROUNDS = amountOf('KILL_ROUNDS', 24)
const KILLED_AT_A_TIME = 3

const HEADER =
  'started_at,ended_at,seconds,cause,opened_by,closed_by,refused,operations,restarts,unreachable_spells,id,would_refuse,spared'

test('the outage history shows a played outage: both ends, its cause, the readings, and exactly what was refused', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await circuitIs(proxy, 'closed')
  assert.deepEqual(await historyOf(proxy), { outages: [], unreachable: [] })

  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  const openedAt = at(await statusOf(proxy), 'circuit', 'since')
  for (let attempt = 0; attempt < 40; attempt += 1) {
    await configure(proxy, { headers: { 'user-agent': attempt % 2 === 0 ? 'one' : 'another' } })
  }
  const [during] = outagesOf(await historyOf(proxy))
  assert.equal(at(during, 'endedAt'), null)
  assert.equal(at(during, 'refused'), 40)

  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  const closedAt = at(await statusOf(proxy), 'circuit', 'since')
  const [outage, ...others] = outagesOf(await historyOf(proxy))
  assert.deepEqual(others, [])
  assert.ok(typeof openedAt === 'string' && typeof closedAt === 'string')
  const seconds = (Date.parse(closedAt) - Date.parse(openedAt)) / 1000
  assert.ok(Math.abs(Number(at(outage, 'seconds')) - seconds) < 0.01, `${at(outage, 'seconds')} s`)
  const id = openedAt.replace(/[-:.]/g, '')
  assert.deepEqual(outage, {
    id,
    startedAt: openedAt,
    endedAt: closedAt,
    seconds: at(outage, 'seconds'),
    cause: 'waiting',
    openedBy: { kind: 'waiting', at: openedAt, source: 'probe', missing: ['prr'] },
    closedBy: { kind: 'ready', at: closedAt, source: 'probe' },
    refused: 40,
    // Two clients, each with one request that it retried several times.
    operations: 2,
    wouldRefuse: 0,
    spared: 40,
    causeSince: openedAt,
    restarts: 0,
    causes: [{ cause: 'waiting', from: openedAt, to: closedAt }],
    unreachable: [],
  })
  const detail = (await ask(`${proxy.url}/-/outages/${id}`)).json
  assert.deepEqual(at(detail, 'clients', 0, 'refused'), 20)
  assert.deepEqual(at(detail, 'clients', 1, 'refused'), 20)
  assert.deepEqual(at(detail, 'otherClients'), { refused: 0, wouldRefuse: 0 })
  assert.deepEqual(at(detail, 'withoutRun'), { refused: 40, wouldRefuse: 0 })
  assert.equal((await ask(`${proxy.url}/-/outages/${id}x`)).statusCode, 404)
})

test('the newest outage comes first, limit shortens the list, and an invalid limit is reported', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  for (let count = 0; count < 3; count += 1) await playOutage(proxy, simulator)
  const starts = outagesOf(await historyOf(proxy)).map(outage => String(at(outage, 'startedAt')))
  assert.equal(starts.length, 3)
  assert.deepEqual(starts, [...starts].sort().reverse())
  assert.deepEqual(
    outagesOf(await historyOf(proxy, '?limit=2')).map(outage => at(outage, 'startedAt')),
    starts.slice(0, 2),
  )
  for (const limit of ['0', '-1', '1.5', '1001', 'all', '']) {
    const refused = await ask(`${proxy.url}/-/outages?limit=${limit}`)
    assert.equal(refused.statusCode, 400, limit)
    assert.match(String(at(refused.json, 'message')), /whole number from 1 to 1000/)
  }
})

test('a client that accepts CSV gets CSV with the same facts', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  await playOutage(proxy, simulator)
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await configure(proxy)
  const csv = await ask(`${proxy.url}/-/outages`, { headers: { accept: 'text/csv' } })
  assert.match(String(csv.headers['content-type']), /^text\/csv; charset=utf-8/)
  assert.match(String(csv.headers.vary), /accept/i)
  const [header, ...rows] = csv.bytes.toString().split('\r\n')
  assert.equal(header, HEADER)
  assert.equal(rows.pop(), '', 'the last row ends like the others')
  const expected = outagesOf(await historyOf(proxy)).map(outage => {
    const field = (...keys: readonly string[]) => String(at(outage, ...keys) ?? '')
    return [
      ...[field('startedAt'), field('endedAt'), field('cause'), field('openedBy', 'source')],
      ...[field('closedBy', 'source'), field('refused'), field('operations'), field('restarts')],
      ...[field('id'), field('wouldRefuse'), field('spared')],
    ]
  })
  assert.equal(expected.length, 2)
  assert.deepEqual(
    rows.map(row => row.split(',').filter((_cell, column) => column !== 2 && column !== 9)),
    expected,
  )
})

test('a restart of focus-server is recorded with its problem, even one too short to open the circuit', async t => {
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1000' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(proxy, 'closed')
  await simulator.setFault('*', { kind: 'refuse' })
  await until(async () => at(await statusOf(proxy), 'reading', 'kind') === 'unreachable')
  const [open] = unreachablePeriodsOf(await historyOf(proxy))
  assert.equal(at(open, 'to'), null)
  await simulator.setFault('*', null)
  await until(async () => at(await statusOf(proxy), 'reading', 'kind') === 'ready')
  const history = await historyOf(proxy)
  const [period, ...others] = unreachablePeriodsOf(history)
  assert.deepEqual(others, [])
  assert.match(String(at(period, 'problem')), /refused|closed/)
  assert.ok(String(at(period, 'to')) > String(at(period, 'from')))
  assert.deepEqual(outagesOf(history), [])
})

test('an outage that is open at a restart continues as the same one; one that had ended stays ended', async t => {
  const { simulator } = await simulate(t)
  const file = historyFile(t)
  const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: file }
  const first = await startProxy(t, { upstream: simulator.url, env })
  await circuitIs(first, 'closed')
  await simulator.setFiber('missing')
  await circuitIs(first, 'open')
  for (let attempt = 0; attempt < 5; attempt += 1) await configure(first)
  const [before] = outagesOf(await historyOf(first))
  assert.equal(await first.stop(), 0)

  const second = await startProxy(t, { upstream: simulator.url, env })
  for (let attempt = 0; attempt < 3; attempt += 1) await configure(second)
  const [during, ...others] = outagesOf(await historyOf(second))
  assert.deepEqual(others, [])
  assert.equal(at(during, 'startedAt'), at(before, 'startedAt'))
  assert.deepEqual(at(during, 'openedBy'), at(before, 'openedBy'))
  assert.equal(at(during, 'refused'), 8)
  assert.equal(at(during, 'restarts'), 1)
  // All other outputs report the same start.
  assert.equal(at(await statusOf(second), 'circuit', 'since'), at(before, 'startedAt'))
  const resumed = second.logs().filter(line => /^resuming the outage/.test(String(line.msg)))
  assert.deepEqual(
    resumed.map(({ startedAt }) => startedAt),
    [at(before, 'startedAt')],
  )
  // The Prometheus metric matches the outage history, apart from the difference of the two clocks.
  const { bytes } = await ask(`${second.url}/-/metrics`)
  const [, seconds] = /^focus_breaker_outage_start_timestamp_seconds (\S+)$/m.exec(bytes.toString()) ?? []
  const difference = Number(seconds) * 1000 - Date.parse(String(at(before, 'startedAt')))
  assert.ok(Math.abs(difference) < 1000, `${difference} ms`)
  assert.equal(await second.stop(), 0)

  await simulator.setFiber('present')
  const third = await startProxy(t, { upstream: simulator.url, env })
  const [ended] = outagesOf(await historyOf(third))
  assert.equal(at(ended, 'startedAt'), at(before, 'startedAt'))
  assert.equal(typeof at(ended, 'endedAt'), 'string')
  assert.equal(at(ended, 'refused'), 8)
})

test('a truncated last line is skipped and reported, and nothing else is lost', async t => {
  const { simulator } = await simulate(t)
  const file = historyFile(t)
  const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: file }
  const first = await startProxy(t, { upstream: simulator.url, env })
  await playOutage(first, simulator)
  const before = outagesOf(await historyOf(first))
  assert.equal(await first.stop(), 0)
  appendFileSync(file, '{"v":2,"outage":{"2026-01-3')
  const second = await startProxy(t, { upstream: simulator.url, env })
  assert.deepEqual(outagesOf(await historyOf(second)), before)
  const [warning] = second.logs().filter(line => 'skippedLines' in line)
  assert.equal(warning?.skippedLines, 1)
  await playOutage(second, simulator)
  assert.deepEqual(outagesOf(await historyOf(second)).slice(1), before)
  assert.equal(keptIn(file).outages.length, 2)
})

test('a full disk costs one warning and no request; once there is space again, everything is written after all', async t => {
  const { simulator } = await simulate(t)
  const file = historyFile(t)
  const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: file }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  await playOutage(proxy, simulator)
  // From here on not one more byte can be written, to this file or to one next to it.
  limitFileSize(proxy.pid, statSync(file).size)
  for (let count = 0; count < 3; count += 1) {
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    const refused = await configure(proxy)
    assert.equal(refused.statusCode, 503)
    assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    assert.equal((await configure(proxy)).statusCode, 200)
  }
  const reported = outagesOf(await historyOf(proxy))
  assert.equal(reported.length, 4)
  const warnings = proxy
    .logs()
    .filter(line => line.msg === 'cannot write the history file; keeping outages in memory')
  assert.deepEqual(
    warnings.map(({ level, file: named, err }) => [level, named, at(err, 'code')]),
    [['warn', file, 'EFBIG']],
  )
  limitFileSize(proxy.pid, 'unlimited')
  await playOutage(proxy, simulator)
  assert.equal(proxy.logs().filter(line => line.msg === 'history file is writable again').length, 1)
  assert.equal(keptIn(file).outages.length, 5)
  assert.equal(await proxy.stop(), 0)
})

const NOWHERE: readonly (readonly [what: string, code: string, path: (directory: string) => string])[] = [
  ['whose directory is a file', 'ENOTDIR', directory => join(directory, 'file/history')],
  ['that is a directory', 'EISDIR', directory => directory],
  ['where no file can be created', 'ENOENT', () => '/proc/focus-breaker/history'],
]
for (const [what, code, path] of NOWHERE) {
  test(`a history ${what} costs one warning, at the start or at the first outage, and no request`, async t => {
    const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-nowhere-'))
    t.after(() => rmSync(directory, { recursive: true, force: true }))
    writeFileSync(join(directory, 'file'), '')
    const { simulator } = await simulate(t)
    const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: path(directory) }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    for (let count = 0; count < 2; count += 1) await playOutage(proxy, simulator)
    assert.equal((await configure(proxy)).statusCode, 200)
    assert.equal(outagesOf(await historyOf(proxy)).length, 2)
    const warnings = proxy
      .logs()
      .filter(line => line.msg === 'cannot write the history file; keeping outages in memory')
    assert.deepEqual(
      warnings.map(({ err }) => at(err, 'code')),
      [code],
    )
    assert.equal(await proxy.stop(), 0)
  })
}

test(`${KILL_ROUNDS} rounds of kill -9 at random moments lose nothing that an event had reported`, async t => {
  t.diagnostic(`SEED=${SEED}`)
  const runs = await Promise.all(
    Array.from({ length: KILLED_AT_A_TIME }, (_, run) => {
      const rounds = Math.floor((KILL_ROUNDS + run) / KILLED_AT_A_TIME)
      return killAgainAndAgain(t, seeded(SEED, run), rounds)
    }),
  )
  const sum = (of: (run: (typeof runs)[number]) => number) => runs.reduce((all, run) => all + of(run), 0)
  const found = `${sum(run => run.outages)} outages in ${sum(run => run.bytes)} bytes`
  const reported = `${sum(run => run.transitions)} transitions and ${sum(run => run.refused)} refusals reported`
  t.diagnostic(
    `${KILL_ROUNDS} kills: ${reported}, ${found}, ${sum(run => run.torn)} lines torn, nothing lost`,
  )
  assert.ok(sum(run => run.transitions) >= KILL_ROUNDS, 'hardly anything happened')
})

/** What a round reported, by outage. */
interface Reported {
  /** The starts and ends of outages. */
  readonly starts: readonly string[]
  readonly ends: readonly string[]
  readonly transitions: number
  readonly refused: number
}

/** Whatever was written last: the clients of each outage add up to it, and the hours to all outages. */
function assertDetailsAddUp(file: string): void {
  const { outages } = keptIn(file)
  const details = new Map(recordsIn(file, 'detail', DetailRecord))
  let spared = 0
  for (const outage of outages) {
    const record = details.get(new Date(outage.startedAt).toISOString())
    const clients = record === undefined ? EMPTY_TALLY : detailFromJson(record).clients
    assert.equal(totalOf(clients).refused, outage.refused, `the clients of ${outage.startedAt}`)
    spared += outage.spared
  }
  const hours = recordsIn(file, 'hour', BucketRecord)
  assert.equal(
    hours.reduce((sum, [, hour]) => sum + hour.spared, 0),
    spared,
  )
}

async function killAgainAndAgain(t: TestContext, random: Random, rounds: number) {
  const { simulator } = await simulate(t, { maxJobs: 100_000, jobDurationMs: 1 })
  const file = historyFile(t)
  const env = {
    ...FAST,
    FOCUS_BREAKER_PROBE_PERIOD_MS: '50',
    FOCUS_BREAKER_CIRCUIT_READY_THRESHOLD: '1',
    FOCUS_BREAKER_HISTORY_FILE: file,
  }
  const starts = new Set<string>()
  const ends = new Set<string>()
  let transitions = 0
  let refused = 0
  let keptBefore = 0
  let torn = 0
  for (let round = 0; round < rounds; round += 1) {
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const stream = await openEvents(t, `${proxy.url}/-/events`)
    const stopped = new AbortController()
    const storm = stormUntil(proxy, stopped.signal)
    // Occasionally an outage that is long enough for the sum of its refusals to be reported.
    const isLong = random.chance(0.2)
    const switching = (async () => {
      if (isLong) return await simulator.setFiber('missing')
      while (!stopped.signal.aborted) {
        await simulator.setFiber(random.pick(['missing', 'present'] as const))
        await delay(random.integer(5, 120))
      }
    })()
    // A busy machine may do nothing in a short time. Half of the kills come after something was reported.
    if (random.chance(0.5)) {
      await until(() => reportedBy(stream.events).transitions > 0, { timeoutMs: 3000 }).catch(() => {})
    }
    await delay(isLong ? random.integer(2000, 3200) : random.integer(20, 600))
    process.kill(proxy.pid, 'SIGKILL')
    await until(() => stream.over !== undefined)
    stopped.abort()
    await Promise.all([storm, switching, proxy.stop()])

    const reported = reportedBy(stream.events)
    for (const start of reported.starts) starts.add(start)
    for (const end of reported.ends) ends.add(end)
    transitions += reported.transitions
    refused += reported.refused
    const { outages, skippedLines } = keptIn(file)
    // A torn line is the last one, and stays in its place when others follow it.
    assert.ok(skippedLines <= torn + 1, `${skippedLines} lines are torn in round ${round}`)
    torn = skippedLines
    const kept = { starts: new Set<string>(), ends: new Set<string>(), refused: 0 }
    for (const outage of outages) {
      kept.starts.add(new Date(outage.startedAt).toISOString())
      if (outage.endedAt !== null) kept.ends.add(new Date(outage.endedAt).toISOString())
      kept.refused += outage.refused
    }
    assertDetailsAddUp(file)
    const lost = [
      ...[...starts].filter(start => !kept.starts.has(start)).map(start => `the start at ${start}`),
      ...[...ends].filter(end => !kept.ends.has(end)).map(end => `the end at ${end}`),
      ...(kept.refused - keptBefore < reported.refused
        ? [`${reported.refused - (kept.refused - keptBefore)} of ${reported.refused} refusals`]
        : []),
    ]
    assert.deepEqual(lost, [], `lost in round ${round}, SEED=${SEED}`)
    keptBefore = kept.refused
    // Before the next start, so that its first reading can be either, and an outage may continue or end.
    await simulator.setFiber(random.pick(['missing', 'present'] as const))
  }
  const { outages } = keptIn(file)
  // At most one is open, and they do not overlap.
  for (const [index, outage] of outages.entries()) {
    const next = outages[index + 1]
    if (next === undefined) continue
    assert.ok(outage.endedAt !== null && outage.endedAt <= next.startedAt, `outage ${index} has no end`)
  }
  return { outages: outages.length, bytes: statSync(file).size, transitions, refused, torn }
}

/** Sends guarded requests, refused or not, until it is aborted or gets no response. */
async function stormUntil(proxy: RunningProxy, over: AbortSignal): Promise<void> {
  while (!over.aborted) {
    try {
      await configure(proxy, { signal: over })
      await delay(5)
    } catch {
      return
    }
  }
}

function reportedBy(events: readonly StreamEvent[]): Reported {
  const changes = events.filter(({ type }) => type === 'transition').map(({ data }) => data)
  const timesOf = (is: (from: unknown, to: unknown) => boolean) =>
    changes
      .filter(change => is(at(change, 'from'), at(change, 'to')) && at(change, 'cause') !== 'starting')
      .map(change => String(at(change, 'at')))
  return {
    starts: timesOf(from => from === 'closed'),
    ends: timesOf((_from, to) => to === 'closed'),
    transitions: changes.length,
    refused: events
      .filter(({ type }) => type === 'refused')
      .reduce((sum, { data }) => sum + Number(at(data, 'count')), 0),
  }
}

async function playOutage(
  proxy: RunningProxy,
  simulator: { setFiber(state: 'missing' | 'present'): Promise<void> },
): Promise<void> {
  await circuitIs(proxy, 'closed')
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
}

async function historyOf(proxy: RunningProxy, query = ''): Promise<unknown> {
  const { statusCode, json } = await ask(`${proxy.url}/-/outages${query}`)
  assert.equal(statusCode, 200)
  return json
}

function outagesOf(history: unknown): readonly unknown[] {
  const outages = at(history, 'outages')
  assert.ok(Array.isArray(outages))
  return outages
}

function unreachablePeriodsOf(history: unknown): readonly unknown[] {
  const periods = at(history, 'unreachable')
  assert.ok(Array.isArray(periods))
  return periods
}

function historyFile(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-history-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return join(directory, 'history.jsonl')
}

/** Limits the file size of the process: for the process, a real disk that is full. */
function limitFileSize(pid: number, bytes: number | 'unlimited'): void {
  execFileSync('prlimit', ['--pid', String(pid), `--fsize=${bytes}:unlimited`])
}
