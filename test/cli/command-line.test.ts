import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { at, programMain, startProgram, startProxy } from '../support/harness.js'
import { simulate } from '../support/simulate.js'

type Ended = { readonly code: number | null; readonly stdout: string; readonly stderr: string }

/** Runs the built program until it exits. */
function run(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [programMain, ...args], {
      env: { PATH: process.env.PATH, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 20_000,
    })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', chunk => {
      stdout += chunk
    })
    child.stderr.on('data', chunk => {
      stderr += chunk
    })
    child.once('error', reject)
    child.once('close', code => resolve({ code, stdout, stderr }))
  })
}

function temporaryFile(t: TestContext, name: string, text: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, name)
  writeFileSync(file, text)
  return file
}

/** A loopback port that is in use. */
async function portInUse(t: TestContext): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return address.port
}

test('help and version are printed on standard output', async () => {
  const overview = await run(['--help'])
  assert.equal(overview.code, 0)
  for (const command of ['serve', 'demo', 'simulate', 'check', 'wait'])
    assert.match(overview.stdout, new RegExp(`^  ${command}`, 'm'))
  const help = await run(['serve', '--help'])
  assert.match(help.stdout, /--upstream URL/)
  assert.match((await run(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/)
  assert.equal((await run(['help'])).stdout, overview.stdout)
  assert.equal((await run(['help', 'serve'])).stdout, help.stdout)
  assert.match((await run(['wait', '--help'])).stdout, /3 waiting for fiber/)
})

const wrong: readonly {
  readonly name: string
  readonly args: string[]
  readonly env?: Record<string, string>
  readonly says: RegExp[]
}[] = [
  {
    name: 'an unknown command',
    args: ['sevre'],
    says: [/expected one of serve, demo, simulate, check/, /sevre/],
  },
  {
    name: 'an unknown flag',
    args: ['serve', '--upstrem', 'http://localhost:1'],
    says: [/--upstream/, /did you mean --upstream\?\); given --upstrem/],
  },
  {
    name: 'an unknown flag with a value, which is a single fault',
    args: ['check', '--proxi', 'http://localhost:1'],
    says: [/^Invalid configuration:\n.*did you mean --proxy\?\); given --proxi$/m],
  },
  {
    name: 'no upstream',
    args: ['serve'],
    says: [/upstream\.url: expected an http or https URL/, /given nothing/],
  },
  {
    name: 'an invalid URL',
    args: ['serve', '--upstream', 'localhost:5000'],
    says: [/upstream\.url: expected an http or https URL/, /given "localhost:5000"/],
  },
  {
    name: 'an invalid port',
    args: ['serve', '--upstream', 'http://localhost:1', '--port', '80800'],
    says: [/server\.port: expected a whole number from 0 to 65535/, /80800/],
  },
  {
    name: 'several values of the wrong type, reported together',
    args: ['serve', '--upstream', 'http://localhost:1'],
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '2s', FOCUS_BREAKER_GUARD_MODE: 'maybe', FOCUS_BREAKER_NOPE: '1' },
    says: [
      /probe\.periodMs: expected a whole number from 50/,
      /guard\.mode: expected one of enforce, observe/,
      /FOCUS_BREAKER_NOPE/,
    ],
  },
  {
    name: 'an unreadable certificate',
    args: ['serve', '--upstream', 'http://localhost:1'],
    env: {
      FOCUS_BREAKER_SERVER_TLS_CERT_FILE: '/does/not/exist.pem',
      FOCUS_BREAKER_SERVER_TLS_KEY_FILE: '/nor/this.pem',
    },
    says: [
      /server\.tls\.certFile: expected a PEM file.*exist\.pem/,
      /server\.tls\.keyFile: expected a PEM file.*this\.pem/,
    ],
  },
  {
    name: 'a host that is not this machine',
    args: ['serve', '--upstream', 'http://127.0.0.1:1', '--host', '192.0.2.1', '--port', '0'],
    says: [/server\.host: expected an address of this machine/, /192\.0\.2\.1/],
  },
  {
    name: 'an invalid scenario',
    args: ['simulate', '--scenario', '++?'],
    says: [/--scenario: expected/, /\?/],
  },
  { name: 'a check without a target', args: ['check'], says: [/either --proxy URL or --upstream URL/] },
]
for (const { name, args, env, says } of wrong) {
  test(`exit code 2 and one readable message on standard error for ${name}`, async () => {
    const { code, stdout, stderr } = await run(args, env)
    assert.equal(code, 2)
    assert.equal(stdout.split('\n').filter(line => line.includes('"listening"')).length, 0)
    for (const pattern of says) assert.match(stderr, pattern)
    assert.doesNotMatch(stderr, /\n\s+at /, 'the message contains a stack trace')
  })
}

