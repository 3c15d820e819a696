import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import {
  at,
  circuitIs,
  freePort,
  programMain,
  type RunningProxy,
  requireOrSkip,
  startProxy,
  until,
} from '../support/harness.js'
import { portOf } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const FAST = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }
const TOKEN = 'a-token-of-the-test'

/** These tests mostly wait for programs to start, or for a program that waits. */
const TOGETHER = { concurrency: 3 }

type Env = Readonly<Record<string, string>>
type Ended = {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** A running program: its standard output so far, and its exit. */
function start(t: TestContext, command: readonly string[], env: Env = {}, isGroup = false) {
  const [program = '', ...args] = command
  const child: ChildProcess = spawn(program, args, {
    // Without the variables of a CI system that may run these tests.
    env: { PATH: process.env.PATH, ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: isGroup,
    timeout: 40_000,
  })
  t.after(() => child.kill('SIGKILL'))
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', chunk => {
    stdout += chunk
  })
  child.stderr?.on('data', chunk => {
    stderr += chunk
  })
  const ended = new Promise<Ended>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
  return {
    child,
    ended,
    stdoutSoFar: () => stdout,
    saysSoon: (pattern: RegExp) =>
      until(() => pattern.test(stdout), { what: `it prints ${pattern}`, timeoutMs: 30_000 }).catch(
        (error: unknown) => assert.fail(`${error}; it printed ${JSON.stringify({ stdout, stderr })}`),
      ),
  }
}

/** Starts focus-breaker with these arguments. */
const ours = (t: TestContext, args: readonly string[], env: Env = {}) =>
  start(t, [process.execPath, programMain, ...args], env)

/** Runs focus-breaker until it exits. */
const run = (t: TestContext, args: readonly string[], env: Env = {}) => ours(t, args, env).ended

const linesOf = (text: string) => text.split('\n').slice(0, -1)

/** Each line up to the part that changes from run to run. */
const gistsOf = (text: string) => linesOf(text).map(line => line.replace(/: circuit .*/, ''))

function temporaryDirectory(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  return directory
}

/** A proxy in front of a simulated focus-server. The test can set overrides. */
async function proxyBefore(t: TestContext, fiber: 'present' | 'missing', env: Env = {}) {
  const { simulator } = await simulate(t, { fiber })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN, ...env },
  })
  await circuitIs(proxy, fiber === 'present' ? 'closed' : 'open')
  return { simulator, proxy }
}

async function override(proxy: RunningProxy, state: 'open' | 'closed', reason: string): Promise<void> {
  const answer = await fetch(`${proxy.url}/-/override`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ state, reason, forSeconds: 600 }),
  })
  assert.equal(answer.status, 200, await answer.text())
}

