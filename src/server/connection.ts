import { type IncomingMessage, type RequestListener, type Server, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** Limits of client connections; 0 for no limit. */
export type ConnectionLimits = {
  /** Requests on one connection; the last response closes it. */
  readonly maxRequestsPerConnection: number
  /** How long a client may read nothing while response data is waiting for it, in milliseconds. */
  readonly responsePauseTimeoutMs: number
  /** How long the rest of a request body may take after the response was sent, in milliseconds. */
  readonly bodyTimeoutMs: number
}

/** Called once: with `true` when the client has its whole response, with `false` when it disconnected before that. */
export type WhenOver = (hasResponse: boolean) => void

/** How many pipelined requests may wait on a connection. At this number the connection is paused. */
const MAX_PIPELINED = 16

/** How many times a response is checked for progress within its time limit. */
const CHECKS_PER_PAUSE = 4

/** How many bytes after a handshake are kept for the upstream. At this size the connection is paused. */
const MAX_EARLY_BYTES = 65_536

/** How often a connection is returned to Node after an unused `Upgrade`. Node adds listeners to it each time. */
const MAX_UPGRADE_REQUESTS = 8

/** How long a connection stays open after its last response, so that the client can read it and close. */
const LINGER_MS = 1000

/** The limit while the client still sends a body, for a client that never pauses for `LINGER_MS`. */
const MAX_LINGER_MS = 30_000

type Arrived = {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly serve: RequestListener
  /** It arrived before an earlier request of its connection was answered. */
  readonly isPipelined: boolean
}

/** A client connection and its pending responses. */
class Connection {
  /** The accepted socket; under TLS the encrypted one, as soon as there is one. */
  socket: Socket
  /** The response that must be sent first. */
  current: ServerResponse | undefined
  /** Pipelined requests in the order of arrival. They take no resources until their turn. */
  readonly waiting: Arrived[] = []
  /** Whether the current request arrived before an earlier one was answered. */
  isPipelined = false
  /** Called when more data arrives after the current request. */
  followed: (() => void) | undefined
  /** What to do when no response is pending any more. */
  last: (() => void) | undefined
  requests = 0
  /** Whether the current response would keep the connection open if the server were not draining. */
  wasKeptAlive: boolean | undefined
  upgradeRequests = 0
  /** Node has handed the socket over; it no longer belongs to the HTTP server. */
  isDetached = false
  /** The handshake that it was handed over for. */
  handshake: Handshake | undefined
  /**
   * The request that was answered before its body was complete, until the body is complete or the next request starts.
   */
  unfinished: IncomingMessage | undefined
  /**
   * Ends the connection when the body of `unfinished` takes too long. One timer serves all requests of the connection.
   */
  restTimer: NodeJS.Timeout | undefined
  /** How much was unsent at the last check, as one text. */
  unsent = ''
  checksWithoutProgress = 0

  /** Called after the end of each response. Created once per connection, not per response. */
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
 * Client connections: the only place that knows whether a client is gone and which response is next.
 *
 * The requests of a connection are served one at a time, in order (RFC 9112, 9.3.2). A response that is being prepared
 * therefore always has a socket, and its state is the state of its client. Node would serve pipelined requests at once,
 * and it never emits `close` for a response that has no socket yet: resources taken for such a request would never be
 * released.
 */
export class Connections {
  readonly #limits: ConnectionLimits
  /** Keyed by peer: with TLS, the accepted socket and the socket of the requests are different objects. */
  readonly #byPeer = new Map<string, Connection>()
  readonly #bySocket = new WeakMap<Duplex, Connection>()
  readonly #nextOf = (connection: Connection) => this.#next(connection)
  #progressTimer: NodeJS.Timeout | undefined
  #isRetiring = false

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Tracks the connections of this server. Call it once. */
  follow(server: Server): void {
    server.on('connection', (socket: Socket) => {
      if (!this.#bySocket.has(socket)) this.#add(socket, new Connection(socket, this.#nextOf))
    })
    server.on('secureConnection', (socket: Socket) => {
      // It replaces the accepted socket below it.
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

  /**
   * Returns a request listener that calls `serve` for each request in order, and not at all once its client is gone.
   */
  inTurn(serve: RequestListener): RequestListener {
    return (request, response) => {
      const connection = this.#of(request.socket)
      const { current, waiting } = connection
      if (current === undefined) return this.#serve(connection, request, response, serve, false)
      const isPipelined = waiting.length > 0 || !current.writableEnded
      waiting.push({ request, response, serve, isPipelined })
      // The current request is no longer the last one.
      if (connection.wasKeptAlive !== undefined && !current.headersSent) {
        current.shouldKeepAlive = connection.wasKeptAlive
        keepOpen(current)
      }
      connection.followed?.()
      // Node resumes reading when this message is complete, so the pause must come after that.
      if (waiting.length >= MAX_PIPELINED) process.nextTick(connection.pauseIfFull)
    }
  }

  /**
   * Whether a request is pipelined: it arrived before an earlier one was answered, or more data has arrived after it.
   * Its client does not wait for the response, so such a request is never queued.
   */
  isPipelined({ socket }: IncomingMessage): boolean {
    const connection = this.#bySocket.get(socket)
    if (connection === undefined) return false
    return connection.isPipelined || connection.waiting.length > 0 || connection.last !== undefined
  }

  /**
   * Keeps the connection open for pipelined requests. Call it when Fastify starts a request: while the server drains,
   * Fastify closes the connection after each response, and the pipelined requests would be lost.
   */
  keepOpenForWaiting({ socket }: IncomingMessage): void {
    if (!this.#isRetiring) return
    const connection = this.#bySocket.get(socket)
    if (connection?.current !== undefined && connection.waiting.length > 0) keepOpen(connection.current)
  }

  /** Calls `follow` when a client sends more data after this request, before its response is complete. */
  whenFollowed({ socket }: IncomingMessage, follow: () => void): void {
    const connection = this.#bySocket.get(socket)
    if (connection !== undefined) connection.followed = follow
  }

  /**
   * Takes over a socket that Node has detached for an upgrade or for CONNECT.
   *
   * If an earlier request is unanswered, the two responses would get mixed up: the earlier requests are then answered,
   * and the connection closes.
   *
   * @returns whether the socket is free: no response is pending on it.
   */
  detach(socket: Duplex): boolean {
    const connection = this.#of(socket)
    connection.isDetached = true
    // Node has removed its own listeners, and an unhandled error would terminate the process.
    socket.on('error', destroy)
    if (connection.current === undefined) return true
    // Node no longer forwards the socket's `drain` event to the response.
    socket.on('drain', () => connection.current?.emit('drain'))
    this.#endInTurn(connection, () => connection.socket.destroySoon())
    return false
  }

  /** Serves a handshake like any other request, on the socket that Node has detached for it. */
  serveHandshake(request: IncomingMessage, duplex: Duplex, head: Buffer, serve: RequestListener): void {
    const connection = this.#of(duplex)
    connection.handshake = new Handshake(request, connection.socket, head)
    serve(request, connection.handshake.response)
  }

  /** The handshake of a WebSocket request; undefined for any other request. */
  handshakeOf({ socket }: IncomingMessage): Handshake | undefined {
    return this.#bySocket.get(socket)?.handshake
  }

  /**
   * Returns a detached socket to Node's HTTP server, which serves this request as if it had not asked for an upgrade.
   */
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
   * Writes a last response to invalid input, after all pending responses. If it were written earlier, the client would
   * take it for one of those.
   */
  answerLast(socket: Duplex, text: string): void {
    const connection = this.#of(socket)
    // Node reports each further piece of the invalid input.
    if (connection.last !== undefined) return
    const broken =
      connection.waiting.at(-1)?.request.complete === false ? connection.waiting.pop() : undefined
    const { current } = connection
    if (current === undefined) this.#end(connection, text)
    else if (broken === undefined && !current.req.complete) {
      // The current request is the invalid one.
      connection.last = () => undefined
      if (current.headersSent) socket.destroy()
      else this.#end(connection, text)
    } else this.#endInTurn(connection, () => this.#end(connection, text))
  }

  /** From now on, the last pending response of each connection closes it, so that clients go elsewhere. */
  retire(): void {
    this.#isRetiring = true
    for (const connection of this.#byPeer.values()) {
      if (connection.waiting.length === 0) this.#closeBehind(connection)
    }
  }

  /** Closes the connections without a pending response, except detached ones. */
  closeIdle(): void {
    for (const { current, isDetached, socket } of this.#byPeer.values()) {
      if (current === undefined && !isDetached) socket.destroy()
    }
  }

  /** Aborts every connection. */
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
    // The peer has closed the earlier connection; otherwise it could not reuse the port.
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

  /** Lets the current response close its connection. If its head is already sent, the drain closes the connection. */
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
      // The client is gone, or the last response closes the connection.
      waiting.length = 0
      connection.last?.()
      return
    }
    if (waiting.length < MAX_PIPELINED && socket.isPaused()) socket.resume()
    const { request, response, serve, isPipelined } = next
    if (response.socket !== null) this.#serve(connection, request, response, serve, isPipelined)
    else {
      // Node has queued a response of its own before it.
      connection.current = response
      response.once('socket', () => this.#serve(connection, request, response, serve, isPipelined))
    }
  }

  /** The rest of a body is discarded as it arrives. A client that trickles it must not keep its connection. */
  #limitRest(connection: Connection, request: IncomingMessage): void {
    const { bodyTimeoutMs } = this.#limits
    if (bodyTimeoutMs === 0 || connection.socket.destroyed) return
    connection.unfinished = request
    if (connection.restTimer !== undefined) {
      connection.restTimer.refresh()
      return
    }
    // A timer per request would keep each request in memory for a minute, and refused ones come by the thousand.
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
    // Do not wait for a client that keeps its side open. Closing at once could lose the response.
    setTimeout(() => socket.destroy(), LINGER_MS).unref()
  }

  /** Nothing else reads a detached socket, and a socket that is not read never reports its end. */
  #readToTheEnd({ socket }: Connection): void {
    socket.on('end', destroy)
    socket.resume()
  }

  /**
   * Disconnects clients that do not read their response. As with nginx's `send_timeout`, progress means that the
   * operating system accepts more data: a client that reads slowly frees its buffers in steps.
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
 * Node closes a connection after its last response, even while the client is still sending the request body. The
 * operating system answers the remaining data with a reset, and the client loses the response. The connection is
 * therefore read for a while longer and the data discarded, like nginx's `lingering_close`.
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

/** Aborts a response in a way that shows the client that it is incomplete. */
export function breakOff(response: ServerResponse): void {
  const { socket, headersSent, req } = response
  // For an HTTP/1.0 client, the end of the connection is the end of the response; only a reset shows that data is
  // missing. Under TLS the missing close_notify shows it.
  const endsWithConnection = headersSent && req.httpVersion !== '1.1'
  const canReset = socket !== null && !('encrypted' in socket) && !socket.writableEnded
  // Node leaks a socket that is reset while its FIN is being sent: the reset fails with EINVAL, and nothing closes it.
  if (endsWithConnection && canReset) socket.resetAndDestroy()
  else response.destroy()
}

/** Lets a response keep its connection open after all, if the client wants that. */
function keepOpen(response: ServerResponse): void {
  if (response.shouldKeepAlive && response.hasHeader('connection'))
    response.setHeader('connection', 'keep-alive')
}

function cut({ socket, current }: Connection): void {
  if (current !== undefined && current.socket === socket) breakOff(current)
  else socket.destroy()
}

/** Calls `over` once, when the client has the whole response or is gone. */
export function whenOver(response: ServerResponse, over: WhenOver): void {
  // Node emits this only for a response that has a socket, and `Connections` serves no other.
  response.once('close', () => over(response.writableFinished))
}

/**
 * A handshake on a socket that Node has detached. It is served like any other request, and its response can be replaced
 * by a joined connection. Until then the socket is read, because a disconnect is not noticed otherwise, and the data is
 * kept.
 */
export class Handshake {
  readonly socket: Socket
  /** An ordinary response instead of the upgrade. The connection ends with it. */
  readonly response: ServerResponse
  readonly #early: Buffer[]
  #length: number
  readonly #keep = (chunk: Buffer) => {
    this.#early.push(chunk)
    this.#length += chunk.length
    if (this.#length >= MAX_EARLY_BYTES) this.socket.pause()
  }

  /** @param head data that arrived with the handshake. */
  constructor(request: IncomingMessage, socket: Socket, head: Buffer) {
    this.socket = socket
    this.#early = [head]
    this.#length = head.length
    socket.on('data', this.#keep).on('end', destroy)
    const response = new ServerResponse(request)
    response.shouldKeepAlive = false
    response.assignSocket(socket)
    // Node no longer forwards the socket's `drain` event to the response.
    socket.on('drain', () => response.emit('drain'))
    response.once('finish', () => this.#close())
    this.response = response
  }

  /** Stops reading and returns the data that has arrived so far. */
  take(): Buffer {
    this.socket.off('data', this.#keep).off('end', destroy).pause()
    return Buffer.concat(this.#early)
  }

  /** Closes the connection after the written data. Further input is discarded. */
  #close(): void {
    this.socket.off('data', this.#keep).resume()
    this.socket.destroySoon()
  }
}

/** Identifies a connection of a server: by the addresses and ports of both ends. */
function peerOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}

function destroy(this: Duplex): void {
  this.destroy()
}

/** Bytes written to a socket and not yet sent: in Node's buffers and in those of its handle. */
function unsentBytes(socket: Socket): number {
  // Node's own socket timeout uses the same figure of the handle; it has no public name.
  const handle: unknown = Reflect.get(socket, '_handle')
  const queued: unknown =
    typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'writeQueueSize') : 0
  return Math.max(socket.writableLength, typeof queued === 'number' ? queued : 0)
}

/** The head of a request as received, without the request to upgrade. */
function withoutUpgrade({ method, url, httpVersion, rawHeaders }: IncomingMessage, isLast: boolean): string {
  const lines = [`${method} ${url} HTTP/${httpVersion}`]
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    const value = rawHeaders[index + 1] ?? ''
    if (/^connection$/i.test(name)) {
      const options = isLast ? 'close' : withoutUpgradeOption(value)
      // Without options, the HTTP version decides whether the connection stays open.
      if (options !== '') lines.push(`${name}: ${options}`)
    } else if (!/^(upgrade|http2-settings)$/i.test(name)) lines.push(`${name}: ${value}`)
  }
  return `${lines.join('\r\n')}\r\n\r\n`
}

function withoutUpgradeOption(connection: string): string {
  const options = connection.split(',').filter(option => !/^\s*(upgrade|http2-settings)?\s*$/i.test(option))
  return options.join(',').trim()
}
