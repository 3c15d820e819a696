import { explain, type Fault } from '../config/fault.js'
import { stderr } from './standard-streams.js'

/** Says what is wrong on standard error; the exit code of wrong usage. */
export function usage(faults: readonly Fault[]): number {
  stderr.write(`${explain(faults)}\n`)
  return 2
}
