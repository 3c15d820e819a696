import { type IncomingMessage, type RequestListener, type Server, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** What the connections of clients go by; 0 for no limit. */
export type ConnectionLimits = {
  /** Requests on one connection; the last response closes it. */
  readonly maxRequestsPerConnection: number
  /** How long a client may read nothing of a response that waits for it, in milliseconds. */
  readonly responsePauseTimeoutMs: number
  /** How long the rest of a body may take whose request has been answered, in milliseconds. */
  readonly bodyTimeoutMs: number
}

/** Called once, when a client has its whole response (`true`), or has gone without it (`false`). */
export type WhenOver = (hasResponse: boolean) => void

/** How many requests may wait on a connection behind the one that is served; then it is not read any further. */
const MAX_PIPELINED = 16

/** How often in its time limit a response is checked for progress. */
const CHECKS_PER_PAUSE = 4

/** How much of what a client sends behind its handshake is kept for the upstream; then it is not read any further. */
const MAX_EARLY_BYTES = 65_536

/** How often a connection is given back after an unused `Upgrade`; Node adds listeners to it each time. */
const MAX_UPGRADE_REQUESTS = 8

/** How long a connection stays open behind its last response, for the client to read it and close. */
const LINGER_MS = 1000

/** The same while the client still sends a body, for a client that never pauses for as long. */
const MAX_LINGER_MS = 30_000

type Arrived = {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly serve: RequestListener
  /** It came before an earlier request of its connection was answered. */
  readonly isPipelined: boolean
}

/** A connection of a client, and what is due on it. */
class Connection {
  /** The accepted socket; under TLS the encrypted one, as soon as there is one. */
  socket: Socket
  /** The response that is due first. */
  current: ServerResponse | undefined
  /** Requests that have come behind it, in their order. Nothing is done for them, and they hold nothing, until their turn. */
  readonly waiting: Arrived[] = []
  /** Whether the current request came before an earlier one was answered. */
  isPipelined = false
  /** Called when something comes behind the current request. */
  followed: (() => void) | undefined
  /** What to do when nothing is due any more. */
  last: (() => void) | undefined
  requests = 0
  /** Whether the current response would have kept the connection open, had the server not been retiring. */
  wasKeptAlive: boolean | undefined
  upgradeRequests = 0
  /** Node has handed the socket over: it is no longer a connection of its HTTP server. */
  isDetached = false
  /** What it was handed over for. */
  handshake: Handshake | undefined
  /** The request that was answered before its body was whole, until that is or the next one comes. */
  unfinished: IncomingMessage | undefined
  /** Ends the connection when the body of `unfinished` takes too long. One for all of its requests. */
  restTimer: NodeJS.Timeout | undefined
  /** How much was unsent at the last check, as one text, and for how many checks that has not changed. */
  unsent = ''
  checksWithoutProgress = 0

  /** What follows the end of a response; made once for the connection, not for each response. */
  readonly next: () => void
  readonly pauseIfFull = () => {
    if (this.waiting.length >= MAX_PIPELINED) this.socket.pause()
  }

  constructor(socket: Socket, next: (connection: Connection) => void) {
    this.socket = socket
    this.next = () => next(this)
  }
}

/**
 * The connections of clients: the one place that knows whether a client is gone, and whose response is due.
 *
 * The requests of a connection are served one at a time, in their order (RFC 9112, 9.3.2). So a response that is being
 * prepared always has its socket, and what is true of it is true of its client. Node would serve pipelined requests at
 * once, and never emits `close` for a response that has no socket yet: what was taken for one of them would be lost.
 */
export class Connections {
  readonly #limits: ConnectionLimits
  /** By peer: with TLS the accepted socket is another object than the one that brings requests. */
  readonly #byPeer = new Map<string, Connection>()
  readonly #bySocket = new WeakMap<Duplex, Connection>()
  readonly #nextOf = (connection: Connection) => this.#next(connection)
  #progressTimer: NodeJS.Timeout | undefined
  #isRetiring = false

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Follows the connections of this server. To be called once. */
  follow(server: Server): void {
    server.on('connection', (socket: Socket) => {
      if (!this.#bySocket.has(socket)) this.#add(socket, new Connection(socket, this.#nextOf))
    })
    server.on('secureConnection', (socket: Socket) => {
      // It stands for the accepted socket below it.
      if (!this.#bySocket.has(socket))
        this.#add(socket, this.#byPeer.get(peerOf(socket)) ?? new Connection(socket, this.#nextOf))
    })
    const { responsePauseTimeoutMs } = this.#limits
    if (responsePauseTimeoutMs === 0) return
    this.#progressTimer = setInterval(
      () => this.#checkProgress(),
      Math.max(1, responsePauseTimeoutMs / CHECKS_PER_PAUSE),
    ).unref()
  }

  /** A listener for requests that calls `serve` for each in its turn, and not at all when its client has gone before. */
  inTurn(serve: RequestListener): RequestListener {
    return (request, response) => {
      const connection = this.#of(request.socket)
      const { current, waiting } = connection
      if (current === undefined) return this.#serve(connection, request, response, serve, false)
      const isPipelined = waiting.length > 0 || !current.writableEnded
      waiting.push({ request, response, serve, isPipelined })
      // It is no longer the last one.
      if (connection.wasKeptAlive !== undefined && !current.headersSent) {
        current.shouldKeepAlive = connection.wasKeptAlive
        keepOpen(current)
      }
      connection.followed?.()
      // Node reads on when this message is complete, so the pause comes after that.
      if (waiting.length >= MAX_PIPELINED) process.nextTick(connection.pauseIfFull)
    }
  }

  /**
   * Whether a request is pipelined: it came before an earlier one was answered, or something has come behind it. Its
   * client does not wait for the response, so it is not held until something happens.
   */
  isPipelined({ socket }: IncomingMessage): boolean {
    const connection = this.#bySocket.get(socket)
    if (connection === undefined) return false
    return connection.isPipelined || connection.waiting.length > 0 || connection.last !== undefined
  }

  /**
   * To be called when Fastify has begun with a request: while the server drains, Fastify closes the connection behind each
   * one, and the requests that are waiting behind it would be lost.
   */
  keepOpenForWaiting({ socket }: IncomingMessage): void {
    if (!this.#isRetiring) return
    const connection = this.#bySocket.get(socket)
    if (connection?.current !== undefined && connection.waiting.length > 0) keepOpen(connection.current)
  }

  /**
   * Calls `follow` when a client sends something behind this request, before its response is complete.
   */
  whenFollowed({ socket }: IncomingMessage, follow: () => void): void {
    const connection = this.#bySocket.get(socket)
    if (connection !== undefined) connection.followed = follow
  }

  /**
   * Takes a socket over that Node has detached for an upgrade, or for CONNECT.
   *
   * Behind an unanswered request the two responses would cross: then the earlier requests are answered, and the
   * connection closes.
   *
   * @returns whether the socket is free: nothing is due on it.
   */
  detach(socket: Duplex): boolean {
    const connection = this.#of(socket)
    connection.isDetached = true
    // Node has removed its own listeners, and an unhandled error would end the process.
    socket.on('error', destroy)
    if (connection.current === undefined) return true
    // Node tells a response no longer that its socket has taken what was written.
    socket.on('drain', () => connection.current?.emit('drain'))
    this.#endInTurn(connection, () => connection.socket.destroySoon())
    return false
  }

  /** Serves a handshake on the socket that Node has detached for it, like any other request. */
  serveHandshake(request: IncomingMessage, duplex: Duplex, head: Buffer, serve: RequestListener): void {
    const connection = this.#of(duplex)
    connection.handshake = new Handshake(request, connection.socket, head)
    serve(request, connection.handshake.response)
  }

  /** The handshake of a request that came as one; undefined for any other. */
  handshakeOf({ socket }: IncomingMessage): Handshake | undefined {
    return this.#bySocket.get(socket)?.handshake
  }

  /** Gives a detached socket back to Node's HTTP server, to serve this request as if it had not asked for an upgrade. */
  serveWithoutUpgrade(server: Server, request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const connection = this.#of(socket)
    connection.isDetached = false
    connection.upgradeRequests += 1
    const isLast = connection.upgradeRequests > MAX_UPGRADE_REQUESTS
    socket.off('error', destroy)
    socket.unshift(Buffer.concat([Buffer.from(withoutUpgrade(request, isLast), 'latin1'), head]))
    server.emit('encrypted' in socket ? 'secureConnection' : 'connection', socket)
  }

  /**
   * Writes a last response for what is not a request, behind the responses that are due: before one of them, or in its
   * middle, the client would take it for theirs.
   */
  answerLast(socket: Duplex, text: string): void {
    const connection = this.#of(socket)
    // Node reports every further piece of what it could not read.
    if (connection.last !== undefined) return
    const broken =
      connection.waiting.at(-1)?.request.complete === false ? connection.waiting.pop() : undefined
    const { current } = connection
    if (current === undefined) this.#end(connection, text)
    else if (broken === undefined && !current.req.complete) {
      // It is the current request that turned out to be none.
      connection.last = () => undefined
      if (current.headersSent) socket.destroy()
      else this.#end(connection, text)
    } else this.#endInTurn(connection, () => this.#end(connection, text))
  }

  /** From now on the response that is the last one due on its connection closes it, so that clients go elsewhere. */
  retire(): void {
    this.#isRetiring = true
    for (const connection of this.#byPeer.values()) {
      if (connection.waiting.length === 0) this.#closeBehind(connection)
    }
  }

  /** Closes the connections on which nothing is due; those that have been handed over stay. */
  closeIdle(): void {
    for (const { current, isDetached, socket } of this.#byPeer.values()) {
      if (current === undefined && !isDetached) socket.destroy()
    }
  }

  /** Cuts every connection. */
  closeAll(): void {
    for (const connection of this.#byPeer.values()) cut(connection)
  }

  /** Stops the timer. */
  stop(): void {
    clearInterval(this.#progressTimer)
  }

  #of(duplex: Duplex): Connection {
    const known = this.#bySocket.get(duplex)
    if (known !== undefined) return known
    if (!(duplex instanceof Socket)) throw new TypeError('a client connection is not a network socket')
    return this.#add(duplex, new Connection(duplex, this.#nextOf))
  }

  #add(socket: Socket, connection: Connection): Connection {
    const peer = peerOf(socket)
    const earlier = this.#byPeer.get(peer)
    // Its peer has closed it, or it could not use its port again.
    if (earlier !== undefined && earlier !== connection) earlier.socket.destroy()
    connection.socket = socket
    this.#byPeer.set(peer, connection)
    this.#bySocket.set(socket, connection)
    lingerWhileReceiving(socket, connection)
    socket.once('close', () => {
      connection.waiting.length = 0
      connection.unfinished = undefined
      clearTimeout(connection.restTimer)
      if (connection.socket === socket && this.#byPeer.get(peer) === connection) this.#byPeer.delete(peer)
    })
    return connection
  }

  #serve(
    connection: Connection,
    request: IncomingMessage,
    response: ServerResponse,
    serve: RequestListener,
    isPipelined: boolean,
  ): void {
    connection.current = response
    // A connection has one body at a time.
    connection.unfinished = undefined
    connection.isPipelined = isPipelined
    connection.requests += 1
    const { maxRequestsPerConnection: most } = this.#limits
    if (most > 0 && connection.requests >= most) response.shouldKeepAlive = false
    connection.wasKeptAlive = undefined
    if (this.#isRetiring && connection.waiting.length === 0) this.#closeBehind(connection)
    response.on('close', connection.next)
    serve(request, response)
  }

  /** Lets the current response close its connection. One whose head is sent already leaves that to the sweep of the drain. */
  #closeBehind(connection: Connection): void {
    const { current } = connection
    if (current === undefined || current.headersSent) return
    connection.wasKeptAlive = current.shouldKeepAlive
    current.shouldKeepAlive = false
  }

  #next(connection: Connection): void {
    if (connection.current?.req.complete === false) this.#limitRest(connection, connection.current.req)
    connection.current = undefined
    connection.followed = undefined
    const next = connection.waiting.shift()
    const { socket, waiting } = connection
    if (next === undefined || socket.destroyed || socket.writableEnded) {
      // The client has gone, or the last response closes the connection.
      waiting.length = 0
      connection.last?.()
      return
    }
    if (waiting.length < MAX_PIPELINED && socket.isPaused()) socket.resume()
    const { request, response, serve, isPipelined } = next
    if (response.socket !== null) this.#serve(connection, request, response, serve, isPipelined)
    else {
      // Node has put a response of its own before it.
      connection.current = response
      response.once('socket', () => this.#serve(connection, request, response, serve, isPipelined))
    }
  }

  /** What is left of a body is dropped as it comes; a client that trickles it must not keep its connection. */
  #limitRest(connection: Connection, request: IncomingMessage): void {
    const { bodyTimeoutMs } = this.#limits
    if (bodyTimeoutMs === 0 || connection.socket.destroyed) return
    connection.unfinished = request
    if (connection.restTimer !== undefined) {
      connection.restTimer.refresh()
      return
    }
    // A timer for each request would hold each of them for a minute, and refused ones come by the thousand.
    connection.restTimer = setTimeout(() => {
      if (connection.unfinished?.complete === false) connection.socket.destroy()
      connection.unfinished = undefined
    }, bodyTimeoutMs).unref()
  }

  #endInTurn(connection: Connection, end: () => void): void {
    connection.last = end
    connection.followed?.()
    if (connection.isDetached) this.#readToTheEnd(connection)
  }

  #end(connection: Connection, text: string): void {
    const { socket } = connection
    socket.end(text)
    if (connection.isDetached) this.#readToTheEnd(connection)
    // A client that keeps its side open is not waited for; at once, it might lose the response.
    setTimeout(() => socket.destroy(), LINGER_MS).unref()
  }

  /** Nobody else reads a detached socket, and without reading its end is not seen. */
  #readToTheEnd({ socket }: Connection): void {
    socket.on('end', destroy)
    socket.resume()
  }

  /**
   * Cuts the clients that read nothing of what is waiting for them. As with nginx's `send_timeout`, progress is what the
   * system takes from us: a client that reads slowly frees its buffers in steps.
   */
  #checkProgress(): void {
    for (const connection of this.#byPeer.values()) {
      const { socket } = connection
      const unsent = unsentBytes(socket)
      const seen = unsent === 0 ? '' : `${unsent} ${socket.bytesWritten}`
      connection.checksWithoutProgress =
        seen !== '' && seen === connection.unsent ? connection.checksWithoutProgress + 1 : 0
      connection.unsent = seen
      if (connection.checksWithoutProgress >= CHECKS_PER_PAUSE) cut(connection)
    }
  }
}

