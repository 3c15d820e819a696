import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import { failureOf } from './failure.js'

/**
 * A request for a pool of `upstream/agent`. If `connection` is set, the pool records on it which connection is used.
 */
export type UpstreamRequest = Dispatcher.DispatchOptions & {
  readonly connection?: RequestConnection | undefined
}

/** Dispatches an `UpstreamRequest`. */
export type RequestDispatcher = {
  dispatch(request: UpstreamRequest, handler: Dispatcher.DispatchHandler): boolean
}

/** Error codes of requests that our own side aborts. */
const OWN_CODES: ReadonlySet<unknown> = new Set(['UND_ERR_CLOSED', 'UND_ERR_DESTROYED'])

/** Tracks the connection of one request: whether it was used before, and whether it has received data since. */
export class RequestConnection {
  #current: () => Socket | undefined = () => undefined
  #socket: Socket | undefined
  #bytesRead = 0

  /** Called when a client of the pool takes the request. `current` returns the client's current connection. */
  takenBy(current: () => Socket | undefined): void {
    this.#current = current
  }

  /** Called when the request is about to be sent. */
  begin(): void {
    this.#socket = this.#current()
    this.#bytesRead = this.#socket?.bytesRead ?? 0
  }

  /**
   * Whether the upstream closed a connection that it had used before, without sending a byte of this response. Most
   * likely it closed the idle connection just as the request was sent.
   */
  wasClosedWhileIdle(error: Error): boolean {
    if (this.#bytesRead === 0 || this.#socket?.bytesRead !== this.#bytesRead) return false
    const isOurs = 'code' in error && OWN_CODES.has(error.code)
    return !isOurs && failureOf(error).kind === 'connection_terminated'
  }
}
