import { inWords } from '../domain/time.js'
import { forecastInWords, type Verdict } from './verdict.js'

/** How often the status line on a terminal is redrawn. */
const REDRAW_MS = 1000

/**
 * On a pipe, a line is repeated after this time without a change, then after twice as long, up to the longest pause.
 */
const FIRST_PAUSE_MS = 60_000
const LONGEST_PAUSE_MS = 1_800_000

/**
 * Writes a line for each change, and repeats the line at growing intervals while nothing changes. It is meant for pipes
 * and CI logs: many CI systems end a job that writes nothing for too long. With JSON there is no closing line.
 */
export class LineByLine {
  readonly #isJson: boolean
  readonly #elapsedMs: () => number
  readonly #write: (text: string) => void
  #reason = ''
  #writtenAtMs = 0
  #pauseMs = FIRST_PAUSE_MS

  /** @param elapsedMs how long the command has waited so far. */
  constructor(isJson: boolean, elapsedMs: () => number, write: (text: string) => void) {
    this.#isJson = isJson
    this.#elapsedMs = elapsedMs
    this.#write = write
  }

  /** Shows the latest verdict. Called every few seconds. */
  show(verdict: Verdict): void {
    const elapsedMs = this.#elapsedMs()
    const isNews = verdict.reason !== this.#reason
    if (!isNews && elapsedMs - this.#writtenAtMs < this.#pauseMs) return
    this.#pauseMs = isNews ? FIRST_PAUSE_MS : Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2)
    this.#reason = verdict.reason
    this.#writtenAtMs = elapsedMs
    const still = isNews ? '' : `still waiting after ${inWords(wholeSeconds(elapsedMs))}: `
    this.#write(`${this.#isJson ? JSON.stringify(verdict) : `${still}${verdict.message}`}\n`)
  }

  /** Writes a closing line, if given. */
  close(closingLine: string | undefined): void {
    if (closingLine !== undefined && !this.#isJson) this.#write(`${closingLine}\n`)
  }
}

/** Redraws one line in place, for people at a terminal. The closing line stays. */
export class LiveLine {
  readonly #elapsedMs: () => number
  readonly #write: (text: string) => void
  readonly #columns: () => number
  readonly #timer: NodeJS.Timeout
  #verdict: Verdict | undefined
  /** When the verdict was received, by `performance.now()`. */
  #foundAt = 0

  /** @param elapsedMs how long the command has waited so far. */
  constructor(elapsedMs: () => number, write: (text: string) => void, columns: () => number) {
    this.#elapsedMs = elapsedMs
    this.#write = write
    this.#columns = columns
    this.#timer = setInterval(() => this.#draw(), REDRAW_MS)
  }

  /** Shows the latest verdict. */
  show(verdict: Verdict): void {
    this.#verdict = verdict
    this.#foundAt = performance.now()
    this.#draw()
  }

  /** Replaces the line with a closing line: this text, or else the latest verdict. */
  close(closingLine: string | undefined): void {
    clearInterval(this.#timer)
    this.#write(`${CLEAR_LINE}${closingLine ?? this.#verdict?.message}\n`)
  }

  #draw(): void {
    if (this.#verdict === undefined) return
    const { reason, forMs, forecast, ready } = this.#verdict
    if (ready) return
    const parts = [
      reason,
      ...(forMs === null ? [] : [`for ${inWords(forMs + performance.now() - this.#foundAt)}`]),
      `waited ${inWords(wholeSeconds(this.#elapsedMs()))}`,
      ...(forecast === null ? [] : [forecastInWords(forecast)]),
    ]
    // A line that wraps could not be redrawn in place.
    const line = parts.join(' · ').slice(0, this.#columns() - 1)
    this.#write(`${CLEAR_LINE}${line}`)
  }
}

function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000
}

/** Returns to the first column and erases the rest of the line (ECMA-48, 8.3.41). */
const CLEAR_LINE = '\r\u001b[K'
