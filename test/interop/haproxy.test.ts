import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePort, repositoryRoot, requireOrSkip, startProgram, until } from '../support/harness.js'
import { live, simulate } from '../support/simulate.js'

test('the HAProxy lines of the README do what it says', async t => {
  if (!requireOrSkip(t, 'haproxy')) return
  const { simulator } = await simulate(t)
  const port = await freePort()
  const readme = readFileSync(join(repositoryRoot, 'README.md'), 'utf8')
  const lines = /```haproxy\n([\s\S]*?)```/.exec(readme)?.[1]
  assert.ok(lines !== undefined)
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'haproxy.cfg')
  writeFileSync(
    file,
    lines
      .replaceAll('127.0.0.1:5000', `127.0.0.1:${simulator.port}`)
      .replace('127.0.0.1:8080', `127.0.0.1:${port}`)
      .replace('inter 2s', 'inter 100ms'),
  )
  // HAProxy prints nothing when it is ready; because of -V it prints this line at once.
  await startProgram(t, {
    command: '/usr/sbin/haproxy',
    args: ['-db', '-V', '-f', file],
    readyWhen: line => (/Available polling systems|Using \w+ as the polling/.test(line) ? true : undefined),
  })
  const configure = async (path: string) => {
    const url = `http://127.0.0.1:${port}${path}`
    const answer = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(live),
    })
    return { status: answer.status, text: await answer.text() }
  }
  await until(async () => (await configure('/configure')).status === 200)
  await simulator.setFiber('missing')
  await until(async () => (await configure('/configure')).text === '{"error":"waiting for fiber"}')
  simulator.resetCounters()
  assert.equal((await configure('/configure')).status, 503)
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
  await configure('/%63onfigure')
  assert.equal(simulator.counters.byRoute['POST /configure'], 1, 'it does not recognise another spelling')
  assert.equal((await fetch(`http://127.0.0.1:${port}/channels`)).status, 200)
  await simulator.setFiber('present')
  await until(async () => (await configure('/configure')).status === 200)
})
