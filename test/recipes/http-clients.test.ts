import assert from 'node:assert/strict'
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { at, circuitIs, repositoryRoot, statusOf } from '../support/harness.js'
import { installClients, requireOrSkip } from '../support/python.js'
import { assertOutput, Page } from '../support/recipe-page.js'
import { assertEnded, startLab, Workshop } from '../support/workshop.js'

const debian = ['pip', 'setuptools', 'wheel'] as const

describe('recipes for HTTP clients', { concurrency: 2 }, () => {
  test('httpx', async t => {
    if (!requireOrSkip(t, 'httpx', ...debian)) return
    const page = new Page('httpx.md')
    const env = { PYTHONPATH: installClients() }
    const lab = await startLab(t, { fiber: 'missing' })
    const workshop = new Workshop(t, lab.examples)
    for (const name of ['start_job.py', 'start_job_async.py']) {
      workshop.write(name, page.take(name))
      const script = page.take('bash')
      const refused = await workshop.run(script, env)
      assertEnded(refused, 0)
      assertOutput(refused.output, page.take('text'))
      await lab.simulator.setFiber('present')
      await circuitIs(lab.proxy, 'closed')
      const started = await workshop.run(script, env)
      assert.match(started.output, /^200 /, started.output)
      await lab.simulator.setFiber('missing')
      await circuitIs(lab.proxy, 'open')
    }
    assert.equal(at(await statusOf(lab.proxy), 'totals', 'refused'), 2)
    page.assertAllTaken()
  })

  test('aiohttp', async t => {
    if (!requireOrSkip(t, 'aiohttp', ...debian)) return
    const page = new Page('aiohttp.md')
    const env = { PYTHONPATH: installClients() }
    const lab = await startLab(t, { fiber: 'missing' })
    const workshop = new Workshop(t, lab.examples)
    workshop.write('start_job.py', page.take('start_job.py'))
    const script = page.take('bash')
    const refused = await workshop.run(script, env)
    assertEnded(refused, 0)
    assertOutput(refused.output, page.take('text'))
    assert.equal(at(await statusOf(lab.proxy), 'totals', 'refused'), 1)
    await lab.simulator.setFiber('present')
    await circuitIs(lab.proxy, 'closed')
    assert.match((await workshop.run(script, env)).output, /^200 \{.*"job_id"/)
    // Its session needs aiohttp 3.12 (test/clients/http-libraries.test.ts).
    workshop.write('middleware.py', page.take('middleware.py'))
    assertEnded(await workshop.run('/usr/bin/python3 -c "import middleware"', env), 0)
    page.assertAllTaken()
  })

  test('JavaScript', async t => {
    const page = new Page('javascript.md')
    const lab = await startLab(t, { fiber: 'missing' })
    const workshop = new Workshop(t, lab.examples)
    workshop.install('node', `exec '${process.execPath}' "$@"`)
    workshop.install('npm', '[ "$*" = "install undici@7" ]')
    symlinkSync(join(repositoryRoot, 'node_modules'), join(workshop.directory, 'node_modules'))
    const scripts: string[] = []
    for (const name of ['start-job.mjs', 'retry-job.mjs']) {
      workshop.write(name, page.take(name))
      const script = page.take('bash')
      const refused = await workshop.run(script)
      assertEnded(refused, 0)
      assertOutput(refused.output, page.take('text'))
      scripts.push(script)
    }
    assert.equal(at(await statusOf(lab.proxy), 'totals', 'refused'), 2)
    await lab.simulator.setFiber('present')
    await circuitIs(lab.proxy, 'closed')
    for (const script of scripts) assert.match((await workshop.run(script)).output, /^200 \{.*"job_id"/)

    // A 503 of focus-server itself is retried, and then shown.
    await lab.simulator.setFault('POST /configure', { kind: 'status', code: 503 })
    lab.simulator.resetCounters()
    const failed = await workshop.run(scripts.at(-1) ?? '')
    assert.match(failed.output, /^503 /)
    assert.equal(lab.simulator.counters.byRoute['POST /configure'], 4)
    page.assertAllTaken()
  })

  // Neither .NET nor PowerShell is available here, so only what the lines expect of the proxy is tested.
  test('.NET and PowerShell: a refusal has what their lines check for', async t => {
    const page = new Page('dotnet.md')
    assert.match(page.text, /^Not run: /m)
    const lab = await startLab(t, { fiber: 'missing' })
    const response = await fetch(`${lab.baseUrl}/configure`, { method: 'POST', body: '{}' })
    const field = response.headers.get('proxy-status') ?? ''
    const [handler, polly, wait, powershell] = [
      page.take('FocusBreaker.cs'),
      page.take('FocusPipeline.cs'),
      page.take('WaitForFiber.cs'),
      page.take('start-job.ps1'),
    ]
    const patterns = [/"""(.+)"""/.exec(handler), /'([^']*details=[^']*)'/.exec(powershell)]
    for (const [, pattern = ''] of patterns.map(found => found ?? [])) {
      assert.equal(new RegExp(pattern).exec(field)?.[1], 'waiting for fiber', pattern)
      const others = ['', 'other; error=destination_unavailable', 'focus-breaker; error=connection_refused']
      for (const other of others) assert.equal(new RegExp(pattern).exec(other), null, pattern)
    }
    assert.equal(typeof at(await response.json(), 'reason'), 'string')
    assert.match(polly, /"recovering" or "overloaded"/)

    const path = /GetAsync\("([^"]+)"/.exec(wait)?.[1] ?? ''
    const waited = fetch(`${lab.baseUrl}/${path}`)
    await lab.simulator.setFiber('present')
    assert.equal((await waited).status, 200)
    page.assertAllTaken()
  })
})
