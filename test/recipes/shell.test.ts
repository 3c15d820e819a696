import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, circuitIs, requireOrSkip } from '../support/harness.js'
import { assertOutput, Page } from '../support/recipe-page.js'
import { assertEnded, startLab, Workshop } from '../support/workshop.js'

/** The exit code of curl with `--fail-with-body`, and with `--fail`. */
const HTTP_ERROR = 22

test('curl, and the curl.exe of PowerShell', async t => {
  if (!requireOrSkip(t, 'bash', 'curl')) return
  const page = new Page('curl.md')
  const lab = await startLab(t, { fiber: 'missing' })
  const workshop = new Workshop(t, lab.examples)
  const [check, waitAndStart, hold] = [page.take('bash'), page.take('bash'), page.take('bash')]
  const shown = page.take('text')

  const refused = await workshop.run(check)
  assertEnded(refused, HTTP_ERROR)
  assertOutput(refused.output, shown)

  // The lines for Windows are the same, except for the name of the program and of the null device.
  const powershell = [page.take('powershell'), page.take('powershell')].map(curlLineOf)
  const [checkThere, waitThere] = powershell
  assert.equal(checkThere, check.trim())
  assert.ok(waitThere !== undefined && waitAndStart.includes(waitThere), waitThere)

  for (const script of [waitAndStart, hold]) {
    await lab.simulator.setFiber('missing')
    await circuitIs(lab.proxy, 'open')
    const running = workshop.start(script)
    // Time for it to start waiting. If it has not, the response is the same.
    await delay(500)
    await lab.simulator.setFiber('present')
    const started = await running.ended
    assertEnded(started, 0)
    assert.equal(typeof at(JSON.parse(started.output), 'job_id'), 'string')
    await circuitIs(lab.proxy, 'closed')
  }
  assert.equal(lab.simulator.counters.rejectedForFiber, 0)
  const admitted = await workshop.run(check)
  assertEnded(admitted, 0)
  assert.match(admitted.output, /^admitted: circuit closed/)
  page.assertAllTaken()
})

/** The first curl.exe command in some PowerShell lines, in the form for bash. */
function curlLineOf(lines: string): string {
  const command = /curl\.exe [^;\n]+/.exec(lines)?.[0] ?? ''
  return command.replace('curl.exe', 'curl').replace(' NUL ', ' /dev/null ')
}
