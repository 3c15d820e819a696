import { closeSync, fstatSync } from 'node:fs'
import { isatty } from 'node:tty'
import { Output } from '../observability/output.js'

/** Standard output. Commands write here instead of to `process.stdout`, which throws if the output fails. */
export const stdout = new Output(1)

/** Standard error. */
export const stderr = new Output(2)

/** How long the program waits for a reader before it exits. */
const FLUSH_TIMEOUT_MS = 1000

/**
 * Prints the result of a command. Returns the exit code: 1 if it could not be written, unless the reader closed the
 * pipe.
 */
export function print(text: string): number {
  stdout.write(text)
  const { failure } = stdout
  if (failure === undefined || failure === 'EPIPE') return 0
  stderr.write(`cannot write to standard output: ${failure}\n`)
  return 1
}

/** Resolves when both streams are written, or after a second. */
export async function flushStreams(): Promise<void> {
  await Promise.all([stdout.drained(FLUSH_TIMEOUT_MS), stderr.drained(FLUSH_TIMEOUT_MS)])
}

/**
 * When it exits, Node restores the mode of its terminal, and aborts if that fails because the terminal has closed. It
 * ignores descriptors that are not open.
 */
process.on('exit', () => {
  for (const descriptor of [0, 1, 2]) {
    try {
      // A terminal that has closed is still a character device, but no longer a terminal.
      if (fstatSync(descriptor).isCharacterDevice() && !isatty(descriptor)) closeSync(descriptor)
    } catch {
      // It is closed already.
    }
  }
})
