import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import {
  at,
  circuitIs,
  repositoryRoot,
  requireOrSkip as requireToolOrSkip,
  startProgram,
  startProxy,
  statusOf,
} from '../support/harness.js'
import { debianLibraries, installClients, type Ran, requireOrSkip, runPython } from '../support/python.js'

const SUITE = join(repositoryRoot, 'test/clients/suite')
const UNIT_TESTS = join(repositoryRoot, 'clients/python/tests')
const TOKEN = 'correct-horse-battery-staple'

/** Fast detection, and each retry of a refused client costs one second: the minimum of Retry-After. */
const ENV = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
  FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: '1',
  FOCUS_BREAKER_ADMIN_TOKEN: TOKEN,
}

/** The contents of the sample suite. */
const READ_ONLY = 12
const NEED_FIBER = 28
/** How often its client sends a request that is refused. */
const ATTEMPTS = 4

const debian = ['pytest', 'requests', 'pip', 'setuptools', 'wheel'] as const

describe('the pytest plugin', { concurrency: 4 }, () => {
  test('runs all 40 tests of the sample suite while the fiber is connected', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t)
    const ran = await runSuite(world)
    assert.equal(ran.code, 0, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: READ_ONLY + NEED_FIBER })
    assert.match(ran.stdout, new RegExp(`^focus-breaker: ${world.proxy}, the fiber is connected$`, 'm'))
    assert.doesNotMatch(ran.stdout, /=== focus-breaker ===/)
    t.diagnostic(`40 tests with the fiber connected: ${seconds(ran)} s`)
  })

  test('skips the 28 tests that need the fiber while it is missing, says why, and sends focus-server nothing', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t)
    await world.setFiber('missing')
    await world.circuitIs('open')
    const ran = await runSuite(world, ['-rs'])
    assert.equal(ran.code, 0, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: READ_ONLY, skipped: NEED_FIBER })
    const reason =
      /waiting for fiber since \S+Z \(Missing required fiber metadata fields: prr; the fiber was last connected at \S+Z\)/
    assert.match(ran.stdout, new RegExp(`^focus-breaker: ${world.proxy}, ${reason.source}$`, 'm'))
    // Each skip is located at its test; pytest merges the parameters of one test, and its summary merges equal reasons.
    const line = new RegExp(`^SKIPPED \\[(\\d+)\\] \\S+\\.py:\\d+: focus-breaker: ${reason.source}$`, 'gm')
    const counts = [...ran.stdout.matchAll(line)].map(([, count]) => Number(count))
    assert.equal(
      counts.reduce((sum, count) => sum + count, 0),
      NEED_FIBER,
    )
    assert.ok(counts.length > 1)
    assert.match(ran.stdout, /^28 of 40 tests skipped by pytest-focus-breaker:$/m)
    assert.match(ran.stdout, new RegExp(`^ {2}28: ${reason.source}$`, 'm'))
    assert.match(ran.stdout, new RegExp(`^Now: ${reason.source}\\.$`, 'm'))
    const again = /: pytest -m needs_fiber$/m
    assert.match(ran.stdout, again)
    assert.equal(await world.configures(), 0)
    t.diagnostic(`40 tests with the fiber missing: ${seconds(ran)} s`)

    // The hint is true: it names what was skipped.
    const rerun = await runSuite(world, ['--collect-only', '-m', 'needs_fiber'])
    assert.match(rerun.stdout, /28\/40 tests collected \(12 deselected\)/)
  })

  test('notices through a failing test that the fiber was lost midway, and skips the rest', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t)
    // So that only the failure triggers another check.
    const ran = await runSuite(world, ['--focus-breaker-max-age=3600'], {
      LOSE_FIBER_IN: 'test_live_monitoring_height[200]',
    })
    assert.equal(ran.code, 1, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: READ_ONLY + 5, failed: 1, skipped: 22 })
    assert.match(
      ran.stdout,
      /^-+ focus-breaker -+\nthe fiber went missing while this test ran: waiting for fiber since/m,
    )
    assert.match(
      ran.stdout,
      /^1 test failed while focus-breaker started to refuse requests or became unreachable:\n {2}test_2_live\.py::test_live_monitoring_height\[200\]$/m,
    )
  })

  test('notices it without a failure, too, once its last check is too old', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t)
    const ran = await runSuite(world, ['--focus-breaker-max-age=0'], {
      LOSE_FIBER_IN: 'test_faulty_time_range',
    })
    assert.equal(ran.code, 0, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: READ_ONLY, skipped: NEED_FIBER })
    assert.match(ran.stdout, new RegExp(`^focus-breaker: ${world.proxy}, the fiber is connected$`, 'm'))
  })

  test('reports a missing proxy as an error of the tests that need it, unless configured to skip or run them', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const { proxy, simulator, stop } = await startWorld(t)
    await stop()
    const gone = { proxy, FOCUS_SERVER_URL: simulator }
    const failed = await runSuite(gone)
    assert.equal(failed.code, 1, failed.stdout)
    assert.deepEqual(outcomes(failed), { passed: READ_ONLY, error: NEED_FIBER })
    assert.match(failed.stdout, /focus-breaker is unreachable: http.*\/-\/fiber: .*refused.* Check its URL/)
    assert.match(failed.stdout, /--focus-breaker-unreachable=skip skips such tests, and =run runs them/)

    const skipped = await runSuite(gone, ['--focus-breaker-unreachable=skip'])
    assert.equal(skipped.code, 0, skipped.stdout)
    assert.deepEqual(outcomes(skipped), { passed: READ_ONLY, skipped: NEED_FIBER })

    t.diagnostic(`40 tests with the proxy missing: ${seconds(failed)} s`)

    const ran = await runSuite(gone, ['--focus-breaker-unreachable=run', 'test_2_live.py'])
    assert.equal(ran.code, 0, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: 12 })
  })

  test('saves a suite the retries of its client while the fiber is missing', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t)
    await world.setFiber('missing')
    await world.circuitIs('open')
    const some = ['-k', 'test_configure_channels or test_ack or test_channels']
    const withPlugin = await runSuite(world, some)
    assert.deepEqual(outcomes(withPlugin), { passed: 2, skipped: 4 })
    assert.equal(await world.refused(), 0)
    // The marker belongs to the plugin; without it the suite must declare it.
    const without = await runSuite(world, [...some, '-p', 'no:focus_breaker', '-o', 'markers=needs_fiber'])
    assert.deepEqual(outcomes(without), { passed: 2, failed: 4 }, without.stdout)
    assert.equal(await world.refused(), 4 * ATTEMPTS)
    // The retries are waited for in full, which does not depend on the machine.
    assert.ok(without.tookMs > 4 * (ATTEMPTS - 1) * 1000, `${seconds(without)} s`)
    t.diagnostic(
      `6 tests, 4 of which need the missing fiber: ${seconds(withPlugin)} s with the plugin, ` +
        `${seconds(without)} s without (Retry-After of 1 s, waited for three times by each of the 4)`,
    )
  })

  test('waits for the fiber if configured to, and then runs everything', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t, { fiber: '-' })
    await world.circuitIs('open')
    const lines: string[] = []
    const ran = await runSuite(world, ['--focus-breaker-missing=wait=60', 'test_2_live.py'], {}, line => {
      if (!/^focus-breaker: waiting for fiber since .*; waiting up to 60 s$/.test(line)) return
      lines.push(line)
      void world.setFiber('present')
    })
    assert.equal(ran.code, 0, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: 12 })
    assert.equal(lines.length, 1)
    assert.equal(await world.rejectedForFiber(), 0)
  })

  test('fails the tests that need the fiber if configured to', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t, { fiber: '-' })
    await world.circuitIs('open')
    const ran = await runSuite(world, ['--focus-breaker-missing=fail'])
    assert.equal(ran.code, 1, ran.stdout)
    assert.deepEqual(outcomes(ran), { passed: READ_ONLY, error: NEED_FIBER })
    assert.match(ran.stdout, /^focus-breaker: waiting for fiber since \S+Z \(Missing required/m)
  })

  test('exits with its own status only when everything was skipped', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t, { fiber: '-' })
    await world.circuitIs('open')
    const exit9 = '--focus-breaker-all-skipped=exit9'
    const all = await runSuite(world, [exit9, 'test_2_live.py'])
    assert.equal(all.code, 9, all.stdout)
    assert.deepEqual(outcomes(all), { skipped: 12 })
    assert.match(all.stdout, /^No test ran, so the exit status is 9 /m)
    const some = await runSuite(world, [exit9])
    assert.equal(some.code, 0, some.stdout)
    const asEver = await runSuite(world, ['test_2_live.py'])
    assert.equal(asEver.code, 0, asEver.stdout)
  })

  test('works the same with pytest-xdist', async t => {
    if (!requireOrSkip(t, ...debian, 'xdist')) return
    const world = await startWorld(t, { fiber: '-' })
    await world.circuitIs('open')
    const ran = await runSuite(world, ['-p', 'xdist.plugin', '-n', '2'])
    assert.equal(ran.code, 0, ran.stdout + ran.stderr)
    assert.deepEqual(outcomes(ran), { passed: READ_ONLY, skipped: NEED_FIBER })
    assert.match(ran.stdout, /^28 of 40 tests skipped by pytest-focus-breaker:$/m)
    const all = await runSuite(world, [
      '-p',
      'xdist.plugin',
      '-n',
      '2',
      '--focus-breaker-all-skipped=exit9',
      'test_2_live.py',
    ])
    assert.equal(all.code, 9, all.stdout + all.stderr)
  })

  test('names tests without the marker whose configure was refused', async t => {
    if (!requireOrSkip(t, ...debian, 'xdist')) return
    const world = await startWorld(t, { fiber: '-' })
    await world.circuitIs('open')
    const directory = temporary(t)
    writeFileSync(join(directory, 'test_negative.py'), NEGATIVE_TESTS)
    const run = (...args: string[]) =>
      runPython(['-m', 'pytest', '-p', 'focus_breaker', '-p', 'no:cacheprovider', ...args, directory], {
        cwd: directory,
        env: { FOCUS_BREAKER_URL: world.proxy },
      })
    const listed =
      /^focus-breaker refused requests of 1 test without needs_fiber:\n {2}\S*::test_configure_fails\n/m
    const ran = await run('--focus-breaker-unmarked=list')
    assert.deepEqual(outcomes(ran), { passed: 3, skipped: 1 }, ran.stdout)
    assert.match(ran.stdout, listed)
    const distributed = await run('--focus-breaker-unmarked=list', '-p', 'xdist.plugin', '-n', '1')
    assert.match(
      distributed.stdout,
      /requests of 1 test without needs_fiber, or of tests that ran at the same time:\n {2}\S*::test_configure_fails\n/,
    )
    const silent = await run()
    assert.doesNotMatch(silent.stdout, /focus-breaker refused requests/)
  })

  test('simulates an outage for a client’s own tests, and always ends it', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const world = await startWorld(t)
    const directory = temporary(t)
    writeFileSync(join(directory, 'test_outage.py'), OUTAGE_TESTS)
    const run = (env: Readonly<Record<string, string>>, ...args: string[]) =>
      runPython(
        [
          '-m',
          'pytest',
          '-p',
          'focus_breaker',
          '-v',
          '-p',
          'no:cacheprovider',
          '--showlocals',
          ...args,
          directory,
        ],
        {
          cwd: directory,
          env: { FOCUS_BREAKER_URL: world.proxy, ...env },
        },
      )
    const ran = await run({ FOCUS_BREAKER_ADMIN_TOKEN: TOKEN })
    assert.deepEqual(
      lines(ran),
      {
        test_refused_within: 'PASSED',
        test_fails_within: 'FAILED',
        test_nothing_is_left_of_that: 'PASSED',
        test_entered_and_never_left: 'PASSED',
        test_nothing_is_left_of_that_either: 'PASSED',
        test_one_at_a_time: 'PASSED',
        test_faulty_arguments: 'PASSED',
        test_run_is_named: 'PASSED',
      },
      ran.stdout,
    )
    assert.equal(await world.override(), null)
    assert.ok(!`${ran.stdout}${ran.stderr}`.includes(TOKEN), 'the token is in the output')

    const without = await run({}, '-rs', '-k', 'test_refused_within')
    assert.match(without.stdout, /SKIPPED .*set FOCUS_BREAKER_ADMIN_TOKEN/)

    const wrong = 'wrong-token-0001'
    const refused = await run({ FOCUS_BREAKER_ADMIN_TOKEN: wrong }, '-k', 'test_refused_within')
    assert.equal(refused.code, 1)
    assert.match(
      refused.stdout,
      /PUT http.*\/-\/override failed with status 401: the admin token does not match/,
    )
    assert.ok(!`${refused.stdout}${refused.stderr}`.includes(wrong), 'the token is in the output')
  })

  test('waits briefly for a recovery instead of skipping', async t => {
    if (!requireOrSkip(t, ...debian)) return
    // For 3 s the good readings are counted, and until then the proxy reports `recovering`.
    const recovering = { FOCUS_BREAKER_CIRCUIT_READY_THRESHOLD: '30' }
    const world = await startWorld(t, { fiber: '-', env: recovering })
    await world.circuitIs('open')
    await world.setFiber('present')
    const started = await runSuite(world, ['test_2_live.py'])
    assert.deepEqual(outcomes(started), { passed: 12 }, started.stdout)
  })

  test('connects to a proxy with an untrusted certificate only if configured to', async t => {
    if (!requireOrSkip(t, ...debian) || !requireToolOrSkip(t, 'openssl')) return
    const directory = temporary(t)
    const [key, certificate] = [join(directory, 'key.pem'), join(directory, 'certificate.pem')]
    execFileSync(
      '/usr/bin/openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
        ...['-subj', '/CN=focus-breaker', '-addext', 'subjectAltName=IP:127.0.0.1'],
        ...['-keyout', key, '-out', certificate],
      ],
      { stdio: 'ignore' },
    )
    const { simulator } = await startWorld(t)
    const { url } = await startProxy(t, {
      upstream: simulator,
      env: {
        ...ENV,
        FOCUS_BREAKER_SERVER_TLS_CERT_FILE: certificate,
        FOCUS_BREAKER_SERVER_TLS_KEY_FILE: key,
      },
    })
    assert.match(url, /^https:/)
    const world = { proxy: url, FOCUS_SERVER_URL: simulator }
    const one = ['-k', 'test_marked_by_hand']
    const distrusted = await runSuite(world, one)
    assert.deepEqual(outcomes(distrusted), { error: 1 })
    assert.match(distrusted.stdout, /certificate verify failed.*SSL_CERT_FILE.*--focus-breaker-insecure/)
    const allowed = await runSuite(world, [...one, '--focus-breaker-insecure'])
    assert.deepEqual(outcomes(allowed), { passed: 1 })
    const known = await runSuite(world, one, { SSL_CERT_FILE: certificate })
    assert.deepEqual(outcomes(known), { passed: 1 })

    // The session of the fixture decides as the plugin does, and neither uses a proxy from the environment.
    writeFileSync(join(directory, 'test_session.py'), SESSION_TESTS)
    const missing = join(directory, 'missing.pem')
    const noProxy = { https_proxy: 'http://127.0.0.1:1', HTTPS_PROXY: 'http://127.0.0.1:1' }
    const insecure = ['--focus-breaker-insecure']
    await Promise.all(
      (
        [
          [{}, [], false],
          [{ SSL_CERT_FILE: certificate }, [], true],
          [{ REQUESTS_CA_BUNDLE: certificate }, [], true],
          [{ CURL_CA_BUNDLE: certificate }, [], true],
          [{ SSL_CERT_FILE: certificate, REQUESTS_CA_BUNDLE: missing }, [], false],
          [{ SSL_CERT_FILE: missing, REQUESTS_CA_BUNDLE: certificate }, [], true],
          [{ REQUESTS_CA_BUNDLE: missing }, [], false],
          [{}, insecure, true],
          [{ REQUESTS_CA_BUNDLE: missing, CURL_CA_BUNDLE: missing }, insecure, true],
        ] as const
      ).map(async ([env, args, isTrusted]) => {
        const flags = [
          '-p',
          'focus_breaker',
          '-p',
          'no:cacheprovider',
          '-W',
          'ignore',
          `--focus-breaker-url=${url}`,
          ...args,
        ]
        const ran = await runPython(['-m', 'pytest', ...flags, 'test_session.py'], {
          cwd: directory,
          env: { ...env, ...noProxy },
        })
        const expected = isTrusted ? { passed: 2 } : { failed: 1, error: 1 }
        assert.deepEqual(outcomes(ran), expected, JSON.stringify([env, args]) + ran.stdout)
      }),
    )
  })

  test('passes its own tests, whatever other pytest plugins are installed', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const cwd = temporary(t)
    // A plugin that is installed like Debian's.
    const machine = temporary(t)
    mkdirSync(join(machine, 'hostile-1.0.dist-info'))
    const entryPoint = '[pytest11]\nhostile = hostile\n'
    writeFileSync(join(machine, 'hostile-1.0.dist-info', 'entry_points.txt'), entryPoint)
    writeFileSync(join(machine, 'hostile-1.0.dist-info', 'METADATA'), 'Name: hostile\nVersion: 1.0\n')
    writeFileSync(join(machine, 'hostile.py'), 'raise SystemExit("the plugin of the machine was loaded")\n')
    const libraries = { ...debianLibraries, path: [machine] }
    const loaded = await runPython(['-m', 'pytest', '--version'], {
      cwd,
      libraries,
      env: { PYTEST_DISABLE_PLUGIN_AUTOLOAD: '' },
    })
    assert.match(loaded.stderr, /the plugin of the machine was loaded/)
    const args = ['-q', '-p', 'no:cacheprovider', `--basetemp=${join(cwd, 'each')}`, UNIT_TESTS]
    const ran = await runPython(['-m', 'pytest', ...args], { cwd, libraries })
    assert.equal(ran.code, 0, ran.stdout + ran.stderr)
    t.diagnostic(ran.stdout.trim().split('\n').at(-1) ?? '')
  })
})

