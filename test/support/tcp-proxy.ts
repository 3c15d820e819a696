import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { portOf } from './raw.js'

/** One connection through the proxy, and its other half. */
type Pair = { readonly near: Socket; readonly far: Socket }

/**
 * A TCP port of loopback that forwards everything to another port, whatever the protocol.
 *
 * It can cut connections, hold data back as in a network partition, add a delay, or lead to another port.
 */
export class TcpProxy {
  /** The delay of each piece, in either direction. */
  delayMs = 0
  /** The target of the next connection. */
  target: number
  #port = 0
  #isCut = false
  #isHeld = false
  #stoppedBy: string | undefined
  readonly #pairs = new Set<Pair>()
  readonly #server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, socket => this.#join(socket))

  constructor(target: number) {
    this.target = target
  }

  get port(): number {
    return this.#port
  }

  /** Connections that are open now. */
  get open(): number {
    return this.#pairs.size
  }

  async listen(): Promise<void> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    this.#port = portOf(this.#server)
  }

  /** Resets every connection, and each new one, until `heal`. */
  cut(): void {
    this.#isCut = true
    this.reset()
  }

  /** Resets every connection; new ones pass. */
  reset(): void {
    for (const { near, far } of this.#pairs) {
      abort(near)
      abort(far)
    }
  }

  /** Holds back all data from either side, until `heal`: nothing is lost, as with TCP in a partition. */
  hold(): void {
    this.#isHeld = true
    for (const { near, far } of this.#pairs) {
      near.pause()
      far.pause()
    }
  }

  /** Blocks, from now on, any connection on which this text is sent to the target; the others are not affected. */
  stopWith(text: string): void {
    this.#stoppedBy = text
  }

  /** Lets everything pass again, including the data held back. */
  heal(): void {
    this.#isCut = false
    this.#isHeld = false
    this.#stoppedBy = undefined
    for (const { near, far } of this.#pairs) {
      near.resume()
      far.resume()
    }
  }

  /** Sends connections to this port from now on; open ones are reset. */
  retarget(port: number): void {
    this.target = port
    this.reset()
  }

  async close(): Promise<void> {
    this.#server.close()
    this.reset()
    await once(this.#server, 'close')
  }

  #join(near: Socket): void {
    if (this.#isCut) {
      near.on('error', () => undefined).resetAndDestroy()
      return
    }
    const far = connect({ host: '127.0.0.1', port: this.target, allowHalfOpen: true, noDelay: true })
    near.setNoDelay(true)
    const pair = { near, far }
    this.#pairs.add(pair)
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      const pass = this.#direction()
      from.on('data', (chunk: Buffer) => {
        if (this.#stoppedBy === undefined || from === far || !chunk.includes(this.#stoppedBy)) {
          pass(() => to.write(chunk))
          return
        }
        near.pause()
        far.pause()
      })
      from.once('end', () => pass(() => to.end()))
      from.on('error', () => undefined)
      from.once('close', () => {
        this.#pairs.delete(pair)
        pass(() => to.destroy())
      })
    }
    if (this.#isHeld) far.pause()
    else near.resume()
  }

  /** Runs tasks in the order of the calls, each after the delay in force at that moment. */
  #direction(): (act: () => void) => void {
    const queue: (() => void)[] = []
    return act => {
      if (this.delayMs === 0 && queue.length === 0) return act()
      queue.push(act)
      setTimeout(() => queue.shift()?.(), this.delayMs)
    }
  }
}

/** Resets a connection. Node leaks a socket that is reset while its end is being sent, and the process never exits. */
function abort(socket: Socket): void {
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}

/** A TCP proxy for the duration of a test. */
export async function tcpProxy(t: TestContext, target: number): Promise<TcpProxy> {
  const proxy = new TcpProxy(target)
  await proxy.listen()
  t.after(() => proxy.close())
  return proxy
}
