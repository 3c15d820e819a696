import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { freePort, programMain, until } from './harness.js'
import { readLines } from './lines.js'

/** How a program ended: its code, or the signal. */
export type Ended = { readonly code: number | null; readonly signal: string | null }

/** A program whose outputs go to an unusual place. */
export type Running = {
  readonly pid: number
  readonly url: string
  readonly ended: Promise<Ended>
}

/** A directory for the duration of a test. */
export function directoryFor(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Whether unshare can run this; otherwise the test is skipped. Containers often forbid it. */
export function unshareOrSkip(t: TestContext, ...words: readonly string[]): boolean {
  if (spawnSync('unshare', words, { stdio: 'ignore' }).status === 0) return true
  t.skip(`this machine does not allow: unshare ${words.join(' ')}`)
  return false
}

/** A pipe: the end that a program writes to, and the end that a test reads or closes. */
export function pipe(t: TestContext) {
  const file = join(directoryFor(t), 'pipe')
  assert.equal(spawnSync('mkfifo', [file]).status, 0)
  const reader = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(file, constants.O_WRONLY)
  const closed = new Set<number>()
  const close = (descriptor: number) => {
    if (!closed.has(descriptor)) closeSync(descriptor)
    closed.add(descriptor)
  }
  t.after(() => {
    close(reader)
    close(writer)
  })
  return { file, reader, writer, close }
}

/** Runs this and ends it after the test by its own process id. */
export function spawnFor(
  t: TestContext,
  [command = '', ...args]: readonly string[],
  stdio: readonly ('ignore' | 'pipe' | 'inherit' | number)[],
  env: Readonly<Record<string, string>> = {},
): ChildProcess {
  const child = spawn(command, args, { stdio: [...stdio], env: { PATH: process.env.PATH, ...env } })
  t.after(() => child.kill('SIGKILL'))
  return child
}

/** How the child ends. */
export async function endOf(child: ChildProcess): Promise<Ended> {
  if (child.exitCode !== null || child.signalCode !== null) {
    return { code: child.exitCode, signal: child.signalCode }
  }
  const [code, signal] = await once(child, 'exit')
  return { code, signal }
}

/** The command that serves on a free port. */
export async function serveCommand(upstream: string): Promise<{ command: readonly string[]; url: string }> {
  const port = await freePort()
  const where = ['--upstream', upstream, '--host', '127.0.0.1', '--port', String(port)]
  return { command: [process.execPath, programMain, 'serve', ...where], url: `http://127.0.0.1:${port}` }
}

/** Waits until a proxy responds there. */
export async function isLive(url: string): Promise<void> {
  await until(async () => (await fetch(`${url}/-/live`)).status === 200, { timeoutMs: 60_000 })
}

/** Runs the command with its own terminal, which is not read. */
export async function onTerminal(
  t: TestContext,
  command: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ pid: number; ended: Promise<Ended>; closeTerminal: () => void }> {
  const child = spawnFor(t, ['/usr/bin/python3', '-c', TERMINAL, ...command], ['pipe', 'pipe', 'ignore'], env)
  assert.ok(child.stdout !== null && child.stdin !== null)
  const { stdin } = child
  const lines: string[] = []
  readLines(child.stdout, line => lines.push(line))
  const line = (pattern: RegExp) =>
    until(() => lines.map(each => pattern.exec(each)?.[1]).find(found => found !== undefined), {
      timeoutMs: 30_000,
    })
  const pid = Number(await line(/^pid (\d+)$/))
  t.after(() => {
    // The helper reports the end of the program only when the program has ended.
    if (!lines.some(each => each.startsWith('ended'))) process.kill(pid, 'SIGKILL')
  })
  const ended = async () => {
    const code = Number(await line(/^ended (-?\d+)$/))
    return code < 0 ? { code: null, signal: String(-code) } : { code, signal: null }
  }
  return { pid, ended: ended(), closeTerminal: () => void stdin.write('close\n') }
}

/** It is the controlling terminal, like that of a shell: the kernel sends SIGHUP when it closes. */
const TERMINAL = `
import os, pty, subprocess, sys
master, slave = pty.openpty()
program = subprocess.Popen(sys.argv[1:], preexec_fn=lambda: os.login_tty(os.dup(slave)))
os.close(slave)
print('pid', program.pid, flush=True)
import threading
def close():
    if sys.stdin.readline(): os.close(master)
threading.Thread(target=close, daemon=True).start()
print('ended', program.wait(), flush=True)
`
