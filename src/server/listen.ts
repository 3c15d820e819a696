import { lookup } from 'node:dns/promises'
import { once } from 'node:events'
import { createServer, isIP, type Server, type Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** What the system says of an address that is not this machine's, and of a family of addresses that is turned off. */
const NOT_HERE: ReadonlySet<unknown> = new Set(['EADDRNOTAVAIL', 'EAFNOSUPPORT'])

/** How often another port is chosen, because one that is free on one address may be in use on another. */
const PORT_ATTEMPTS = 20

/**
 * Listens on every address of this machine that the host stands for, and on the same port.
 *
 * Connections to further addresses are handed to the one HTTP server, so that TLS and its renewal, limits and the drain hold
 * for all of them. Fastify does not listen on further addresses when it has a `serverFactory`. To be called before the app is ready.
 *
 * @returns the URL of each address.
 * @throws the error of the system when one of them cannot be used.
 */
export async function listenOn(app: FastifyInstance, host: string, port: number): Promise<readonly string[]> {
  const { server } = app
  const others: Server[] = []
  // Every listener stops accepting at once, and the drain lasts until the connections of all of them are closed. Fastify
  // waits for its own server only, and stops it after this.
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
        // An error rejects this.
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

/** The addresses that a host stands for: of `localhost` 127.0.0.1 and ::1. Of several only those that this machine has. */
export async function addressesOf(host: string): Promise<readonly string[]> {
  if (isIP(host) !== 0) return [host]
  // /etc/hosts often names only one of them.
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

/** The error, if this machine does not have the address. */
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
 * Hands the connections of further listeners to the HTTP server, and keeps its limit for all of them together. Node counts
 * the connections of each listener separately.
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
    // Own connections are counted only if there are others.
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
    // A connection can be handed over twice, and one of another listener comes here, too.
    if ([...this.#open.values()].some(sockets => sockets.has(socket))) return
    const sockets = this.#open.get(listener)
    sockets?.add(socket)
    socket.once('close', () => {
      sockets?.delete(socket)
      this.#setLimits()
    })
    this.#setLimits()
  }

  /** Leaves each listener what the others have not used. */
  #setLimits(): void {
    const all = [...this.#open.values()].reduce((sum, sockets) => sum + sockets.size, 0)
    for (const [listener, sockets] of this.#open) {
      // Node takes 0 for no limit, and a negative one for none at all.
      listener.maxConnections = this.#most - (all - sockets.size) || -1
    }
  }
}

function closed(server: Server): Promise<unknown> {
  // A server that does not listen has an error here, which is what is wanted.
  return new Promise(resolve => server.close(resolve))
}

function portOf(server: Server): number {
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}

/** The address as it stands in a URL. */
export function inUrl(address: string): string {
  return isIP(address) === 6 ? `[${address}]` : address
}
