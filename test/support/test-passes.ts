import { basename, dirname } from 'node:path'
import { run } from 'node:test'
import type { TestEvent } from 'node:test/reporters'

/** Test files that run in one go: `concurrency` of them at a time, each in its own process. */
export type Pass = {
  readonly files: readonly string[]
  readonly concurrency: number
  /** After this time a file is stopped and fails: a program that it started and did not stop keeps it running. */
  readonly timeoutMs: number
  /** Environment variables for the files of this pass only. */
  readonly env?: Readonly<Record<string, string>>
}

/** A line of the summary at the end of a run, such as `tests 1873`. */
const TOTAL = /^([a-z_]+) ([\d.]+)$/

/** How many of the slowest files are listed. */
const LONGEST = 10

/**
 * Runs the passes one after the other and reports them as one run: the tests are numbered throughout, and one summary
 * comes at the end, after a list of the slowest files.
 *
 * @param onFail is called for each test that fails, and for a file that cannot be loaded or exits with an error.
 */
export async function* runPasses(
  passes: readonly Pass[],
  onFail: () => void,
): AsyncGenerator<TestEvent, void> {
  const totals = new Map<string, number>()
  const files: { readonly path: string; readonly ms: number }[] = []
  let count = 0
  for (const pass of passes) {
    const before = count
    const { files: paths, concurrency, timeoutMs, env = {} } = pass
    const shell = { ...process.env }
    // The runner gives each file the environment of this process.
    Object.assign(process.env, env)
    const events: AsyncIterable<TestEvent> = run({
      files: [...paths],
      concurrency,
      timeout: timeoutMs,
    })
    let isSummary = false
    for await (const event of events) {
      if (event.type === 'test:complete' && event.data.name === event.data.file) {
        files.push({ path: event.data.file, ms: event.data.details.duration_ms })
      }
      if (event.type === 'test:fail' && event.data.todo === undefined) onFail()
      if (event.type === 'test:plan' && event.data.nesting === 0) {
        count += event.data.count
        isSummary = true
      } else if (event.type === 'test:diagnostic' && isSummary) {
        const [, name = event.data.message, total = 0] = TOTAL.exec(event.data.message) ?? []
        totals.set(name, (totals.get(name) ?? 0) + Number(total))
      } else if (event.type === 'test:pass' && event.data.nesting === 0) {
        yield { type: event.type, data: { ...event.data, testNumber: before + event.data.testNumber } }
      } else if (event.type === 'test:fail' && event.data.nesting === 0) {
        yield { type: event.type, data: { ...event.data, testNumber: before + event.data.testNumber } }
      } else yield event
    }
    for (const name of Object.keys(env)) {
      if (shell[name] === undefined) delete process.env[name]
      else process.env[name] = shell[name]
    }
  }
  const longest = files
    .toSorted((a, b) => b.ms - a.ms)
    .slice(0, LONGEST)
    .map(({ path, ms }) => `${basename(dirname(path))}/${basename(path)} ${(ms / 1000).toFixed(1)} s`)
  yield { type: 'test:diagnostic', data: { nesting: 0, message: `slowest files: ${longest.join(', ')}` } }
  yield { type: 'test:plan', data: { nesting: 0, count } }
  for (const [name, total] of totals) {
    yield { type: 'test:diagnostic', data: { nesting: 0, message: `${name} ${total}` } }
  }
}
