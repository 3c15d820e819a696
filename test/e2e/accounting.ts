import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { at } from '../harness.js'

/** What a process holds: memory, and descriptors of files and sockets. */
export interface Holdings {
  readonly residentMb: number
  readonly descriptors: number
}

/** Read from `/proc`; throws when the process is gone. */
export function holdingsOf(pid: number): Holdings {
  const kilobytes = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  return {
    residentMb: Math.round(kilobytes / 1024),
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
  }
}

/** The same once nothing is under way any more: as soon as the descriptors are few enough, or after `timeoutMs`. */
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

/** What a process of Node leaves behind when it crashes. */
export interface BlackBox {
  /** To be set for the process. */
  readonly env: Readonly<Record<string, string>>
  /** Why it ended; undefined while it runs. */
  crash(): string | undefined
}

/** Has Node write down why a process ended, until the test is over. */
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

/** Counts by name. */
export class Tally {
  readonly #counts = new Map<string, number>()

  add(name: string, by = 1): void {
    this.#counts.set(name, this.of(name) + by)
  }

  of(name: string): number {
    return this.#counts.get(name) ?? 0
  }

  /** Of all names that begin so. */
  sum(prefix = ''): number {
    return [...this.#counts].reduce((sum, [name, count]) => (name.startsWith(prefix) ? sum + count : sum), 0)
  }

  get names(): readonly string[] {
    return [...this.#counts.keys()]
  }

  toString(): string {
    return [...this.#counts]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, count]) => `${name} ${count}`)
      .join(', ')
  }
}
