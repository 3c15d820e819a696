import type { Arguments, Flag } from './arguments.js'
import { observerFor, PROBE_FLAGS } from './probe.js'
import { beginReport, REPORT_FLAGS, reportToCi } from './report.js'
import { stdout } from './standard-streams.js'
import { usage } from './usage.js'

/** The flags of `check`. */
export const CHECK_FLAGS: readonly Flag[] = [...PROBE_FLAGS, ...REPORT_FLAGS]

/** Probes once, prints the result, and returns the exit code. */
export async function check(args: Arguments, environment: NodeJS.ProcessEnv): Promise<number> {
  const opened = await observerFor(args, environment)
  if (!opened.ok) return usage(opened.faults)
  if (!beginReport(args)) {
    await opened.observer.close()
    return 1
  }
  const startedAt = performance.now()
  const verdict = await opened.observer.probe()
  await opened.observer.close()
  stdout.write(`${args.flags.has('json') ? JSON.stringify(verdict) : verdict.message}\n`)
  return reportToCi(verdict, performance.now() - startedAt, args, environment)
}