/** The requests of the plugin, and those of its session. */
const SESSION_TESTS = `
import pytest


@pytest.mark.needs_fiber
def test_of_the_plugin():
    pass


def test_of_the_session(focus_session, request):
    url = request.config.getoption("--focus-breaker-url")
    assert focus_session.get(url + "/-/status", timeout=10).json()["admits"]
`

/** A suite in which one test passes during an outage without proving anything. */
const NEGATIVE_TESTS = `
import os

import pytest

URL = os.environ["FOCUS_BREAKER_URL"]


def test_reads(focus_session):
    assert focus_session.get(URL + "/channels", timeout=10).ok


def test_configure_fails(focus_session):
    assert not focus_session.post(URL + "/configure", json={"channels": "none"}, timeout=10).ok


@pytest.mark.needs_fiber
def test_marked():
    pass


def test_reads_again(focus_session):
    assert focus_session.get(URL + "/channels", timeout=10).ok
`

/** The intended use of the fixture, and what must not go wrong. */
const OUTAGE_TESTS = `
import json
import os
import urllib.error
import urllib.request

import pytest
from pytest_focus_breaker import focus_headers

URL = os.environ["FOCUS_BREAKER_URL"]


def ask(path, method="GET"):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        data = b"{}" if method == "POST" else None
        with opener.open(urllib.request.Request(URL + path, method=method, data=data), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def current_override():
    return ask("/-/override")[1]["override"]


def test_refused_within(focus_outage):
    with focus_outage(reason="the skip logic is tried out", seconds=30) as override:
        assert override.reason == "the skip logic is tried out"
        code, refusal = ask("/configure", "POST")
        assert (code, refusal["status"], refusal["reason"]) == (503, "forced_open", override.reason)
    assert current_override() is None


def test_fails_within(focus_outage):
    with focus_outage():
        assert current_override()["reason"] == "not this"


@pytest.mark.needs_fiber
def test_nothing_is_left_of_that():
    assert current_override() is None


def test_entered_and_never_left(focus_outage):
    focus_outage().__enter__()
    assert "test_entered_and_never_left" in current_override()["reason"]


@pytest.mark.needs_fiber
def test_nothing_is_left_of_that_either():
    assert current_override() is None


def test_one_at_a_time(focus_outage):
    with focus_outage(reason="the first"):
        with pytest.raises(Exception, match="does not replace the override in force at .*: the first"):
            with focus_outage(reason="the second"):
                pass
        assert current_override()["reason"] == "the first"


@pytest.mark.parametrize("seconds", [None])
def test_faulty_arguments(focus_outage, seconds):
    for faulty in (0, 86_401, 1.5, "60", True):
        with pytest.raises(ValueError, match="seconds: expected a whole number from 1 to 86400, given"):
            focus_outage(seconds=faulty)
    with pytest.raises(ValueError, match="reason: expected 1 to 500 characters, given 501"):
        focus_outage(reason="x" * 501)


def test_run_is_named(focus_test_run, focus_session):
    assert focus_headers() == {"X-Test-Run": focus_test_run}
    assert focus_session.headers["X-Test-Run"] == focus_test_run
`

