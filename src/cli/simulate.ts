import type { Fault } from '../config/fault.js'
import { startSimulator } from '../simulator/focus-server.js'
import { parseScenario } from '../simulator/scenario.js'
import type { Arguments, Flag } from './arguments.js'
import { listenFault } from './serve.js'
import { signals } from './signals.js'
import { stdout } from './standard-streams.js'
import { usage } from './usage.js'

/** The flags of `simulate`. */
export const SIMULATE_FLAGS: readonly Flag[] = [
  { name: 'host', value: 'ADDRESS', sentence: 'address to listen on (default: 127.0.0.1)' },
  { name: 'port', value: 'NUMBER', sentence: 'port to listen on (default: 5000; 0 for any free port)' },
  {
    name: 'scenario',
    value: 'DRAWING',
    sentence:
      'state of the fiber, one character a second: + connected, - missing, ~ coming back, x no server; a number repeats a character, and a dot at the end keeps the last state instead of starting again, as in +20-30~5 or +20-. (default: +)',
  },
]

/** Runs only the simulated focus-server, until a signal stops it. Returns the exit code. */
export async function simulate(args: Arguments): Promise<number> {
  const faults: Fault[] = [...args.faults]
  const host = args.flags.get('host') ?? '127.0.0.1'
  const portText = args.flags.get('port') ?? '5000'
  const port = Number(portText)
  if (!/^\d+$/.test(portText) || port > 65_535) {
    faults.push({ option: '--port', source: '', expected: 'a whole number from 0 to 65535', given: portText })
  }
  const drawing = args.flags.get('scenario') ?? '+'
  const parsed = parseScenario(drawing)
  if (!parsed.ok) {
    const { position, expected, given } = parsed.fault
    faults.push({ option: '--scenario', source: `character ${position + 1}`, expected, given })
  }
  if (faults.length > 0 || !parsed.ok) return usage(faults)
  try {
    const simulator = await startSimulator({
      host,
      port,
      scenario: parsed.scenario,
      latency: 'realistic',
      log: line => stdout.write(`${line}\n`),
    })
    stdout.write(
      `fiber ${drawing} (+ connected, - missing, ~ coming back, x no server; numbers are seconds); press Ctrl+C to stop\nsimulated focus-server on ${simulator.url}\n`,
    )
    signals.stopAtHangup()
    await signals.stop()
    await simulator.close()
    return 0
  } catch (error) {
    const fault = listenFault(error, host, port, { host: '--host', port: '--port' })
    if (fault === undefined) throw error
    return usage([fault])
  }
}
