import CircuitBreaker from 'opossum'

/**
 * The longest delay a timer takes. opossum turns half-open by itself after its `resetTimeout`, and
 * `Infinity` would be clamped to 1 ms: https://nodejs.org/api/timers.html#settimeoutcallback-delay-args.
 */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Ends one action that opossum runs; a second call changes nothing. */
export type EndOfAction = (succeeded: boolean) => void

/**
 * What opossum is used for: it switches guarded forwards on and off, times them, and keeps its rolling statistics.
 *
 * What it must never decide: whether a request is forwarded. The breaker has decided that, from readings, before it
 * calls `begin`; opossum only follows, by `open` and `close`. If opossum disagrees, because it is open or because it
 * was shut down, the request goes on all the same: it cannot refuse, delay or lose one.
 */
export class OpossumSwitch {
  readonly #opossum: CircuitBreaker<[Promise<void>], void>

  /** @param realign is called when opossum turns half-open by itself: it has to be opened or closed again. */
  constructor(realign: () => void) {
    this.#opossum = new CircuitBreaker((action: Promise<void>) => action, {
      // Only readings decide: neither time, nor failures, nor a threshold of them.
      resetTimeout: LONGEST_TIMER_MS,
      timeout: false,
      volumeThreshold: Number.MAX_SAFE_INTEGER,
      rollingPercentilesEnabled: false,
    })
    this.#opossum.on('halfOpen', realign)
  }

  /** Switches off, or on. */
  set(isOpen: boolean): void {
    if (isOpen) this.#opossum.open()
    else if (!this.#opossum.closed) this.#opossum.close()
  }

  /** Begins an action of opossum's that lasts until the returned function is called. Never throws. */
  begin(): EndOfAction {
    let end: EndOfAction = () => undefined
    const action = new Promise<void>((resolve, reject) => {
      end = succeeded => (succeeded ? resolve() : reject(FAILED))
    })
    this.#opossum.fire(action).catch(ignore)
    // Without effect where opossum runs the action; where it rejects at once, nothing else listens.
    action.catch(ignore)
    return end
  }

  /** Stops opossum's timers. */
  shutdown(): void {
    this.#opossum.shutdown()
  }
}

/** One error for all: only its presence counts, and a stack for each would cost more than the request's decision. */
const FAILED = new Error('the guarded request failed')

function ignore(): void {}
