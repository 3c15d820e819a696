import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { reasonOf } from '../config/fault.js'
import { oneLine } from '../domain/text.js'
import type { Arguments, Flag } from './arguments.js'
import { stderr } from './standard-streams.js'
import type { Verdict } from './verdict.js'

/** The flags that choose how the result is reported. */
export const REPORT_FLAGS: readonly Flag[] = [
  { name: 'json', sentence: 'print JSON' },
  {
    name: 'junit',
    value: 'FILE',
    sentence:
      'write a JUnit report with one test case: passed for exit code 0, skipped for 3, otherwise an error',
  },
  { name: 'junit-skip-all', sentence: 'with --junit: skipped for exit codes 4 and 5 as well' },
]

/** The exit code of each state. */
const EXIT_CODE: Readonly<Record<Verdict['state'], number>> = {
  ready: 0,
  waiting: 3,
  unreachable: 4,
  proxy_unreachable: 5,
}

/**
 * Creates the JUnit report and its folder, if `--junit` is given. Until `reportToCi` writes the result, the report
 * states that the command was interrupted. Returns false if the report cannot be written, after printing an error.
 */
export function beginReport(args: Arguments): boolean {
  const file = args.flags.get('junit')
  if (file === undefined) return true
  return written(file, () => {
    mkdirSync(dirname(file), { recursive: true })
    // Write only the final report to a pipe or a device.
    const kind = statSync(file, { throwIfNoEntry: false })
    if (kind?.isFIFO() || kind?.isCharacterDevice()) return
    writeFileSync(file, junit('error', 'the command was interrupted before it finished', 0))
  })
}

/**
 * Reports the result to CI: in the JUnit report if requested, and in the files of GitHub Actions if they are set.
 * Returns the exit code of the verdict, or 1 if the JUnit report cannot be written.
 */
export function reportToCi(
  verdict: Verdict,
  tookMs: number,
  args: Arguments,
  environment: NodeJS.ProcessEnv,
): number {
  const file = args.flags.get('junit')
  const report = junit(outcomeOf(verdict, args.flags.has('junit-skip-all')), verdict.message, tookMs)
  // Fail if the report cannot be written, so that an old one is not taken for it. The files of GitHub Actions are
  // optional.
  const isWritten = file === undefined || written(file, () => writeFileSync(file, report))
  for (const [name, text] of [
    ['GITHUB_OUTPUT', outputs(verdict)],
    ['GITHUB_STEP_SUMMARY', summary(verdict)],
  ] as const) {
    const path = environment[name]
    if (path) written(path, () => appendLines(path, text))
  }
  return isWritten ? EXIT_CODE[verdict.state] : 1
}

function written(file: string, write: () => void): boolean {
  try {
    write()
    return true
  } catch (error) {
    stderr.write(`cannot write ${file}: ${reasonOf(error)}\n`)
    return false
  }
}

/** Appends lines. The last line of an earlier step may lack its line break. */
function appendLines(file: string, lines: string): void {
  const descriptor = openSync(file, 'a+')
  try {
    const { size } = fstatSync(descriptor)
    const last = Buffer.alloc(1)
    const isOpen = size > 0 && readSync(descriptor, last, 0, 1, size - 1) === 1 && last.toString() !== '\n'
    writeSync(descriptor, `${isOpen ? '\n' : ''}${lines}`)
  } finally {
    closeSync(descriptor)
  }
}

type Outcome = 'passed' | 'skipped' | 'error'

/**
 * A missing fiber is a reason to skip. If focus-server or the proxy is down, that is an error of the test environment.
 */
function outcomeOf({ ready, state }: Verdict, skipsAll: boolean): Outcome {
  if (ready) return 'passed'
  return skipsAll || state === 'waiting' ? 'skipped' : 'error'
}

/** `name=value` lines: https://docs.github.com/actions/reference/workflow-commands-for-github-actions. */
function outputs({ ready, state, reason, since }: Verdict): string {
  return `ready=${ready}\nstate=${state}\nreason=${oneLine(reason)}\nsince=${oneLine(since ?? '')}\n`
}

function summary({ ready, state, reason, since }: Verdict): string {
  const cell = (text: string) =>
    oneLine(text).replace(/[\\|<&`]/g, character => `&#${character.charCodeAt(0)};`)
  return [
    '### Fiber',
    '',
    '| ready | state | reason | since |',
    '|---|---|---|---|',
    `| ${ready ? 'yes' : 'no'} | ${state} | ${cell(reason)} | ${cell(since ?? '')} |`,
    '',
    '',
  ].join('\n')
}

/** A JUnit report in the format that Jenkins, GitLab and others read: https://github.com/testmoapp/junitxml. */
function junit(outcome: Outcome, message: string, tookMs: number): string {
  const time = (tookMs / 1000).toFixed(3)
  const count = (of: Outcome) => (outcome === of ? 1 : 0)
  const element = outcome === 'passed' ? '' : `<${outcome} message="${xml(message)}"/>`
  return `<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="focus-breaker" tests="1" failures="0" errors="${count('error')}" skipped="${count('skipped')}" time="${time}">
    <testcase classname="focus-breaker" name="the fiber is connected" time="${time}">${element}</testcase>
  </testsuite>
</testsuites>
`
}

/** Escapes text for an attribute. Characters that XML 1.0 does not allow are removed. */
function xml(text: string): string {
  return oneLine(text).replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}
