import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { portOf } from './raw.js'

/** One connection through a way, and its other half. */
type Pair = { readonly near: Socket; readonly far: Socket }

/**
 * A TCP port of loopback before another one, through which everything passes, whatever its protocol is.
 *
 * It can be cut, hold everything back as a network does that is partitioned, delay, or lead somewhere else.
 */
export class TcpWay {
  /** How long each piece takes, in either direction. */
  delayMs = 0
  /** Where the next connection leads. */
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

  /** Holds back whatever comes from either side, until `heal`: nothing is lost, as with TCP in a partition. */
  hold(): void {
    this.#isHeld = true
    for (const { near, far } of this.#pairs) {
      near.pause()
      far.pause()
    }
  }

  /** From now on nothing passes any more over a connection on which this text is sent to the target; the others are whole. */
  stopWith(text: string): void {
    this.#stoppedBy = text
  }

  /** Lets everything pass again, also what was held back. */
  heal(): void {
    this.#isCut = false
    this.#isHeld = false
    this.#stoppedBy = undefined
    for (const { near, far } of this.#pairs) {
      near.resume()
      far.resume()
    }
  }

  /** From now on connections lead to this port; those that stand are reset. */
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

  /** Acts in the order in which it is called, each time after the delay of that moment. */
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

/** A way for the length of a test. */
export async function tcpWay(t: TestContext, target: number): Promise<TcpWay> {
  const way = new TcpWay(target)
  await way.listen()
  t.after(() => way.close())
  return way
}
