import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { run } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'

/**
 * The tests to run for each mutant, by the folder of `src/` that is mutated (`MUTATE`): a folder of tests, or some
 * files of one. They run in one process, because a process for each file would take most of the time, and the first
 * failure ends it. Tests that would take longer than all others together are left out.
 */
const TESTS: Readonly<Record<string, readonly (readonly [folder: string, files: RegExp])[]>> = {
  domain: [
    ['domain', /./],
    ['breaker', /^(?!invariants)/],
  ],
  breaker: [['breaker', /^(?!invariants)/]],
  proxy: [['proxy', /^(exchange|headers|refusal|sharing)\./]],
}

const tests = TESTS[process.env.MUTATE ?? '']
if (tests === undefined) throw new Error(`MUTATE must be one of ${Object.keys(TESTS).join(', ')}`)

// node:test runs this file again, as its only test file.
if (process.env.NODE_TEST_CONTEXT === undefined) {
  const failed = new AbortController()
  run({ files: [fileURLToPath(import.meta.url)], signal: failed.signal })
    .once('test:fail', () => {
      failed.abort()
      process.exitCode = 1
    })
    .resume()
} else {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  for (const [folder, files] of tests) {
    for (const file of readdirSync(join(root, folder))) {
      if (file.endsWith('.test.js') && files.test(file))
        await import(pathToFileURL(join(root, folder, file)).href)
    }
  }
}
