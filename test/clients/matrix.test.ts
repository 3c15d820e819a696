import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { circuitIs, freePort, startProxy } from '../support/harness.js'
import {
  debianLibraries,
  installClients,
  type Libraries,
  missingModules,
  newerLibraries,
  requireOrSkip,
  runPython,
} from '../support/python.js'
import { simulate } from '../support/simulate.js'
import {
  type FiberState,
  fiberStates,
  type Outcome,
  type ProgramRow,
  programRows,
  type SuiteRow,
  suiteRows,
} from './matrix-rows.js'

/** No row takes longer than a few seconds; this ends a suite that hangs. */
const TIMEOUT_MS = 180_000

/** How the tests signal this process: they write a file with that name, and wait for another one next to it. */
const SIGNALS = ['begun', 'lost'] as const

const SIGNALS_OF_PYTHON = `
import pathlib, time

def signal(name):
    pathlib.Path(name).write_text("")
    # Counted, because a suite may have stopped the clock.
    for _ in range(400):
        if pathlib.Path(name + ".done").exists():
            return
        time.sleep(0.025)
    raise AssertionError(name)
`

const SUITE: Readonly<Record<string, string>> = {
  'client.py': `
import os, requests

session = requests.Session()
session.trust_env = False

def configure():
    job = {"displayInfo": {"height": 200}, "channels": {"min": 11, "max": 31}, "nfftSelection": 1024,
           "frequencyRange": {"min": 0, "max": 1000}, "displayTimeAxisDuration": 30, "view_type": "0"}
    answer = session.post(os.environ["FOCUS_BREAKER_URL"] + "/configure", json=job, timeout=20)
    assert answer.status_code == 200, answer.text
`,
  'test_suite.py': `
import pytest
from client import configure
from signals import signal

needs_fiber = pytest.mark.needs_fiber

def test_begins():
    signal("begun")

@needs_fiber
def test_needs_first():
    configure()

@needs_fiber
def test_needs_loses():
    signal("lost")
    configure()

@pytest.mark.parametrize("number", range(3))
def test_between(number):
    pass

@needs_fiber
def test_needs_last():
    configure()

def test_ends():
    pass
`,
  // The outcome of each test, taken where all reports arrive.
  'recorder.py': `
import json

def pytest_runtest_logreport(report):
    if not hasattr(recorder, "workerinput"):
        with open("results.jsonl", "a") as file:
            file.write(json.dumps([report.nodeid, report.when, report.outcome]) + "\\n")

def pytest_configure(config):
    global recorder
    recorder = config
`,
}

/** The outcomes of a test that needs the fiber, by what happens to the fiber. */
const EXPECTED: Readonly<Record<FiberState, (name: string) => readonly Outcome[]>> = {
  connected: () => ['passed'],
  missing: () => ['skipped'],
  'lost in the middle': name =>
    name.startsWith('test_needs_first') ? ['passed'] : name === 'test_needs_loses' ? ['failed'] : ['skipped'],
  'proxy gone': () => ['error'],
  'proxy late': () => ['passed'],
}

/** `MATRIX='VCR.*lost' node --test …` runs a part of the table. */
const ONLY = new RegExp(process.env.MATRIX ?? '')

const FLAGS = ['-p', 'no:cacheprovider', '-p', 'focus_breaker', '-p', 'recorder', '--focus-breaker-max-age=0']

/** The environment in which each row runs. */
interface Place {
  readonly libraries: Libraries
  readonly state: FiberState
  /** The ports of a proxy whose fiber is connected, and of one whose fiber is missing. */
  readonly ports: { readonly connected: number; readonly missing: number }
}

