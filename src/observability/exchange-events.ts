import { EventEmitter } from 'node:events'
import type { UpstreamFailureKind } from '../domain/vocabulary.js'

/** A request that was forwarded and has ended, as its client saw it. */
export type EndedExchange = {
  readonly guarded: boolean
  /** 0 when the client left without a response. */
  readonly statusCode: number
  readonly durationMs: number
}

/** What happens to the requests of focus-server, for those who count and report it. */
export type ExchangeEventMap = {
  /** A request is about to be sent to focus-server; `run` is the test run that it names. */
  forwarded: [run: string | undefined]
  /** A request that was forwarded has ended. */
  ended: [EndedExchange]
  /** No usable response came from focus-server. */
  failed: [kind: UpstreamFailureKind, error: Error]
  /** A request is sent once more, because focus-server had closed the idle connection. */
  repeated: []
  /** A request was rejected because the upstream queue is full. */
  overloaded: []
}

/** Reports what happens to requests of focus-server. Listeners must not throw, and cannot call back. */
export class ExchangeEvents extends EventEmitter<ExchangeEventMap> {
  #forwarded: (string | undefined)[] = []
  #ended: EndedExchange[] = []

  /**
   * Reports `forwarded` as soon as the present callbacks have run, together with the others of that time: what counts
   * them costs less when it does many in a row.
   */
  forwardedSoon(run: string | undefined): void {
    this.#awaitTurn()
    this.#forwarded.push(run)
  }

  /** The same for `ended`. */
  endedSoon(exchange: EndedExchange): void {
    this.#awaitTurn()
    this.#ended.push(exchange)
  }

  #awaitTurn(): void {
    if (this.#forwarded.length + this.#ended.length === 0) setImmediate(() => this.#tell())
  }

  #tell(): void {
    const forwarded = this.#forwarded
    const ended = this.#ended
    this.#forwarded = []
    this.#ended = []
    for (const run of forwarded) this.emit('forwarded', run)
    for (const exchange of ended) this.emit('ended', exchange)
  }
}