/** A controllable simulator with the built proxy in front of it. */
async function startWorld(
  t: TestContext,
  options: { readonly fiber?: string; readonly env?: Readonly<Record<string, string>> } = {},
) {
  // Before the drawn fiber starts to change.
  installClients()
  const { ready: simulator } = await startProgram(t, {
    command: process.execPath,
    args: [
      ...[join(repositoryRoot, 'dist/cli/main.js'), 'simulate', '--port', '0'],
      ...['--scenario', options.fiber ?? '+'],
    ],
    readyWhen: line => /^simulated focus-server on (\S+)$/.exec(line)?.[1],
  })
  const proxy = await startProxy(t, { upstream: simulator, env: { ...ENV, ...options.env } })
  const control = async (method: string, path: string, body?: object): Promise<unknown> => {
    const response = await fetch(`${simulator}/_simulator/${path}`, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    assert.ok(response.ok, `${method} /_simulator/${path}`)
    return response.status === 204 ? undefined : await response.json()
  }
  return {
    simulator,
    proxy: proxy.url,
    FOCUS_SERVER_URL: proxy.url,
    stop: proxy.stop,
    circuitIs: (state: 'open' | 'closed') => circuitIs(proxy, state),
    setFiber: (state: 'present' | 'missing') => control('PUT', 'fiber', { state }),
    /** How many jobs focus-server received, and for how many it had no fiber. */
    configures: async () => Number(at(await control('GET', 'counters'), 'byRoute', 'POST /configure') ?? 0),
    rejectedForFiber: async () => at(await control('GET', 'counters'), 'rejectedForFiber'),
    /** How many requests the proxy refused. */
    refused: async () => at(await statusOf(proxy), 'totals', 'refused'),
    override: async () => {
      const response = await fetch(`${proxy.url}/-/override`)
      return at(await response.json(), 'override')
    },
  }
}

/** Runs the sample suite against a proxy, from its own folder. */
async function runSuite(
  world: { readonly proxy: string; readonly FOCUS_SERVER_URL: string; readonly simulator?: string },
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
  onLine?: (line: string) => void,
): Promise<Ran> {
  const plugin = args.includes('no:focus_breaker') ? [] : ['-p', 'focus_breaker']
  return await runPython(['-m', 'pytest', ...plugin, '-v', '--color=no', ...args], {
    cwd: SUITE,
    env: {
      FOCUS_BREAKER_URL: world.proxy,
      FOCUS_SERVER_URL: world.FOCUS_SERVER_URL,
      SIMULATOR_URL: world.simulator ?? '',
      ...env,
    },
    ...(onLine === undefined ? {} : { onLine }),
  })
}

/** The number of each outcome, as in pytest's last line. */
function outcomes({ stdout, stderr }: Ran): Record<string, number> {
  const last = stdout.trim().split('\n').at(-1) ?? ''
  assert.match(last, /^=+ .* in [\d.]+s/, stdout + stderr)
  const counts = [...last.matchAll(/(\d+) (passed|failed|skipped|error)s?\b/g)]
  return Object.fromEntries(counts.map(([, count, outcome = '']) => [outcome, Number(count)]))
}

/** The outcome of each test by its name, without parameters. */
function lines({ stdout }: Ran): Record<string, string> {
  const found = [...stdout.matchAll(/^\S+::(\w+)\S* (PASSED|FAILED|SKIPPED|ERROR)/gm)]
  return Object.fromEntries(found.map(([, name = '', outcome = '']) => [name, outcome]))
}

function seconds({ tookMs }: Ran): string {
  return (tookMs / 1000).toFixed(1)
}

function temporary(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-pytest-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}
