import { explain, type Fault } from '../config/fault.js'
import { stderr } from './standard-streams.js'

/** Prints the faults to standard error and returns the exit code for invalid usage. */
export function usage(faults: readonly Fault[]): number {
  stderr.write(`${explain(faults)}\n`)
  return 2
}
