/**
 * Measures how long builds of focus-breaker take to start: `node .build/bench/start.js <dist/cli/main.js> …`.
 *
 * The builds are started in turn, `START_ROUNDS` times each (11), by the Node that runs this program. A start ends with
 * the line `listening`. It prints medians: the time until then, the processor time, and the memory of the process that
 * is not shared.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { cpuMs } from './cpu-time.js'

type Start = { readonly ms: number; readonly cpuMs: number; readonly memoryMb: number }

const mains = process.argv.slice(2)
const rounds = Number(process.env.START_ROUNDS ?? 11)
const starts = new Map<string, Start[]>(mains.map(main => [main, []]))
for (let round = 0; round < rounds; round += 1) {
  for (const [main, measured] of starts) measured.push(await start(main))
}
for (const [main, measured] of starts) {
  const figures = (['ms', 'cpuMs', 'memoryMb'] as const).map(
    name => `${name} ${median(measured.map(each => each[name]))}`,
  )
  process.stdout.write(`${main}: ${figures.join(', ')}\n`)
}

async function start(main: string): Promise<Start> {
  const began = performance.now()
  const child = spawn(
    process.execPath,
    [main, 'serve', '--upstream', 'http://127.0.0.1:9', '--host', '127.0.0.1', '--port', '0'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.includes('"listening"')) break
  }
  const ms = Math.round(performance.now() - began)
  const measured = { ms, cpuMs: Math.round(cpuMs(pidOf(child)) ?? 0), memoryMb: memoryMb(pidOf(child)) }
  child.kill('SIGTERM')
  await once(child, 'exit')
  return measured
}

function pidOf({ pid }: ChildProcess): number {
  if (pid === undefined) throw new Error('it did not start')
  return pid
}

function memoryMb(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1')
  return Math.round(Number(/^Anonymous:\s+(\d+)/m.exec(text)?.[1]) / 1024)
}

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? Number.NaN
}
