import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'

const START_TIMEOUT_MS = 60_000

/** A little longer than an idle proxy takes to drain. */
const STOP_TIMEOUT_MS = 5000

const PORT_POLL_MS = 20

/** A server in its own process. */
export type Server = {
  readonly url: string
  readonly pid: number
}

/** A server that is measured, and its name in the tables. */
export type Peer = {
  readonly name: string
  readonly server: Server
}

/** The servers of one bench. They are started one by one and stopped together. */
export class Children {
  readonly #children = new Set<ChildProcess>()
  readonly #killAll = () => {
    for (const child of this.#children) child.kill('SIGKILL')
  }

  constructor() {
    // Covers exits without `stop`: process.exit, an uncaught error.
    process.once('exit', this.#killAll)
  }

  /**
   * Runs a Node program until `stop`, and waits for its line of JSON with `"msg":"listening"` and a `url`.
   *
   * @param node the `node` that runs it.
   * @throws if the program exits first, or takes too long.
   */
  startNode(args: readonly string[], node = process.execPath): Promise<Server> {
    return this.#start(node, args, listeningUrl)
  }

  /**
   * Runs any other server until `stop`, and waits until it accepts connections on the port.
   *
   * @throws if the program exits first, or takes too long.
   */
  startProgram(command: string, args: readonly string[], port: number): Promise<Server> {
    return this.#start(command, args, (_child, gaveUp) => acceptingUrl(port, gaveUp))
  }

  /** Stops all servers, and kills those that do not stop in time. */
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

  async #start(
    command: string,
    args: readonly string[],
    urlOf: (child: ChildProcess, gaveUp: AbortSignal) => Promise<string>,
  ): Promise<Server> {
    const child = spawn(command, args, { env: environmentWithoutOurs(), stdio: ['pipe', 'pipe', 'inherit'] })
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    const gaveUp = new AbortController()
    const { signal } = gaveUp
    const found = await Promise.race([
      urlOf(child, signal).then(url => ({ url })),
      once(child, 'exit', { signal }).then(([code, ended]) => `it ended with ${code ?? ended}`),
      delay(START_TIMEOUT_MS, `it was not listening after ${START_TIMEOUT_MS} ms`, { signal }),
    ]).finally(() => gaveUp.abort())
    if (typeof found === 'string' || child.pid === undefined) {
      throw new Error(`${command} ${args.join(' ')} did not start: ${found}`)
    }
    return { url: found.url, pid: child.pid }
  }
}

/** The line that the proxy logs; the bench's own servers print the same. Also takes what they print later. */
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

async function acceptingUrl(port: number, gaveUp: AbortSignal): Promise<string> {
  while (!(await accepts(port))) await delay(PORT_POLL_MS, undefined, { signal: gaveUp })
  return `http://127.0.0.1:${port}`
}

function accepts(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect({ host: '127.0.0.1', port })
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

function environmentWithoutOurs(): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('FOCUS_BREAKER_')),
  )
}
