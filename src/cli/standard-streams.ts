import { closeSync, fstatSync } from 'node:fs'
import { isatty } from 'node:tty'
import { Output } from '../observability/output.js'

/** Standard output. Commands write here and not to `process.stdout`, which throws when the output fails. */
export const stdout = new Output(1)

/** Standard error. */
export const stderr = new Output(2)

/** How long the end of the program waits for a reader. */
const LAST_WORDS_MS = 1000

/** Prints what a command was run for. Returns the exit code: 1 if it could not be written, unless its reader has left. */
export function print(text: string): number {
  stdout.write(text)
  const { failure } = stdout
  if (failure === undefined || failure === 'EPIPE') return 0
  stderr.write(`standard output could not be written: ${failure}\n`)
  return 1
}

/** Resolves when both are written, or after a second. */
export async function lastWords(): Promise<void> {
  await Promise.all([stdout.drained(LAST_WORDS_MS), stderr.drained(LAST_WORDS_MS)])
}

/**
 * At its end Node restores the mode of its terminal, and aborts when that fails because the terminal has closed. It leaves
 * alone what is not open.
 */
process.on('exit', () => {
  for (const descriptor of [0, 1, 2]) {
    try {
      // A terminal that has closed is a character device and no longer a terminal.
      if (fstatSync(descriptor).isCharacterDevice() && !isatty(descriptor)) closeSync(descriptor)
    } catch {
      // It is closed already.
    }
  }
})
