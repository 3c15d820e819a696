import { givesWay } from '../domain/fair-share.js'

/** Settings of an upstream queue. */
export type UpstreamQueueOptions = {
  /** Maximum number of requests at the upstream at a time. */
  readonly concurrency: number
  /** Maximum number of queued requests. */
  readonly capacity: number
  /** How long a request may be queued. */
  readonly timeoutMs: number
  /** The share of `concurrency`, in (0, 1], that one client may use at a time; rounded up. Default: 1. */
  readonly clientShare?: number
}

/** Why a request could not be sent: the queue is full, or the request was queued for too long. */
export type QueueRefusal = 'full' | 'late'

type Waiting = {
  readonly client: string
  readonly start: () => void
  readonly refused: (why: QueueRefusal) => void
  timer: NodeJS.Timeout | undefined
}

/** For requests whose clients are not distinguished. */
const ANY_CLIENT = ''

/**
 * The upstream queue: limits the number of requests at the upstream, the number that are queued, and the time in the
 * queue. A slow or dead upstream then costs its own requests, but not all memory and sockets of the proxy.
 *
 * No client can use up the queue. At the upstream it gets at most its share. When the queue is full, a new request
 * replaces one of the client that has the most queued requests, if that client has at least two more than the new
 * request's client.
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
    // Compensates for binary rounding: 7 % of 100 is 7, not 8.
    this.#most = Math.ceil(options.concurrency * (options.clientShare ?? 1) - 1e-9)
  }

  /** The number of queued requests. */
  get waiting(): number {
    return this.#waiting.size
  }

  /**
   * Calls `start` when a slot is free, now or later, or `refused` when the request cannot be sent. After `start`, call
   * `leave` once with the same client.
   *
   * @param client the address by which slots are counted.
   * @returns a function that removes the request from the queue; it returns whether the request was still queued.
   */
  enter(start: () => void, refused: (why: QueueRefusal) => void, client = ANY_CLIENT): () => boolean {
    if (this.#hasSlot(client)) {
      this.#take(client)
      start()
      return noLongerWaiting
    }
    const { capacity, timeoutMs } = this.#options
    if (this.#waiting.size >= capacity && !this.#replaceQueued(client)) {
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

  /** Resolves when no request is at the upstream. */
  empty(): Promise<void> {
    if (this.#activeTotal === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.#emptied = resolve
    })
  }

  /** Frees the slot for the next request. */
  leave(client = ANY_CLIENT): void {
    this.#activeTotal -= 1
    const active = (this.#active.get(client) ?? 1) - 1
    if (active > 0) this.#active.set(client, active)
    else this.#active.delete(client)
    for (const next of this.#waiting) {
      if (!this.#hasSlot(next.client)) continue
      this.#forget(next)
      this.#take(next.client)
      next.start()
      return
    }
    if (this.#activeTotal === 0) this.#emptied?.()
  }

  #hasSlot(client: string): boolean {
    if (this.#activeTotal >= this.#options.concurrency) return false
    return client === ANY_CLIENT || (this.#active.get(client) ?? 0) < this.#most
  }

  #take(client: string): void {
    this.#activeTotal += 1
    this.#active.set(client, (this.#active.get(client) ?? 0) + 1)
  }

  #replaceQueued(client: string): boolean {
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

/** What `enter` returns for a request that is not queued. */
export function noLongerWaiting(): boolean {
  return false
}
