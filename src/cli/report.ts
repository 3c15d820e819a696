import { appendFileSync, writeFileSync } from 'node:fs'
import { reasonOf } from '../config/fault.js'
import { oneLine } from '../domain/text.js'
import type { Arguments, Flag } from './arguments.js'
import type { Verdict } from './look.js'
import { stderr } from './standard-streams.js'

/** The flags that say how to tell what was found. */
export const REPORT_FLAGS: readonly Flag[] = [
  { name: 'json', sentence: 'print JSON' },
  { name: 'junit', value: 'FILE', sentence: 'write a JUnit report of one case, skipped unless ready' },
]

/** The exit code of each state. */
const EXIT_CODE: Readonly<Record<Verdict['state'], number>> = {
  ready: 0,
  waiting: 3,
  unreachable: 4,
  proxy_unreachable: 5,
}

/**
 * Tells CI what was found, where it asks for it: a JUnit report, and the files of GitHub Actions. Answers the
 * exit code of the verdict, or 1 when the report could not be written.
 */
export function tellCi(
  verdict: Verdict,
  tookMs: number,
  args: Arguments,
  environment: NodeJS.ProcessEnv,
): number {
  let code = EXIT_CODE[verdict.state]
  const attempt = (file: string | undefined, write: (file: string) => void, failureCode: number) => {
    if (!file) return
    try {
      write(file)
    } catch (error) {
      stderr.write(`${file} could not be written: ${reasonOf(error)}\n`)
      code = failureCode
    }
  }
  // Whoever asked for the report is not to take an old one for it; CI's own files are its own affair.
  attempt(args.flags.get('junit'), file => writeFileSync(file, junit(verdict, tookMs)), 1)
  attempt(environment.GITHUB_OUTPUT, file => appendFileSync(file, outputs(verdict)), code)
  attempt(environment.GITHUB_STEP_SUMMARY, file => appendFileSync(file, summary(verdict)), code)
  return code
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

/** As Jenkins, GitLab and the rest read it: https://github.com/testmoapp/junitxml. */
function junit({ ready, message }: Verdict, tookMs: number): string {
  const time = (tookMs / 1000).toFixed(3)
  const outcome = ready ? '' : `<skipped message="${xml(message)}"/>`
  return `<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="focus-breaker" tests="1" failures="0" errors="0" skipped="${ready ? 0 : 1}" time="${time}">
    <testcase classname="focus-breaker" name="the fiber is connected" time="${time}">${outcome}</testcase>
  </testsuite>
</testsuites>
`
}

/** Text for an attribute; what XML 1.0 cannot hold is left out. */
function xml(text: string): string {
  return oneLine(text).replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}