test('suites and clients, with each set of libraries, whatever happens to the fiber', {
  concurrency: 4,
}, async t => {
  if (!requireOrSkip(t, 'pytest', 'requests', 'pip', 'setuptools', 'wheel')) return
  installClients()
  // Everything that blocks this process comes before the simulators, which run in it.
  const sets = [debianLibraries, newerLibraries()].map(libraries => ({
    libraries,
    absent: libraries === undefined ? [] : absentIn(libraries),
  }))
  const ports = { connected: await startWorld(t, 'present'), missing: await startWorld(t, 'missing') }
  const checks = [
    ...suiteRows.map(row => ({ row, check: (t: TestContext, place: Place) => hasEachResult(t, row, place) })),
    ...programRows.map(row => ({ row, check: (t: TestContext, place: Place) => hasItsCode(t, row, place) })),
  ]
  const subtests: Promise<void>[] = []
  for (const { libraries, absent: absentModules } of sets) {
    for (const { row, check } of checks) {
      for (const state of fiberStates) {
        const name = `${row.name}, ${libraries?.name ?? 'newer libraries'}, ${state}`
        if (!ONLY.test(name)) continue
        subtests.push(
          t.test(name, async t => {
            if (libraries === undefined) return t.skip('no python3 on the path has pytest 8 or newer')
            const absent = row.needs.filter(module => absentModules.includes(module))
            if (absent.length === 0) return await check(t, { libraries, state, ports })
            // Debian has all of them.
            assert.ok(libraries !== debianLibraries || process.env.REQUIRE_INTEROP !== '1', absent.join(', '))
            t.skip(`not installed for ${libraries.python}: ${absent.join(', ')}`)
          }),
        )
      }
    }
  }
  await Promise.all(subtests)
})

/** Runs Python with these files in a separate folder, and applies the state to the fiber and the proxy. */
async function runIn(
  t: TestContext,
  { libraries, state, ports }: Place,
  files: Readonly<Record<string, string>>,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
) {
  const cwd = mkdtempSync(join(tmpdir(), 'focus-breaker-matrix-'))
  t.after(() => rmSync(cwd, { recursive: true, force: true }))
  const all = { 'signals.py': SIGNALS_OF_PYTHON, ...files }
  for (const [name, text] of Object.entries(all)) writeFileSync(join(cwd, name), text)

  const relay = await startRelay(t)
  if (state === 'missing') await relay.leadTo(ports.missing)
  if (state === 'connected' || state === 'lost in the middle') await relay.leadTo(ports.connected)
  const stopListening = onSignals(cwd, async signal => {
    if (signal === 'begun' && state === 'proxy late') await relay.leadTo(ports.connected)
    if (signal === 'lost' && state === 'lost in the middle') {
      await relay.leadTo(ports.missing)
      writeFileSync(join(cwd, 'fiber.lost'), '')
    }
  })
  const { code, stdout, stderr } = await runPython(args, {
    cwd,
    libraries,
    timeoutMs: TIMEOUT_MS,
    env: { PYTEST_DISABLE_PLUGIN_AUTOLOAD: '1', FOCUS_BREAKER_URL: relay.url, ...env },
  })
  stopListening()
  const output = stdout + stderr
  assert.notEqual(code, null, `did not end within ${TIMEOUT_MS / 1000} s:\n${output}`)
  return { cwd, code, stdout, output }
}

/** Runs the program once, and checks its exit code. */
async function hasItsCode(t: TestContext, row: ProgramRow, place: Place): Promise<void> {
  const { code, output } = await runIn(t, place, row.files ?? {}, row.args, row.env)
  assert.equal(code, row.codes[place.state], output)
}

