import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { parse } from 'yaml'
import {
  at,
  circuitIs,
  freePort,
  kernelAllowsOrSkip,
  repositoryRoot,
  requireOrSkip,
  testTools,
  until,
} from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { Page } from '../support/recipe-page.js'
import { simulate } from '../support/simulate.js'
import { bootMachine } from '../support/systemd.js'

const DEPLOY = join(repositoryRoot, 'deploy/systemd')
const CONFIGURATION = '/etc/focus-breaker/focus-breaker.yaml'
const DROP_INS = '/etc/systemd/system/focus-breaker.service.d'
/** The program starts in less than a second on an otherwise idle machine. */
const PATIENCE_MS = 60_000
const TOKEN = /^[0-9a-f]{64}$/

/** The parts of a machine with its own systemd. */
const OWN_MACHINE = ['a file system and control groups of its own'] as const

test('systemd rates the exposure of the unit as the page says', async t => {
  if (!requireOrSkip(t, 'systemd-analyze')) return
  const unit = join(DEPLOY, 'focus-breaker.service')
  const { stdout } = await promisify(execFile)('systemd-analyze', [
    'security',
    '--offline=true',
    '--no-pager',
    unit,
  ])
  const exposure = /Overall exposure level for focus-breaker\.service: (\d+\.\d+) /.exec(stdout)?.[1]
  assert.ok(Number(exposure) <= 1.1, stdout)
  assert.match(new Page('systemd.md').text, /rates the exposure as 1\.1\./)
})

test('the stop timeout of systemd is longer than the drain timeout of the proxy', () => {
  const unit = readFileSync(join(DEPLOY, 'focus-breaker.service'), 'utf8')
  const stopSeconds = Number(/^TimeoutStopSec=(\d+)s$/m.exec(unit)?.[1])
  const server = at(parse(readFileSync(join(repositoryRoot, 'config/default.yaml'), 'utf8')), 'server')
  const drainMs = Number(at(server, 'drainDelayMs')) + Number(at(server, 'drainTimeoutMs'))
  assert.ok(stopSeconds * 1000 >= drainMs + 5000)
})

