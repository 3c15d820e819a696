import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { repositoryRoot } from './harness.js'
import { readLines } from './lines.js'

/** Debian's Python, which sees Debian's packages; the first one on the path may be another. */
export const PYTHON = '/usr/bin/python3'

const TIMEOUT_MS = 120_000

/** Python packages that a test may need, each with a module that proves it is installed, and its Debian package. */
const packages = {
  pytest: ['pytest', 'python3-pytest'],
  requests: ['requests', 'python3-requests'],
  xdist: ['xdist', 'python3-pytest-xdist'],
  pip: ['pip', 'python3-pip'],
  setuptools: ['setuptools', 'python3-setuptools'],
  wheel: ['wheel', 'python3-wheel'],
  httpx: ['httpx', 'python3-httpx'],
  aiohttp: ['aiohttp', 'python3-aiohttp'],
} as const

/** A Python and the libraries that it sees. */
export interface Libraries {
  readonly name: string
  readonly python: string
  /** Folders with additional libraries. */
  readonly path: readonly string[]
}

/** Debian's Python with Debian's packages: pytest 7.2, requests 2.28, urllib3 1.26. */
export const debianLibraries: Libraries = { name: "Debian's libraries", python: PYTHON, path: [] }

const DEBIAN_PACKAGES = '/usr/lib/python3/dist-packages'

/** Debian's packages that also work with the newer pytest and requests, and their dependencies. */
const BORROWED = [
  ...['pytest_timeout.py', 'pytest_rerunfailures.py', 'pytest_forked', 'xdist', 'execnet', 'pytest_asyncio'],
  ...['pytest_bdd', 'glob2', 'mako', 'parse.py', 'parse_type', 'six.py', 'typing_extensions.py', 'py'],
  ...['httpretty', 'freezegun', 'dateutil'],
]

/**
 * The first Python on the path with a pytest newer than Debian's, or undefined. If it has the same Python version as
 * Debian's, it also sees Debian's pytest plugins.
 */
export function newerLibraries(): Libraries | undefined {
  const describe =
    'import pytest, requests, sys; print(pytest.__version__.split(".")[0], sys.executable, *sys.version_info[:2])'
  const versionsOf = (python: string) =>
    spawnSync(python, ['-c', describe], { encoding: 'utf8', env: pythonEnvironment() })
      .stdout?.trim()
      .split(' ') ?? []
  const [major = '0', executable = '', ...version] = versionsOf('python3')
  if (Number(major) < 8) return undefined
  const path: string[] = []
  if (version.join('.') === versionsOf(PYTHON).slice(2).join('.')) {
    const borrowed = mkdtempSync(join(tmpdir(), 'focus-breaker-libraries-'))
    process.once('exit', () => rmSync(borrowed, { recursive: true, force: true }))
    for (const name of BORROWED.filter(name => existsSync(join(DEBIAN_PACKAGES, name)))) {
      symlinkSync(join(DEBIAN_PACKAGES, name), join(borrowed, name))
    }
    path.push(borrowed)
  }
  return { name: `pytest ${major}`, python: executable, path }
}

/** Which of these modules cannot be imported. */
export function missingModules(libraries: Libraries, modules: readonly string[]): readonly string[] {
  const env = { ...pythonEnvironment(), PYTHONPATH: libraries.path.join(':') }
  return modules.filter(
    module => spawnSync(libraries.python, ['-c', `import ${module}`], { stdio: 'ignore', env }).status !== 0,
  )
}

/** What a Python program printed and how it ended. */
export interface Ran {
  /** Null if it took too long. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  readonly tookMs: number
}

/**
 * Whether the test can run with these packages. If one is missing, the test is skipped with the reason, or fails if
 * `REQUIRE_INTEROP=1` requires them.
 */
export function requireOrSkip(t: TestContext, ...needed: readonly (keyof typeof packages)[]): boolean {
  const missing = needed.filter(name => !hasPackage(name))
  if (missing.length === 0) return true
  const reason = `not installed for ${PYTHON}: ${missing.map(name => packages[name][1]).join(', ')}`
  assert.notEqual(process.env.REQUIRE_INTEROP, '1', reason)
  t.skip(reason)
  return false
}

/** The packages already checked in this process. */
const packagesFound = new Map<keyof typeof packages, boolean>()

function hasPackage(name: keyof typeof packages): boolean {
  const known = packagesFound.get(name)
  if (known !== undefined) return known
  const [module] = packages[name]
  const found = spawnSync(PYTHON, ['-c', `import ${module}`], { stdio: 'ignore' }).status === 0
  packagesFound.set(name, found)
  return found
}

let installed: string | undefined

/**
 * Installs `clients/python` as pip does, so that its entry points load it, and returns the folder for `PYTHONPATH`.
 * Once for all tests of a process, which removes it at its end.
 */
export function installClients(): string {
  if (installed !== undefined) return installed
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-clients-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  // A copy, because setuptools leaves build output next to the sources.
  const source = join(directory, 'source')
  cpSync(join(repositoryRoot, 'clients/python'), source, { recursive: true })
  const target = join(directory, 'installed')
  const { status, stdout, stderr } = spawnSync(
    PYTHON,
    [
      ...['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps', '--no-index'],
      ...['--no-build-isolation', '--target', target, source],
    ],
    { encoding: 'utf8', env: pythonEnvironment(), timeout: TIMEOUT_MS },
  )
  assert.equal(status, 0, `pip could not install clients/python:\n${stdout}${stderr}`)
  installed = target
  return target
}

/**
 * Runs Python with what `installClients` has installed, in a clean environment and `env`, to its end.
 *
 * `onLine` gets each line of stdout as it comes.
 */
export async function runPython(
  args: readonly string[],
  options: {
    readonly cwd: string
    readonly env?: Readonly<Record<string, string>>
    readonly onLine?: (line: string) => void
    /** Debian's by default. */
    readonly libraries?: Libraries
    readonly timeoutMs?: number
  },
): Promise<Ran> {
  const startedAt = performance.now()
  const { python, path } = options.libraries ?? debianLibraries
  const child = spawn(python, args, {
    cwd: options.cwd,
    env: {
      ...pythonEnvironment(),
      PYTHONPATH: [installClients(), ...path].join(':'),
      PYTHONUNBUFFERED: '1',
      // Other pytest plugins on the machine are loaded only by name.
      PYTEST_DISABLE_PLUGIN_AUTOLOAD: '1',
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: options.timeoutMs ?? TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (options.onLine !== undefined) readLines(child.stdout, options.onLine)
  const [code, stdout, stderr] = await Promise.all([ended, text(child.stdout), text(child.stderr)])
  return { code, stdout, stderr, tookMs: performance.now() - startedAt }
}

/**
 * The environment of the shell, without what would affect pytest, the plugin, its connections, or its name of the run.
 */
function pythonEnvironment(): Record<string, string | undefined> {
  const steers =
    /^(FOCUS_BREAKER_|FOCUS_SERVER_|GITHUB_|CI_|BUILD_|CIRCLE_|PYTEST_|PYTHON|PIP_|SSL_CERT_|\w+_CA_BUNDLE$|\w+_proxy$|COLUMNS$)/i
  const others = Object.entries(process.env).filter(([name]) => !steers.test(name))
  // Nothing is left in the tree, and lines are not wrapped.
  return { ...Object.fromEntries(others), PYTHONDONTWRITEBYTECODE: '1', COLUMNS: '250' }
}
