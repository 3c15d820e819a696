import { lookup } from 'node:dns/promises'
import { once } from 'node:events'
import { createServer, isIP, type Server, type Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** System errors for an address that this machine does not have, and for an address family that is disabled. */
const NOT_HERE: ReadonlySet<unknown> = new Set(['EADDRNOTAVAIL', 'EAFNOSUPPORT'])

/** How many ports are tried with port 0. A port that is free on one address may be in use on another. */
const PORT_ATTEMPTS = 20

/**
 * Listens on every address of this machine that the host resolves to, on the same port.
 *
 * Connections to the other addresses are passed to the one HTTP server, so that TLS and its renewal, the limits and the
 * drain apply to all of them. Fastify does not listen on further addresses when it has a `serverFactory`. Call this
 * before the app is ready.
 *
 * @returns the URL of each address.
 * @throws the system error if one of the addresses cannot be used.
 */
export async function listenOn(app: FastifyInstance, host: string, port: number): Promise<readonly string[]> {
  const { server } = app
  const others: Server[] = []
  // All listeners stop accepting at once, and the drain lasts until the connections of all of them are closed. Fastify
  // waits only for its own server and stops it after this hook.
  app.addHook('preClose', async () => {
    if (others.length > 0) await Promise.all([server, ...others].map(closed))
  })
  const limit = new ConnectionLimit(server)
  const [first = host, ...further] = await addressesOf(host)
  // No connection is accepted before the first reading.
  await app.ready()
  for (let attempt = 1; ; attempt++) {
    try {
      let chosen = port
      for (const address of further) {
        const other = createServer({ noDelay: true })
        limit.includes(other)
        other.listen(chosen, address)
        // Rejects on an error.
        await once(other, 'listening')
        others.push(other)
        chosen = portOf(other)
      }
      await app.listen({ host: first, port: chosen })
      return [first, ...further].map(address => `http://${inUrl(address)}:${portOf(server)}`)
    } catch (error) {
      for (const other of others.splice(0)) void closed(other)
      const isInUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
      if (port !== 0 || !isInUse || further.length === 0 || attempt === PORT_ATTEMPTS) throw error
    }
  }
}

/**
 * The addresses that a host resolves to; `localhost` is always 127.0.0.1 and ::1. If there are several, only those that
 * this machine has.
 */
export async function addressesOf(host: string): Promise<readonly string[]> {
  if (isIP(host) !== 0) return [host]
  // /etc/hosts often lists only one of them.
  const isLocalhost = /^localhost\.?$/i.test(host)
  const found = isLocalhost
    ? ['127.0.0.1', '::1']
    : (await lookup(host, { all: true })).map(({ address }) => address)
  const addresses = [...new Set(found)]
  if (addresses.length < 2) return addresses
  const problems: unknown[] = []
  const here: string[] = []
  for (const address of addresses) {
    const problem = await problemOfAddress(address)
    if (problem === undefined) here.push(address)
    else problems.push(problem)
  }
  if (here.length === 0) throw problems[0]
  return here
}

/** Returns the error if this machine does not have the address. */
async function problemOfAddress(address: string): Promise<unknown> {
  const server = createServer()
  try {
    server.listen(0, address)
    await once(server, 'listening')
    return undefined
  } catch (error) {
    return error instanceof Error && 'code' in error && NOT_HERE.has(error.code) ? error : undefined
  } finally {
    server.close()
  }
}

/**
 * Passes the connections of further listeners to the HTTP server, and applies its connection limit to all listeners
 * together. Node counts the connections of each listener separately.
 */
class ConnectionLimit {
  readonly #server: Server
  readonly #most: number
  readonly #open = new Map<Server, Set<Socket>>()

  constructor(server: Server) {
    this.#server = server
    this.#most = server.maxConnections
    this.#open.set(server, new Set())
  }

  /** Adds a listener. */
  includes(other: Server): void {
    // The server's own connections are counted only if there are other listeners.
    if (this.#open.size === 1) this.#server.on('connection', socket => this.#count(this.#server, socket))
    this.#open.set(other, new Set())
    other.on('connection', socket => {
      this.#count(other, socket)
      this.#server.emit('connection', socket)
    })
    other.once('close', () => this.#open.delete(other))
    this.#setLimits()
  }

  #count(listener: Server, socket: Socket): void {
    // A connection can be passed on twice, and connections of other listeners arrive here too.
    if ([...this.#open.values()].some(sockets => sockets.has(socket))) return
    const sockets = this.#open.get(listener)
    sockets?.add(socket)
    socket.once('close', () => {
      sockets?.delete(socket)
      this.#setLimits()
    })
    this.#setLimits()
  }

  /** Limits each listener to the connections that the others have not used. */
  #setLimits(): void {
    const all = [...this.#open.values()].reduce((sum, sockets) => sum + sockets.size, 0)
    for (const [listener, sockets] of this.#open) {
      // For Node, 0 means no limit, and a negative number means no connections.
      listener.maxConnections = this.#most - (all - sockets.size) || -1
    }
  }
}

function closed(server: Server): Promise<unknown> {
  // A server that is not listening reports an error here, which can be ignored.
  return new Promise(resolve => server.close(resolve))
}

function portOf(server: Server): number {
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}

/** The address as it is written in a URL. */
export function inUrl(address: string): string {
  return isIP(address) === 6 ? `[${address}]` : address
}