test('the page installs a service that runs as an unprivileged user, with the admin token as a credential', async t => {
  if (!requireOrSkip(t, 'systemd', 'openssl')) return
  if (!kernelAllowsOrSkip(t, ...OWN_MACHINE)) return
  const page = new Page('systemd.md')
  const { machine, proxy } = await installed(t, page)
  const [withToken, privilegedPort] = [page.take('bash'), page.take('ini')]
  page.assertAllTaken()
  assert.equal((await machine.sure('systemctl is-enabled focus-breaker')).trim(), 'enabled')
  assert.equal(await machine.sure('systemd-analyze verify /etc/systemd/system/focus-breaker.service'), '')

  const status = await machine.sure(`cat /proc/${await machine.show('MainPID')}/status`)
  assert.doesNotMatch(status, /^Uid:\s+0\b/m)
  assert.match(status, /^CapBnd:\s+0+\nCapAmb:\s+0+\nNoNewPrivs:\s+1\nSeccomp:\s+2$/m)
  // Node reads it from /proc, where the service sees only itself.
  const metrics = await (await fetch(`${proxy.url}/-/metrics`)).text()
  for (const name of ['process_resident_memory_bytes', 'process_open_fds', 'process_start_time_seconds']) {
    assert.match(metrics, new RegExp(`^${name} [1-9]`, 'm'))
  }

  const override = (token: string) =>
    ask(`${proxy.url}/-/override`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${token.trim()}` },
      body: JSON.stringify({ state: 'open', reason: 'a recipe is tried out', forSeconds: 60 }),
    })
  assert.equal((await override('')).statusCode, 404)
  await machine.sure(withToken)
  await serves(proxy)
  const token = (await machine.sure('cat /etc/focus-breaker/admin-token')).trim()
  assert.match(token, TOKEN)
  assert.equal((await override(token)).statusCode, 200)
  // A copy of the file: a new token takes effect after a restart.
  const other = 'f'.repeat(64)
  await machine.write('/etc/focus-breaker/admin-token', other)
  await machine.sure('systemctl reload focus-breaker')
  await until(() => machine.logged('configuration was reloaded'))
  assert.equal((await override(other)).statusCode, 401)
  await machine.sure('systemctl restart focus-breaker')
  await serves(proxy)
  assert.equal((await override(other)).statusCode, 200)

  // A file that is followed, readable through its group.
  const group = 'SupplementaryGroups=adm\nEnvironment=FOCUS_BREAKER_ADMIN_TOKEN_FILE=/etc/focus-breaker/token'
  await machine.write('/etc/focus-breaker/token', token)
  await machine.sure('chgrp adm /etc/focus-breaker/token\nchmod 640 /etc/focus-breaker/token')
  await machine.write(`${DROP_INS}/group.conf`, `[Service]\n${group}\n`)
  await machine.sure('systemctl daemon-reload\nsystemctl restart focus-breaker')
  await serves(proxy)
  assert.equal((await override(token)).statusCode, 200)
  await machine.write('/etc/focus-breaker/token', other)
  await until(async () => (await override(other)).statusCode === 200, { timeoutMs: PATIENCE_MS })

  const port = await freePrivilegedPort()
  await machine.write(`${DROP_INS}/privileged-port.conf`, privilegedPort)
  await machine.sure(`sed -i 's/^  port: .*/  port: ${port}/' ${CONFIGURATION}`)
  await machine.sure('systemctl daemon-reload\nsystemctl restart focus-breaker')
  await serves({ url: `http://127.0.0.1:${port}` })
  assert.match(await machine.sure(`cat /proc/${await machine.show('MainPID')}/status`), /^CapEff:\s+0+400$/m)
})

test('a reload applies a new configuration, and keeps the old one if the new one is invalid', async t => {
  if (!requireOrSkip(t, 'systemd')) return
  if (!kernelAllowsOrSkip(t, ...OWN_MACHINE)) return
  const { machine, proxy, simulator } = await installed(t)
  const pid = await machine.show('MainPID')
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  await machine.sure(`printf 'guard: { statusCode: 429 }\\n' >> ${CONFIGURATION}`)
  await machine.sure('systemctl reload focus-breaker')
  await until(() => machine.logged('configuration was reloaded'))
  assert.equal((await configure(proxy)).statusCode, 429)

  await machine.sure(`sed -i 's/429/430/' ${CONFIGURATION}`)
  await machine.sure('systemctl reload focus-breaker')
  const faults = await until(() => machine.logged('configuration was not reloaded: it is invalid'))
  assert.match(JSON.stringify(faults), /guard\.statusCode/)
  assert.equal((await configure(proxy)).statusCode, 429)
  assert.equal(await machine.show('ActiveState'), 'active')
  assert.equal(await machine.show('MainPID'), pid)
})

test('a stop finishes the requests in flight, and the history survives a restart and a crash', async t => {
  if (!requireOrSkip(t, 'systemd')) return
  if (!kernelAllowsOrSkip(t, ...OWN_MACHINE)) return
  const { machine, proxy, simulator } = await installed(t)
  await circuitIs(proxy, 'closed')
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  assert.equal((await configure(proxy)).statusCode, 503)
  const [outage] = await outagesOf(proxy)

  await simulator.setFault('GET /channels', { kind: 'slow', delayMs: 1000 })
  const slow = ask(`${proxy.url}/channels`)
  await until(() => simulator.counters.byRoute['GET /channels'] === 1)
  await machine.sure('systemctl stop focus-breaker')
  assert.equal((await slow).statusCode, 200)
  assert.deepEqual(
    [await machine.show('ActiveState'), await machine.show('Result'), await machine.show('ExecMainStatus')],
    ['inactive', 'success', '0'],
  )
  assert.match(await machine.sure('stat -L -c "%A" /var/lib/focus-breaker'), /^drwx------/)

  await machine.sure('systemctl start focus-breaker')
  await serves(proxy)
  await machine.sure('kill -KILL "$(systemctl show --property=MainPID --value focus-breaker)"')
  await until(async () => (await machine.show('NRestarts')) === '1', {
    what: 'systemd starts it again',
    timeoutMs: PATIENCE_MS,
  })
  await serves(proxy)
  const [resumed, ...others] = await outagesOf(proxy)
  assert.deepEqual(others, [])
  assert.equal(at(resumed, 'startedAt'), at(outage, 'startedAt'))
  assert.deepEqual([at(resumed, 'refused'), at(resumed, 'restarts')], [1, 2])
})

test('a port in use or an invalid configuration leaves the service failed, while a check before the start would loop', async t => {
  if (!requireOrSkip(t, 'systemd')) return
  if (!kernelAllowsOrSkip(t, ...OWN_MACHINE)) return
  const { machine, proxy } = await installed(t)
  await machine.sure('systemctl stop focus-breaker')
  const other = createServer().listen(Number(new URL(proxy.url).port), '127.0.0.1')
  await once(other, 'listening')
  t.after(() => other.close())
  await machine.run('systemctl start focus-breaker')
  await until(async () => (await machine.show('ActiveState')) === 'failed', { timeoutMs: PATIENCE_MS })
  assert.equal(await machine.show('ExecMainStatus'), '2')
  assert.match((await machine.journal()).join('\n'), /server\.port: .* which is in use/)
  other.close()

  await machine.sure(`printf 'guard: { statusCode: 430 }\\n' >> ${CONFIGURATION}`)
  await machine.run('systemctl restart focus-breaker')
  await until(async () => (await machine.show('ActiveState')) === 'failed', { timeoutMs: PATIENCE_MS })
  assert.equal(await machine.show('ExecMainStatus'), '2')
  assert.match((await machine.journal()).join('\n'), /guard\.statusCode/)
  assert.equal(await machine.show('SubState'), 'failed')

  const check = `ExecStartPre=focus-breaker serve --check-config --config ${CONFIGURATION}`
  await machine.write(`${DROP_INS}/check.conf`, `[Service]\n${check}\nRestartSec=100ms\n`)
  await machine.sure('systemctl daemon-reload')
  await machine.run('systemctl start focus-breaker')
  await until(async () => Number(await machine.show('NRestarts')) >= 2, {
    what: 'systemd restarts it in a loop',
    timeoutMs: PATIENCE_MS,
  })
  await machine.sure('systemctl stop focus-breaker')
})

test('no supported Node version makes a system call that the filter forbids, and none runs without executable memory', async t => {
  if (!requireOrSkip(t, 'systemd', 'node20', 'node22', 'node24')) return
  if (!kernelAllowsOrSkip(t, ...OWN_MACHINE)) return
  for (const name of ['node20', 'node22', 'node24'] as const) {
    const { machine, proxy, simulator } = await installed(t, new Page('systemd.md'), testTools[name])
    // Without an errno the system call would end the process.
    await machine.write(`${DROP_INS}/kill.conf`, '[Service]\nSystemCallErrorNumber=kill\n')
    await machine.sure('systemctl daemon-reload\nsystemctl restart focus-breaker')
    await circuitIs(proxy, 'closed')
    await Promise.all(Array.from({ length: 200 }, () => configure(proxy)))
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    await Promise.all(Array.from({ length: 200 }, () => configure(proxy)))
    for (const path of ['/channels', '/-/status', '/-/metrics', '/-/report?days=1', '/-/']) {
      assert.equal((await ask(proxy.url + path)).statusCode, 200, path)
    }
    await machine.sure('systemctl reload focus-breaker')
    await until(() => machine.logged('configuration was reloaded'))
    await machine.sure('systemctl stop focus-breaker')
    assert.equal(await machine.show('Result'), 'success', (await machine.journal()).join('\n'))

    await machine.write(`${DROP_INS}/memory.conf`, '[Service]\nMemoryDenyWriteExecute=yes\n')
    await machine.sure('systemctl daemon-reload')
    await machine.run('systemctl start focus-breaker')
    await until(async () => /^(signal|core-dump|exit-code)$/.test(await machine.show('Result')), {
      what: `${name} ends without executable memory`,
      timeoutMs: PATIENCE_MS,
    })
    await machine.sure('systemctl stop focus-breaker')
  }
})

/** A machine on which the page's commands have installed the service, in front of a simulated focus-server. */
async function installed(t: TestContext, page = new Page('systemd.md'), node = process.execPath) {
  const { simulator } = await simulate(t)
  const machine = await bootMachine(t, node)
  const port = await freePort()
  // The test is root already, and has installed the package.
  await machine.write('/usr/local/bin/sudo', '#!/bin/sh\nexec "$@"\n')
  await machine.write('/usr/local/bin/npm', '#!/bin/sh\nprintf "%s\\n" "$*"\n')
  await machine.sure('chmod +x /usr/local/bin/sudo /usr/local/bin/npm')
  const { version } = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))
  const copied = await machine.sure(page.take('bash'))
  assert.equal(copied, `install --global ./focus-breaker-${version}.tgz\n`)
  const text = await machine.sure(`cat ${CONFIGURATION}`)
  const real = text.replace('port: 8080', `port: ${port}`).replace('http://192.0.2.10:5000', simulator.url)
  await machine.write(CONFIGURATION, `${real}probe: { periodMs: 100 }\n`)
  assert.match(await machine.sure(page.take('bash')), new RegExp(`^  port: ${port}\\b`, 'm'))
  assert.equal(await machine.show('ActiveState'), 'active')
  const proxy = { url: `http://127.0.0.1:${port}` }
  await serves(proxy)
  return { machine, proxy, simulator }
}

/** Waits until the proxy has its first reading. */
async function serves(proxy: { readonly url: string }): Promise<void> {
  await until(async () => (await fetch(`${proxy.url}/-/ready`)).ok, {
    what: 'the service is ready',
    timeoutMs: PATIENCE_MS,
  })
}

async function outagesOf(proxy: { readonly url: string }): Promise<readonly unknown[]> {
  const outages = at((await ask(`${proxy.url}/-/outages`)).json, 'outages')
  assert.ok(Array.isArray(outages))
  return outages
}

/** A port of loopback below 1024 on which nothing listens. */
async function freePrivilegedPort(): Promise<number> {
  for (let port = 1023; port > 600; port -= 1) {
    const server = createServer()
    const isFree = await new Promise(resolve => {
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
    })
    if (isFree === true) return port
  }
  assert.fail('no port below 1024 is free')
}