/**
 * Node closes a connection behind its last response, also while its client still sends the body of that request. The
 * system answers what comes then with a reset, and the client loses the response. So it is read for a while, and dropped,
 * as nginx does with `lingering_close`.
 */
function lingerWhileReceiving(socket: Socket, connection: Connection): void {
  const destroySoon = socket.destroySoon.bind(socket)
  socket.destroySoon = () => {
    if (connection.socket !== socket || connection.current?.req.complete !== false) {
      destroySoon()
      return
    }
    socket.end()
    socket.setTimeout(LINGER_MS, () => socket.destroy())
    setTimeout(() => socket.destroy(), MAX_LINGER_MS).unref()
  }
}

/** Breaks a response off in its middle, so that its client sees that it is not whole. */
export function breakOff(response: ServerResponse): void {
  const { socket, headersSent, req } = response
  // For a client of HTTP/1.0 the connection's end is the end of the response; only a reset says that something is missing.
  // Under TLS the missing close_notify says it.
  const endsWithConnection = headersSent && req.httpVersion !== '1.1'
  const canReset = socket !== null && !('encrypted' in socket) && !socket.writableEnded
  // Node leaks a socket that is reset while its end is being sent: the reset fails with EINVAL, and nothing closes it.
  if (endsWithConnection && canReset) socket.resetAndDestroy()
  else response.destroy()
}

