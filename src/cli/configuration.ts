import { type Loaded, load } from '../config/load.js'
import type { Arguments } from './arguments.js'

const OPTION_OF_FLAG: ReadonlyMap<string, string> = new Map([
  ['upstream', 'upstream.url'],
  ['host', 'server.host'],
  ['port', 'server.port'],
])

/** Loads the configuration from the arguments and the environment. Returns all faults of both if there are any. */
export function loadFor(args: Arguments, environment: NodeJS.ProcessEnv): Loaded {
  const flags = new Map(
    [...args.flags].flatMap(([name, value]) => {
      const option = OPTION_OF_FLAG.get(name)
      return option === undefined ? [] : [[option, { flag: `--${name}`, value }] as const]
    }),
  )
  const loaded = load({ file: args.flags.get('config'), environment, flags })
  if (args.faults.length === 0) return loaded
  // A flag with a wrong value is not reported as missing as well.
  const isNamed = (option: string) =>
    args.faults.some(fault => OPTION_OF_FLAG.get(fault.option.slice(2)) === option)
  const others = loaded.ok ? [] : loaded.faults.filter(fault => !isNamed(fault.option))
  return { ok: false, faults: [...args.faults, ...others] }
}
