import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at, until } from './harness.js'

/** The resources that a process uses: memory, and descriptors of files and sockets. */
export interface Holdings {
  readonly residentMb: number
  readonly descriptors: number
}

/** Read from `/proc`; throws if the process has ended or the system has no `/proc`. */
export function holdingsOf(pid: number): Holdings {
  const kilobytes = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  return {
    residentMb: Math.round(kilobytes / 1024),
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
  }
}

/** The CPU time that a process has used, read from `/proc`; throws if it has ended or the system has no `/proc`. */
export function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The fields follow the name, which may contain anything and ends with the last parenthesis. Linux counts 100 ticks
  // per second.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** The same once the process is idle: as soon as it has few enough descriptors, or after `timeoutMs`. */
export async function settledHoldingsOf(
  pid: number,
  descriptors: number,
  timeoutMs = 10_000,
): Promise<Holdings> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const holdings = holdingsOf(pid)
    if (holdings.descriptors <= descriptors || performance.now() > deadline) return holdings
    await delay(100)
  }
}

/** What a Node process leaves behind when it crashes. */
export interface BlackBox {
  /** Environment variables to set for the process. */
  readonly env: Readonly<Record<string, string>>
  /** The reason why it ended; undefined while it runs. */
  crash(): string | undefined
}

/** Makes Node write down why a process ended, for the duration of the test. */
export function blackBox(t: TestContext): BlackBox {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-report-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const when = '--report-uncaught-exception --report-on-fatalerror --report-compact'
  return {
    env: { NODE_OPTIONS: `${when} --report-directory=${directory}` },
    crash: () => {
      const [report] = readdirSync(directory)
      if (report === undefined) return undefined
      const text = readFileSync(join(directory, report), 'utf8')
      try {
        return JSON.stringify(at(JSON.parse(text), 'javascriptStack'))
      } catch {
        return text.slice(0, 2000)
      }
    },
  }
}

/** What a Node process holds after a garbage collection. */
export interface Stock {
  /** Bytes on the JavaScript heap, and of memory attached to it outside V8's heap. */
  readonly memoryKb: number
  readonly residentMb: number
  /** Whatever keeps the event loop alive: sockets, servers, pipes, timers. */
  readonly handles: number
  /** Descriptors of files and sockets; NaN if the system has no `/proc`. */
  readonly descriptors: number
}

/** Makes a Node process, started with `nodeOption`, report what it holds: on a signal that Windows does not have. */
export function stockTaker(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-stock-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const script = encodeURIComponent(`await (${reportOnSignal})(${JSON.stringify(directory)})`)
  let asked = 0
  return {
    nodeOption: `--import=data:text/javascript,${script}`,
    async take(pid: number): Promise<Stock> {
      asked += 1
      process.kill(pid, 'SIGUSR2')
      const report: unknown = await until(
        () => JSON.parse(readFileSync(join(directory, `${asked}`), 'utf8')),
        {
          what: 'the program reports its resources',
          timeoutMs: 60_000,
        },
      )
      const figure = (name: string) => Number(at(report, name))
      return {
        memoryKb: Math.round((figure('heapUsed') + figure('external')) / 1024),
        residentMb: Math.round(figure('rss') / 2 ** 20),
        handles: figure('handles'),
        descriptors: existsSync(`/proc/${pid}/fd`) ? holdingsOf(pid).descriptors : Number.NaN,
      }
    },
  }
}

/** Runs in the observed process, which receives it as text. */
async function reportOnSignal(directory: string): Promise<void> {
  const { renameSync, writeFileSync } = await import('node:fs')
  const { setFlagsFromString } = await import('node:v8')
  const { runInNewContext } = await import('node:vm')
  setFlagsFromString('--expose-gc')
  const collect: unknown = runInNewContext('gc')
  let reports = 0
  process.on('SIGUSR2', async () => {
    // The next collection frees what a finalizer has released.
    for (let round = 0; round < 4; round += 1) {
      if (typeof collect === 'function') collect()
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    const stock = { ...process.memoryUsage(), handles: process.getActiveResourcesInfo().length }
    reports += 1
    // Renamed in one step, so that the file is never read half-written.
    writeFileSync(`${directory}/next`, JSON.stringify(stock))
    renameSync(`${directory}/next`, `${directory}/${reports}`)
  })
}

/** Counts by name. */
export class Tally {
  readonly #counts = new Map<string, number>()

  add(name: string, by = 1): void {
    this.#counts.set(name, this.of(name) + by)
  }

  of(name: string): number {
    return this.#counts.get(name) ?? 0
  }

  /** The sum over all names that start with the prefix. */
  sum(prefix = ''): number {
    return [...this.#counts].reduce((sum, [name, count]) => (name.startsWith(prefix) ? sum + count : sum), 0)
  }

  toString(): string {
    return [...this.#counts]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, count]) => `${name} ${count}`)
      .join(', ')
  }
}
