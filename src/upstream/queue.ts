import { givesWay } from '../domain/fair-share.js'

/** What an upstream queue goes by. */
export type UpstreamQueueOptions = {
  /** How many requests may be at the upstream at a time. */
  readonly concurrency: number
  /** How many more may wait for that. */
  readonly capacity: number
  /** How long one may wait. */
  readonly timeoutMs: number
  /** The part of `concurrency`, in (0, 1], that one client may use at a time; rounded up. All of it by default. */
  readonly clientShare?: number
}

/** Why a request could not be sent: the queue is full, or its time was over. */
export type QueueRefusal = 'full' | 'late'

type Waiting = {
  readonly client: string
  readonly start: () => void
  readonly refused: (why: QueueRefusal) => void
  timer: NodeJS.Timeout | undefined
}

/** A request whose client is not told apart from others. */
const ANY_CLIENT = ''

/**
 * The upstream queue: so many requests at a time, a bounded number that wait, and none that waits for ever. A slow or
 * dead upstream then costs its own requests, and not all memory and sockets of the proxy.
 *
 * No client can take it all. At the upstream it has its share at most. When every place to wait is taken, a newcomer
 * takes that of the client that has the most, as soon as this one has two more than the newcomer's client.
 */
export class UpstreamQueue {
  readonly #options: UpstreamQueueOptions
  readonly #most: number
  readonly #waiting = new Set<Waiting>()
  readonly #waitingOf = new Map<string, Set<Waiting>>()
  readonly #active = new Map<string, number>()
  #activeTotal = 0
  #emptied: (() => void) | undefined

  constructor(options: UpstreamQueueOptions) {
    this.#options = options
    // Less than what a fraction loses as a binary number: 7 % of 100 are 7.
    this.#most = Math.ceil(options.concurrency * (options.clientShare ?? 1) - 1e-9)
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size
  }

  /**
   * Calls `start` when there is room, now or later, or `refused` when there will be none. A request that was started
   * calls `leave` once, with the same client.
   *
   * @param client the address that places are counted by.
   * @returns a function that gives up waiting; it returns whether the request was still waiting.
   */
  enter(start: () => void, refused: (why: QueueRefusal) => void, client = ANY_CLIENT): () => boolean {
    if (this.#hasRoom(client)) {
      this.#take(client)
      start()
      return noLongerWaiting
    }
    const { capacity, timeoutMs } = this.#options
    if (this.#waiting.size >= capacity && !this.#makeRoom(client)) {
      refused('full')
      return noLongerWaiting
    }
    const waiting: Waiting = { client, start, refused, timer: undefined }
    waiting.timer = setTimeout(() => {
      if (this.#forget(waiting)) refused('late')
    }, timeoutMs).unref()
    this.#waiting.add(waiting)
    const same = this.#waitingOf.get(client)
    if (same === undefined) this.#waitingOf.set(client, new Set([waiting]))
    else same.add(waiting)
    return () => this.#forget(waiting)
  }

  /** Resolves as soon as no request is at the upstream. */
  empty(): Promise<void> {
    if (this.#activeTotal === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.#emptied = resolve
    })
  }

  /** Makes room for the next. */
  leave(client = ANY_CLIENT): void {
    this.#activeTotal -= 1
    const active = (this.#active.get(client) ?? 1) - 1
    if (active > 0) this.#active.set(client, active)
    else this.#active.delete(client)
    for (const next of this.#waiting) {
      if (!this.#hasRoom(next.client)) continue
      this.#forget(next)
      this.#take(next.client)
      next.start()
      return
    }
    if (this.#activeTotal === 0) this.#emptied?.()
  }

  #hasRoom(client: string): boolean {
    if (this.#activeTotal >= this.#options.concurrency) return false
    return client === ANY_CLIENT || (this.#active.get(client) ?? 0) < this.#most
  }

  #take(client: string): void {
    this.#activeTotal += 1
    this.#active.set(client, (this.#active.get(client) ?? 0) + 1)
  }

  #makeRoom(client: string): boolean {
    const other = givesWay(this.#waitingOf, client)
    const newest = other === undefined ? undefined : [...(this.#waitingOf.get(other) ?? [])].at(-1)
    if (newest === undefined) return false
    this.#forget(newest)
    newest.refused('full')
    return true
  }

  #forget(waiting: Waiting): boolean {
    clearTimeout(waiting.timer)
    const same = this.#waitingOf.get(waiting.client)
    same?.delete(waiting)
    if (same?.size === 0) this.#waitingOf.delete(waiting.client)
    return this.#waiting.delete(waiting)
  }
}

/** What `enter` returns for a request that does not wait. */
export function noLongerWaiting(): boolean {
  return false
}
