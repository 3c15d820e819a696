import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'

const START_TIMEOUT_MS = 15_000

/** A little longer than an idle proxy takes to drain. */
const STOP_TIMEOUT_MS = 5000

/** The unit of `/proc/<pid>/stat`, 1/100 s on every Linux that Node supports. */
const TICK_MS = 10

/** A server in a process of its own. */
export type Server = {
  readonly url: string
  readonly pid: number
}

/** The servers of one bench: started one by one, ended together, each by its own process. */
export class Children {
  readonly #children = new Set<ChildProcess>()
  readonly #killAll = () => {
    for (const child of this.#children) child.kill('SIGKILL')
  }

  constructor() {
    // For an end that `stop` does not see: process.exit, an uncaught error.
    process.once('exit', this.#killAll)
  }

  /**
   * Runs a Node program until `stop`, and waits for its line of JSON with `"msg":"listening"` and a `url`.
   *
   * @throws when it ends before, or takes too long.
   */
  async start(args: readonly string[]): Promise<Server> {
    const child = spawn(process.execPath, args, {
      env: environmentWithoutOurs(),
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    const gaveUp = new AbortController()
    const found = await Promise.race([
      listeningUrl(child).then(url => ({ url })),
      once(child, 'exit').then(([code, signal]) => `it ended with ${code ?? signal}`),
      delay(START_TIMEOUT_MS, `no word of it after ${START_TIMEOUT_MS} ms`, { signal: gaveUp.signal }),
    ])
    gaveUp.abort()
    if (typeof found === 'string' || child.pid === undefined) {
      throw new Error(`node ${args.join(' ')} did not start: ${found}`)
    }
    return { url: found.url, pid: child.pid }
  }

  /** Ends all of them, at last by force. */
  async stop(): Promise<void> {
    const ended = [...this.#children].map(child => once(child, 'exit'))
    for (const child of this.#children) child.kill('SIGTERM')
    const gaveUp = new AbortController()
    await Promise.race([
      Promise.all(ended),
      delay(STOP_TIMEOUT_MS, undefined, { signal: gaveUp.signal }).catch(() => undefined),
    ])
    gaveUp.abort()
    this.#killAll()
    process.off('exit', this.#killAll)
  }
}

/** The line that the proxy logs; the other servers of the bench say the same. Also takes what they print later. */
function listeningUrl(child: ChildProcess): Promise<string> {
  return new Promise(resolve => {
    if (child.stdout === null) return
    createInterface({ input: child.stdout }).on('line', line => {
      if (!line.includes('"msg":"listening"')) return
      const { url }: { readonly url?: unknown } = JSON.parse(line)
      if (typeof url === 'string') resolve(url)
    })
  })
}

/** For the bench's own servers: says where it listens, and ends with whoever started it. */
export function announce(url: string): void {
  process.stdout.write(`${JSON.stringify({ msg: 'listening', url })}\n`)
  process.stdin.resume().once('end', () => process.exit())
}

/** The processor time that a process has used, in steps of 10 ms; undefined where there is no `/proc`. */
export function cpuMs(pid: number): number | undefined {
  try {
    // proc(5): utime and stime are the 14th and 15th field, and the 2nd, in parentheses, may hold spaces.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) * TICK_MS
  } catch {
    return undefined
  }
}

function environmentWithoutOurs(): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('FOCUS_BREAKER_')),
  )
}
