import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import { failureOf } from './failure.js'

/** A request for a pool of `upstream/agent`, which notes on what connection it is sent where that is asked for. */
export type UpstreamRequest = Dispatcher.DispatchOptions & {
  readonly connection?: RequestConnection | undefined
}

/** What such a request is given to. */
export type RequestDispatcher = {
  dispatch(request: UpstreamRequest, handler: Dispatcher.DispatchHandler): boolean
}

/** These end a request when our own side closes. */
const OWN_CODES: ReadonlySet<unknown> = new Set(['UND_ERR_CLOSED', 'UND_ERR_DESTROYED'])

/** What the connection of one request was used for before, and has brought since. */
export class RequestConnection {
  #present: () => Socket | undefined = () => undefined
  #socket: Socket | undefined
  #bytesRead = 0

  /** A client of the pool has taken the request. `present` gives its connection of the moment. */
  takenBy(present: () => Socket | undefined): void {
    this.#present = present
  }

  /** The request is about to be sent. */
  begin(): void {
    this.#socket = this.#present()
    this.#bytesRead = this.#socket?.bytesRead ?? 0
  }

  /**
   * Whether the upstream closed the connection although it had answered on it before, and sent not a byte of this
   * response: most likely it closed the idle connection at the moment at which the request was sent.
   */
  wasClosedWhileIdle(error: Error): boolean {
    if (this.#bytesRead === 0 || this.#socket?.bytesRead !== this.#bytesRead) return false
    const isOurs = 'code' in error && OWN_CODES.has(error.code)
    return !isOurs && failureOf(error).kind === 'connection_terminated'
  }
}
