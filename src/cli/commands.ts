import { setImmediate as turn } from 'node:timers/promises'
import { suggestion } from '../config/fault.js'
import { type Arguments, type Flag, readArguments } from './arguments.js'
import { flushStreams, print, stderr, stdout } from './standard-streams.js'
import { version } from './version.js'

type Command = {
  readonly flags: readonly Flag[]
  readonly run: (args: Arguments, environment: NodeJS.ProcessEnv) => Promise<number>
}

/** Commands are loaded on demand: `wait` in an init container needs a third of the memory of `serve`. */
type Row = { readonly sentence: string; readonly load: () => Promise<Command> }

const COMMANDS: ReadonlyMap<string, Row> = new Map([
  [
    'serve',
    {
      sentence: 'run the proxy',
      load: async () => {
        const { SERVE_FLAGS, serve } = await import('./serve.js')
        return { flags: SERVE_FLAGS, run: serve }
      },
    },
  ],
  [
    'demo',
    {
      sentence: 'run the proxy in front of a simulated focus-server whose fiber comes and goes',
      load: async () => {
        const { DEMO_FLAGS, demo } = await import('./demo.js')
        return { flags: DEMO_FLAGS, run: demo }
      },
    },
  ],
  [
    'simulate',
    {
      sentence: 'run only the simulated focus-server; it runs up to 30 jobs of 30 s at a time',
      load: async () => {
        const { SIMULATE_FLAGS, simulate } = await import('./simulate.js')
        return { flags: SIMULATE_FLAGS, run: simulate }
      },
    },
  ],
  [
    'check',
    {
      sentence: 'check once whether the fiber is connected',
      load: async () => {
        const { CHECK_FLAGS, check } = await import('./check.js')
        return { flags: CHECK_FLAGS, run: check }
      },
    },
  ],
  [
    'wait',
    {
      sentence: 'wait until the fiber is connected',
      load: async () => {
        const { WAIT_FLAGS, wait } = await import('./wait.js')
        return { flags: WAIT_FLAGS, run: wait }
      },
    },
  ],
])

const EXIT_CODES = `0 success, 1 internal error, 2 invalid usage or configuration;
check and wait: 0 ready, 3 waiting for fiber (or refused by an operator), 4 unknown, 5 proxy unreachable`

/** The command to run when none is given: `serve` if an upstream is configured, otherwise `demo`. */
const START: Row = {
  sentence: '',
  load: async () => {
    const { SERVE_FLAGS } = await import('./serve.js')
    return { flags: SERVE_FLAGS, run: start }
  },
}

async function start(args: Arguments, environment: NodeJS.ProcessEnv): Promise<number> {
  const { FILE_VARIABLE } = await import('../config/load.js')
  const isConfigured =
    args.flags.has('upstream') ||
    args.flags.has('config') ||
    args.flags.has('check-config') ||
    Boolean(environment.FOCUS_BREAKER_UPSTREAM_URL || environment[FILE_VARIABLE])
  // `serve` reports unknown flags.
  if (isConfigured || args.faults.length > 0) {
    const { serve } = await import('./serve.js')
    return serve(args, environment)
  }
  stdout.write('No upstream is configured (--upstream URL): starting the demo.\n')
  const { demo } = await import('./demo.js')
  return demo(args)
}

async function main(words: readonly string[]): Promise<number> {
  const [first] = words
  if (first === '--version' || first === '-v') {
    return print(`${version}\n`)
  }
  if (first === 'help') return main([...words.slice(1, 2), '--help'])
  const isCommand = first !== undefined && !first.startsWith('-')
  const command = isCommand ? COMMANDS.get(first) : START
  if (command === undefined) {
    const names = [...COMMANDS.keys()].join(', ')
    const near = suggestion(first ?? '', [...COMMANDS.keys()])
    stderr.write(`Unknown command: expected one of ${names}${near}; given ${first}. See --help.\n`)
    return 2
  }
  const rest = isCommand ? words.slice(1) : words
  if (rest.includes('--help') || rest.includes('-h')) {
    return print(isCommand ? helpOf(first, command.sentence, await command.load()) : overview())
  }
  const { flags, run } = await command.load()
  // Since Node 22 modules are loaded within one turn of the event loop. A signal that arrived meanwhile is handled
  // here, before the command starts.
  await turn()
  return run(readArguments(rest, flags), process.env)
}

function overview(): string {
  const lines = [...COMMANDS].map(([name, { sentence }]) => `  ${name.padEnd(10)}${sentence}`)
  return `focus-breaker ${version}: a reverse proxy with a circuit breaker in front of focus-server

Usage: focus-breaker [COMMAND] [FLAGS]

${lines.join('\n')}

Without a command: serve if an upstream is configured, otherwise demo.
focus-breaker COMMAND --help shows the flags of a command, --version shows the version.
Exit codes: ${EXIT_CODES}.
`
}

function helpOf(name: string, sentence: string, { flags }: Command): string {
  const rows = flags.map(flag => [
    `  --${flag.name}${flag.value === undefined ? '' : ` ${flag.value}`}`,
    flag.sentence,
  ])
  const width = Math.max(...rows.map(([left]) => left?.length ?? 0)) + 2
  const lines = rows.map(([left, right]) => `${left?.padEnd(width)}${right}`)
  return `focus-breaker ${name}: ${sentence}\n\n${lines.join('\n')}\n\nExit codes: ${EXIT_CODES}.\n`
}

/** Runs the command that the arguments name, and ends the process with its exit code. */
export async function run(words: readonly string[]): Promise<never> {
  let code = 1
  try {
    code = await main(words)
  } catch (error) {
    const reason = error instanceof Error ? error.stack : error
    stderr.write(`focus-breaker: internal error: ${reason}\n`)
  }
  await flushStreams()
  // With `process.exitCode`, an output whose reader does not read would keep the process running.
  process.exit(code)
}
