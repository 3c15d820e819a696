import { cpus } from 'node:os'
import type { BenchCase } from './cases.js'
import { cpuRatio, type Figures, figuresOf, type Ratio, rateRatio } from './figures.js'
import type { Stretch } from './load.js'
import type { Durations, Track } from './rounds.js'
import type { Settings } from './settings.js'

/**
 * One server in one case. A ratio is focus-breaker's figure divided by this server's. focus-breaker's own row has none.
 */
export type Row = {
  readonly case: string
  readonly server: string
  readonly saturated: Figures
  readonly single: Figures
  readonly cpuRatio: Ratio | undefined
  readonly rateRatio: Ratio | undefined
}

/** Below this share of a core the server was waiting for the load generator or the upstream. */
const LIMITED_BELOW = 0.8

const HEAD = [
  'Server',
  'CPU µs / request',
  'CPU ratio (min–max)',
  'Requests/s',
  'Rate ratio (min–max)',
  'Busy',
  'p50 ms, 1 connection',
]

/** The rows of all tracks, in their order. */
export function rowsOf(tracks: readonly Track[]): readonly Row[] {
  return tracks.map(track => {
    const subject = tracks.find(
      ({ benchCase, peer }) => benchCase === track.benchCase && peer === benchCase.subject,
    )
    const compared = (of: (ours: readonly Stretch[], theirs: readonly Stretch[]) => Ratio) =>
      subject === undefined || subject === track ? undefined : of(subject.saturated, track.saturated)
    return {
      case: track.benchCase.name,
      server: track.peer.name,
      saturated: figuresOf(track.saturated),
      single: figuresOf(track.single),
      cpuRatio: compared(cpuRatio),
      rateRatio: compared(rateRatio),
    }
  })
}

/** Where and how the figures were measured. */
export function setUp({ rounds, connections }: Settings, durations: Durations): string {
  const ms = (value: number) => `${value.toFixed(0)} ms`
  return [
    `Node ${process.version}, ${process.platform} ${process.arch}, ${cpus().length} × ${cpus()[0]?.model.trim()};`,
    `${rounds} rounds of ${ms(durations.saturatedMs)} with ${connections} connections`,
    `and ${ms(durations.singleMs)} with one.`,
  ].join(' ')
}

/** A Markdown table for each case, as `docs/explanation/performance.md` shows them. */
export function markdown(cases: readonly BenchCase[], rows: readonly Row[]): string {
  return cases
    .map(({ name, title }) => {
      const lines = rows.filter(row => row.case === name).map(cells)
      return `**\`${title.replace(',', '`,')}**\n\n${table([HEAD, ...lines])}`
    })
    .join('\n\n')
}

/** A line about the servers whose requests per second were limited by something else. */
export function limits(rows: readonly Row[]): readonly string[] {
  const limited = rows.filter(({ saturated }) => saturated.busy < LIMITED_BELOW)
  if (limited.length === 0) return []
  const names = limited.map(row => `${row.server} (${row.case})`).join(', ')
  return [
    `Busy below ${LIMITED_BELOW}: the load generator and the upstream limited the requests per second of ${names}. Compare their CPU time only.`,
  ]
}

/** Everything that was measured, for `BENCH_JSON`. */
export function json(settings: Settings, rows: readonly Row[], tracks: readonly Track[]): string {
  const machine = {
    node: process.version,
    platform: process.platform,
    cpus: cpus().map(({ model }) => model),
  }
  const withStretches = rows.map((row, index) => ({
    ...row,
    sent: tracks[index]?.sent,
    stretches: { saturated: tracks[index]?.saturated, single: tracks[index]?.single },
  }))
  return `${JSON.stringify({ measuredAt: new Date().toISOString(), machine, settings, rows: withStretches }, null, 2)}\n`
}

function cells({ server, saturated, single, cpuRatio: cpu, rateRatio: rate }: Row): readonly string[] {
  return [
    server,
    figure(saturated.cpuMicroseconds, 1),
    ratioText(cpu),
    figure(saturated.requestsPerSecond, 0),
    ratioText(rate),
    figure(saturated.busy, 2),
    figure(single.p50Ms, 3),
  ]
}

function ratioText(ratio: Ratio | undefined): string {
  if (ratio === undefined) return ''
  return `${figure(ratio.median, 2)} (${figure(ratio.least, 2)}–${figure(ratio.most, 2)})`
}

/** Unknown on a system without `/proc`. */
function figure(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : '?'
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = HEAD.map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0)))
  const width = (column: number) => widths[column] ?? 0
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, at) => (at === 0 ? cell.padEnd(width(at)) : cell.padStart(width(at)))).join(' | ')} |`
  const rule = `| ${HEAD.map((_, at) => (at === 0 ? '-'.repeat(width(at)) : `${'-'.repeat(width(at) - 1)}:`)).join(' | ')} |`
  const [head = [], ...body] = rows
  return [line(head), rule, ...body.map(line)].join('\n')
}
