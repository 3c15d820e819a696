import type { Fault } from '../config/fault.js'
import { inWords, parseSpan } from '../domain/time.js'
import type { Arguments, Flag } from './arguments.js'
import { observerFor, PROBE_FLAGS } from './probe.js'
import { LineByLine, LiveLine } from './progress.js'
import { beginReport, REPORT_FLAGS, reportToCi } from './report.js'
import { endBy, signals } from './signals.js'
import { stdout } from './standard-streams.js'
import { usage } from './usage.js'

/** The flags of `wait`. */
export const WAIT_FLAGS: readonly Flag[] = [
  ...PROBE_FLAGS,
  { name: 'timeout', value: 'SPAN', sentence: 'maximum wait: 90 or 90s, 10m, 1h30m (default: no limit)' },
  ...REPORT_FLAGS,
]

/** Waits until the fiber is connected or the maximum wait has passed. Returns the exit code of the last verdict. */
export async function wait(args: Arguments, environment: NodeJS.ProcessEnv): Promise<number> {
  const timeout = args.flags.get('timeout')
  const timeoutMs = timeout === undefined ? Number.POSITIVE_INFINITY : parseSpan(timeout)
  const faults: Fault[] = [...args.faults]
  if (timeoutMs === undefined) {
    faults.push({
      option: '--timeout',
      source: '',
      expected: 'a duration like 90s, 10m or 1h30m',
      given: timeout ?? '',
    })
  }
  const opened = await observerFor({ ...args, faults }, environment)
  if (!opened.ok || timeoutMs === undefined) return usage(opened.ok ? faults : opened.faults)
  const { observer } = opened
  if (!beginReport(args)) {
    await observer.close()
    return 1
  }
  const startedAt = performance.now()
  const elapsedMs = () => performance.now() - startedAt
  const isJson = args.flags.has('json')
  const write = (text: string) => stdout.write(text)
  const shown =
    process.stdout.isTTY && !isJson
      ? new LiveLine(elapsedMs, write, () => process.stdout.columns || 80)
      : new LineByLine(isJson, elapsedMs, write)
  void signals.stop().then(signal => {
    shown.close(`interrupted after ${inWords(elapsedMs())}`)
    endBy(signal)
  })
  let verdict = await observer.probe(timeoutMs)
  shown.show(verdict)
  while (!verdict.ready && elapsedMs() < timeoutMs) {
    verdict = await observer.next(timeoutMs - elapsedMs())
    shown.show(verdict)
  }
  await observer.close()
  shown.close(verdict.ready ? undefined : `gave up after ${inWords(elapsedMs())}: ${verdict.message}`)
  return reportToCi(verdict, elapsedMs(), args, environment)
}
