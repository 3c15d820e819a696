/**
 * Handles signals from the start of the process. This file imports nothing, and `main` imports it first, because the
 * rest of the program takes half a second to load, and nine seconds with a tenth of a CPU. Without a handler, SIGHUP
 * ends a process, and the first process of a container ignores SIGTERM.
 */

const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const

const EXIT_CODES = { SIGTERM: 143, SIGINT: 130, SIGHUP: 129 } as const

/** A signal that asks the program to stop. */
export type StopSignal = keyof typeof EXIT_CODES

/** How a command handles signals: a service exits with 0, and a waiting client is ended by the signal. */
export type SignalUse = 'service' | 'client' | 'none'

/** Ctrl+C reaches both npm and this process, and npm forwards it. Signals within this time count as one. */
const SAME_SIGNAL_MS = 1000

/** How often to check that the parent process still runs. */
const CHECK_PARENT_MS = 500

/** Whether `npm start` runs this process. npm is then its parent, because the script replaces its shell (`exec`). */
const isUnderNpm = process.env.npm_lifecycle_event === 'start'

/** Handles the signals of the process, during the start and after it. */
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
   * Resolves with the first signal that stops the process. A second one ends the process at once. So does a signal that
   * arrives before this is called: a command calls it when it has started, and before that there is nothing to finish.
   */
  stop(): Promise<StopSignal> {
    return new Promise(resolve => {
      this.#stop = resolve
    })
  }

  /** Calls `listener` on each SIGHUP, including one that arrived before. */
  onHangup(listener: () => void): void {
    this.#hangup = listener
    this.#reportHangup()
  }

  /** Makes SIGHUP stop the process, for a command that has nothing to reload. */
  stopAtHangup(): void {
    this.onHangup(() => this.#stopBy('SIGHUP', 'service'))
  }

  #reportHangup(): void {
    if (this.#hangup === undefined || !this.#isHungUp) return
    this.#isHungUp = false
    this.#hangup()
  }

  /** Stops when npm ends without forwarding a signal: by SIGKILL, or by the SIGHUP of a terminal that closes. */
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
    // `process.exit` waits for Node's threads, and one of them may be blocked by a DNS server or a disk.
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
 * Ends the process at once: by the signal, so that a script that runs it ends as well, or with the exit code that a
 * shell reports for the signal. Windows has no signals, and a signal does not end the first process of a container.
 */
export function endBy(signal: StopSignal, isBySignal = true): never {
  if (isBySignal && process.platform !== 'win32') {
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  }
  process.exit(EXIT_CODES[signal])
}

/** How the command that the arguments name handles signals. */
export function signalUseOf([first]: readonly string[]): SignalUse {
  switch (first) {
    case 'serve':
    case 'demo':
    case 'simulate':
      return 'service'
    case 'wait':
      return 'client'
    default:
      // Without a command, serve or demo runs.
      return first === undefined || first.startsWith('-') ? 'service' : 'none'
  }
}

function isThreadBusy(): boolean {
  return process.getActiveResourcesInfo().some(name => /^(FSReq|GetAddrInfo|GetNameInfo)/.test(name))
}
