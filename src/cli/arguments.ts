import { parseArgs } from 'node:util'
import { type Fault, suggestion } from '../config/fault.js'

/** A flag of a command: with a value, named in the help as `value`, or without one. */
export type Flag = { readonly name: string; readonly value?: string; readonly sentence: string }

/** What was given on the command line: values by flag name without dashes, `''` for a flag without a value. */
export type Arguments = {
  readonly flags: ReadonlyMap<string, string>
  readonly faults: readonly Fault[]
}

/** Reads the arguments after the command, and reports all faults together. */
export function readArguments(given: readonly string[], known: readonly Flag[]): Arguments {
  const flags = new Map<string, string>()
  const faults: Fault[] = []
  const fault = (option: string, expected: string, value: string) => {
    faults.push({ option, source: 'command line', expected, given: value })
  }
  const options = Object.fromEntries(
    known.map(flag => [
      flag.name,
      { type: flag.value === undefined ? ('boolean' as const) : ('string' as const) },
    ]),
  )
  const { tokens } = parseArgs({
    args: [...given],
    options,
    strict: false,
    tokens: true,
    allowPositionals: true,
  })
  let unknownAt = Number.NaN
  for (const token of tokens) {
    // The word after an unknown flag is taken for its value, so it is not another fault.
    if (token.kind === 'positional' && token.index !== unknownAt + 1) fault('', 'flags only', token.value)
    if (token.kind !== 'option') continue
    const flag = known.find(candidate => candidate.name === token.name)
    if (flag === undefined) {
      const names = known.map(candidate => `--${candidate.name}`)
      const expected = names.length === 0 ? 'no flag' : `one of ${names.join(', ')}`
      fault('', `${expected}${suggestion(token.rawName, names)}`, token.rawName)
      unknownAt = token.index
    } else if (flag.value === undefined) {
      if (token.value === undefined) flags.set(flag.name, '')
      else fault(token.rawName, 'no value', token.value)
    } else if (token.value === undefined || token.value === '') {
      fault(token.rawName, flag.value, 'nothing')
    } else {
      flags.set(flag.name, token.value)
    }
  }
  return { flags, faults }
}
