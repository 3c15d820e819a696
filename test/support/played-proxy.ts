import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { repositoryRoot } from './harness.js'
import type { PlayedCommand } from './played-program.js'

/** A proxy whose time advances only when the test says so. */
export interface PlayedProxy {
  readonly url: string
  /** The current time of its clock. */
  now(): number
  /** Advances the time in steps; the timers of each step run. */
  pass(ms: number, step?: number): Promise<void>
  /** Sets what a probe finds. */
  read(kind: 'ready' | 'waiting' | 'unreachable'): Promise<void>
  /** Ends it as SIGTERM does. */
  close(): Promise<void>
  /** Ends it with SIGKILL. */
  kill(): Promise<void>
}

/** Starts the proxy at a time of the play, on a free port of loopback. */
export async function playedProxy(
  t: TestContext,
  at: number,
  environment: Readonly<Record<string, string>>,
): Promise<PlayedProxy> {
  const child = fork(join(repositoryRoot, '.build/test/support/played-program.js'), {
    env: { ...environment, PLAYED_NOW: String(at) },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const exited = once(child, 'exit')
  t.after(async () => {
    child.kill('SIGKILL')
    await exited
  })
  const reply = async (): Promise<{ readonly url?: string; readonly now: number }> => {
    const [message] = await Promise.race([
      once(child, 'message'),
      exited.then(([code]) => Promise.reject(new Error(`the played proxy ended with ${code}`))),
    ])
    return message
  }
  const first = await reply()
  let now = first.now
  const send = async (command: PlayedCommand) => {
    const replied = reply()
    child.send(command)
    now = (await replied).now
  }
  return {
    url: first.url ?? '',
    now: () => now,
    pass: (ms, step = 1000) => send({ pass: ms, step }),
    read: kind => send({ reading: kind }),
    close: async () => {
      child.send({ close: true })
      await exited
    },
    kill: async () => {
      child.kill('SIGKILL')
      await exited
    },
  }
}
