import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, repositoryRoot, statusOf } from '../support/harness.js'
import { installClients, requireOrSkip } from '../support/python.js'
import { assertOutput, Page, substitute } from '../support/recipe-page.js'
import { live } from '../support/simulate.js'
import { assertEnded, copySuite, startLab, Workshop } from '../support/workshop.js'

const debian = ['pytest', 'requests', 'pip', 'setuptools', 'wheel'] as const

describe('recipes for Python', { concurrency: 2 }, () => {
  test('pytest with the plugin', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const page = new Page('pytest-plugin.md')
    const env = { PYTHONPATH: installClients() }
    const lab = await startLab(t)
    const workshop = new Workshop(t, lab.examples)
    copySuite(workshop)
    workshop.write('pytest.ini', page.take('pytest.ini'))
    const script = page.take('bash')
    const suite = { ...env, FOCUS_SERVER_URL: lab.baseUrl }
    const whole = await workshop.run(script, suite)
    assertEnded(whole, 0)
    assert.match(whole.output, /^=+ 40 passed in /m)

    await lab.simulator.setFiber('missing')
    await circuitIs(lab.proxy, 'open')
    const refusedBefore = await refused(lab)
    const ran = await workshop.run(script, suite)
    assertEnded(ran, 0)
    assertOutput(ran.output, substitute(page.take('text'), lab.examples))
    assert.equal(await refused(lab), refusedBefore, 'a test has sent a configure')
    assert.match(page.text, /`pytest --focus-breaker-all-skipped=exit9`/)
    assertEnded(await workshop.run('pytest --focus-breaker-all-skipped=exit9 -m needs_fiber', suite), 9)
    page.assertAllTaken()
  })

  test('pytest with a conftest', async t => {
    if (!requireOrSkip(t, 'pytest', 'requests')) return
    const page = new Page('pytest-conftest.md')
    const lab = await startLab(t)
    const workshop = new Workshop(t, lab.examples)
    copySuite(workshop)
    workshop.write('pytest.ini', '[pytest]\naddopts = --strict-markers\n')
    const conftest = join(repositoryRoot, 'test/clients/suite/conftest.py')
    workshop.write('conftest.py', `${readFileSync(conftest, 'utf8')}\n\n${page.take('conftest.py')}`)
    const script = page.take('bash')
    const suite = { FOCUS_SERVER_URL: lab.baseUrl }
    const whole = await workshop.run(script, suite)
    assertEnded(whole, 0)
    // The sample suite has one test that only its marker names, and the load test has readers, which need no fiber.
    assert.match(whole.output, /^=+ 40 passed in /m)

    await lab.simulator.setFiber('missing')
    await circuitIs(lab.proxy, 'open')
    const ran = await workshop.run(script, suite)
    assertEnded(ran, 0)
    assertOutput(ran.output, page.take('text'))

    // As the notes of the page say: a missing proxy, or another server in its place, is an error.
    for (const url of ['http://127.0.0.1:9', lab.simulator.url]) {
      const lost = await workshop.run(`${script.trim()} -k test_marked_by_hand`, {
        ...suite,
        FOCUS_BREAKER_URL: url,
      })
      assertEnded(lost, 1)
      assert.match(lost.output, /^=+ 39 deselected, 1 error in /m, lost.output)
    }
    page.assertAllTaken()
  })

  test('requests without any change, and with a small one', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const page = new Page('requests.md')
    const env = { PYTHONPATH: installClients() }
    const program = page.take('start_job.py')
    const script = page.take('bash')
    const inOutage = async (t: TestContext, text: string, args: readonly string[] = []) => {
      const lab = await startLab(t, { fiber: 'missing', args })
      const workshop = new Workshop(t, lab.examples)
      workshop.write('start_job.py', text)
      const ran = await workshop.run(script, env)
      assertEnded(ran, 0)
      assertOutput(ran.output, page.take('text'))
      assert.equal(lab.simulator.counters.byRoute['POST /configure'], undefined)
      return { lab, workshop, requests: await refused(lab) }
    }
    const unchanged = await inOutage(t, program)
    assert.equal(unchanged.requests, 4)
    await unchanged.lab.simulator.setFiber('present')
    await circuitIs(unchanged.lab.proxy, 'closed')
    assert.match((await unchanged.workshop.run(script, env)).output, /^200 \{.*"job_id"/)

    unchanged.workshop.write('focus-breaker.yaml', page.take('focus-breaker.yaml'))
    const file = join(unchanged.workshop.directory, 'focus-breaker.yaml')
    assert.equal((await inOutage(t, program, ['--config', file])).requests, 1)

    const importLine = 'from urllib3.util.retry import Retry\n'
    assert.ok(program.includes(importLine))
    assert.equal((await inOutage(t, program.replace(importLine, page.take('python')))).requests, 1)
    page.assertAllTaken()
  })

  test('what can I run now', async t => {
    if (!requireOrSkip(t, ...debian)) return
    const page = new Page('read-only.md')
    const env = { PYTHONPATH: installClients() }
    const lab = await startLab(t, { fiber: 'missing' })
    const workshop = new Workshop(t, lab.examples)
    copySuite(workshop)
    const suite = { ...env, FOCUS_SERVER_URL: lab.baseUrl }
    const ran = await workshop.run(page.take('bash'), suite)
    assertEnded(ran, 0)
    assertOutput(ran.output, page.take('text'))
    const collected = await workshop.run(page.take('bash'), suite)
    assertEnded(collected, 0)
    assert.match(collected.output, /^test_1_read_only\.py::test_ack_is_empty$/m)
    assert.doesNotMatch(collected.output, /configure/)

    const rows = [...page.text.matchAll(/^\| `(GET|POST) (\S+)` \| (\d{3}) \|/gm)]
    assert.equal(rows.length, 9)
    for (const [, method = '', path, status] of rows) {
      const body = path === '/configure' ? live : { start_time: 1, end_time: 2_000_000_000 }
      const response = await fetch(`${lab.baseUrl}${path}`, {
        method,
        headers: { 'content-type': 'application/json' },
        ...(method === 'POST' ? { body: JSON.stringify(body) } : {}),
      })
      const text = await response.text()
      assert.equal(response.status, Number(status), `${method} ${path}: ${text}`)
      if (path === '/live_metadata') assert.match(text, /waiting for fiber/)
    }
    page.assertAllTaken()
  })

  test('Locust', async t => {
    if (!requireOrSkip(t, ...debian) || !requireLocustOrSkip(t)) return
    const page = new Page('locust.md')
    const env = { PYTHONPATH: installClients() }
    const lab = await startLab(t, { fiber: 'missing' })
    const workshop = new Workshop(t, lab.examples)
    workshop.write('locustfile.py', page.take('locustfile.py'))
    const program = workshop.start(page.take('bash'), env, line => {
      const isWaiting = line.includes('users wait before their next configure')
      if (isWaiting) void lab.simulator.setFiber('present')
      if (line.includes('waiting users resume')) program.stop()
    })
    const { output } = await program.ended
    assertOutput(output, page.take('text'), { anyNumber: true })
    const { byRoute, rejectedForFiber } = lab.simulator.counters
    assert.equal(rejectedForFiber, 0)
    assert.ok(Number(byRoute['GET /channels']) > 0, output)
    page.assertAllTaken()
  })
})

async function refused(lab: { readonly proxy: { readonly url: string } }): Promise<number> {
  return Number(at(await statusOf(lab.proxy), 'totals', 'refused'))
}

function requireLocustOrSkip(t: TestContext): boolean {
  if (spawnSync('/usr/bin/locust', ['--version'], { stdio: 'ignore' }).status === 0) return true
  const reason = "not installed here: /usr/bin/locust of Debian's python3-locust"
  assert.notEqual(process.env.REQUIRE_INTEROP, '1', reason)
  t.skip(reason)
  return false
}