/** Another server: gives every request this response, and counts requests by path. */
async function stranger(
  t: TestContext,
  answers: (path: string) => { status: number; body: string; location?: string },
) {
  const counts = new Map<string, number>()
  const heads: NodeJS.Dict<string | string[]>[] = []
  const server = createServer((request, response) => {
    const path = request.url?.replace(/\?.*/, '') ?? ''
    counts.set(path, (counts.get(path) ?? 0) + 1)
    heads.push(request.headers)
    const { status, body, location } = answers(path)
    const headers = { 'content-type': 'application/json', ...(location === undefined ? {} : { location }) }
    response.writeHead(status, headers).end(body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { port: portOf(server), counts, heads }
}

describe('check and wait', { concurrency: 2 }, () => {
  describe('the exit code reports the result', TOGETHER, () => {
    /** Both commands, `wait` with a very short maximum wait. */
    async function both(t: TestContext, args: readonly string[]): Promise<readonly Ended[]> {
      const wait = async (attempts: number): Promise<Ended> => {
        const ended = await run(t, ['wait', '--timeout', '50ms', ...args])
        // It then gives a server one second, which is not enough on a busy machine.
        const isTooSlow = ended.stdout.includes('no response within 1 s')
        return isTooSlow && attempts > 1 ? await wait(attempts - 1) : ended
      }
      return await Promise.all([run(t, ['check', ...args]), wait(5)])
    }

    function says(ends: readonly Ended[], code: number, line: RegExp): void {
      for (const ended of ends) {
        assert.equal(ended.code, code, JSON.stringify(ended))
        assert.match(linesOf(ended.stdout)[0] ?? '', line)
        assert.equal(ended.stderr, '')
      }
    }

    test('0: the fiber is connected', async t => {
      const { simulator, proxy } = await proxyBefore(t, 'present', {
        FOCUS_BREAKER_BASE_PATH: '/focus-server',
      })
      says(await both(t, ['--upstream', simulator.url]), 0, /^ready: the fiber is connected$/)
      const line = /^ready: circuit closed for \d+ m?s$/
      says(await both(t, ['--proxy', proxy.url]), 0, line)
      says([await run(t, ['check', '--proxy', `${proxy.url}/focus-server/`])], 0, line)
    })

    test('3: the fiber is missing', async t => {
      const { simulator, proxy } = await proxyBefore(t, 'missing')
      says(await both(t, ['--upstream', simulator.url]), 3, /^waiting for fiber: missing prr$/)
      says(await both(t, ['--proxy', proxy.url]), 3, /^waiting for fiber: circuit open for \d+ m?s$/)
    })

    test('4: the state of the fiber is unknown', async t => {
      const dead = `http://127.0.0.1:${await freePort()}`
      const proxy = await startProxy(t, { upstream: dead, env: FAST })
      const metadata = "focus-server's metadata cannot be read"
      says(await both(t, ['--upstream', dead]), 4, new RegExp(`^${metadata}: connection refused$`))
      const line = /^the state of the fiber is unknown: circuit open for \d+ m?s, connection refused$/
      says(await both(t, ['--proxy', proxy.url]), 4, line)
      const other = await stranger(t, () => ({ status: 200, body: '<html>' }))
      const html = await run(t, ['check', '--upstream', `http://127.0.0.1:${other.port}`])
      says(
        [html],
        4,
        new RegExp(
          `^${metadata}: returned something that is not JSON: content type application/json, .* position 0$`,
        ),
      )
    })

    test('5: there is no proxy', async t => {
      const dead = `http://127.0.0.1:${await freePort()}`
      says(await both(t, ['--proxy', dead]), 5, /^the proxy at \S+ cannot be reached: connection refused$/)
      // A likely mistake: the URL of focus-server itself.
      const { simulator } = await simulate(t)
      const line = /^http:\S+ responds, but is not focus-breaker \(status (404|502)\)$/
      says([await run(t, ['check', '--proxy', simulator.url])], 5, line)
      // It accepts connections and never responds: with a maximum wait of half a second, it is not given five.
      const mute = createServer(() => undefined)
      t.after(() => mute.close().closeAllConnections())
      await new Promise<void>(resolve => mute.listen(0, '127.0.0.1', resolve))
      const silent = ['--timeout', '500ms', '--proxy', `http://127.0.0.1:${portOf(mute)}`]
      const { code, stdout } = await run(t, ['wait', ...silent])
      assert.equal(code, 5)
      assert.match(stdout, /^the proxy at \S+ cannot be reached: no response within 1 s\ngave up after /)
      // A redirect by an ingress to another scheme or path is reported, and not followed.
      const moved = await stranger(t, () => ({
        status: 308,
        body: '',
        location: 'https://focus.example/x/-/status',
      }))
      const elsewhere =
        /^http:\S+ redirects to https:\/\/focus\.example\/x \(status 308\); if focus-breaker runs there, use that URL$/
      says(await both(t, ['--proxy', `http://127.0.0.1:${moved.port}`]), 5, elsewhere)
      // The response of an ingress while the proxy restarts.
      const ingress = await stranger(t, () => ({ status: 502, body: '<html>' }))
      const url = `http://127.0.0.1:${ingress.port}`
      says([await run(t, ['wait', '--timeout', '50ms', '--proxy', url])], 5, line)
    })

    const wrong: readonly (readonly [what: string, args: readonly string[], ...says: readonly RegExp[]])[] = [
      ['nothing to probe', [], /either --proxy URL or --upstream URL .*; given neither/],
      ['both', ['--proxy', 'http://a', '--upstream', 'http://b'], /either --proxy URL or .*; given both/],
      [
        'no URL',
        ['--proxy', 'localhost:8080'],
        /--proxy: expected an http or https URL.*; given localhost:8080/,
      ],
      ['a URL with a query', ['--proxy', 'http://a/?x=1'], /--proxy: expected .* without query/],
      [
        'a configuration without --upstream',
        ['--proxy', 'http://a', '--config', 'x'],
        /--config: expected to be used/,
      ],
      ['an unknown flag', ['--proxy', 'http://a', '--jsn'], /given --jsn/],
      ['credentials in a bad URL', ['--proxy', 'ftp://me:secret@a/'], /given ftp:\/\/\*\*\*@a\//],
    ]
    test('2: invalid usage, with every fault reported and nothing on standard output', async t => {
      for (const [index, [what, args, ...says]] of wrong.entries()) {
        // Both read the same flags with the same code.
        const { code, stdout, stderr } = await run(t, [index % 2 === 0 ? 'check' : 'wait', ...args])
        assert.deepEqual([code, stdout], [2, ''], what)
        for (const pattern of says) assert.match(stderr, pattern)
        assert.doesNotMatch(stderr, /secret|\n\s+at /)
      }
      for (const given of ['soon', '-1']) {
        const args = ['wait', `--timeout=${given}`, '--proxy', 'nowhere', '--nope']
        const { code, stderr } = await run(t, args)
        assert.equal(code, 2, given)
        assert.ok(
          stderr.includes(`--timeout: expected a duration like 90s, 10m or 1h30m; given ${given}\n`),
          stderr,
        )
        assert.match(stderr, /^Invalid configuration \(3 errors\):\n/)
      }
    })

    test('1: a requested report cannot be written, and the command does not wait', async t => {
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const file = join(temporaryDirectory(t), 'file')
      writeFileSync(file, '')
      for (const [command, report] of [
        ['wait', join(file, 'report.xml')],
        ['wait', temporaryDirectory(t)],
        ['check', join(file, 'folder', 'report.xml')],
      ] as const) {
        // Without a timeout, so that it would otherwise wait forever.
        const args = ['--upstream', simulator.url, '--junit', report]
        const { code, stdout, stderr } = await run(t, [command, ...args])
        assert.deepEqual([code, stdout], [1, ''])
        assert.match(stderr, /^cannot write \S+: E(NOTDIR|ISDIR|EXIST)/)
      }
      assert.equal(simulator.counters.byRoute['GET /live_metadata'], undefined)
    })
  })

  describe('on a pipe', TOGETHER, () => {
    test('with --upstream there is one line for each change, however many probes are sent', async t => {
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const program = ours(t, ['wait', '--upstream', simulator.url], FAST)
      const probes = () => simulator.counters.byRoute['GET /live_metadata'] ?? 0
      await until(() => probes() >= 4, { timeoutMs: 20_000 })
      await simulator.setFault('GET /live_metadata', { kind: 'status', code: 500 })
      await program.saysSoon(/500/)
      await simulator.setFault('GET /live_metadata', null)
      await program.saysSoon(/500.*\nwaiting/)
      const before = probes()
      await until(() => probes() >= before + 3)
      await simulator.setFiber('present')
      const { code, stdout, stderr } = await program.ended
      assert.deepEqual(linesOf(stdout), [
        'waiting for fiber: missing prr',
        "focus-server's metadata cannot be read: returned 500, expected 200",
        'waiting for fiber: missing prr',
        // Like the proxy, which admits no requests after only one good reading.
        'the fiber is back; waiting for one more successful probe',
        'ready: the fiber is connected',
      ])
      assert.deepEqual([code, stderr], [0, ''])
      assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
    })

    test('with a proxy that stops and comes back there is one line for each change', async t => {
      const { simulator, proxy } = await proxyBefore(t, 'missing')
      const program = ours(t, ['wait', '--proxy', proxy.url, '--timeout', '10m'])
      await program.saysSoon(/waiting for fiber/)
      await override(proxy, 'open', 'maintenance')
      await program.saysSoon(/maintenance/)
      await proxy.stop()
      await program.saysSoon(/cannot be reached/)
      await simulator.setFiber('present')
      const port = new URL(proxy.url).port
      await startProxy(t, { upstream: simulator.url, env: FAST, args: ['--port', port] })
      const { code, stdout } = await program.ended
      const [first, second, gone, last, ...more] = gistsOf(stdout)
      assert.deepEqual([first, second], ['waiting for fiber', 'refused by an operator: maintenance'])
      assert.match(gone ?? '', /^the proxy at http:\S+ cannot be reached: connection /)
      // The error of a connection to a program that exits may differ from one probe to the next.
      assert.equal([last, ...more].at(-1), 'ready')
      assert.equal(code, 0)
    })

    test('with --json each line is one object, and the last one is the result', async t => {
      const { simulator, proxy } = await proxyBefore(t, 'missing')
      const program = ours(t, ['wait', '--json', '--proxy', proxy.url])
      await program.saysSoon(/waiting/)
      await simulator.setFiber('present')
      const { code, stdout } = await program.ended
      const lines: unknown[] = linesOf(stdout).map(line => JSON.parse(line))
      const [first, last] = [lines[0], lines.at(-1)]
      assert.deepEqual(Object.keys(Object(first)).toSorted(), [
        ...['circuit', 'forMs', 'forecast', 'message', 'ready', 'reason', 'since', 'state'],
      ])
      const gist = (value: unknown) => ['ready', 'state', 'reason', 'forecast'].map(key => at(value, key))
      assert.deepEqual(gist(first), [false, 'waiting', 'waiting for fiber', null])
      assert.deepEqual(gist(last), [true, 'ready', 'ready', null])
      assert.ok(Date.parse(String(at(first, 'since'))) < Date.parse(String(at(last, 'since'))))
      assert.equal(code, 0)

      await simulator.setFiber('missing')
      await circuitIs(proxy, 'open')
      const given = await run(t, ['wait', '--json', '--timeout', '100ms', '--proxy', proxy.url])
      assert.equal(given.code, 3)
      assert.equal(linesOf(given.stdout).length, 1)
    })

    test('at the end of the maximum wait it gives up, and not sooner', async t => {
      const { simulator, proxy } = await proxyBefore(t, 'missing')
      for (const target of [
        ['--upstream', simulator.url],
        ['--proxy', proxy.url],
      ]) {
        for (const [timeout, ms] of [
          ['1', 1000],
          ['0', 0],
        ] as const) {
          const startedAt = performance.now()
          const { code, stdout } = await run(t, ['wait', '--timeout', timeout, ...target], FAST)
          assert.ok(performance.now() - startedAt >= ms)
          assert.equal(code, 3)
          const [first = '', last, ...more] = linesOf(stdout)
          assert.match(first, /^waiting for fiber: /)
          assert.match(last ?? '', /^gave up after \d+ m?s: waiting for fiber: /)
          assert.deepEqual(more, [])
        }
      }
    })

    test('an override that admits requests is reported as such', async t => {
      const { proxy } = await proxyBefore(t, 'missing')
      const program = ours(t, ['wait', '--json', '--proxy', proxy.url])
      await program.saysSoon(/waiting/)
      const before = Date.now()
      await override(proxy, 'closed', 'a trial')
      const { code, stdout } = await program.ended
      const last: unknown = JSON.parse(linesOf(stdout).at(-1) ?? '')
      assert.deepEqual([code, at(last, 'message')], [0, 'ready: let through by an operator: a trial'])
      // The clocks of two processes may differ by some milliseconds.
      assert.ok(Date.parse(String(at(last, 'since'))) > before - 100, 'the time is not that of the override')
    })

    test('a proxy that responds to /-/wait at once, for example because it shuts down, is not polled in a tight loop', async t => {
      const since = '2026-01-31T08:30:00.000Z'
      const other = await stranger(t, path =>
        path === '/-/status'
          ? {
              status: 200,
              body: JSON.stringify({
                ...{ admits: false, refusal: 'waiting_for_fiber', circuit: { state: 'open', since } },
              }),
            }
          : { status: 503, body: '{"status":"waiting_for_fiber","forwarded":false}' },
      )
      const url = `http://me:p%40ss@127.0.0.1:${other.port}`
      const { code, stdout } = await run(t, ['wait', '--timeout', '1500ms', '--proxy', url])
      assert.equal(code, 3)
      const held = other.counts.get('/-/wait') ?? 0
      assert.ok(held >= 1 && held <= 3, JSON.stringify([...other.counts]))
      // An ingress may require credentials, and they must not appear in a log.
      const sent = new Set(other.heads.map(({ authorization }) => authorization))
      assert.deepEqual([...sent], [`Basic ${Buffer.from('me:p@ss').toString('base64')}`])
      assert.doesNotMatch(stdout, /p%40ss|p@ss/)
    })

    test('a signal ends it with a last line, and a shell sees 130 or 143', async t => {
      const { proxy } = await proxyBefore(t, 'missing')
      for (const [signal, code] of [
        ['SIGINT', 130],
        ['SIGTERM', 143],
      ] as const) {
        const program = ours(t, ['wait', '--proxy', proxy.url])
        await program.saysSoon(/waiting/)
        program.child.kill(signal)
        const ended = await program.ended
        // It ends by the signal itself, so that Ctrl+C also ends a script that runs it.
        assert.deepEqual([ended.code, ended.signal], [null, signal])
        assert.match(linesOf(ended.stdout).at(-1) ?? '', /^interrupted after \d+ m?s$/)

        const script = 'trap : INT TERM; "$@"; echo "the shell saw $?"'
        const command = [
          '/bin/sh',
          '-c',
          script,
          'sh',
          process.execPath,
          programMain,
          'wait',
          '--proxy',
          proxy.url,
        ]
        const shell = start(t, command, {}, true)
        await shell.saysSoon(/waiting/)
        process.kill(-Number(shell.child.pid), signal)
        assert.match((await shell.ended).stdout, new RegExp(`\nthe shell saw ${code}\n$`))
      }
    })
  })

  /** Text that could end a line, an attribute, a table cell or a document, or start a command of a CI system. */
  const NASTY =
    `<&>"']]>--> | \\ \`x\` \u0000\u0001\u0008\u001b[31m\u0085\u2028\u2029\ufffe\uffff\u202e\n` +
    '::error::taken\r\nready=true\nreason<<EOF\n\t💥 \ud800 </skipped><failure/> end'

  describe('for CI', TOGETHER, () => {
    test('the JUnit report has one case: passed if ready, otherwise skipped with the reason', async t => {
      if (!requireOrSkip(t, 'python3')) return
      const { simulator, proxy } = await proxyBefore(t, 'missing')
      const file = join(temporaryDirectory(t), 'fiber.xml')
      const target = ['--proxy', proxy.url, '--junit', file]
      const read = () => {
        // expat is strict: anything that is not XML 1.0 is an error.
        const script = `
import json, sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
print(json.dumps([[element.tag, element.attrib] for element in root.iter()]))`
        const { status, stdout, stderr } = spawnSync('/usr/bin/python3', ['-c', script, file], {
          encoding: 'utf8',
        })
        assert.equal(status, 0, stderr)
        const elements: unknown = JSON.parse(stdout)
        return elements
      }
      const isSuite = (elements: unknown, skipped: '0' | '1') => {
        const tags = ['testsuites', 'testsuite', 'testcase', ...(skipped === '1' ? ['skipped'] : [])]
        assert.deepEqual(Array.isArray(elements) && elements.map(element => at(element, 0)), tags)
        const suite = at(elements, 1, 1)
        const counts = ['tests', 'failures', 'errors', 'skipped'].map(name => at(suite, name))
        assert.deepEqual(counts, ['1', '0', '0', skipped])
        assert.match(String(at(suite, 'time')), /^\d+\.\d{3}$/)
        assert.equal(at(elements, 2, 1, 'name'), 'the fiber is connected')
      }
      await run(t, ['check', ...target])
      isSuite(read(), '1')
      assert.match(String(at(read(), 3, 1, 'message')), /^waiting for fiber: circuit open for /)

      await override(proxy, 'open', NASTY)
      await run(t, ['wait', '--timeout', '0', ...target])
      isSuite(read(), '1')
      const message = String(at(read(), 3, 1, 'message'))
      assert.match(message, /^refused by an operator: <&>"'\]\]>--> \| \\ `x` {1,9}\[31m /)
      assert.match(message, / 💥 .*<\/skipped><failure\/> end$/u)
      assert.doesNotMatch(message, /\p{Cc}/u)

      await fetch(`${proxy.url}/-/override`, {
        method: 'DELETE',
        headers: { authorization: `Bearer ${TOKEN}` },
      })
      await simulator.setFiber('present')
      // The report of a successful wait replaces the earlier one.
      assert.equal((await run(t, ['wait', ...target])).code, 0)
      isSuite(read(), '0')
    })

    test('the JUnit report has an error for the exit codes 4 and 5, or skipped with --junit-skip-all', async t => {
      const dead = `http://127.0.0.1:${await freePort()}`
      const directory = temporaryDirectory(t)
      for (const [target, code] of [
        ['--upstream', 4],
        ['--proxy', 5],
      ] as const) {
        for (const [flags, counts, element] of [
          [[], 'errors="1" skipped="0"', '<error message='],
          [['--junit-skip-all'], 'errors="0" skipped="1"', '<skipped message='],
        ] as const) {
          // The folder is created.
          const file = join(directory, target, `${flags.length}`, 'fiber.xml')
          const ended = await run(t, ['check', target, dead, '--junit', file, ...flags])
          assert.equal(ended.code, code, ended.stderr)
          const report = readFileSync(file, 'utf8')
          assert.ok(report.includes(counts) && report.includes(element), report)
        }
      }
      const unused = await run(t, ['check', '--proxy', dead, '--junit-skip-all'])
      assert.equal(unused.code, 2)
      assert.match(unused.stderr, /--junit-skip-all: expected to be used with --junit/)
    })

    test('an interrupted wait leaves a report of the interruption, in place of an old one', async t => {
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const file = join(temporaryDirectory(t), 'fiber.xml')
      writeFileSync(file, 'an old report')
      const program = ours(t, ['wait', '--upstream', simulator.url, '--junit', file], FAST)
      await program.saysSoon(/waiting/)
      program.child.kill('SIGTERM')
      await program.ended
      assert.match(
        readFileSync(file, 'utf8'),
        /<error message="the command was interrupted before it finished"\/>/,
      )
    })

    test("lines in GitHub's files start on a new line", async t => {
      const { simulator } = await simulate(t)
      const directory = temporaryDirectory(t)
      for (const [before, kept] of [
        ['earlier=1', 'earlier=1\n'],
        ['earlier=1\n', 'earlier=1\n'],
        ['ünder=ü', 'ünder=ü\n'],
        ['', ''],
      ] as const) {
        const [output, summary] = [join(directory, 'output'), join(directory, 'summary')]
        writeFileSync(output, before)
        writeFileSync(summary, before)
        await run(t, ['check', '--upstream', simulator.url], {
          GITHUB_OUTPUT: output,
          GITHUB_STEP_SUMMARY: summary,
        })
        assert.ok(readFileSync(output, 'utf8').startsWith(`${kept}ready=true\n`))
        assert.ok(readFileSync(summary, 'utf8').startsWith(`${kept}### Fiber\n`))
      }
    })

    test("GitHub's files get the verdict, and no reason can add a line to them", async t => {
      const { proxy } = await proxyBefore(t, 'missing')
      const directory = temporaryDirectory(t)
      const [output, summary] = [join(directory, 'output'), join(directory, 'summary')]
      const env = { GITHUB_OUTPUT: output, GITHUB_STEP_SUMMARY: summary }
      writeFileSync(output, 'earlier=1\n')
      const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
      for (const [reason, expected] of [
        [undefined, /^waiting for fiber$/],
        [NASTY, /^refused by an operator: <&>.* ::error::taken ready=true reason<<EOF .* end$/u],
      ] as const) {
        writeFileSync(summary, '')
        if (reason !== undefined) await override(proxy, 'open', reason)
        const { code, stdout, stderr } = await run(t, ['check', '--proxy', proxy.url], env)
        assert.deepEqual([code, stderr, linesOf(stdout).length], [3, '', 1])
        // A log line that starts like this is a command to GitHub's runner. A carriage return starts a line as well.
        assert.doesNotMatch(stdout, /^::|[^\n\P{Cc}]/mu)
        const lines = linesOf(readFileSync(output, 'utf8')).slice(-4)
        assert.deepEqual(
          lines.map(line => line.split('=')[0]),
          ['ready', 'state', 'reason', 'since'],
        )
        const [ready, state, why = '', since = ''] = lines.map(line => line.slice(line.indexOf('=') + 1))
        assert.deepEqual([ready, state], ['false', 'waiting'])
        assert.match(why, expected)
        assert.match(since, time)
        const rows = linesOf(readFileSync(summary, 'utf8')).filter(line => line !== '')
        assert.deepEqual(rows.slice(0, 3), [
          ...['### Fiber', '| ready | state | reason | since |', '|---|---|---|---|'],
        ])
        assert.equal(rows.length, 4)
        assert.equal(rows[3]?.split('|').length, 6, rows[3])
        assert.doesNotMatch(rows[3] ?? '', /[<`\\]/)
      }
      assert.equal(linesOf(readFileSync(output, 'utf8')).length, 9)
    })

    test('with --upstream the start of the state is unknown', async t => {
      const { simulator } = await simulate(t)
      const output = join(temporaryDirectory(t), 'output')
      const { code } = await run(t, ['wait', '--upstream', simulator.url], { GITHUB_OUTPUT: output })
      assert.equal(code, 0)
      const reason = 'ready: the fiber is connected'
      assert.equal(readFileSync(output, 'utf8'), `ready=true\nstate=ready\nreason=${reason}\nsince=\n`)
    })

    test("the exit code is that of the verdict even if GitHub's files cannot be written", async t => {
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const nowhere = join(temporaryDirectory(t), 'no', 'such')
      const env = { GITHUB_OUTPUT: join(nowhere, 'output'), GITHUB_STEP_SUMMARY: join(nowhere, 'summary') }
      const { code, stderr } = await run(t, ['check', '--upstream', simulator.url], env)
      assert.equal(code, 3)
      assert.match(stderr, /^cannot write \S+output: ENOENT.*\ncannot write \S+summary: ENOENT/)
    })
  })

  describe('on a terminal', TOGETHER, () => {
    /** Runs a command on a terminal with this many columns. Its output is passed on, and its input is what is sent. */
    const TERMINAL = `
import fcntl, os, pty, select, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 24, int(sys.argv[1]), 0, 0))
    os.execv(sys.argv[2], sys.argv[2:])
while True:
    try:
        if 0 in select.select([terminal, 0], [], [])[0]:
            os.write(terminal, os.read(0, 100))
            continue
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    os.write(1, data)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
`
    const onTerminal = (t: TestContext, columns: number, args: readonly string[]) =>
      start(
        t,
        [...['/usr/bin/python3', '-c', TERMINAL, String(columns)], process.execPath, programMain, ...args],
        {
          TERM: 'xterm',
        },
      )
    const CLEAR = '\r\u001b[K'

    test('one line is redrawn with the elapsed time, and the last one stays', async t => {
      if (!requireOrSkip(t, 'python3')) return
      const { simulator, proxy } = await proxyBefore(t, 'missing')
      const program = onTerminal(t, 80, ['wait', '--proxy', proxy.url])
      await program.saysSoon(/waited [2-9] s/)
      await simulator.setFiber('present')
      const { code, stdout } = await program.ended
      assert.equal(code, 0)
      const [before, ...drawn] = stdout.split(CLEAR)
      assert.equal(before, '')
      assert.match(drawn.at(-1) ?? '', /^ready\r\n$/)
      const redrawn = drawn.slice(0, -1)
      for (const line of redrawn) assert.match(line, /^[a-z ]+ · for \d+ m?s · waited \d+ m?s$/)
      // A busy machine may skip one.
      const waited = redrawn.map(line => Number(/ waited (\d+) s$/.exec(line)?.[1] ?? 0))
      assert.ok(new Set(waited).size > 1, waited.join())
      assert.deepEqual(
        waited,
        waited.toSorted((a, b) => a - b),
      )
    })

    test('a line that would wrap is cut, and a reason with line breaks stays one line', async t => {
      if (!requireOrSkip(t, 'python3')) return
      const { proxy } = await proxyBefore(t, 'missing')
      await override(proxy, 'open', 'the laser is\nat the maker for repair, back on Monday\u001b[2J')
      const program = onTerminal(t, 40, ['wait', '--timeout', '200ms', '--proxy', proxy.url])
      const { code, stdout } = await program.ended
      assert.equal(code, 3)
      const [, ...drawn] = stdout.split(CLEAR)
      const last = drawn.pop() ?? ''
      assert.deepEqual([...new Set(drawn)], ['refused by an operator: the laser is at'])
      const reason = 'the laser is at the maker for repair, back on Monday \\[2J'
      assert.match(last, new RegExp(`^gave up after \\d+ m?s: refused by an operator: ${reason}\r\n$`))
    })

    test('JSON is for programs, on a terminal as well', async t => {
      if (!requireOrSkip(t, 'python3')) return
      const { simulator } = await simulate(t, { fiber: 'missing' })
      const args = ['wait', '--json', '--timeout', '10ms', '--upstream', simulator.url]
      const { code, stdout } = await onTerminal(t, 80, args).ended
      assert.equal(code, 3)
      const [line, ...more] = stdout.split('\r\n')
      assert.equal(at(JSON.parse(line ?? ''), 'state'), 'waiting')
      assert.deepEqual(more, [''])
    })

    test('Ctrl+C ends it, and the prompt starts on a new line', async t => {
      if (!requireOrSkip(t, 'python3')) return
      const { proxy } = await proxyBefore(t, 'missing')
      const program = onTerminal(t, 80, ['wait', '--proxy', proxy.url])
      await program.saysSoon(/waited/)
      program.child.stdin?.write('\u0003')
      const { code, stdout } = await program.ended
      // Python's -2, the signal, as a byte.
      assert.equal(code, 254)
      assert.match(stdout, /interrupted after \d+ m?s\r\n$/)
    })
  })
})
