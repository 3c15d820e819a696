import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { portOf } from './raw.js'

/** Where a response is cut: before its first byte, within its headers, or within its body. */
export type Where = 'before' | 'head' | 'body'

/** What goes wrong between the proxy and the upstream. */
export type Fault =
  | { readonly kind: 'none' }
  /** The connection is open, and the request never arrives. */
  | { readonly kind: 'hang' }
  /** The response stalls, and the connection stays open. */
  | { readonly kind: 'stall'; readonly where: Where }
  /** The response is cut by a reset. */
  | { readonly kind: 'reset'; readonly where: Where }
  /** The response is cut by an orderly end of this direction. */
  | { readonly kind: 'half-close'; readonly where: Where }
  /** The response comes byte by byte. */
  | { readonly kind: 'drip'; readonly everyMs: number }
  /** The response comes late, each piece with a different delay. */
  | { readonly kind: 'latency'; readonly ms: number; readonly jitterMs: number }
  /** The connection is reset when a second or later request arrives on it. */
  | { readonly kind: 'close-when-reused' }

/** How much reaches the upstream before a reset; a reset discards what has not been read yet. */
const SETTLE_MS = 100

/** A TCP port in front of an upstream that applies a fault to exchanges. */
export class FaultInjector {
  /** The fault for each request that starts from now on. */
  fault: Fault = { kind: 'none' }
  /** Selects the affected requests by their first line; the others pass. */
  strikes = /./
  /** The first lines of the received requests, in order. */
  readonly requests: string[] = []
  /** The number of connections accepted so far. */
  accepted = 0
  readonly #upstreamPort: number
  readonly #sockets = new Set<Socket>()
  #server: Server
  #port = 0

  constructor(upstreamPort: number) {
    this.#upstreamPort = upstreamPort
    this.#server = this.#createServer()
  }

  get port(): number {
    return this.#port
  }

  /** The proxy's connections that are open now. */
  get open(): number {
    return this.#sockets.size
  }

  async listen(): Promise<void> {
    this.#server.listen(this.#port, '127.0.0.1', 8192)
    await once(this.#server, 'listening')
    this.#port = portOf(this.#server)
  }

  /** Makes the port refuse connections from now on; `listen` opens it again. */
  async refuse(): Promise<void> {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await once(this.#server, 'close')
    this.#server = this.#createServer()
  }

  #createServer(): Server {
    return createServer({ allowHalfOpen: true }, socket => this.#join(socket))
  }

  #join(socket: Socket): void {
    this.accepted += 1
    this.#sockets.add(socket)
    const upstream = connect(this.#upstreamPort, '127.0.0.1')
    const timers = new Set<NodeJS.Timeout>()
    const later = (ms: number, act: () => void) => {
      const timer = setTimeout(() => {
        timers.delete(timer)
        act()
      }, ms)
      timers.add(timer)
    }
    const end = () => {
      this.#sockets.delete(socket)
      for (const timer of timers) clearTimeout(timer)
      socket.destroy()
      upstream.destroy()
    }
    socket.on('error', () => undefined).once('close', end)
    upstream.on('error', () => undefined).once('close', end)
    socket.once('end', end)
    let fault: Fault = { kind: 'none' }
    let count = 0
    socket.on('data', chunk => {
      const line = /^[A-Z]+ \S+ HTTP\/1\.1(?=\r\n)/.exec(chunk.toString('latin1'))?.[0]
      if (line !== undefined) {
        this.requests.push(line)
        fault = this.strikes.test(line) ? this.fault : { kind: 'none' }
        count += 1
      }
      if (fault.kind === 'hang') return
      if (fault.kind === 'close-when-reused' && count > 1) {
        socket.resetAndDestroy()
        return
      }
      if (fault.kind === 'reset' && fault.where === 'before') {
        socket.resetAndDestroy()
        return
      }
      if (fault.kind === 'half-close' && fault.where === 'before') {
        socket.end()
        return
      }
      upstream.write(chunk)
    })
    let free = 0
    upstream.on('data', chunk => {
      switch (fault.kind) {
        case 'stall':
          socket.write(chunk.subarray(0, cut(chunk, fault.where)))
          return
        case 'reset':
          socket.write(chunk.subarray(0, cut(chunk, fault.where)))
          later(SETTLE_MS, () => socket.resetAndDestroy())
          return
        case 'half-close':
          socket.end(chunk.subarray(0, cut(chunk, fault.where)))
          return
        case 'drip': {
          const { everyMs } = fault
          const drip = (index: number) => {
            socket.write(chunk.subarray(index, index + 1))
            if (index + 1 < chunk.length) later(everyMs, () => drip(index + 1))
          }
          drip(0)
          return
        }
        case 'latency': {
          // Pieces keep their order, whatever their delay.
          const delayMs = fault.ms + fault.jitterMs * Math.random()
          free = Math.max(free, performance.now() + delayMs)
          later(free - performance.now(), () => socket.write(chunk))
          return
        }
        default:
          socket.write(chunk)
      }
    })
  }
}

/** How much of a response that came in one piece is passed on. */
function cut(chunk: Buffer, where: Where): number {
  if (where === 'before') return 0
  return where === 'head' ? 12 : chunk.indexOf('\r\n\r\n') + 7
}

/** A fault injector for the duration of a test, in front of a port of this machine. */
export async function faultInjector(t: TestContext, upstreamPort: number): Promise<FaultInjector> {
  const injector = new FaultInjector(upstreamPort)
  await injector.listen()
  t.after(() => injector.refuse())
  return injector
}
