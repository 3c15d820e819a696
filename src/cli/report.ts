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

/** The flags that say how to report what was found. */
export const REPORT_FLAGS: readonly Flag[] = [
  { name: 'json', sentence: 'print JSON' },
  {
    name: 'junit',
    value: 'FILE',
    sentence: 'write a JUnit report of one case: passed if ready, skipped for exit code 3, else an error',
  },
  { name: 'junit-skip-all', sentence: 'with --junit: skipped for the exit codes 4 and 5, too' },
]

/** The exit code of each state. */
const EXIT_CODE: Readonly<Record<Verdict['state'], number>> = {
  ready: 0,
  waiting: 3,
  unreachable: 4,
  proxy_unreachable: 5,
}

/**
 * Creates the JUnit report, if one is asked for, and its folder. Until `reportToCi` writes what was found, the report
 * says that the command has not ended. False when the report cannot be written; then the message is on stderr.
 */
export function beginReport(args: Arguments): boolean {
  const file = args.flags.get('junit')
  if (file === undefined) return true
  return written(file, () => {
    mkdirSync(dirname(file), { recursive: true })
    // A pipe or a device gets one report only.
    const kind = statSync(file, { throwIfNoEntry: false })
    if (kind?.isFIFO() || kind?.isCharacterDevice()) return
    writeFileSync(file, junit('error', 'the command was interrupted before it ended', 0))
  })
}

/**
 * Reports to CI what was found, where it asks for it: a JUnit report, and the files of GitHub Actions. Returns the
 * exit code of the verdict, or 1 when the report could not be written.
 */
export function reportToCi(
  verdict: Verdict,
  tookMs: number,
  args: Arguments,
  environment: NodeJS.ProcessEnv,
): number {
  const file = args.flags.get('junit')
  const report = junit(outcomeOf(verdict, args.flags.has('junit-skip-all')), verdict.message, tookMs)
  // An old report must not be taken for this one. CI's own files are its own affair.
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
    stderr.write(`${file} could not be written: ${reasonOf(error)}\n`)
    return false
  }
}

/** Appends lines; an earlier step may have left its last line without an end. */
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

/** A missing fiber is a reason to skip. A focus-server or a proxy that is down is an error of the lab. */
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

/** As Jenkins, GitLab and others read it: https://github.com/testmoapp/junitxml. */
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

/** Text for an attribute; what XML 1.0 cannot hold is left out. */
function xml(text: string): string {
  return oneLine(text).replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}
