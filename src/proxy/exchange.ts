import type { IncomingMessage } from 'node:http'
import type {} from 'fastify'
import type { Breaker, Permit } from '../breaker/breaker.js'
import type { Client, Refusal } from '../breaker/events.js'
import type { ExchangeEvents } from '../observability/exchange-events.js'
import type { Handshake, WhenOver } from '../server/connection.js'
import { clientOf, runOf } from './client.js'
import type { ClientView } from './client-view.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The exchange of a request that belongs to focus-server, from `classify` on; null for the proxy's own routes. */
    exchange: Exchange | null
  }
}

/** Where a request of focus-server goes, and how its client addressed it. */
export type UpstreamTarget = {
  /** The request target to send, byte for byte what the client sent but for the base paths. */
  readonly target: string
  /** What stood before focus-server's own path in the client's URL: the base path, or ''. */
  readonly clientPrefix: string
  /** The authority that the client addressed: of an absolute-form target, else of `Host`. */
  readonly host: string
  readonly guarded: boolean
}

/** Gives back what was taken for an exchange. Called once. */
type Release = () => void

/** What an exchange is made of. */
export type ExchangeStart = {
  readonly id: string
  readonly received: IncomingMessage
  readonly view: ClientView
  readonly target: Pick<UpstreamTarget, 'target' | 'guarded'>
  /** Where the request is the handshake of a WebSocket. */
  readonly handshake?: Handshake | undefined
  readonly events: ExchangeEvents
  /** Tells when the client has its response or is gone. */
  readonly whenOver: (over: WhenOver) => void
}

/**
 * One request of focus-server, from `classify` to its end: everything that is known of it, and the one owner of its end.
 *
 * Every phase takes the exchange, and may take something for it: a place in a queue, a place in flight, a timer, the
 * upstream request. It hands that over with `hold`. The end happens exactly once, whichever comes first of a complete
 * response, a failure, and a client that is gone; there everything that is still held is given back, and nowhere else.
 */
export class Exchange {
  readonly id: string
  readonly received: IncomingMessage
  readonly view: ClientView
  readonly target: string
  readonly guarded: boolean
  readonly handshake: Handshake | undefined
  /** False for a historic job, once that is known: the circuit lets it through. */
  needsFiber = true
  /** The whole body, where it has been read. */
  body: Buffer | undefined
  /** The place in flight of a guarded request that was admitted. */
  permit: Permit | undefined
  /** The status that the client was sent; 0 for none. */
  statusCode = 0
  /** Headers that a phase adds to whatever the response will be: names and values in turn. */
  readonly marks: string[] = []
  readonly #events: ExchangeEvents
  readonly #startedAt = performance.now()
  #held: Set<Release> | undefined
  #client: Client | undefined
  #isForwarded = false
  #whenForwarded: (() => void) | undefined
  #isReported = false
  #clientIs: 'there' | 'served' | 'gone' = 'there'
  #mustFinish = false
  #hasEnded = false

  constructor({ id, received, view, target, handshake, events, whenOver }: ExchangeStart) {
    this.#events = events
    this.id = id
    this.received = received
    this.view = view
    this.target = target.target
    this.handshake = handshake
    this.guarded = target.guarded
    whenOver(hasResponse => {
      this.#clientIs = hasResponse ? 'served' : 'gone'
      this.#endWithClient()
    })
  }

  /** The address that places are counted by. */
  get address(): string {
    return this.view.address
  }

  /** Who sends the request. */
  get client(): Client {
    const { method } = this.received
    this.#client ??= clientOf(this.address, this.received, { method, url: this.target })
    return this.#client
  }

  /** True as soon as the client is gone without its whole response. */
  get isClientGone(): boolean {
    return this.#clientIs === 'gone'
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** Whether it was sent to focus-server, or was about to be. */
  get isForwarded(): boolean {
    return this.#isForwarded
  }

  /**
   * Takes a place in flight for a guarded request, once. It is given back at the end at the latest.
   *
   * @returns the refusal, if the request is not admitted at this moment.
   */
  admit(breaker: Breaker): Refusal | undefined {
    if (this.permit !== undefined) return undefined
    const admission = breaker.admit(this.needsFiber, this)
    if (!admission.admitted) return admission
    const { permit } = admission
    this.permit = permit
    this.hold(() => permit.settle({ kind: 'nothing-learned' }))
    return undefined
  }

  /**
   * Holds something until the end.
   *
   * @param release gives it back; called at once when the exchange has ended.
   * @returns a function that gives it back before the end; it returns whether it was still held.
   */
  hold(release: Release): () => boolean {
    if (this.#hasEnded) {
      release()
      return notHeld
    }
    this.#held ??= new Set()
    this.#held.add(release)
    return () => {
      if (this.#held?.delete(release) !== true) return false
      release()
      return true
    }
  }

  /**
   * From now on the exchange does not end with its client, until what this returns is called: work that was begun on a
   * guarded route is let finish, because the job exists.
   */
  finishFirst(): () => void {
    this.#mustFinish = true
    return () => {
      this.#mustFinish = false
      this.#endWithClient()
    }
  }

  /** Calls back when the request is about to be sent to focus-server. */
  whenForwarded(listener: () => void): void {
    this.#whenForwarded = listener
  }

  /** Reports that the request is about to be sent to focus-server. */
  forwarded(): void {
    this.#isForwarded = true
    this.#whenForwarded?.()
    this.#events.forwardedSoon(runOf(this.received))
  }

  /**
   * Gives back everything that is held, because there will be no response of focus-server: what the client gets instead
   * is being sent, or cannot be.
   */
  fail(): void {
    this.#mustFinish = false
    this.#releaseAll()
    this.#endWithClient()
  }

  #endWithClient(): void {
    if (this.#clientIs === 'there' || this.#mustFinish || this.#hasEnded) return
    this.#hasEnded = true
    this.#releaseAll()
    this.report()
  }

  /** Reports what came of a forwarded request, once: at its end, or earlier where the rest is no request any more. */
  report(): void {
    if (!this.#isForwarded || this.#isReported) return
    this.#isReported = true
    const { guarded, statusCode } = this
    this.#events.endedSoon({ guarded, statusCode, durationMs: performance.now() - this.#startedAt })
  }

  #releaseAll(): void {
    for (const release of this.#held ?? []) {
      this.#held?.delete(release)
      release()
    }
  }
}

function notHeld(): boolean {
  return false
}
