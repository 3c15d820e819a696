import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { circuitIs, programMain, repositoryRoot, startProxy } from './harness.js'
import { readLines } from './lines.js'
import { type Examples, substitute } from './recipe-page.js'
import { simulate } from './simulate.js'

/** The prefix of focus-server's paths in the examples. */
const PREFIX = '/focus-server'

const TIMEOUT_MS = 90_000

/** The built program. */
export const PROGRAM = [process.execPath, programMain] as const

type Environment = Readonly<Record<string, string | undefined>>

/** What a script printed, on either output, and how it ended. */
export interface Ran {
  /** Null if a signal ended it. */
  readonly code: number | null
  readonly output: string
}

/** The built proxy in front of a simulated focus-server, at the addresses that the pages use in examples. */
export async function startLab(
  t: TestContext,
  options: {
    readonly fiber?: 'present' | 'missing'
    readonly args?: readonly string[]
    readonly env?: Readonly<Record<string, string>>
  } = {},
) {
  const { simulator } = await simulate(t, { fiber: options.fiber ?? 'present', jobDurationMs: 1 })
  const proxy = await startProxy(t, {
    upstream: simulator.url,
    args: options.args ?? [],
    env: {
      FOCUS_BREAKER_BASE_PATH: PREFIX,
      FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
      FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: '1',
      FOCUS_BREAKER_RECOVERY_RAMP_MS: '300',
      ...options.env,
    },
  })
  await circuitIs(proxy, options.fiber === 'missing' ? 'open' : 'closed')
  const examples: Examples = {
    'https://focus-server.example.com/focus-server': `${proxy.url}${PREFIX}`,
    'http://focus-breaker:8080': proxy.url,
    'http://focus-server:5000': simulator.url,
  }
  return { simulator, proxy, examples, baseUrl: `${proxy.url}${PREFIX}` }
}

/**
 * A folder for the files of a page, with the repository's examples next to them, in which bash runs its commands.
 * `pytest` and `pip` on the path are Debian's, `focus-breaker` is the built one.
 */
export class Workshop {
  readonly directory: string
  readonly #examples: Examples
  readonly #bin: string

  constructor(t: TestContext, examples: Examples) {
    this.#examples = examples
    this.directory = mkdtempSync(join(tmpdir(), 'focus-breaker-recipe-'))
    t.after(() => rmSync(this.directory, { recursive: true, force: true }))
    this.#bin = join(this.directory, '.bin')
    mkdirSync(this.#bin)
    // Other pytest plugins on the machine are not loaded; ours is, if the recipe has installed it.
    const plugin =
      '/usr/bin/python3 -c \'import pytest_focus_breaker\' 2> /dev/null && set -- -p focus_breaker "$@"\n'
    this.install(
      'pytest',
      `export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1\n${plugin}exec /usr/bin/python3 -m pytest -p no:cacheprovider --color=no "$@"`,
    )
    this.install('focus-breaker', `exec '${PROGRAM[0]}' '${PROGRAM[1]}' "$@"`)
    // Already installed by `installClients`; here it only has to be installable.
    this.install('pip', '[ "$#" = 2 ] && [ "$1" = install ] && [ -f "$2/pyproject.toml" ]')
    // Without the tests in examples/pytest, which pytest would collect with those of a page.
    for (const name of ['live-job', 'historic-job', 'override']) this.copy(`examples/${name}.json`)
    this.copy('clients/python/pyproject.toml')
  }

  /** A program on the path of the scripts. */
  install(name: string, script: string): void {
    const file = join(this.#bin, name)
    writeFileSync(file, `#!/bin/bash\n${script}\n`)
    chmodSync(file, 0o755)
  }

  /** Writes a block of a page to its file. */
  write(name: string, text: string): void {
    const file = join(this.directory, name)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, substitute(text, this.#examples))
  }

  /** The path of a file in the repository. */
  copy(name: string): void {
    cpSync(join(repositoryRoot, name), join(this.directory, name), { recursive: true })
  }

  /** How to run a block of a page. */
  command(script: string): {
    readonly command: string
    readonly args: readonly string[]
    readonly env: Environment
  } {
    return {
      command: '/bin/bash',
      args: ['-e', '-c', substitute(script, this.#examples)],
      env: { ...environment(), PATH: `${this.#bin}:/usr/bin:/bin` },
    }
  }

  /** Runs a block of a page to its end. */
  async run(script: string, env: Readonly<Record<string, string>> = {}): Promise<Ran> {
    return await this.start(script, env).ended
  }

  /** Starts a block of a page; `stop` ends all its programs. */
  start(
    script: string,
    env: Readonly<Record<string, string>> = {},
    onLine: (line: string) => void = () => undefined,
  ): { readonly ended: Promise<Ran>; readonly stop: () => void } {
    const how = this.command(script)
    const child = spawn(how.command, how.args, {
      cwd: this.directory,
      env: { ...how.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      // In its own process group, which is ended as a whole.
      detached: true,
    })
    const signal = (name: NodeJS.Signals) => {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
      process.kill(-child.pid, name)
    }
    const tooLong = setTimeout(signal, TIMEOUT_MS, 'SIGKILL')
    const lines: string[] = []
    for (const stream of [child.stdout, child.stderr]) {
      readLines(stream, line => {
        lines.push(line)
        onLine(line)
      })
    }
    const ended = new Promise<Ran>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', code => {
        clearTimeout(tooLong)
        resolve({ code, output: lines.join('\n') })
      })
    })
    return { ended, stop: () => signal('SIGTERM') }
  }
}

/** The environment of the shell, without what would affect pytest, the plugin, or the program. */
function environment(): Environment {
  const steers = /^(FOCUS_BREAKER_|FOCUS_SERVER_|GITHUB_|PYTEST_|PYTHON|PIP_|LOCUST_|COLUMNS$|https?_proxy$)/i
  return {
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !steers.test(name))),
    PYTHONDONTWRITEBYTECODE: '1',
    PYTHONUNBUFFERED: '1',
    COLUMNS: '250',
  }
}

/** Copies the sample suite of `test/clients`, whose tests use `FOCUS_SERVER_URL`. */
export function copySuite(workshop: Workshop): void {
  const suite = join(repositoryRoot, 'test/clients/suite')
  cpSync(suite, workshop.directory, { recursive: true, filter: source => !source.endsWith('__pycache__') })
}

/** Asserts the exit code, with the output as the reason. */
export function assertEnded(ran: Ran, code: number): void {
  assert.equal(ran.code, code, ran.output)
}
