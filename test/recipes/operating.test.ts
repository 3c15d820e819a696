import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse } from 'yaml'
import { at, circuitIs, repositoryRoot, startProgram, statusOf, until } from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { requireOrSkip } from '../support/python.js'
import { assertOutput, Page } from '../support/recipe-page.js'
import { assertEnded, startLab, Workshop } from '../support/workshop.js'

/** The token of the demo, with which the README and the tutorial set an override. */
const TOKEN = 'focus-breaker-demo'
/** The exit code of `check` while jobs are refused. */
const WAITING = 3
const WITH_TOKEN = { FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }

test('a manual override is set, shown and removed', async t => {
  const page = new Page('manual-override.md')
  const { lab, workshop } = await start(t, { fiber: 'present' })
  assert.deepEqual(Object.keys(parse(page.take('focus-breaker.yaml'))), ['admin'])
  const tokenFile = join(workshop.directory, 'admin-token')
  const makeToken = page.take('bash').replace('/etc/focus-breaker/admin-token', tokenFile)
  assertEnded(await workshop.run(makeToken), 0)
  assert.match(readFileSync(tokenFile, 'utf8'), /^\w{64}\n$/)

  const [set, show, remove] = [page.take('bash'), page.take('bash'), page.take('bash')]
  const whenSet = await workshop.run(set, { TOKEN })
  assertEnded(whenSet, 0)
  assert.equal(at(JSON.parse(whenSet.output), 'reason'), 'fiber work until four')
  const refused = await configure(lab.proxy)
  assert.equal(at(refused.json, 'status'), 'forced_open')
  assertEnded(await workshop.run(remove, { TOKEN }), 0)
  assert.equal((await configure(lab.proxy)).statusCode, 200)
  const shown: unknown = JSON.parse((await workshop.run(show)).output)
  assert.deepEqual([at(shown, 'override'), at(shown, 'history', 0, 'end')], [null, 'removed'])

  // The line for Windows, with the body of the bash command in the file that it names.
  const windows = page.take('powershell').replace('curl.exe', 'curl').replace('YOUR-TOKEN', TOKEN)
  workshop.write('override.json', /-d '(.+)'/.exec(set)?.[1] ?? '')
  const again = await workshop.run(windows)
  assertEnded(again, 0)
  assert.match(again.output, /"reason":"fiber work until four"/)

  const declared: unknown = parse(page.take('override.yaml'))
  assert.deepEqual(Object.keys(Object(declared)), ['state', 'reason', 'until'])
  page.assertAllTaken()
})

test('a planned maintenance refuses without an alert, and ends early', async t => {
  const page = new Page('maintenance.md')
  const { lab, workshop } = await start(t, { fiber: 'present' })
  assertEnded(await workshop.run(page.take('bash'), { TOKEN }), 0)
  assert.equal(at(await statusOf(lab.proxy), 'override', 'silent'), true)
  assert.equal((await configure(lab.proxy)).statusCode, 503)
  assertEnded(await workshop.run(page.take('bash'), { TOKEN }), 0)
  assert.equal((await configure(lab.proxy)).statusCode, 200)
  page.assertAllTaken()
})

test('observe mode forwards, marks and counts what it would have refused', async t => {
  const page = new Page('observe-mode.md')
  const mode = String(at(parse(page.take('focus-breaker.yaml')), 'guard', 'mode'))
  const { lab, workshop } = await start(t, { fiber: 'missing', env: { FOCUS_BREAKER_GUARD_MODE: mode } })
  const marked = await workshop.run(page.take('bash'))
  assertEnded(marked, 0)
  assertOutput(marked.output.replaceAll('\r', ''), page.take('text'))
  const status = await workshop.run(page.take('bash'))
  assert.equal(at(JSON.parse(status.output), 'totals', 'wouldRefuse'), 1)
  assert.equal(lab.simulator.counters.rejectedForFiber, 1)
  page.assertAllTaken()
})

test('Prometheus finds the metrics where its configuration says', async t => {
  const page = new Page('prometheus.md')
  const { lab, workshop } = await start(t, { fiber: 'present' })
  const job: unknown = at(parse(page.take('prometheus.yml')), 'scrape_configs', 0)
  assert.equal((await ask(`${lab.proxy.url}${String(at(job, 'metrics_path'))}`)).statusCode, 200)
  const shown = await workshop.run(page.take('bash'))
  assertOutput(shown.output, page.take('text'))
  page.assertAllTaken()
})

test('the configuration of the notifications is valid', async t => {
  const page = new Page('notifications.md')
  const workshop = new Workshop(t, {})
  const secret = join(workshop.directory, 'webhook')
  writeFileSync(secret, 'a secret of more than 16 characters\n')
  const file = join(workshop.directory, 'focus-breaker.yaml')
  writeFileSync(file, page.take('focus-breaker.yaml').replace('/run/secrets/webhook', secret))
  const checked = await workshop.run(
    `focus-breaker serve --upstream http://192.0.2.1:5000 --check-config --config '${file}'`,
  )
  assertEnded(checked, 0)
  page.assertAllTaken()
})

