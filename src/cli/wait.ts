import type { Fault } from '../config/fault.js'
import { inWords, parseSpan } from '../domain/time.js'
import type { Arguments, Flag } from './arguments.js'
import { LOOK_FLAGS, observerFor, type Verdict } from './look.js'
import { beginReport, REPORT_FLAGS, reportToCi } from './report.js'
import { usage } from './serve.js'
import { endBy, signals } from './signals.js'
import { stdout } from './standard-streams.js'

/** The flags of `wait`. */
export const WAIT_FLAGS: readonly Flag[] = [
  ...LOOK_FLAGS,
  { name: 'timeout', value: 'SPAN', sentence: 'maximum wait: 90 or 90s, 10m, 1h30m (default: no limit)' },
  ...REPORT_FLAGS,
]

/** How often the line on a terminal is drawn anew. */
const REDRAW_MS = 1000

/** Waits until the fiber is there, or the time is over. Answers the exit code of what was found last. */
export async function wait(args: Arguments, environment: NodeJS.ProcessEnv): Promise<number> {
  const timeout = args.flags.get('timeout')
  const timeoutMs = timeout === undefined ? Number.POSITIVE_INFINITY : parseSpan(timeout)
  const faults: Fault[] = [...args.faults]
  if (timeoutMs === undefined) {
    faults.push({
      option: '--timeout',
      source: '',
      expected: 'a span like 90s, 10m or 1h30m',
      given: timeout ?? '',
    })
  }
  const opened = observerFor({ ...args, faults }, environment)
  if (!opened.ok || timeoutMs === undefined) return usage(opened.ok ? faults : opened.faults)
  const { observer } = opened
  if (!beginReport(args)) {
    await observer.close()
    return 1
  }
  const startedAt = performance.now()
  const elapsedMs = () => performance.now() - startedAt
  const isJson = args.flags.has('json')
  const shown = process.stdout.isTTY && !isJson ? new LiveLine(elapsedMs) : new LineByLine(isJson)
  void signals.stop().then(signal => {
    shown.close(`interrupted after ${inWords(elapsedMs())}`)
    endBy(signal)
  })
  let verdict = await observer.look(timeoutMs)
  shown.show(verdict)
  while (!verdict.ready && elapsedMs() < timeoutMs) {
    verdict = await observer.next(timeoutMs - elapsedMs())
    shown.show(verdict)
  }
  await observer.close()
  shown.close(verdict.ready ? undefined : `gave up after ${inWords(elapsedMs())}: ${verdict.message}`)
  return reportToCi(verdict, elapsedMs(), args, environment)
}

/** A line for each change, for pipes and logs of CI; JSON has no line for the end but the last one itself. */
class LineByLine {
  readonly #isJson: boolean
  #reason = ''

  constructor(isJson: boolean) {
    this.#isJson = isJson
  }

  show(verdict: Verdict): void {
    if (verdict.reason === this.#reason) return
    this.#reason = verdict.reason
    stdout.write(`${this.#isJson ? JSON.stringify(verdict) : verdict.message}\n`)
  }

  close(lastWords: string | undefined): void {
    if (lastWords !== undefined && !this.#isJson) stdout.write(`${lastWords}\n`)
  }
}

/** One line that is drawn again and again, for people at a terminal; the last word stays. */
class LiveLine {
  readonly #elapsedMs: () => number
  readonly #timer: NodeJS.Timeout
  #verdict: Verdict | undefined
  /** When the verdict was found, by `performance.now()`. */
  #foundAt = 0

  constructor(elapsedMs: () => number) {
    this.#elapsedMs = elapsedMs
    this.#timer = setInterval(() => this.#draw(), REDRAW_MS)
  }

  show(verdict: Verdict): void {
    this.#verdict = verdict
    this.#foundAt = performance.now()
    this.#draw()
  }

  close(lastWords: string | undefined): void {
    clearInterval(this.#timer)
    stdout.write(`${CLEAR_LINE}${lastWords ?? this.#verdict?.message}\n`)
  }

  #draw(): void {
    if (this.#verdict === undefined) return
    const { reason, forMs, forecast, ready } = this.#verdict
    if (ready) return
    const parts = [
      reason,
      ...(forMs === null ? [] : [`for ${inWords(forMs + performance.now() - this.#foundAt)}`]),
      `waited ${inWords(Math.floor(this.#elapsedMs() / 1000) * 1000)}`,
      ...(forecast === null
        ? []
        : [
            `such outages last ${inWords(forecast.p50Seconds * 1000)}, one in ten more than ${inWords(forecast.p90Seconds * 1000)}`,
          ]),
    ]
    // A line that wraps could not be drawn over.
    const line = parts.join(' · ').slice(0, (process.stdout.columns || 80) - 1)
    stdout.write(`${CLEAR_LINE}${line}`)
  }
}

/** To the first column, and everything behind it away (ECMA-48, 8.3.41). */
const CLEAR_LINE = '\r\u001b[K'
