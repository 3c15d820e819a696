import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { freePort, repositoryRoot, requireOrSkip, until } from '../support/harness.js'
import { directoryFor, endOf, spawnFor, unshareOrSkip } from '../support/outputs.js'
import { selfSigned } from '../support/self-signed.js'

const main = join(repositoryRoot, 'dist/cli/main.js')
const healthcheck = join(repositoryRoot, 'dist/cli/healthcheck.js')
const CONTAINER = ['-r', '--pid', '--fork', '--kill-child', '--mount-proc']
const UPSTREAM = ['--upstream', 'http://127.0.0.1:1', '--host', '127.0.0.1']

/** Runs the proxy as the first process of a container. Returns a function that runs the health check in it. */
async function contain(
  t: TestContext,
  words: readonly string[],
  env: Readonly<Record<string, string>> = {},
  init: readonly string[] = [],
) {
  const child = spawnFor(
    t,
    ['unshare', ...CONTAINER, ...init, process.execPath, main, 'serve', ...words],
    ['ignore', 'pipe', 'inherit'],
    env,
  )
  const ended = endOf(child)
  let log = ''
  child.stdout?.on('data', chunk => {
    log += chunk
  })
  await until(() => log.includes('"listening"'), { timeoutMs: 30_000 })
  const pid = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim()
  const check = async () => {
    const inside = ['nsenter', '-t', pid, '-U', '--preserve-credentials', '-p', '-m']
    const checking = spawnFor(t, [...inside, process.execPath, healthcheck], ['ignore', 'pipe', 'inherit'])
    let output = ''
    checking.stdout?.on('data', chunk => {
      output += chunk
    })
    const [code] = await once(checking, 'close')
    return { code, output }
  }
  return { pid: Number(pid), ended, check, log: () => log }
}

test('the health check finds the proxy, however its address is configured', async t => {
  if (!requireOrSkip(t, 'openssl') || !unshareOrSkip(t, ...CONTAINER, 'true')) return
  const file = join(directoryFor(t), 'focus-breaker.yaml')
  const port = await freePort()
  writeFileSync(
    file,
    `{ upstream: { url: "http://127.0.0.1:1" }, server: { host: 127.0.0.1, port: ${port} } }`,
  )
  const { certFile, keyFile } = selfSigned(t)
  const tls = { FOCUS_BREAKER_SERVER_TLS_CERT_FILE: certFile, FOCUS_BREAKER_SERVER_TLS_KEY_FILE: keyFile }
  const clientCa = { ...tls, FOCUS_BREAKER_SERVER_TLS_CLIENT_CA_FILE: certFile }
  for (const [words, env, says] of [
    [['--config', file], {}, /^http:.* responded with 200$/m],
    [[...UPSTREAM, '--port', '0'], {}, /^http:.* responded with 200$/m],
    [[...UPSTREAM, '--port', '0'], tls, /^https:.* responded with 200$/m],
    [[...UPSTREAM, '--port', '0'], clientCa, /client certificate.*set server\.healthPort/],
    [
      [...UPSTREAM, '--port', '0'],
      { ...clientCa, FOCUS_BREAKER_SERVER_HEALTH_PORT: '0' },
      /^http:.* responded with 200$/m,
    ],
  ] as const) {
    const { check } = await contain(t, words, env)
    const { code, output } = await check()
    assert.match(output, says)
    assert.equal(code, 0)
  }
})

test('the health check finds the proxy behind an init process with the same command line', async t => {
  if (!unshareOrSkip(t, ...CONTAINER, 'true')) return
  const { check } = await contain(t, [...UPSTREAM, '--port', '0'], {}, ['timeout', '600'])
  const { code, output } = await check()
  assert.match(output, /^http:.* responded with 200$/m)
  assert.equal(code, 0)
})

test('server.healthPort responds while clients use every connection, and the health check succeeds', async t => {
  if (!unshareOrSkip(t, ...CONTAINER, 'true')) return
  const [port, healthPort] = [await freePort(), await freePort()]
  const { check } = await contain(t, [...UPSTREAM, '--port', String(port)], {
    FOCUS_BREAKER_SERVER_MAX_CONNECTIONS: '1',
    FOCUS_BREAKER_SERVER_HEALTH_PORT: String(healthPort),
  })
  const held = connect(port, '127.0.0.1')
  t.after(() => held.destroy())
  await once(held, 'connect')
  await until(() =>
    fetch(`http://127.0.0.1:${port}/-/live`, { signal: AbortSignal.timeout(1000) }).then(
      () => false,
      () => true,
    ),
  )
  const ask = (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${healthPort}${path}`, init)
  assert.deepEqual(await (await ask('/-/live')).json(), { status: 'ok' })
  assert.equal((await ask('/-/ready')).status, 200)
  assert.match(await (await ask('/-/metrics')).text(), /^focus_breaker_circuit_state/m)
  for (const path of ['/-/status', '/', '/channels', '/-/override', '/-/live/']) {
    assert.equal((await ask(path)).status, 404, path)
  }
  assert.equal((await ask('/-/live', { method: 'POST' })).status, 405)
  assert.equal((await check()).code, 0)
})

test('a health port that equals the server port, or is in use, gives one readable message', async t => {
  const port = String(await freePort())
  const taken = spawnFor(
    t,
    [process.execPath, main, 'simulate', '--port', port],
    ['ignore', 'ignore', 'inherit'],
  )
  await until(async () => (await fetch(`http://127.0.0.1:${port}/live_metadata`)).status === 200)
  for (const [server, expected] of [
    [port, /server\.healthPort.*a port other than server\.port/s],
    ['0', /server\.healthPort.*which is in use/s],
  ] as const) {
    const child = spawnFor(
      t,
      [process.execPath, main, 'serve', ...UPSTREAM, '--port', server],
      ['ignore', 'ignore', 'pipe'],
      { FOCUS_BREAKER_SERVER_HEALTH_PORT: port },
    )
    let output = ''
    child.stderr?.on('data', chunk => {
      output += chunk
    })
    const [code] = await once(child, 'close')
    assert.equal(code, 2)
    assert.match(output, expected)
  }
  taken.kill('SIGTERM')
})
