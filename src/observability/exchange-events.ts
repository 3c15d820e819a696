import { EventEmitter } from 'node:events'
import type { UpstreamFailureKind } from '../domain/vocabulary.js'

/** A forwarded request that has ended, as its client saw it. */
export type EndedExchange = {
  readonly guarded: boolean
  /** 0 if the client left without a response. */
  readonly statusCode: number
  readonly durationMs: number
}

/** Events of the requests that are forwarded to focus-server. */
export type ExchangeEventMap = {
  /** A request is about to be sent to focus-server. `run` is the test run that it names. */
  forwarded: [run: string | undefined]
  /** A request that was forwarded has ended. */
  ended: [EndedExchange]
  /** No usable response came from focus-server. */
  failed: [kind: UpstreamFailureKind, error: Error]
  /** A request is sent again, because focus-server had closed the idle connection. */
  repeated: []
  /** A request was rejected because the upstream queue is full. */
  overloaded: []
}

/** Emits the events of forwarded requests. Listeners must not throw and must not call back. */
export class ExchangeEvents extends EventEmitter<ExchangeEventMap> {
  #forwarded: (string | undefined)[] = []
  #ended: EndedExchange[] = []

  /**
   * Emits `forwarded` after the current callbacks have run, together with the other events of that time. Counting many
   * events in a row costs less.
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
    if (this.#forwarded.length + this.#ended.length === 0) setImmediate(() => this.#emitAll())
  }

  #emitAll(): void {
    const forwarded = this.#forwarded
    const ended = this.#ended
    this.#forwarded = []
    this.#ended = []
    for (const run of forwarded) this.emit('forwarded', run)
    for (const exchange of ended) this.emit('ended', exchange)
  }
}
