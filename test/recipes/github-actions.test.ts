import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse } from 'yaml'
import { at, circuitIs } from '../support/harness.js'
import { installClients, requireOrSkip } from '../support/python.js'
import { assertOutput, type Examples, Page, substitute } from '../support/recipe-page.js'
import { assertEnded, copySuite, startLab, Workshop } from '../support/workshop.js'

/** The outcome of the steps of a job. */
type Job = {
  readonly ok: boolean
  /** The names of the steps that ran. */
  readonly ran: readonly string[]
  readonly output: string
  readonly summary: string
}

const page = new Page('github-actions.md')
const file = page.take('.github/workflows/tests.yml')
const shownSummary = page.take('text')
page.assertAllTaken()

test('the Linux job of GitHub Actions runs the tests that can run, and fails if the state is unknown', async t => {
  if (!requireOrSkip(t, 'pytest', 'requests', 'pip', 'setuptools', 'wheel')) return
  installClients()
  const lab = await startLab(t)
  const linux = () => runLinuxJob(t, lab)
  const whole = await linux()
  assert.ok(whole.ok, whole.output)
  assert.deepEqual(whole.ran, ['Check the fiber', 'All tests'])
  assert.match(whole.output, /^=+ 40 passed in /m)

  await lab.simulator.setFiber('missing')
  await circuitIs(lab.proxy, 'open')
  const reduced = await linux()
  assert.ok(reduced.ok, reduced.output)
  assert.deepEqual(reduced.ran, ['Check the fiber', 'Warn', 'Tests that need no fiber'])
  assert.match(reduced.output, /^::warning title=No fiber::waiting for fiber; running only the tests/m)
  assert.match(reduced.output, /^=+ 12 passed, 28 deselected in /m)
  assertOutput(reduced.summary, shownSummary)

  await lab.proxy.stop()
  const lost = await linux()
  assert.equal(lost.ok, false)
  assert.deepEqual(lost.ran, ['Check the fiber'])
})

test('the Windows job of GitHub Actions uses options and paths that exist', async t => {
  const lab = await startLab(t, { fiber: 'missing' })
  const job = at(parse(file), 'jobs', 'windows')
  assert.ok(runners(job).includes('windows'))
  const steps = stepsOf(job)
  const script = String(at(steps[1], 'run'))
  const command = /^\$code = (curl\.exe .+)$/m.exec(script)?.[1] ?? ''
  assert.match(command, /"\$env:FOCUS_BREAKER_URL\/-\/fiber"$/)
  const workshop = new Workshop(t, lab.examples)
  const asBash = command.replace('curl.exe', 'curl').replace('$env:', '$')
  const fields = [...script.matchAll(/\$fiber\.(\w+)/g)].map(([, name = '']) => name)
  assert.deepEqual(fields, ['circuit', 'error'])
  const ask = async () => {
    const ran = await workshop.run(asBash, { FOCUS_BREAKER_URL: lab.baseUrl })
    assertEnded(ran, 0)
    const report: unknown = JSON.parse(readFileSync(join(workshop.directory, 'fiber.json'), 'utf8'))
    return { code: ran.output, has: fields.filter(name => at(report, name) !== undefined) }
  }
  assert.deepEqual(await ask(), { code: '503', has: ['circuit', 'error'] })
  await lab.simulator.setFiber('present')
  await circuitIs(lab.proxy, 'closed')
  assert.deepEqual(await ask(), { code: '200', has: ['circuit'] })

  // The following decisions are the same as on Linux.
  const deciding = (job: unknown) =>
    stepsOf(job).filter(step => /^(All|Tests)/.test(String(at(step, 'name'))))
  assert.deepEqual(deciding(job), deciding(at(parse(file), 'jobs', 'linux')))
})

/** Runs the steps one after the other, as a runner does: `if`, the outputs, and a stop at the first failure. */
async function runLinuxJob(t: TestContext, lab: Awaited<ReturnType<typeof startLab>>): Promise<Job> {
  const examples: Examples = { ...lab.examples, '--timeout 2m': '--timeout 1s' }
  const workflow: unknown = parse(substitute(file, examples))
  const job = at(workflow, 'jobs', 'linux')
  assert.ok(runners(job).includes('linux'))
  const workshop = new Workshop(t, examples)
  copySuite(workshop)
  const [outputFile, summaryFile] = ['github-output', 'github-summary'].map(name =>
    join(workshop.directory, name),
  )
  assert.ok(outputFile !== undefined && summaryFile !== undefined)
  writeFileSync(summaryFile, '')
  const outputs = new Map<string, string>()
  const ran: string[] = []
  let output = ''
  let ok = true
  for (const step of stepsOf(job)) {
    if (at(step, 'run') === undefined) {
      assert.match(String(at(step, 'uses')), /^actions\/checkout@v\d+$/)
      continue
    }
    if (!isTrue(at(step, 'if'), outputs)) continue
    writeFileSync(outputFile, '')
    const result = await workshop.run(String(at(step, 'run')), {
      ...stringsOf(at(workflow, 'env')),
      ...filled(stringsOf(at(step, 'env')), outputs),
      PYTHONPATH: installClients(),
      FOCUS_SERVER_URL: lab.baseUrl,
      GITHUB_OUTPUT: outputFile,
      GITHUB_STEP_SUMMARY: summaryFile,
    })
    ran.push(String(at(step, 'name')))
    output += `${result.output}\n`
    for (const line of readFileSync(outputFile, 'utf8').trim().split('\n')) {
      const [name, ...value] = line.split('=')
      outputs.set(`steps.${at(step, 'id')}.outputs.${name}`, value.join('='))
    }
    ok = result.code === 0
    if (!ok) break
  }
  return { ok, ran, output, summary: readFileSync(summaryFile, 'utf8') }
}

/** The subset of GitHub Actions expressions that the page uses. */
function isTrue(condition: unknown, outputs: ReadonlyMap<string, string>): boolean {
  if (condition === undefined) return true
  const [, name = '', operator, value] = /^(\S+) (==|!=) '(\w+)'$/.exec(String(condition)) ?? []
  assert.ok(operator, `this test does not know the condition ${condition}`)
  assert.ok(outputs.has(name), `no earlier step has set the output ${name}`)
  return (outputs.get(name) === value) === (operator === '==')
}

function filled(values: Readonly<Record<string, string>>, outputs: ReadonlyMap<string, string>) {
  const expression = /\$\{\{ (\S+) \}\}/g
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => [
      key,
      value.replace(expression, (_all, name: string) => outputs.get(name) ?? ''),
    ]),
  )
}

function stringsOf(value: unknown): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(value ?? {}).map(([key, text]) => [key, String(text)]))
}

function stepsOf(job: unknown): readonly unknown[] {
  const steps = at(job, 'steps')
  assert.ok(Array.isArray(steps))
  return steps
}

function runners(job: unknown): readonly unknown[] {
  const runsOn = at(job, 'runs-on')
  assert.ok(Array.isArray(runsOn))
  return runsOn
}