test('the commands of the README work, and print what it shows', async t => {
  const page = new Page('../../README.md')
  const [, refusal, channels, skipped] = Array.from({ length: 4 }, () => page.take('text'))
  const { lab, workshop } = await start(t, { fiber: 'present' })
  await lab.simulator.setFiber('missing')
  await circuitIs(lab.proxy, 'open')
  const shows = async (shown: string | undefined) => {
    const ran = await workshop.run(page.take('bash'))
    assertEnded(ran, 0)
    assertOutput(ran.output.replaceAll('\r', ''), shown ?? '', { anyNumber: true })
  }
  await shows(refusal)
  await shows(channels)
  const pytest = page.take('bash')
  const override = await workshop.run(page.take('bash'))
  assertEnded(override, 0)
  assert.match(override.output, /"reason":"trying the override"/)
  page.take('haproxy')

  // The file as it is, and with the comment marks removed from each option; its paths are replaced with existing ones.
  const configuration = page.take('focus-breaker.yaml')
  mkdirSync(join(workshop.directory, 'kept'))
  writeFileSync(
    join(workshop.directory, 'kept/admin-token'),
    'a token of more than 16 characters\n'.replaceAll(' ', '-'),
  )
  const whole = configuration
    .replaceAll(/^# (\w+: )/gm, '$1')
    .replace('/var/lib/focus-breaker', join(workshop.directory, 'kept'))
    .replace('/etc/focus-breaker', join(workshop.directory, 'kept'))
    .replace(/^focus-breaker\.yaml$/m, '')
  assert.match(whole, /^basePath: [\s\S]*^history: [\s\S]*^admin: /m)
  for (const text of [configuration, whole]) {
    writeFileSync(join(workshop.directory, 'focus-breaker.yaml'), text)
    assertEnded(await workshop.run('focus-breaker serve --check-config --config focus-breaker.yaml'), 0)
  }
  page.assertAllTaken()

  if (!requireOrSkip(t, 'pytest')) return
  const ran = await workshop.run(pytest)
  assertEnded(ran, 0)
  assertOutput(ran.output, (skipped ?? '').replace('http://127.0.0.1:8080', '…'))
})

test('the tutorial works as typed, and prints what it shows', async t => {
  if (!requireOrSkip(t, 'pytest')) return
  const page = new Page('../tutorial.md')
  // Its first outage starts after half a minute; meanwhile the rest of the tutorial runs.
  const demo = await startProgram(t, {
    command: process.execPath,
    args: [join(repositoryRoot, 'dist/cli/main.js'), 'demo', '--port', '0'],
    readyWhen: line => (line.startsWith('Press Ctrl+C') ? true : undefined),
  })
  const { lab, workshop } = await start(t, { fiber: 'present' })
  await lab.simulator.setFiber('missing')
  await circuitIs(lab.proxy, 'open')
  // `e2e/npm-start` starts the demo.
  assert.equal(page.take('bash'), 'npm ci\nnpm start\n')
  const shownOfDemo = `${page.take('text')}${page.take('text')}`.trim().split('\n')
  assert.equal(shownOfDemo.length, 3)
  const commands: string[] = []
  const shows = async (code = 0, before = '') => {
    const script = page.take('bash')
    commands.push(script)
    const ran = await workshop.run(`${before}${script}`)
    assertEnded(ran, code)
    assertOutput(ran.output.replaceAll('\r', ''), page.take('text'), {
      anyNumber: true,
    })
  }
  await shows()
  await shows()
  await shows()
  await shows()
  assert.match(page.take('powershell'), /^\$env:PYTHONPATH = 'clients\/python\/src'\n$/)
  assert.equal(page.take('bat'), 'set PYTHONPATH=clients/python/src\n')
  const wait = page.take('bash')
  const waiting = workshop.start(wait, {}, line => {
    if (line.startsWith('waiting')) void lab.simulator.setFiber('present')
  })
  commands.push(wait)
  const waited = await waiting.ended
  assertEnded(waited, 0)
  assertOutput(waited.output, page.take('text'))
  await circuitIs(lab.proxy, 'closed')
  await shows(0, 'export PYTHONPATH=clients/python/src\n')
  await shows()
  await shows(WAITING)
  assert.equal((await configure(lab.proxy)).statusCode, 503)
  assertEnded(await workshop.run(page.take('bash')), 0)
  assert.equal((await configure(lab.proxy)).statusCode, 200)
  await shows()
  page.assertAllTaken()
  for (const line of shownOfDemo) {
    await until(() => demo.lines().some(printed => samplePattern(line).test(printed)), {
      what: `the demo prints: ${line}`,
      timeoutMs: 60_000,
    })
  }
  // The commands also work in cmd and PowerShell: no single quotes, and no syntax of bash only.
  for (const command of commands) assert.doesNotMatch(command, /'|&&|\\$/m)
})

/** A line that the demo prints, with any numbers and any date. */
function samplePattern(line: string): RegExp {
  const escaped = line.trim().replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const anyDate = escaped.replace('\\[…\\]', '\\[[^\\]]+\\]')
  return new RegExp(`^\\s*${anyDate.replaceAll(/\d+/g, '\\d+').replace('requests', 'requests?')}$`)
}

/** A lab that accepts the demo's token, and a workshop in which the addresses in the documents lead to it. */
async function start(
  t: TestContext,
  options: { readonly fiber: 'present' | 'missing'; readonly env?: Readonly<Record<string, string>> },
) {
  const lab = await startLab(t, { fiber: options.fiber, env: { ...WITH_TOKEN, ...options.env } })
  const workshop = new Workshop(t, { ...lab.examples, 'http://127.0.0.1:8080': lab.proxy.url })
  workshop.copy('clients/python/src')
  for (const name of ['pytest.ini', 'test_focus_server.py']) {
    const path = `examples/pytest/${name}`
    workshop.write(path, readFileSync(join(repositoryRoot, path), 'utf8'))
  }
  // The documents run the built program by its path.
  workshop.install('node', `shift\nexec focus-breaker "$@"`)
  await until(async () => at(await statusOf(lab.proxy), 'reading', 'kind') !== undefined)
  return { lab, workshop }
}
