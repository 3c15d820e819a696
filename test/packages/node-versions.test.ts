import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { Agent } from 'undici'
import { at, repositoryRoot, requireOrSkip, startProgram, testTools, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { installedProgram } from '../support/packed-program.js'
import { selfSigned } from '../support/self-signed.js'

/** Each supported version of Node, and flags that make it warn of deprecated features. */
const VERSIONS = ['node20', 'node22', 'node24'] as const
const WARN = ['--pending-deprecation', '--trace-warnings']

const engines = String(
  at(JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')), 'engines', 'node'),
)

test('package.json names the oldest version of Node that is tested', t => {
  if (!requireOrSkip(t, 'node20')) return
  const oldest = spawnSync(testTools.node20, ['--version'], { encoding: 'utf8' }).stdout.trim()
  assert.match(oldest, /^v20\.19\.\d+$/)
  assert.equal(engines, '>=20.19.0')
})

test('the installed program runs through an outage with each version of Node, without a warning', async t => {
  if (!requireOrSkip(t, 'openssl', ...VERSIONS)) return
  const folder = await installedProgram(t)
  const main = join(folder, 'node_modules/focus-breaker/dist/cli/main.js')
  const certificate = selfSigned(t)
  await Promise.all(
    VERSIONS.map(version =>
      t.test(version, each => runsThrough(each, testTools[version], main, certificate)),
    ),
  )
})

async function runsThrough(
  t: TestContext,
  node: string,
  main: string,
  { certFile, keyFile, pem }: ReturnType<typeof selfSigned>,
): Promise<void> {
  const start = (words: readonly string[], ready: RegExp, env: Readonly<Record<string, string>> = {}) =>
    startProgram(t, {
      command: node,
      args: [...WARN, main, ...words],
      env: { PATH: process.env.PATH, ...env },
      readyWhen: line => ready.exec(line)?.[1],
    })
  const simulator = await start(['simulate', '--port', '0'], /focus-server on (http\S+)/)
  const env = {
    ...FAST,
    FOCUS_BREAKER_UPSTREAM_URL: simulator.ready,
    FOCUS_BREAKER_SERVER_TLS_CERT_FILE: certFile,
    FOCUS_BREAKER_SERVER_TLS_KEY_FILE: keyFile,
  }
  const run = (...words: string[]) =>
    spawnSync(node, [...WARN, main, ...words], { encoding: 'utf8', env: { PATH: process.env.PATH, ...env } })

  const checked = run('serve', '--check-config')
  assert.deepEqual([checked.status, checked.stderr], [0, ''])
  assert.match(checked.stdout, /periodMs: 100\b/)

  const proxy = await start(
    ['serve', '--host', '127.0.0.1', '--port', '0'],
    /"url":"(https[^"]+)".*"msg":"listening"/,
    env,
  )
  const url = proxy.ready
  const dispatcher = new Agent({ connect: { ca: pem.cert, servername: 'localhost' } })
  t.after(() => dispatcher.close())
  const status = async () => (await ask(`${url}/-/status`, { dispatcher })).json
  const circuit = (state: string) =>
    until(async () => at(await status(), 'circuit', 'state') === state, {
      what: `the circuit is ${state}`,
      timeoutMs: 60_000,
    })
  const setFiber = (state: string) =>
    ask(`${simulator.ready}/_simulator/fiber`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ state }),
    })

  await circuit('closed')
  assert.equal((await configure({ url }, { dispatcher })).statusCode, 200)
  await setFiber('missing')
  await circuit('open')
  const refused = await configure({ url }, { dispatcher })
  assert.equal(refused.statusCode, 503)
  assert.equal(at(refused.json, 'status'), 'waiting_for_fiber')
  const page = await ask(`${url}/-/`, { dispatcher })
  assert.equal(page.statusCode, 200)
  const [, script = ''] = /<script[^>]* src="([^"]+)"/.exec(page.bytes.toString()) ?? []
  assert.equal((await ask(new URL(script, `${url}/-/`).href, { dispatcher })).statusCode, 200, script)
  await setFiber('present')
  await circuit('closed')
  assert.equal((await configure({ url }, { dispatcher })).statusCode, 200)

  const asked = run('check', '--upstream', simulator.ready)
  assert.deepEqual([asked.status, asked.stderr], [0, ''])
  for (const program of [proxy, simulator]) {
    assert.equal(await program.stop(), 0)
    assert.deepEqual(program.errorLines(), [])
  }
  assert.deepEqual(
    proxy.lines().filter(line => line.includes('Warning')),
    [],
  )
}
