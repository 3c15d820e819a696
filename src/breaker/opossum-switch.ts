import CircuitBreaker from 'opossum'

/**
 * The longest delay that a timer supports. opossum turns half-open after its `resetTimeout`, and
 * `Infinity` would be clamped to 1 ms: https://nodejs.org/api/timers.html#settimeoutcallback-delay-args.
 */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Ends one action that opossum runs; a second call does nothing. */
export type EndOfAction = (succeeded: boolean) => void

/**
 * The use of opossum: it switches guarded forwards on and off, times them, and keeps rolling statistics.
 *
 * opossum never decides whether a request is forwarded. The breaker has decided that, from readings, before it
 * calls `begin`; opossum only follows, through `open` and `close`. If opossum disagrees, because it is open or
 * shut down, the request continues anyway: opossum cannot refuse, delay or lose a request.
 */
export class OpossumSwitch {
  readonly #opossum: CircuitBreaker<[Promise<void>], void>

  /** @param realign called when opossum turns half-open on its own timer: it has to be opened or closed again. */
  constructor(realign: () => void) {
    this.#opossum = new CircuitBreaker((action: Promise<void>) => action, {
      // Only readings decide; time and failed requests must not.
      resetTimeout: LONGEST_TIMER_MS,
      timeout: false,
      volumeThreshold: Number.MAX_SAFE_INTEGER,
      rollingPercentilesEnabled: false,
    })
    this.#opossum.on('halfOpen', realign)
  }

  /** Opens or closes opossum. */
  set(isOpen: boolean): void {
    if (isOpen) this.#opossum.open()
    else if (!this.#opossum.closed) this.#opossum.close()
  }

  /** Starts an action that lasts until the returned function is called. Never throws. */
  begin(): EndOfAction {
    let end: EndOfAction = () => undefined
    const action = new Promise<void>((resolve, reject) => {
      end = succeeded => (succeeded ? resolve() : reject(FAILED))
    })
    this.#opossum.fire(action).catch(ignore)
    // If opossum rejects without running the action, nothing else handles the action's rejection.
    action.catch(ignore)
    return end
  }

  /** Stops opossum's timers. */
  shutdown(): void {
    this.#opossum.shutdown()
  }
}

/** One error for all failures: only its presence matters, and a stack for each would cost more than the decision. */
const FAILED = new Error('the guarded request failed')

function ignore(): void {}