/** Takes back that a response closes its connection, where its client wants it open. */
function keepOpen(response: ServerResponse): void {
  if (response.shouldKeepAlive && response.hasHeader('connection'))
    response.setHeader('connection', 'keep-alive')
}

function cut({ socket, current }: Connection): void {
  if (current !== undefined && current.socket === socket) breakOff(current)
  else socket.destroy()
}

/** Calls `over` once, when the client of a response has all of it, or has gone. */
export function whenOver(response: ServerResponse, over: WhenOver): void {
  // Node emits this for a response that has its socket, and `Connections` serves no other.
  response.once('close', () => over(response.writableFinished))
}

/**
 * A handshake on a socket that Node has detached. It is served like any other request, and its response can be given up
 * for a joined connection. Until then the socket is read, because a client that closes is not noticed otherwise, and what
 * comes is kept.
 */
export class Handshake {
  readonly socket: Socket
  /** An ordinary response in place of the upgrade. The connection ends with it. */
  readonly response: ServerResponse
  readonly #early: Buffer[]
  #length: number
  readonly #keep = (chunk: Buffer) => {
    this.#early.push(chunk)
    this.#length += chunk.length
    if (this.#length >= MAX_EARLY_BYTES) this.socket.pause()
  }

  /** @param head what came with the handshake. */
  constructor(request: IncomingMessage, socket: Socket, head: Buffer) {
    this.socket = socket
    this.#early = [head]
    this.#length = head.length
    socket.on('data', this.#keep).on('end', destroy)
    const response = new ServerResponse(request)
    response.shouldKeepAlive = false
    response.assignSocket(socket)
    // Node tells a response no longer that its socket has taken what was written.
    socket.on('drain', () => response.emit('drain'))
    response.once('finish', () => this.#close())
    this.response = response
  }

  /** Stops reading, and gives back what has come so far. */
  take(): Buffer {
    this.socket.off('data', this.#keep).off('end', destroy).pause()
    return Buffer.concat(this.#early)
  }

  /** Closes the connection behind what has been written; nothing that still comes is of use. */
  #close(): void {
    this.socket.off('data', this.#keep).resume()
    this.socket.destroySoon()
  }
}

/** What tells the connections of a server apart: both their ends. */
function peerOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}

function destroy(this: Duplex): void {
  this.destroy()
}

/** What a socket has been given and has not passed on: in Node's buffers, and in those of its handle. */
function unsentBytes(socket: Socket): number {
  // Node's own socket timeout goes by the same figure of the handle; there is no public name for it.
  const handle: unknown = Reflect.get(socket, '_handle')
  const queued: unknown =
    typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'writeQueueSize') : 0
  return Math.max(socket.writableLength, typeof queued === 'number' ? queued : 0)
}

/** The head of a request as it came, but for its wish to upgrade. */
function withoutUpgrade({ method, url, httpVersion, rawHeaders }: IncomingMessage, isLast: boolean): string {
  const lines = [`${method} ${url} HTTP/${httpVersion}`]
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    const value = rawHeaders[index + 1] ?? ''
    if (/^connection$/i.test(name)) {
      const options = isLast ? 'close' : withoutUpgradeOption(value)
      // Without any, the version says whether the connection stays open.
      if (options !== '') lines.push(`${name}: ${options}`)
    } else if (!/^(upgrade|http2-settings)$/i.test(name)) lines.push(`${name}: ${value}`)
  }
  return `${lines.join('\r\n')}\r\n\r\n`
}

function withoutUpgradeOption(connection: string): string {
  const options = connection.split(',').filter(option => !/^\s*(upgrade|http2-settings)?\s*$/i.test(option))
  return options.join(',').trim()
}