test('a port in use is reported with exit code 2, and nothing is left running', async t => {
  const port = await portInUse(t)
  const { simulator } = await simulate(t)
  const { code, stderr } = await run([
    'serve',
    '--upstream',
    simulator.url,
    '--host',
    '127.0.0.1',
    '--port',
    String(port),
  ])
  assert.equal(code, 2)
  assert.match(
    stderr,
    new RegExp(`server\\.port: expected a port that is not in use; given 127\\.0\\.0\\.1:${port}`),
  )
  const other = await run(['simulate', '--port', String(port)])
  assert.equal(other.code, 2)
  assert.match(
    other.stderr,
    new RegExp(`--port: expected a port that is not in use; given 127\\.0\\.0\\.1:${port}`),
  )
})

test('the effective configuration is printed without secrets', async t => {
  const file = temporaryFile(
    t,
    'config.yaml',
    'admin:\n  token: correct-horse-staple\nprobe:\n  periodMs: 700\n',
  )
  const { code, stdout } = await run([
    'serve',
    '--check-config',
    '--config',
    file,
    '--upstream',
    'http://user:battery@example.com/base',
  ])
  assert.equal(code, 0)
  assert.match(stdout, /periodMs: 700/)
  assert.match(stdout, /http:\/\/\*\*\*@example\.com\/base/)
  assert.doesNotMatch(stdout, /battery|correct-horse/)
})

test('the exit code of check reports the result', async t => {
  const { simulator } = await simulate(t)
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '100' },
  })
  const both = async () => {
    const codes = []
    for (const target of [
      ['--upstream', simulator.url],
      ['--proxy', proxy.url],
    ])
      codes.push((await run(['check', ...target])).code)
    return codes
  }
  assert.deepEqual(await both(), [0, 0])
  await simulator.setFiber('missing')
  await new Promise(resolve => setTimeout(resolve, 500))
  assert.deepEqual(await both(), [3, 3])
  const { stdout } = await run(['check', '--upstream', simulator.url, '--json'])
  assert.deepEqual(JSON.parse(stdout), {
    ready: false,
    state: 'waiting',
    message: 'waiting for fiber: missing prr',
    reason: 'waiting for fiber: missing prr',
    circuit: null,
    forMs: null,
    since: null,
    forecast: null,
  })
  await simulator.setFault('*', { kind: 'refuse' })
  assert.equal((await run(['check', '--upstream', simulator.url])).code, 4)
  await proxy.stop()
  const gone = await run(['check', '--proxy', proxy.url])
  assert.equal(gone.code, 5)
  assert.match(gone.stdout, /cannot be reached: connection refused/)
})

test('without a command and an upstream the demo starts, reports that, and exits with 0', async t => {
  const program = await startProgram(t, {
    command: process.execPath,
    args: [programMain, '--port', '0'],
    env: { PATH: process.env.PATH },
    readyWhen: line => /^(http:\/\/127\.0\.0\.1:\d+) is the proxy/.exec(line)?.[1],
  })
  const answer = await fetch(`${program.ready}/-/status`)
  assert.equal(at(await answer.json(), 'admits'), true)
  assert.match(program.lines().join('\n'), /starting the demo/)
  assert.equal(await program.stop(), 0)
})

test('simulate prints its URL, and exits with 0', async t => {
  const program = await startProgram(t, {
    command: process.execPath,
    args: [programMain, 'simulate', '--port', '0', '--scenario', '-'],
    readyWhen: line => /on (http:\/\/\S+)$/.exec(line)?.[1],
  })
  const answer = await fetch(`${program.ready}/live_metadata`)
  assert.equal(at(await answer.json(), 'prr'), 0)
  assert.equal(await program.stop(), 0)
})
