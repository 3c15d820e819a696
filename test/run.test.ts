import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

const FILES = {
  passes: "test('one', () => {}); test('two', async t => { await t.test('within', () => {}) })",
  diagnostic: "test('three', t => t.diagnostic('tests 100'))",
  skipped: "test('four', { skip: true }, () => {})",
  todo: "test('five', { todo: true }, () => { throw new Error('not yet') })",
  fails: "test('six', () => { throw new Error('wrong') })",
  exits: "test('seven', () => { process.exitCode = 3 })",
  crashes: "test('eight', () => {}); setTimeout(() => process.kill(process.pid, 'SIGKILL'), 200)",
  'cannot be loaded': "import './absent.mjs'",
  hangs: "test('eleven', () => {}); setInterval(() => {}, 1000)",
  'has a variable':
    "test('nine', () => { if (process.env.OF_A_PASS !== '1') throw new Error('without it') })",
  'lacks a variable': "test('ten', () => { if ('OF_A_PASS' in process.env) throw new Error('with it') })",
} as const

type FileName = keyof typeof FILES

/** Runs these passes in a separate process, like `test/run.ts`, and returns its output. */
function runPasses(...passes: readonly (readonly FileName[])[]) {
  const directory = mkdtempSync(join(tmpdir(), 'passes-'))
  try {
    for (const [name, body] of Object.entries(FILES)) {
      writeFileSync(join(directory, `${name}.mjs`), `import { test } from 'node:test'\n${body}\n`)
    }
    const given = passes.map((names, index) => ({
      files: names.map(name => join(directory, `${name}.mjs`)),
      concurrency: index + 1,
      timeoutMs: names.includes('hangs') ? 3000 : 60_000,
      ...(names.includes('has a variable') ? { env: { OF_A_PASS: '1' } } : {}),
    }))
    const program = `
      import { tap } from 'node:test/reporters'
      import { pipeline } from 'node:stream/promises'
      import { runPasses } from ${JSON.stringify(new URL('./support/test-passes.js', import.meta.url).href)}
      const events = runPasses(${JSON.stringify(given)}, () => { process.exitCode = 1 })
      await pipeline(events, tap, process.stdout, { end: false })`
    // Not with --eval, because each test file would run with it too.
    const main = join(directory, 'main.mjs')
    writeFileSync(main, program)
    // node:test runs nothing if it is started within a test file.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env
    const { status, stdout, stderr } = spawnSync(process.execPath, [main], { env, encoding: 'utf8' })
    return { status, lines: stdout.trimEnd().split('\n'), output: stdout + stderr }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('two passes are reported as one run, with one summary at the end', () => {
  const { status, lines, output } = runPasses(['passes', 'diagnostic'], ['skipped', 'todo', 'passes'])
  assert.equal(status, 0, output)
  assert.deepEqual(lines.slice(-9, -1), [
    '1..7',
    ...['# tests 9', '# suites 0', '# pass 7', '# fail 0', '# cancelled 0', '# skipped 1', '# todo 1'],
  ])
  assert.match(lines.at(-1) ?? '', /^# duration_ms \d/)
  const numbers = lines.flatMap(line => /^(?:not )?ok (\d+)/.exec(line)?.[1] ?? [])
  assert.deepEqual(numbers, ['1', '2', '3', '4', '5', '6', '7'])
  assert.equal(lines.filter(line => line.startsWith('# tests 9')).length, 1)
})

for (const name of ['fails', 'exits', 'crashes', 'hangs', 'cannot be loaded'] as const) {
  for (const passes of [
    [[name], ['passes']],
    [['passes'], [name]],
  ] satisfies readonly (readonly FileName[])[][]) {
    test(`a file that ${name} fails the run: ${passes.join(', then ')}`, () => {
      const { status, lines, output } = runPasses(...passes)
      assert.equal(status, 1, output)
      assert.ok(lines.includes('# fail 1') || lines.includes('# cancelled 1'), output)
      assert.ok(output.includes('ok') && output.includes(' - two'), 'the other pass did not run')
    })
  }
}

test('the variables of a pass are set for its files, and not for those of another pass', () => {
  const { status, output } = runPasses(['lacks a variable'], ['has a variable'], ['lacks a variable'])
  assert.equal(status, 0, output)
  assert.match(output, /^# pass 3$/m)
})
