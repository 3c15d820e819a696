/**
 * Signals from the first moment on. This file imports nothing, and `main` imports it before everything else: the rest of the
 * program takes half a second to load, and nine seconds at a tenth of a CPU. Without a handler, SIGHUP ends a process,
 * and the first process of a container does not even notice SIGTERM.
 */

const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const

const EXIT_CODES = { SIGTERM: 143, SIGINT: 130, SIGHUP: 129 } as const

/** A signal that asks the program to stop. */
export type StopSignal = keyof typeof EXIT_CODES

/** What a command makes of signals: a service ends with 0, and a client that waits ends by the signal. */
export type SignalUse = 'service' | 'client' | 'none'

/** Ctrl+C reaches npm and this process at once, and npm passes it on: within this time it is one signal. */
const SAME_SIGNAL_MS = 1000

/** How often the parent is checked. */
const CHECK_PARENT_MS = 500

/** Whether `npm start` runs this process. It is npm's own child, because the script replaces its shell (`exec`). */
const isUnderNpm = process.env.npm_lifecycle_event === 'start'

/** The signals of the process: what they do during the start, and who is called afterwards. */
export class Signals {
  #stop: ((signal: StopSignal) => void) | undefined
  #hangup: (() => void) | undefined
  #isHungUp = false
  #isStopping = false
  #stoppedAtMs = 0

  /** Handles the signals from now on. */
  takeOver(use: SignalUse): void {
    if (use === 'none') return
    for (const signal of STOP_SIGNALS) process.on(signal, () => this.#stopBy(signal, use))
    if (use === 'client') return
    if (isUnderNpm) this.#stopWithParent()
    process.on('SIGHUP', () => {
      this.#isHungUp = true
      this.#reportHangup()
    })
  }

  /**
   * Resolves with the first signal to stop. A second one ends the process at once. So does the first one if it comes before
   * this is called, because a command calls this when it has started: until then there is nothing to finish.
   */
  stop(): Promise<StopSignal> {
    return new Promise(resolve => {
      this.#stop = resolve
    })
  }

  /** Calls `listener` at each SIGHUP, also for one that came before. */
  onHangup(listener: () => void): void {
    this.#hangup = listener
    this.#reportHangup()
  }

  /** Makes SIGHUP one more signal to stop, for a command that has nothing to reload. */
  stopAtHangup(): void {
    this.onHangup(() => this.#stopBy('SIGHUP', 'service'))
  }

  #reportHangup(): void {
    if (this.#hangup === undefined || !this.#isHungUp) return
    this.#isHungUp = false
    this.#hangup()
  }

  /** Stops when npm has ended without a word: by SIGKILL, or by the SIGHUP of a terminal that closes. */
  #stopWithParent(): void {
    const { ppid } = process
    const timer = setInterval(() => {
      if (process.ppid === ppid) return
      clearInterval(timer)
      if (!this.#isStopping) this.#stopBy('SIGTERM', 'service')
    }, CHECK_PARENT_MS).unref()
  }

  #stopBy(signal: StopSignal, use: SignalUse): void {
    if (this.#isStopping && isUnderNpm && performance.now() - this.#stoppedAtMs < SAME_SIGNAL_MS) return
    // `process.exit` joins Node's threads, and one of them may wait for a name server or a disk.
    if (this.#isStopping) endBy(signal, isThreadBusy())
    if (this.#stop === undefined) {
      if (use === 'client') endBy(signal)
      process.exit(0)
    }
    this.#isStopping = true
    this.#stoppedAtMs = performance.now()
    this.#stop(signal)
  }
}

/** The signals of this process. */
export const signals = new Signals()

/**
 * Ends the process at once: by the signal, so that a script that runs it ends as well, or with the exit code that a shell
 * shows for it. Windows has no signals, and the first process of a container is not ended by one.
 */
export function endBy(signal: StopSignal, isBySignal = true): never {
  if (isBySignal && process.platform !== 'win32') {
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  }
  process.exit(EXIT_CODES[signal])
}

/** What the command of these arguments makes of signals. */
export function signalUseOf([first]: readonly string[]): SignalUse {
  switch (first) {
    case 'serve':
    case 'demo':
    case 'simulate':
      return 'service'
    case 'wait':
      return 'client'
    default:
      // Without a command it is serve or demo.
      return first === undefined || first.startsWith('-') ? 'service' : 'none'
  }
}

function isThreadBusy(): boolean {
  return process.getActiveResourcesInfo().some(name => /^(FSReq|GetAddrInfo|GetNameInfo)/.test(name))
}
