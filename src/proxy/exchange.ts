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
    /** The exchange of a request for focus-server, set by `classify`; null for the proxy's own routes. */
    exchange: Exchange | null
  }
}

/** Where a request for focus-server goes, and how its client addressed it. */
export type UpstreamTarget = {
  /** The request target to send: byte for byte what the client sent, except for the base paths. */
  readonly target: string
  /** The prefix of focus-server's own path in the client's URL: the base path, or ''. */
  readonly clientPrefix: string
  /** The authority of an absolute-form target, otherwise of `Host`. */
  readonly host: string
  readonly guarded: boolean
}

/** Releases a resource that was taken for an exchange. Called once. */
type Release = () => void

/** Constructor options of an exchange. */
export type ExchangeStart = {
  readonly id: string
  readonly received: IncomingMessage
  readonly view: ClientView
  readonly target: Pick<UpstreamTarget, 'target' | 'guarded'>
  /** Set if the request is a WebSocket handshake. */
  readonly handshake?: Handshake | undefined
  readonly events: ExchangeEvents
  /** Registers a callback for when the client has its response or is gone. */
  readonly whenOver: (over: WhenOver) => void
}

/**
 * One request for focus-server, from `classify` to its end: everything known about it, and the single owner of its end.
 *
 * Every phase receives the exchange and may take resources for it: a place in a queue, a slot, a timer, the upstream
 * request. It registers them with `hold`. The exchange ends exactly once: with a complete response, a failure or a
 * disconnect of the client, whichever comes first. At the end, and only there, all resources still held are released.
 */
export class Exchange {
  readonly id: string
  readonly received: IncomingMessage
  readonly view: ClientView
  readonly target: string
  readonly guarded: boolean
  readonly handshake: Handshake | undefined
  /** False once the request is known to be a historic job, which the circuit admits. */
  needsFiber = true
  /** The whole body, if it has been read. */
  body: Buffer | undefined
  /** The slot of an admitted guarded request. */
  permit: Permit | undefined
  /** The status code sent to the client; 0 for none. */
  statusCode = 0
  /** Headers that a phase adds to any response: alternating names and values. */
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

  /** The address by which slots are counted. */
  get address(): string {
    return this.view.address
  }

  /** The client that sends the request. */
  get client(): Client {
    const { method } = this.received
    this.#client ??= clientOf(this.address, this.received, { method, url: this.target })
    return this.#client
  }

  /** True once the client is gone without its whole response. */
  get isClientGone(): boolean {
    return this.#clientIs === 'gone'
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** Whether the request was sent to focus-server, or was about to be. */
  get isForwarded(): boolean {
    return this.#isForwarded
  }

  /**
   * Takes a slot for a guarded request, once. It is released at the end at the latest.
   *
   * @returns the refusal, if the request is not admitted now.
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
   * Holds a resource until the end.
   *
   * @param release releases it; called at once if the exchange has already ended.
   * @returns a function that releases it before the end; it returns whether the resource was still held.
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
   * Keeps the exchange open after its client is gone, until the returned function is called: work that has started on a
   * guarded route is allowed to finish, because the job exists.
   */
  finishFirst(): () => void {
    this.#mustFinish = true
    return () => {
      this.#mustFinish = false
      this.#endWithClient()
    }
  }

  /** Registers a callback for when the request is about to be sent to focus-server. */
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
   * Releases everything that is held, because focus-server will not respond. The response to the client is being sent,
   * or cannot be sent.
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

  /** Reports the outcome of a forwarded request, once: at its end, or earlier if a WebSocket is joined. */
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