/** Runs the suite once, and checks the outcome of each of its tests. */
async function hasEachResult(t: TestContext, row: SuiteRow, place: Place): Promise<void> {
  const { state } = place
  const files = { ...SUITE, ...row.files }
  const args = ['-m', 'pytest', ...FLAGS, ...(row.args ?? [])]
  const { cwd, code, stdout, output } = await runIn(t, place, files, args, row.env)
  assert.doesNotMatch(output, /INTERNALERROR/)
  assert.ok(existsSync(join(cwd, 'results.jsonl')), output)
  const results = resultsIn(cwd)
  const names = Object.values(files).flatMap(text =>
    [...text.matchAll(/def (test_\w+)/g)].map(([, name = '']) => name),
  )
  assert.deepEqual([...new Set(results.keys())].sort(), [...new Set(names)].sort(), output)
  for (const [name, outcomes] of results) {
    const needsFiber = name.startsWith('test_needs')
    const right = needsFiber ? (row.outcomes?.[state]?.[name] ?? EXPECTED[state](name)) : ['passed']
    for (const outcome of outcomes) {
      assert.ok(right.includes(outcome), `${name}: ${outcome}, expected ${right.join(' or ')}\n${output}`)
    }
  }
  const hasFailed = [...results.values()].flat().some(outcome => outcome === 'failed' || outcome === 'error')
  assert.equal(code, hasFailed ? 1 : 0, output)
  if (row.waits !== undefined && state === 'missing') {
    const waits = stdout.match(/^focus-breaker: waiting for fiber .*; waiting up to [29] s$/gm) ?? []
    assert.equal(waits.length, row.waits, output)
  }
  if (row.records !== undefined && state === 'connected') {
    const recorded = readFileSync(join(cwd, row.records), 'utf8')
    assert.match(recorded, /\/configure/)
    assert.doesNotMatch(recorded, /\/-\//)
  }
}

/** The outcomes of each test by its name without parameters: one for each of its parameters. */
function resultsIn(cwd: string): ReadonlyMap<string, readonly Outcome[]> {
  const phases = new Map<string, string[]>()
  for (const line of readFileSync(join(cwd, 'results.jsonl'), 'utf8').trim().split('\n')) {
    const report: unknown = JSON.parse(line)
    assert.ok(Array.isArray(report))
    const [id, when, outcome] = report.map(String)
    // Another attempt follows.
    if (outcome === 'rerun') phases.set(`${id}`, [])
    else phases.set(`${id}`, [...(phases.get(`${id}`) ?? []), `${when} ${outcome}`])
  }
  const results = new Map<string, Outcome[]>()
  for (const [id, reports] of phases) {
    const name = /::(test_\w+)(?:\[|$)/.exec(id)?.[1] ?? id
    results.set(name, [...(results.get(name) ?? []), outcomeOf(id, reports)])
  }
  return results
}

function outcomeOf(id: string, reports: readonly string[]): Outcome {
  assert.ok(reports.includes('teardown passed'), `${id}: ${reports.join(', ')}`)
  if (reports.includes('setup failed')) return 'error'
  if (reports.includes('call failed')) return 'failed'
  if (reports.some(report => report.endsWith(' skipped'))) return 'skipped'
  assert.ok(reports.includes('call passed'), `${id}: ${reports.join(', ')}`)
  return 'passed'
}

/** The modules that rows need and a set of libraries lacks. */
function absentIn(libraries: Libraries): readonly string[] {
  const all = [...suiteRows, ...programRows].flatMap(({ needs }) => needs)
  return missingModules(libraries, [...new Set(all)])
}

/** A proxy in front of a simulated focus-server with this fiber; returns its port. */
async function startWorld(t: TestContext, fiber: 'present' | 'missing'): Promise<number> {
  const { simulator } = await simulate(t, { fiber, jobDurationMs: 10 })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: {
      FOCUS_BREAKER_PROBE_PERIOD_MS: '200',
      // A busy machine must not cause an outage.
      FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1000',
    },
  })
  await circuitIs(proxy, fiber === 'present' ? 'closed' : 'open')
  return Number(new URL(proxy.url).port)
}

/** A port that leads to a proxy, or refuses connections until the proxy starts. */
async function startRelay(t: TestContext) {
  const port = await freePort()
  const sockets = new Set<Socket>()
  let target = 0
  let server: Server | undefined
  const close = () => {
    for (const socket of sockets) socket.destroy()
    sockets.clear()
  }
  t.after(() => {
    close()
    server?.close()
  })
  const relay = (client: Socket) => {
    const proxy = connect(target, '127.0.0.1')
    for (const [from, to] of [
      [client, proxy],
      [proxy, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy())
      from.on('close', () => {
        sockets.delete(from)
        to.destroy()
      })
      from.pipe(to)
    }
  }
  return {
    url: `http://127.0.0.1:${port}`,
    /** Takes effect at once, also for connected clients: they must reconnect. */
    async leadTo(next: number): Promise<void> {
      target = next
      close()
      if (server !== undefined) return
      server = createServer(relay).listen(port, '127.0.0.1')
      await once(server, 'listening')
    },
  }
}

/** Responds to the signals of the suite in `cwd`, once each, until the returned function is called. */
function onSignals(cwd: string, answer: (signal: string) => Promise<void>): () => void {
  const pending = new Set<string>(SIGNALS)
  const timer = setInterval(() => {
    for (const signal of [...pending].filter(signal => existsSync(join(cwd, signal)))) {
      pending.delete(signal)
      void answer(signal).then(() => writeFileSync(join(cwd, `${signal}.done`), ''))
    }
  }, 25)
  return () => clearInterval(timer)
}
